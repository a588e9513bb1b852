# %% [markdown]
# # 08 · QLoRA trains beside a 4-bit weight that is decoded twice a step and never kept
#
# | | |
# |:--|:--|
# | **Needs** | lessons [04](04_lora_against_full.py) and [07](07_nf4.py) |
# | **Read and do** | 60 minutes |
# | **Runs in** | about 45 s on one CPU thread |
# | **Memory** | 2 GB |
#
# LoRA's optimizer is tiny. What is left is the frozen base: 16 bits a number, 14 GB for 7 billion. QLoRA (Dettmers et al. 2023)
# stores it in 4 bits. You will see what is stored, what is computed, what is kept for backward, what it costs in quality, and
# what happens when you merge: there are three ways, and one of them is a trap.
#
# | symbol | code | meaning |
# |:--|:--|:--|
# | $\hat W$ | `dequantize(...)` | the decoded weight: not $W$, but the nearest that 4 bits can say |
# | $s B A$ | `delta_weight` | LoRA's update, in float32; $s$ is the scale $\alpha/r$ |
# | $m, v$ | `m`, `root_v` | Adam's averages of the gradient and of its square |
#
# Differences from the paper: it trains models of 7 to 65 B parameters on a GPU, with bfloat16 products. We train one of 115
# thousand on a CPU in float32, so our losses say little about theirs; the counts of bytes hold for both.

# %%
import sys
import tempfile
from pathlib import Path

ROOT = Path.cwd() if Path("loralib").is_dir() else Path.cwd().parent
sys.path.insert(0, str(ROOT))  # so that our folders are found, from the project's root and from tutorials/

import torch
import transformers
from matplotlib import pyplot as plt

import loralib
from kernels.measure import saved_bytes
from kernels.formulas.nf4 import dequantize
from training.models.base_models import load_base
from training.reports.records import COLOURS, use_style
from training.data.tasks import find_task
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
use_style()
folder = Path(tempfile.mkdtemp())
spec = find_task("data2text")

# %% [markdown]
# ## 1. What is stored
#
# Only linear layers become 4-bit. Embeddings are looked up row by row, norms are small, and the head that writes words is
# sensitive: they stay.
#
# **Predict:** the decoder has 98,304 numbers in linear layers and 17,216 others, in float32. By which factor does it shrink:
# 8, 7.75 or less than 4?

# %%
base = load_base(spec, seed=0)
before = loralib.base_bytes(base.model)
report = loralib.quantize_model(base.model)
after = loralib.base_bytes(base.model)
print(report)
print(f"{before:,} bytes before, {after:,} after: {before / after:.2f} times smaller")
assert abs(report.bits - 4.13) < 0.02, "blocks of 64, scales in 8 bits"
assert before / after < 4, "what stays in float32 is a seventh of the numbers, and now more than half of the bytes"

# %% [markdown]
# In LLaMA-7B the rest is only 4 % of the numbers (section 5 counts them). A small model hides the gain of QLoRA as it hides that
# of LoRA.
#
# ## 2. What is computed
#
# $$y = x \hat W^\top + s\,(x A^\top) B^\top + b.$$
#
# $\hat W$ is decoded for this product and thrown away. Backward needs it again, for $dx$, and decodes it again.
#
# **Predict:** each weight is about 9 % off. How far off is the output of a layer, a sum over 64 inputs: 1 %, 10 % or 90 %? And
# compared with a float layer that holds $\hat W$?

# %%
name = "transformer.h.0.mlp.c_fc"
layer = base.model.get_submodule(name)
W = load_base(spec, seed=0).model.get_submodule(name).weight.detach().T  # GPT-2 stores its weight turned round
W_hat = dequantize(layer.quantized)
x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
by_hand = x @ W_hat.T + layer.bias
of_weight, of_output = (W_hat - W).norm() / W.norm(), (x @ (W_hat - W).T).norm() / (x @ W.T).norm()
print(f"relative error of the weight {of_weight:.3f}, of the output {of_output:.3f}")
assert torch.allclose(layer(x), by_hand, atol=1e-5), "exactly the decoded weight's product"
assert not torch.allclose(layer(x), x @ W.T + layer.bias, atol=0.05), "and not that of the weight that was quantised"

# %% [markdown]
# An error of 9 % in every weight sounds terrible. But the errors have both signs and do not pile up: the output moves by about
# the same share as the weight. Training then sees the base *as it is now*.
#
# ## 3. What is kept for backward
#
# `saved_bytes` adds up what autograd keeps in forward, parameters left out.
#
# **Predict:** a frozen 4-bit layer of 512 by 512, without LoRA: how many bytes does autograd keep? And with LoRA, r = 4, for 2
# rows of x? How often is the weight decoded in one forward and backward?

