# %% [markdown]
# # 08 · Deep dive: Adam's averages in 8 bits
#
# **Needs** [lesson 08](../08_qlora.py) · **Read and do** 25 minutes
# · **Runs in** about 30 s on one CPU thread · **Memory** 2 GB
#
# QLoRA stores the base in 4 bits. The optimizer state can be stored in 8 bits, too (Dettmers et
# al. 2022, [arXiv 2110.02861](https://arxiv.org/abs/2110.02861)). This page looks at the 256
# levels that make this possible, and trains with them.

# %% tags=["fold"]
# set-up: imports, our folders, one thread
import sys
import tempfile
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import torch
import transformers
from matplotlib import pyplot as plt

from kernels.formulas.blockwise8 import dequantize8, quantize8
from training import train_model
from training.reports.records import COLOURS, use_style
from tutorials.answers import true_option
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
use_style()
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1. The dynamic map
#
# Adam stores two averages for each parameter: $m$ of the gradient and $v$ of its square. They
# span many orders of magnitude. A plain int8 has 127 even steps from 0 to 1. So everything
# below 1/254 becomes zero.
#
# The **dynamic map** has levels in every decade (from 0.1 to 1, from 0.01 to 0.1, ...) down to
# about 1e-6. A decade has half as many levels as the next larger one. But it is ten times
# narrower, so its levels are closer together.
#
# ??? A number is a thousandth of the largest in its block. What does each of the two types make
#   of it?
# - [ ] both make zero || The dynamic map has levels down to about 1e-6.
# - [x] int8 makes zero; the dynamic map is a few per cent wrong || It has levels in this
#   decade.
# - [ ] both are a few per cent wrong || int8 has no level between 0 and 1/127.

# %%
values = torch.logspace(-6, 0, 256)
back = dequantize8(quantize8(values))
relative = ((back - values) / values).abs()
int8_back = (values * 127).round() / 127
for size in (1e-5, 1e-3, 1e-1):
    i = int((values - size).abs().argmin())
    plain = float((int8_back[i] - values[i]).abs() / values[i])
    print(f"size {size:.0e}: dynamic map {relative[i]:.1%} wrong, int8 {plain:.0%} wrong")

# %% tags=["fold"]
# plot: relative error against the size of the number
figure, panel = plt.subplots(figsize=(6.4, 2.8))
int8_error = ((int8_back - values) / values).abs()
panel.loglog(
    values[::3],
    relative[::3].clamp(min=1e-3),
    color=COLOURS["qlora"],
    label="dynamic map, 8 bits",
)
panel.loglog(
    values[::3], int8_error[::3].clamp(min=1e-3), color=COLOURS["broken"], label="plain int8"
)
panel.set(
    title="the dynamic map keeps small numbers",
    xlabel="size of the number, relative to the largest",
)
panel.set(ylabel="relative error")
panel.legend(loc="lower left")
show(figure, "08_dynamic_map")

# %% tags=["fold"]
# check
i = int((values - 1e-3).abs().argmin())
zero = int8_back[i] == 0
true_option(zero and back[i] == 0, zero and 0 < relative[i] < 0.1, not zero)
assert (back[values < 1e-3] > 0).all(), "small numbers must not become zero"
assert relative[values > 1e-3].max() < 0.2, "each decade has twice the levels of the one below"

# %% [markdown]
# A zero in $v$ would be dangerous: Adam divides by its root. So our `AdamW8bit` stores
# $\sqrt v$, which halves the number of decades, and it never rounds a positive number to zero.
#
# ## 2. Train with it
#
# QLoRA as on the core page, with Adam's averages in 32 bits and in 8 bits.
#
# ??? An average needs 4 bytes in float32. How large is the optimizer state with 8 bits?
# - [ ] half || That would be 16 bits.
# - [x] about a quarter || One byte for each average, and a scale for each block of 256.
# - [ ] the same, because the updates need floats || They are decoded for the update, and stored
#   in 8 bits again.

# %%
quick = {"trackers": "", "samples": 0, "threads": 1, "eval_every": 10**6, "eval_rows": 300}
runs = {}
for name, optimizer in (("32 bits", "adamw"), ("8 bits", "adamw8bit")):
    runs[name] = train_model(
        "data2text",
        method="qlora",
        optimizer=optimizer,
        steps=200,
        seed=0,
        out=str(folder / optimizer),
        **quick,
    )
    run = runs[name]
    print(f"{name:8} loss {run.metric:.3f}   optimizer {run.optimizer_bytes:7,} bytes")

# %% tags=["fold"]
# check
ratio = runs["8 bits"].optimizer_bytes / runs["32 bits"].optimizer_bytes
true_option(0.4 < ratio < 0.6, 0.2 < ratio < 0.3, ratio > 0.9)
close = abs(runs["8 bits"].metric / runs["32 bits"].metric - 1)
assert close < 0.05, "rounded averages should train as well: is v stored as its root?"

# %% [markdown]
# With LoRA the optimizer state is small, so this saves little. It matters for full fine-tuning.
#
# ## Summary
#
# 1. Numbers over many orders of magnitude need levels that are dense near zero.
# 2. Eight bits are a quarter of the optimizer state, with nearly the same loss here (one seed).
# 3. $v$ is stored as its root, and no positive number becomes zero.
#
# **Next:** [lesson 09](../09_fused_lora.py).
#
# ## On the real thing
#
# It needs a folder of a model, and a GPU helps. We did not run it:
#
# ```bash
# python -m training --task e2e_nlg --model path/to/Llama-3.2-1B --method qlora --optimizer paged_adamw8bit
# ```
