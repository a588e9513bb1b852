// Memory of a training step with AdamW in float32: weights, gradients, optimizer state, activations. All sizes in bytes.
"use strict";

// `base`: parameters of the model; `trained`: parameters that are trained; `bytesPerBaseParameter`: 4 for float32, 2 for bf16.
// `activationsPerToken` was measured for one token of the model's batch.
Widgets.formulas.memory = ({ base, trained, isFull, bytesPerBaseParameter, activationsPerToken, tokens }) => {
  const adapter = isFull ? 0 : 4 * trained;
  return {
    weights: bytesPerBaseParameter * base + adapter,
    gradients: (isFull ? bytesPerBaseParameter : 4) * trained,
    optimizer: 8 * trained,
    activations: activationsPerToken * tokens,
  };
};

// LoRA on `layers` layers, each with linear layers of the shapes [d_out, d_in].
Widgets.formulas.loraParameters = (rank, layers, shapes) =>
  layers * shapes.reduce((sum, [out, input]) => sum + rank * (out + input), 0);

Widgets.known.memory = (parent) => {
  const models = window.WIDGET_MODELS;
  const state = { model: Object.keys(models)[0], method: "lora", rank: 8, batch: 16 };
  const chart = document.createElement("div");
  const summary = document.createElement("p");
  summary.className = "widget-summary";
  const draw = () => {
    const model = models[state.model];
    const isFull = state.method === "full";
    const trained = isFull ? model.base : Widgets.formulas.loraParameters(state.rank, model.layers, model.shapes);
    const parts = Widgets.formulas.memory({
      base: model.base,
      trained,
      isFull,
      bytesPerBaseParameter: 4,
      activationsPerToken: isFull ? model.activations_full : model.activations_lora,
      tokens: state.batch * model.tokens,
    });
    const kinds = { weights: "frozen", gradients: "gradient", optimizer: "trained", activations: "data" };
    const total = Object.values(parts).reduce((a, b) => a + b, 0);
    const rows = Object.entries(parts).map(([name, size]) => [name, size, `${(size / 1e6).toFixed(1)} MB`, kinds[name]]);
    Widgets.bars(chart, rows, Math.max(...Object.values(parts)));
    summary.textContent = `together ${(total / 1e6).toFixed(0)} MB; ${trained.toLocaleString("en")} parameters are trained`;
  };
  const redraw = (name, convert = String) => (value) => {
    state[name] = convert(value);
    draw();
  };
  Widgets.choice(parent, "model", Object.keys(models).map((name) => [name, name]), redraw("model"));
  Widgets.choice(parent, "method", [["LoRA on all linear layers", "lora"], ["full fine-tuning", "full"]], redraw("method"));
  Widgets.slider(parent, "rank", { min: 1, max: 64, value: 8 }, redraw("rank", Number)).update();
  Widgets.slider(parent, "examples per batch", { min: 1, max: 64, value: 16 }, redraw("batch", Number)).update();
  parent.append(chart, summary);
};