# %%
from unittest.mock import patch

from kernels.formulas.nf4 import quantize

packed = torch.nn.Sequential(loralib.Linear4bit(quantize(torch.randn(512, 512))))
rows = torch.randn(2, 512, requires_grad=True)
alone = saved_bytes(lambda: packed(rows), packed.parameters())
loralib.inject(packed, loralib.LoraConfig(r=4, target_modules=["0"]))
with_lora = saved_bytes(lambda: packed(rows), packed.parameters())
print(f"alone {alone}, with LoRA {with_lora}; the decoded weight would be {4 * 512 * 512:,}")
assert alone == 0, "no gradient of W, so x is not needed; the packed bytes are there anyway"
assert with_lora == 4 * (2 * 512 + 2 * 4), "x and S = x Aᵀ, as for LoRA on a float layer"
with patch("loralib.compute.functional.dequantize", wraps=dequantize) as decoding:  # counts the calls, changes nothing
    packed(rows).sum().backward()
print(f"one forward and one backward decode the weight {decoding.call_count} times")
assert decoding.call_count == 2, "once for y and once for dx: was the decoded weight kept?"

# %% [markdown]
# ## 4. What it costs in quality
#
# The same steps, rows and rates: LoRA on the float base, QLoRA, and QLoRA with Adam's averages in 8 bits too.
#
# **Predict:** the base alone got a little worse by quantising. After training, is QLoRA's loss much higher than LoRA's, a
# little, or can it even be lower?

# %%
from training import train_model

quick = {"trackers": "", "samples": 0, "threads": 1, "eval_every": 10**6, "eval_rows": 300, "steps": 200, "seed": 0}
four_bits = {"method": "qlora"}
ways = {"LoRA": {"method": "lora"}, "QLoRA": four_bits, "QLoRA, 8-bit Adam": {**four_bits, "optimizer": "adamw8bit"}}
runs = {}
for way, options in ways.items():
    runs[way] = train_model("data2text", out=str(folder / way), **options, **quick)
for way, run in runs.items():
    print(
        f"{way:18} loss {run.start_metric:.3f} -> {run.metric:.3f}   base {run.base_bytes:7,} bytes   "
        f"optimizer {run.optimizer_bytes:7,}   step {1000 * run.seconds_per_step:.0f} ms"
    )
lora, qlora, eight = runs.values()
assert abs(qlora.metric - lora.metric) < 0.1 * lora.metric, "4 bits in a frozen base cost little: is the update rounded too?"
assert eight.optimizer_bytes < 0.27 * qlora.optimizer_bytes, "2 bytes a number, and scales, instead of 8"
assert abs(eight.metric - qlora.metric) < 0.05 * qlora.metric, "rounded averages train as well: is v kept as its root?"

# %% [markdown]
# One seed, one small model: that QLoRA's loss is lower means nothing. On real text, three seeds each: E2E with a decoder of 260
# thousand parameters, loss 2.090 ± 0.050 (LoRA) and 2.098 ± 0.074 (QLoRA); SST-2 with a 22 M encoder, accuracy 0.844 ± 0.008 and
# 0.857 ± 0.006 ([report](../training/results/qlora/report.md)). Note the time of a step: QLoRA buys memory, not speed.
#
# ## 5. The memory of 7 and 70 billion, by a formula that you can check
#
# Too large to load, so we count: `torch.device("meta")` builds a model that has shapes and no numbers. A small model, quantised
# in earnest, checks the formula.
#
# **Predict:** what do the weights, gradients and Adam of LLaMA-7B need in full fine-tuning, with 16-bit weights and a float32
# copy of them: 14, 56 or over 100 GB? And with QLoRA?


