// Walks of five balancing methods on a plane with two losses: drag the start, and change the scale of loss 2.
"use strict";

// Weights [w1, w2] of the two gradients, from their inner products a = g1·g1, b = g1·g2, c = g2·g2.
Widgets.formulas.balancing = {
  equal: () => [1, 1],
  PCGrad: ({ a, b, c }) => (b < 0 ? [1 - b / a, 1 - b / c] : [1, 1]),
  MGDA: ({ a, b, c }) => {
    const first = Math.min(1, Math.max(0, (c - b) / Math.max(a - 2 * b + c, 1e-300)));
    return [first, 1 - first];
  },
  "Nash-MTL": ({ a, b, c }) => {
    const root = Math.sqrt(Math.max(1 + b / Math.sqrt(a * c), 1e-12)); // w_i = 1 / (|g_i| √(1 + cosine))
    return [1 / (Math.sqrt(a) * root), 1 / (Math.sqrt(c) * root)];
  },
  CAGrad: ({ a, b, c }) => {
    const radius = 0.5 * Math.sqrt((a + 2 * b + c) / 4);
    const length = (t) => Math.sqrt(Math.max(t * t * a + 2 * t * (1 - t) * b + (1 - t) * (1 - t) * c, 1e-300));
    const value = (t) => (t * (a + b) + (1 - t) * (b + c)) / 2 + radius * length(t);
    let [low, high] = [0, 1]; // the value is convex in t: three-way search
    for (let i = 0; i < 80; i += 1) {
      const [one, two] = [low + (high - low) / 3, high - (high - low) / 3];
      if (value(one) < value(two)) high = two;
      else low = one;
    }
    const t = (low + high) / 2;
    return [0.5 + (radius / length(t)) * t, 0.5 + (radius / length(t)) * (1 - t)];
  },
};

// The positions of a walk of 60 steps, as in lesson 16; `scale` multiplies loss 2.
Widgets.formulas.walk = (method, [startX, startY], scale) => {
  let [x, y] = [startX, startY];
  const positions = [[x, y]];
  for (let step = 0; step < 60; step += 1) {
    const [g1, g2] = [[x + 1, 4 * y], [4 * scale * (x - 1), scale * (y - 1)]];
    const dot = (u, v) => u[0] * v[0] + u[1] * v[1];
    const [a, b, c] = [dot(g1, g1), dot(g1, g2), dot(g2, g2)];
    if (a < 1e-24 || c < 1e-24) break; // at the minimum of one loss
    const [w1, w2] = Widgets.formulas.balancing[method]({ a, b, c });
    const d = [w1 * g1[0] + w2 * g2[0], w1 * g1[1] + w2 * g2[1]];
    const factor = (0.13 * (1 - step / 60)) / Math.max(Math.hypot(...d), 1e-9);
    [x, y] = [x - factor * d[0], y - factor * d[1]];
    positions.push([x, y]);
  }
  return positions;
};

Widgets.known.balancing = (parent) => {
  const SCALES = [1, 2, 5, 10, 20, 50, 200, 2000];
  const COLOURS = { equal: "#8a9099", PCGrad: "#2a9d8f", MGDA: "#c0392b", "Nash-MTL": "#1a6fb5", CAGrad: "#d1720a" };
  const state = { start: [-1.5, 2], scale: 20 };
  Widgets.text(parent, "p", "Each method walks from the same start. Drag the start, or use the sliders. Thin ellipses: the two losses.");
  const { svg, shape } = Widgets.drawing(424, "walks of five methods from one start to the curve between the two minima");
  const summary = document.createElement("p");
  summary.className = "widget-summary";
  const [toX, toY] = [(x) => 240 + 90 * x, (y) => 208 - 90 * y];
  const line = (points, attributes) =>
    shape("polyline", { points: points.map(([x, y]) => `${toX(x)},${toY(y)}`).join(" "), fill: "none", ...attributes });
  const frame = () => {
    for (const size of [0.15, 0.6, 1.4]) {
      const [wide, narrow] = [90 * Math.sqrt(2 * size), 45 * Math.sqrt(2 * size)];
      shape("ellipse", { cx: toX(-1), cy: toY(0), rx: wide, ry: narrow, fill: "none", class: "axis" });
      shape("ellipse", { cx: toX(1), cy: toY(1), rx: narrow, ry: wide, fill: "none", class: "axis" });
    }
    const curve = Array.from({ length: 61 }, (_, i) => {
      const [one, two] = [1 - (1 - i / 60) ** 3, state.scale * (1 - i / 60) ** 3];
      return [(4 * two - one) / (one + 4 * two), two / (4 * one + two)]; // no step lowers both losses
    });
    line(curve, { stroke: "#8a9099", "stroke-width": 7, opacity: 0.35 });
    shape("text", { x: toX(-1) - 24, y: toY(0) + 5, class: "label" }, "loss 1");
    shape("text", { x: toX(1) - 22, y: toY(1) - 6, class: "label" }, "loss 2");
  };
  const draw = () => {
    svg.replaceChildren();
    frame();
    const ends = Object.keys(COLOURS).map((method, i) => {
      const path = Widgets.formulas.walk(method, state.start, state.scale);
      const [x, y] = path[path.length - 1];
      const dashes = ["9 4", "5 3", "none", "none", "2 3"][i]; // some walks lie on each other
      line(path, { stroke: COLOURS[method], "stroke-width": 2.5, "stroke-dasharray": dashes });
      shape("circle", { cx: toX(x), cy: toY(y), r: 5, fill: COLOURS[method] });
      shape("circle", { cx: 16 + 96 * i, cy: 411, r: 5, fill: COLOURS[method] });
      shape("text", { x: 25 + 96 * i, y: 416, class: "label" }, method);
      return `${method} ${x.toFixed(2)}`;
    });
    shape("circle", { cx: toX(state.start[0]), cy: toY(state.start[1]), r: 9, class: "outlier start" });
    summary.textContent = `x at the end (minimum 1 is at -1, minimum 2 at 1): ${ends.join(", ")}`;
  };
  const slider = (words, axis) =>
    Widgets.slider(parent, words, { min: -2, max: 2, step: 0.1, value: state.start[axis] }, (value) => {
      state.start[axis] = value;
      draw();
    });
  const sliders = [slider("start, x", 0), slider("start, y", 1)];
  Widgets.slider(parent, "scale of loss 2", { min: 0, max: SCALES.length - 1, value: 4, show: (i) => String(SCALES[i]) }, (i) => {
    state.scale = SCALES[i];
    draw();
  }).update();
  const move = (event) => {
    const box = svg.getBoundingClientRect();
    const place = [((event.clientX - box.left) * 480) / box.width, ((event.clientY - box.top) * 424) / box.height];
    [(place[0] - 240) / 90, (208 - place[1]) / 90].forEach((value, axis) => {
      sliders[axis].input.value = Math.min(2, Math.max(-2, value));
      sliders[axis].update();
    });
  };
  svg.addEventListener("pointerdown", (event) => {
    svg.setPointerCapture(event.pointerId);
    move(event);
  });
  svg.addEventListener("pointermove", (event) => event.buttons && move(event));
  parent.append(svg, summary);
};
