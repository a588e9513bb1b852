// Which token reads which key in one layer of attention, with virtual tokens as a prefix or as a prompt.
"use strict";

// {keys: names, rows: [{query, reads: [true or false for each key]}]}. A prefix adds keys only; a prompt adds tokens, so rows too.
Widgets.formulas.whoReads = ({ words, virtual, model, method }) => {
  const names = (letter, count) => Array.from({ length: count }, (_, i) => `${letter}${i + 1}`);
  const keys = [...names("p", virtual), ...names("w", words)];
  const queries = method === "prompt" ? keys : names("w", words);
  const rows = queries.map((query) => {
    const own = keys.indexOf(query);
    const reads = keys.map((_, j) => model === "encoder" || j <= own); // a word stands behind all virtual tokens
    return { query, reads };
  });
  return { keys, rows };
};

Widgets.known.prefix = (parent) => {
  const state = { words: 4, virtual: 2, model: "decoder", method: "prefix" };
  const cell = 26;
  const { svg, shape } = Widgets.drawing(330, "a row for each token that reads, a column for each key; blue and green cells are read");
  const summary = document.createElement("p");
  summary.className = "widget-summary";
  const draw = () => {
    const { keys, rows } = Widgets.formulas.whoReads(state);
    svg.replaceChildren();
    keys.forEach((key, j) => shape("text", { x: 64 + cell * j, y: 24, class: "label" }, key));
    rows.forEach(({ query, reads }, i) => {
      shape("text", { x: 30, y: 48 + cell * i, class: "label" }, query);
      reads.forEach((read, j) => {
        const kind = read ? (j < state.virtual ? "trained" : "data") : "tile";
        shape("rect", { x: 60 + cell * j, y: 30 + cell * i, width: cell - 2, height: cell - 2, class: kind });
      });
    });
    const scores = rows.reduce((sum, { reads }) => sum + reads.filter(Boolean).length, 0);
    summary.textContent =
      `${rows.length} tokens in each layer (the text has ${state.words}), ${keys.length} keys, ${scores} scores that are not hidden`;
  };
  const set = (name) => (value) => {
    state[name] = value;
    draw();
  };
  Widgets.choice(parent, "method", [["prefix", "prefix"], ["prompt", "prompt"]], set("method"));
  Widgets.choice(parent, "model", [["decoder", "decoder"], ["encoder", "encoder"]], set("model"));
  const sliders = [
    Widgets.slider(parent, "virtual tokens", { min: 0, max: 5, value: state.virtual }, set("virtual")),
    Widgets.slider(parent, "words", { min: 1, max: 6, value: state.words }, set("words")),
  ];
  parent.append(svg, summary);
  sliders.forEach((slider) => slider.update());
};
