// Forward and reverse KL: drag the two bumps of the teacher; a student with one bump is fitted with both losses.
"use strict";

Widgets.formulas.bump = (middle, width, tokens = 60) => {
  const logits = Array.from({ length: tokens }, (_, x) => -((x - middle) ** 2) / (2 * width ** 2));
  return Widgets.formulas.softmax(logits, 1);
};

Widgets.formulas.twoBumps = ([first, second], share, width) => {
  const [one, two] = [Widgets.formulas.bump(first, width), Widgets.formulas.bump(second, width)];
  return one.map((value, x) => share * value + (1 - share) * two[x]);
};

// Adam on the middle and the log of the width, 500 steps with a learning rate of 0.1, as in lesson 19. Returns q.
Widgets.formulas.fitBump = (p, direction, start) => {
  let values = [start, 1];
  let [mean, square] = [[0, 0], [0, 0]];
  for (let step = 1; step <= 500; step += 1) {
    const [middle, width] = [values[0], Math.exp(values[1])];
    const q = Widgets.formulas.bump(middle, width);
    const scores = [q.map((_, x) => (x - middle) / width ** 2), q.map((_, x) => ((x - middle) / width) ** 2)];
    const gradient = scores.map((score) => {
      const expected = score.reduce((sum, value, x) => sum + q[x] * value, 0);
      const centred = score.map((value) => value - expected); // the derivative of log q
      const weights = direction === "forward" ? p.map((value) => -value) : q.map((value, x) => (value > 0 ? value * Math.log(value / p[x]) : 0));
      return centred.reduce((sum, value, x) => sum + weights[x] * value, 0);
    });
    mean = mean.map((value, i) => 0.9 * value + 0.1 * gradient[i]);
    square = square.map((value, i) => 0.999 * value + 0.001 * gradient[i] ** 2);
    values = values.map((value, i) => {
      const size = Math.sqrt(square[i] / (1 - 0.999 ** step)) + 1e-8;
      return value - (0.1 * mean[i]) / (1 - 0.9 ** step) / size;
    });
  }
  return Widgets.formulas.bump(values[0], Math.exp(values[1]));
};

Widgets.known.kl = (parent) => {
  const state = { bumps: [15, 42], share: 0.6, start: 22 };
  const COLOURS = { forward: "#1a6fb5", reverse: "#c0392b" };
  Widgets.text(parent, "p", "Grey: a teacher with two bumps. Drag a bump, or use the sliders. Both students have one bump and the same start.");
  const { svg, shape } = Widgets.drawing(230, "the teacher's distribution and the students that were fitted with forward and with reverse KL");
  const summary = document.createElement("p");
  summary.className = "widget-summary";
  const [toX, toY] = [(token) => 16 + 7.6 * token, (value) => 190 - 900 * Math.min(value, 0.2)];
  const points = (values) => values.map((value, x) => `${toX(x)},${toY(value)}`).join(" ");
  const draw = () => {
    svg.replaceChildren();
    const p = Widgets.formulas.twoBumps(state.bumps, state.share, 3);
    shape("polygon", { points: `${toX(0)},190 ${points(p)} ${toX(59)},190`, fill: "#8a9099", opacity: 0.35 });
    shape("line", { x1: toX(0), x2: toX(59), y1: 190, y2: 190, class: "axis" });
    shape("line", { x1: toX(state.start), x2: toX(state.start), y1: 184, y2: 198, class: "axis" });
    shape("text", { x: toX(state.start) - 14, y: 212, class: "label" }, "start");
    const middles = Object.entries(COLOURS).map(([direction, colour], i) => {
      const q = Widgets.formulas.fitBump(p, direction, state.start);
      shape("polyline", { points: points(q), fill: "none", stroke: colour, "stroke-width": 2.5, "stroke-dasharray": i ? "7 3" : "none" });
      shape("line", { x1: 300, x2: 324, y1: 16 + 20 * i, y2: 16 + 20 * i, stroke: colour, "stroke-width": 2.5, "stroke-dasharray": i ? "7 3" : "none" });
      shape("text", { x: 330, y: 21 + 20 * i, class: "label" }, `${direction} KL`);
      return `${direction} KL ${q.reduce((sum, value, x) => sum + value * x, 0).toFixed(1)}`;
    });
    summary.textContent = `mean token: teacher ${p.reduce((sum, value, x) => sum + value * x, 0).toFixed(1)}, ${middles.join(", ")}`;
  };
  const bump = (words, i) =>
    Widgets.slider(parent, words, { min: 6, max: 54, step: 1, value: state.bumps[i] }, (value) => {
      state.bumps[i] = value;
      draw();
    });
  const sliders = [bump("bump 1", 0), bump("bump 2", 1)];
  Widgets.slider(parent, "part of bump 1", { min: 0.1, max: 0.9, step: 0.1, value: 0.6, show: (x) => x.toFixed(1) }, (value) => {
    state.share = value;
    draw();
  });
  Widgets.slider(parent, "start of the student", { min: 0, max: 59, step: 1, value: state.start }, (value) => {
    state.start = value;
    draw();
  }).update();
  let dragged = 0;
  const place = (event) => {
    const box = svg.getBoundingClientRect();
    return (((event.clientX - box.left) * 480) / box.width - 16) / 7.6;
  };
  const move = (event) => {
    sliders[dragged].input.value = Math.min(54, Math.max(6, place(event)));
    sliders[dragged].update();
  };
  svg.addEventListener("pointerdown", (event) => {
    svg.setPointerCapture(event.pointerId);
    dragged = Math.abs(place(event) - state.bumps[0]) <= Math.abs(place(event) - state.bumps[1]) ? 0 : 1;
    move(event);
  });
  svg.addEventListener("pointermove", (event) => event.buttons && move(event));
  parent.append(svg, summary);
};
