// Softmax with a temperature: p_i = exp(z_i / T) / sum_j exp(z_j / T).
"use strict";

Widgets.formulas.softmax = (logits, temperature) => {
  const largest = Math.max(...logits);
  const weights = logits.map((logit) => Math.exp((logit - largest) / temperature));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / sum);
};

// In nats; exp of it is the effective number of tokens.
Widgets.formulas.entropy = (p) => -p.reduce((sum, x) => sum + (x > 0 ? x * Math.log(x) : 0), 0);

Widgets.known.temperature = (parent) => {
  const words = ["warm", "calm", "bright", "cold", "loud"];
  const logits = [3, 2, 1.5, 0, -1];
  Widgets.text(parent, "p", "Five possible next tokens, with the logits 3, 2, 1.5, 0 and -1. Move the temperature.");
  const chart = document.createElement("div");
  const summary = document.createElement("p");
  summary.className = "widget-summary";
  const slider = Widgets.slider(
    parent,
    "temperature T",
    { min: 0.1, max: 4, step: 0.1, value: 1, show: (t) => t.toFixed(1) },
    (temperature) => {
      const p = Widgets.formulas.softmax(logits, temperature);
      Widgets.bars(chart, words.map((word, i) => [word, p[i], p[i].toFixed(3), "trained"]), 1);
      const number = Math.exp(Widgets.formulas.entropy(p));
      summary.textContent = `effective number of tokens: ${number.toFixed(2)} of ${words.length}`;
    }
  );
  parent.append(chart, summary);
  slider.update();
};
