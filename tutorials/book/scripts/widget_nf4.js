// NF4 on 256 normal numbers with one outlier: drag it, or use the sliders, and change the block size.
"use strict";

// Quantizes each block to the nearest of 16 levels times its largest absolute value, and decodes it.
Widgets.formulas.nf4 = (values, levels, blocksize) => {
  const decoded = [];
  for (let start = 0; start < values.length; start += blocksize) {
    const block = values.slice(start, start + blocksize);
    const absmax = Math.max(...block.map(Math.abs));
    for (const value of block) {
      const distances = levels.map((level) => Math.abs(value / absmax - level));
      decoded.push(levels[distances.indexOf(Math.min(...distances))] * absmax);
    }
  }
  return decoded;
};

// Mean error relative to the mean size, of all numbers but the one at `outlier`.
Widgets.formulas.nf4Error = (values, decoded, outlier) => {
  const others = values.map((_, i) => i).filter((i) => i !== outlier);
  const sum = (of) => others.reduce((total, i) => total + Math.abs(of(i)), 0);
  return sum((i) => decoded[i] - values[i]) / sum((i) => values[i]);
};

Widgets.known.nf4 = (parent) => {
  const OUTLIER = 20;
  const SHOWN = 64;
  const levels = window.WIDGET_NF4_LEVELS;
  const state = { outlier: 3, blocksize: 64 };
  Widgets.text(parent, "p", "64 of 256 weights: each circle is a weight, each line goes to its decoded value. Drag the red one.");
  const { svg, shape } = Widgets.drawing(200, "weights and their decoded values");
  const summary = document.createElement("p");
  summary.className = "widget-summary";
  const place = (value) => 100 - 90 * (value / Math.max(3, state.outlier));
  const draw = () => {
    const values = window.WIDGET_NORMAL.slice();
    values[OUTLIER] = state.outlier;
    const decoded = Widgets.formulas.nf4(values, levels, state.blocksize);
    svg.replaceChildren();
    shape("line", { x1: 0, x2: 480, y1: 100, y2: 100, class: "axis" });
    for (let i = 0; i < SHOWN; i += 1) {
      const x = 8 + 7.4 * i;
      shape("line", { x1: x, x2: x, y1: place(values[i]), y2: place(decoded[i]), class: "error" });
      shape("rect", { x: x - 2.5, y: place(decoded[i]) - 1.5, width: 5, height: 3, class: "decoded" });
      shape("circle", { cx: x, cy: place(values[i]), r: i === OUTLIER ? 6 : 2.5, class: i === OUTLIER ? "outlier" : "weight" });
    }
    const error = (100 * Widgets.formulas.nf4Error(values, decoded, OUTLIER)).toFixed(1);
    const zeros = decoded.slice(0, SHOWN).filter((value) => value === 0).length;
    const bits = (4 + 32 / state.blocksize).toFixed(2);
    summary.textContent = `mean error of the other weights: ${error} %; ${zeros} of 64 become zero; ${bits} bits per weight`;
  };
  const outlier = Widgets.slider(parent, "outlier", { min: 0, max: 40, step: 0.5, value: 3 }, (value) => {
    state.outlier = value;
    draw();
  });
  const sizes = [32, 64, 128, 256];
  Widgets.slider(parent, "weights per block", { min: 0, max: 3, value: 1, show: (i) => String(sizes[i]) }, (i) => {
    state.blocksize = sizes[i];
    draw();
  }).update();
  let dragging = false;
  const drag = (event) => {
    const box = svg.getBoundingClientRect();
    const height = (100 - (200 * (event.clientY - box.top)) / box.height) / 90; // 1: the top of the picture
    outlier.input.value = Math.max(0, Math.min(40, height * Math.max(3, state.outlier) * (height > 0.98 ? 1.1 : 1)));
    outlier.update();
  };
  svg.addEventListener("pointerdown", (event) => {
    dragging = true;
    svg.setPointerCapture(event.pointerId);
    drag(event);
  });
  svg.addEventListener("pointermove", (event) => dragging && drag(event));
  svg.addEventListener("pointerup", () => (dragging = false));
  parent.append(svg, summary);
  draw();
};
