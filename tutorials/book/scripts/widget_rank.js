// The best rank-r approximation of a real weight update: its singular values, B A, and the error that is left.
"use strict";

// One-sided Jacobi: {U, S, V} with matrix = U diag(S) V^T, singular values in falling order. Rows are arrays.
Widgets.formulas.svd = (matrix) => {
  const rows = matrix.length;
  const columns = matrix[0].length;
  const A = matrix.map((row) => row.slice());
  const V = Array.from({ length: columns }, (_, i) => Array.from({ length: columns }, (_, j) => (i === j ? 1 : 0)));
  const rotate = (M, p, q, c, s) => {
    for (const row of M) [row[p], row[q]] = [c * row[p] - s * row[q], s * row[p] + c * row[q]];
  };
  for (let sweep = 0, moved = true; moved && sweep < 60; sweep++) {
    moved = false;
    for (let p = 0; p < columns; p++) {
      for (let q = p + 1; q < columns; q++) {
        let [alpha, beta, gamma] = [0, 0, 0];
        for (const row of A) {
          alpha += row[p] * row[p];
          beta += row[q] * row[q];
          gamma += row[p] * row[q];
        }
        if (Math.abs(gamma) <= 1e-12 * Math.sqrt(alpha * beta) || gamma === 0) continue;
        moved = true;
        const zeta = (beta - alpha) / (2 * gamma);
        const t = Math.sign(zeta || 1) / (Math.abs(zeta) + Math.sqrt(1 + zeta * zeta));
        const c = 1 / Math.sqrt(1 + t * t);
        rotate(A, p, q, c, c * t);
        rotate(V, p, q, c, c * t);
      }
    }
  }
  const S = Array.from({ length: columns }, (_, j) => Math.sqrt(A.reduce((sum, row) => sum + row[j] * row[j], 0)));
  const order = S.map((_, j) => j).sort((a, b) => S[b] - S[a]);
  return {
    U: Array.from({ length: rows }, (_, i) => order.map((j) => (S[j] > 0 ? A[i][j] / S[j] : 0))),
    S: order.map((j) => S[j]),
    V: V.map((row) => order.map((j) => row[j])),
  };
};

Widgets.formulas.truncate = ({ U, S, V }, rank) =>
  U.map((u) => V.map((v) => S.slice(0, rank).reduce((sum, sigma, k) => sum + u[k] * sigma * v[k], 0)));

// The share of the squared entries that rank r does not reach (Eckart and Young 1936).
Widgets.formulas.errorShare = (S, rank) => {
  const squares = S.map((sigma) => sigma * sigma);
  const total = squares.reduce((a, b) => a + b, 0);
  return squares.slice(rank).reduce((a, b) => a + b, 0) / total;
};

function drawMatrix(canvas, matrix, largest) {
  const context = canvas.getContext("2d");
  canvas.height = matrix.length;
  canvas.width = matrix[0].length;
  const image = context.createImageData(canvas.width, canvas.height);
  matrix.flat().forEach((value, i) => {
    const strength = Math.min(1, Math.abs(value) / largest);
    const colour = value > 0 ? [26, 111, 181] : [209, 114, 10];
    colour.forEach((part, k) => (image.data[4 * i + k] = 255 - strength * (255 - part)));
    image.data[4 * i + 3] = 255;
  });
  context.putImageData(image, 0, 0);
}

Widgets.known.rank = (parent) => {
  const update = window.WIDGET_UPDATE;
  const parts = Widgets.formulas.svd(update);
  const largest = Math.max(...update.flat().map(Math.abs)) / 2;
  const pictures = Widgets.text(parent, "div", "", "widget-pictures");
  const canvases = ["ΔW, learned by full fine-tuning", "B A, the best one of rank r"].map((name) => {
    const figure = Widgets.text(pictures, "figure", "");
    const canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", name);
    figure.append(canvas);
    Widgets.text(figure, "figcaption", name);
    return canvas;
  });
  drawMatrix(canvases[0], update, largest);
  const chart = Widgets.text(parent, "div", "", "singular-values");
  const summary = document.createElement("p");
  summary.className = "widget-summary";
  const slider = Widgets.slider(parent, "rank r", { min: 1, max: update.length, value: 4 }, (rank) => {
    drawMatrix(canvases[1], Widgets.formulas.truncate(parts, rank), largest);
    chart.replaceChildren();
    parts.S.forEach((sigma, i) => {
      const bar = Widgets.text(chart, "span", "", i < rank ? "trained" : "frozen");
      bar.style.height = `${(100 * sigma) / parts.S[0]}%`;
    });
    const parameters = rank * (update.length + update[0].length);
    const error = (100 * Widgets.formulas.errorShare(parts.S, rank)).toFixed(1);
    summary.textContent = `${parameters.toLocaleString("en")} parameters; ${error} % of the squared update is left out`;
  });
  parent.append(summary);
  slider.update();
};