# %%
def parts(config: transformers.LlamaConfig, r: int) -> tuple[int, int, int]:
    """(numbers in linear layers, other numbers, numbers of LoRA on all linear layers), without any memory."""
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    shapes = [m.weight.shape for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    linear = sum(a * b for a, b in shapes)
    return linear, sum(p.numel() for p in model.parameters()) - linear, sum(r * (a + b) for a, b in shapes)


def gigabytes(linear: int, other: int, adapter: int) -> dict[str, float]:
    full = (linear + other) * (2 + 2 + 4 + 8)  # weights and gradients in 16 bits, a float32 copy, Adam
    trained = adapter * (4 + 4 + 8)
    packed = linear * 4.127 / 8 + other * 2
    return {"full": full / 1e9, "LoRA": ((linear + other) * 2 + trained) / 1e9, "QLoRA": (packed + trained) / 1e9}


small = {"num_attention_heads": 4, "vocab_size": 256, "max_position_embeddings": 64}
tiny = transformers.LlamaConfig(hidden_size=128, intermediate_size=256, num_hidden_layers=2, **small)
linear, other, adapter = parts(tiny, r=16)
model = transformers.LlamaForCausalLM(tiny).bfloat16()
loralib.quantize_model(model)
formula, counted = linear * 4.127 / 8 + other * 2, loralib.base_bytes(model)
print(f"a small one: {formula:,.0f} bytes by the formula, {counted:,} counted")
assert abs(formula / counted - 1) < 0.01, "linear layers at 4.127 bits, the others at 16"

# %%
wide = {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80}
wide |= {"num_attention_heads": 64, "num_key_value_heads": 8}
models = {"7 B": transformers.LlamaConfig(), "70 B": transformers.LlamaConfig(**wide)}
counts = {size: parts(config, r=16) for size, config in models.items()}
table = {size: gigabytes(*numbers) for size, numbers in counts.items()}
print("not in linear layers:", ", ".join(f"{size} {b / (a + b):.1%}" for size, (a, b, _) in counts.items()))
for size, columns in table.items():
    print(f"LLaMA {size:5}", "   ".join(f"{way} {value:7.1f} GB" for way, value in columns.items()))
assert table["7 B"]["full"] > 100, "16 bytes for each number that trains"
assert 16 > table["7 B"]["LoRA"] > 3 * table["7 B"]["QLoRA"], "the frozen base is what is left, and 4 bits are a quarter of 16"
assert table["70 B"]["QLoRA"] < 48, "the paper's claim for its 65 B model, activations left out: one card of 48 GB"

# %%
figure, axes = plt.subplots(figsize=(7, 3.4))
for offset, (way, colour) in zip((-0.27, 0, 0.27), (("full", "full"), ("LoRA", "lora"), ("QLoRA", "qlora")), strict=True):
    values = [columns[way] for columns in table.values()]
    bars = axes.bar([i + offset for i in range(len(values))], values, width=0.25, color=COLOURS[colour], label=way)
    axes.bar_label(bars, fmt=lambda gb: f"{gb:.1f}" if gb < 10 else f"{gb:.0f}", fontsize=9, label_type="center", color="white")
axes.axhline(48, color=COLOURS["ceiling"], linestyle="--", label="a card of 48 GB")
axes.set_xticks(range(len(table)), [f"LLaMA, {size}" for size in table])
axes.set(yscale="log", ylabel="GB, without activations", title="QLoRA brings 70 B parameters below 48 GB", ylim=(1, 4000))
axes.legend(ncols=2, fontsize=8)
show(figure, "memory")

# %% [markdown]
# (All are computed for r = 16 on all linear layers. Activations come on top, about as many for all three: with LoRA beside it,
# each layer keeps its input, as in full fine-tuning.)
#
# ## 6. Break it on purpose: merging onto the weights of yesterday
#
# The adapter was trained beside $\hat W$. There are three ways to merge it:
#
# - `merge_dequant`: $\hat W + s B A$ as float numbers. Large, and exact.
# - `merge_requant`: the same sum, in 4 bits again. Small; now the update is rounded too.
# - onto the *original* $W$. This is the trap: it is easy to do, for $W$ is what `from_pretrained` gives, and nothing complains.
#
# **Predict:** order the three by their loss on the test set. Is the original weight, being the better weight, the best base?

# %%
import copy

from training.data.data import load_task
from training.data.encoding import encode
from training.evaluation.evaluation import HeldOut, evaluate
from training.loop.processes import make_accelerator

test = load_task(spec, seed=0)["test"].select(range(300))
held_out = HeldOut(spec, test, encode(test[:], spec, base.tokenizer, 96))


def loss_of(model) -> float:
    return evaluate(model, held_out, base.tokenizer, make_accelerator())["eval_loss"]


# %%
exact, small, original = copy.deepcopy(qlora.model), copy.deepcopy(qlora.model), load_base(spec, seed=0).model
wide_report, small_report = loralib.merge_dequant(exact), loralib.merge_requant(small)
loralib.save_adapter(qlora.model, folder / "adapter")
loralib.load_adapter(original, folder / "adapter", trainable=False)
loralib.merge_and_unload(original)
losses = {"unmerged": qlora.metric, "merge_dequant": loss_of(exact), "merge_requant": loss_of(small), "onto W": loss_of(original)}
sizes = {"merge_dequant": exact, "merge_requant": small, "onto W": original}
for way, loss in losses.items():
    print(f"{way:14} loss {loss:.4f}" + (f"   {loralib.base_bytes(sizes[way]):,} bytes" if way in sizes else ""))
print(f"rounding: merge_dequant {wide_report.error:.1e}, merge_requant {small_report.error:.3f}")
assert abs(losses["merge_dequant"] - losses["unmerged"]) < 1e-3, "the same sum: was it merged onto the decoded weight?"
assert losses["merge_requant"] > losses["merge_dequant"] and losses["onto W"] > losses["merge_dequant"], "both are other models"

# %% [markdown]
# So the "better" weight is not the better base: the adapter was trained on $\hat W$, and $W + s B A$ is a model that nobody
# trained or measured. In this run it lost 0.011, and rounding again lost 0.019 (and is four times smaller). The order of these
# two may be another one elsewhere; only `merge_dequant` gives the model that you evaluated. The library has no function for the
# third way; `merge` on a 4-bit model raises and names the two.
#
# ## 7. Averages in 8 bits
#
# Adam's $m$ and $v$ span many orders of magnitude. So the 256 levels of the **dynamic map** are dense near zero: each decade
# (from 0.1 to 1, from 0.01 to 0.1, ...) has twice the levels of the one below. A plain int8 has 127 equal steps from 0 to 1.
#
# **Predict:** a number that is a thousandth of its block's largest: is it off by 3 %, 30 %, or is it zero? In each of the two?

# %%
from kernels.formulas.blockwise8 import dequantize8, quantize8

values = torch.logspace(-6, 0, 256)
back = dequantize8(quantize8(values))
relative = ((back - values) / values).abs()
linear_back = (values * 127).round() / 127
for size in (1e-5, 1e-3, 1e-1):
    i = int((values - size).abs().argmin())
    plain = float((linear_back[i] - values[i]).abs() / values[i])
    print(f"size {size:.0e}: dynamic map off by {relative[i]:.1%}, plain int8 by {plain:.0%}")
small_ones = values < 1e-3
assert (back[small_ones] > 0).all() and (linear_back[small_ones] == 0).all(), "plain int8 has no level between 0 and 1/127"
assert relative[values > 1e-3].max() < 0.2, "each decade has twice the levels of the one below"

# %% [markdown]
# A zero in $v$ would be deadly: Adam divides by its root. The library stores $\sqrt v$, which halves the orders of magnitude.
#
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | good when trained, worse after merging | merged onto the original weights, or requantised | section 6 |
# | memory is far above the table | activations, or a base loaded whole first | `loralib.load_4bit`, `--gradient-checkpointing` |
# | a step is slower than LoRA's | every weight is decoded twice | section 4; it is the price |
# | no gradient reaches the first layers | torch's old ("reentrant") gradient checkpointing | `prepare_model_for_kbit_training` |
# | the loss is bad from the start | one layer quantised badly | section 1: the report's errors; `skip=[...]` |
#
# ## Exercises
#
# Write in [exercises/08_qlora.py](exercises/08_qlora.py), then `python -m tutorials check 08`.
#
# 1. ★ `qlora_bytes`: of a model, from its counts.
# 2. ★★ `merged_error`: the relative error of rounding a merged weight to 4 bits again.
#    <details><summary>Hint</summary>Exact: the decoded base plus the update. Rounded: that, there and back once.</details>
# 3. ★★ `linear4bit_backward`: dx from dy and a packed weight.
#    <details><summary>Hint</summary>y = x Ŵᵀ, and dx has the shape of x: which side of dy does Ŵ go to?</details>
#
# ## Summary
#
# 1. The base is stored in 4 bits, decoded for each product, and nothing decoded is kept. LoRA stays in float.
# 2. It costs time and little quality, and saves the largest part of the memory.
# 3. The adapter belongs to the decoded weights. Merge onto them, or say what you lose.
#
# **Next:** [lesson 09](09_fused_lora.py), the fused LoRA kernel in Triton.
#
# ## On the real thing
#
# ```bash
# python -m training --task e2e_nlg --model path/to/Llama-3.2-1B --method qlora --optimizer paged_adamw8bit
# python -m loralib quantize path/to/Llama-3.2-1B --out path/to/llama-nf4
# ```
#
# The first trains (`paged`: Adam's averages lie in the host's memory). The second writes the base once in 4 bits.
