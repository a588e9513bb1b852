// A stepper for a matrix multiplication in tiles, plain and with LoRA: which tiles a program loads, and how many bytes in total.
"use strict";

// All loads of one form, in order: {launch, program, step, what: [[matrix, row of tiles, column of tiles], ...], bytes}.
// x (M, K), W (N, K), A (r, K), B (N, r) in float32, tiles of `block`; r is one tile of `rank` columns.
Widgets.formulas.tileSteps = ({ M, N, K, rank, block, form }) => {
  const [rows, columns, depth] = [M / block, N / block, K / block];
  const [tile, thin] = [4 * block * block, 4 * block * rank];
  const steps = [];
  if (form === "two") {
    for (let i = 0; i < rows; i += 1) {
      for (let k = 0; k < depth; k += 1) {
        steps.push({ launch: "shrink", program: [i], step: k, what: [["x", i, k], ["A", 0, k]], bytes: tile + thin });
      }
    }
  }
  for (let i = 0; i < rows; i += 1) {
    for (let j = 0; j < columns; j += 1) {
      const launch = form === "two" ? "expand" : "matmul";
      for (let k = 0; k < depth; k += 1) {
        const what = [["x", i, k], ["W", j, k]];
        if (form === "one") what.push(["A", 0, k]);
        steps.push({ launch, program: [i, j], step: k, what, bytes: 2 * tile + (form === "one" ? thin : 0) });
      }
      if (form === "one") steps.push({ launch, program: [i, j], step: depth, what: [["B", j, 0]], bytes: thin });
      if (form === "two") steps.push({ launch, program: [i, j], step: depth, what: [["S", i, 0], ["B", j, 0]], bytes: 2 * thin });
    }
  }
  return steps;
};

Widgets.formulas.loadedBytes = (settings) => Widgets.formulas.tileSteps(settings).reduce((sum, step) => sum + step.bytes, 0);

Widgets.known.tiles = (parent) => {
  const sizes = { M: 64, N: 128, K: 96, rank: 16, block: 32 };
  const places = { x: [10, 60, 3, 2], W: [130, 60, 3, 4], A: [250, 20, 3, 0.5], S: [250, 60, 0.5, 2], B: [300, 60, 0.5, 4], y: [350, 60, 4, 2] };
  const cell = 30;
  const state = { form: "plain", step: 0, steps: [] };
  const { svg, shape } = Widgets.drawing(200, "tiles of the matrices; the ones that the program loads now are green");
  const summary = document.createElement("p");
  summary.className = "widget-summary";
  const draw = () => {
    const step = state.steps[state.step];
    const loaded = state.steps.slice(0, state.step + 1).reduce((sum, one) => sum + one.bytes, 0);
    svg.replaceChildren();
    for (const [name, [x, y, width, height]] of Object.entries(places)) {
      if ((name === "S" && state.form !== "two") || ("AB".includes(name) && state.form === "plain")) continue;
      shape("text", { x, y: y - 4, class: "label" }, name);
      for (let i = 0; i < height; i += 1) {
        for (let j = 0; j < width; j += 1) {
          const now = step.what.some(([matrix, row, column]) => matrix === name && row === i && column === j);
          const stored = name === "y" && step.program[0] === i && step.program[1] === j;
          const kind = now ? "data" : stored ? "trained" : "tile";
          shape("rect", {
            x: x + cell * j, y: y + cell * i, width: cell * Math.min(1, width), height: cell * Math.min(1, height), class: kind,
          });
        }
      }
    }
    const program = `program (${step.program.join(", ")}) of ${step.launch}`;
    summary.textContent =
      `${program}: loads ${step.what.map(([matrix]) => matrix).join(" and ")}; ` +
      `${loaded.toLocaleString("en")} of ${Widgets.formulas.loadedBytes({ ...sizes, form: state.form }).toLocaleString("en")} bytes loaded`;
  };
  const choose = (form) => {
    state.form = form;
    state.steps = Widgets.formulas.tileSteps({ ...sizes, form });
    slider.input.max = state.steps.length - 1;
    slider.input.value = 0;
    slider.update();
  };
  Widgets.choice(parent, "kernel", [["x Wᵀ", "plain"], ["LoRA in one launch", "one"], ["LoRA in two launches", "two"]], choose);
  state.steps = Widgets.formulas.tileSteps({ ...sizes, form: "plain" });
  const slider = Widgets.slider(parent, "step", { min: 0, max: state.steps.length - 1, value: 0, show: (i) => String(i + 1) }, (i) => {
    state.step = i;
    draw();
  });
  parent.append(svg, summary);
  slider.update();
};
