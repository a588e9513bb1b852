# %% [markdown]
# # 07 · NF4: sixteen uneven levels and one scale per block are enough
#
# **Needs** lesson [01](01_lora_by_hand.py); what a quantile is
# · **Read and do** 45 minutes · **Runs in** about 15 s on one CPU thread · **Memory** 2 GB
#
# A model with 7 billion weights needs 14 GB in 16 bits, and about 3.6 GB in 4 bits. But how can
# a model keep a weight in about 4 bits, and still work?
#
# ![A block of weights, its largest value, a level, half a byte, a byte](diagrams/07_steps.svg)
#
# On this page you build **NF4** (4-bit NormalFloat; QLoRA, Dettmers et al. 2023, [arXiv
# 2305.14314](https://arxiv.org/abs/2305.14314), section 3) by hand, to the last bit: the scale
# of a block, the 16 levels and the bytes. Then you see how the scales get scales, and you break
# it with a single number.

# %% tags=["fold"]
# set-up: imports, our folders, the weights of a small pretrained decoder
import sys
from pathlib import Path
from statistics import NormalDist

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import torch
import transformers
from matplotlib import pyplot as plt

from kernels.formulas import nf4
from training.data.tasks import find_task
from training.models.base_models import load_base
from training.reports.records import COLOURS, use_style
from tutorials.answers import true_option
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
use_style()
model = load_base(find_task("data2text"), seed=0).model
matrices = [p for name, p in model.named_parameters() if ".c_" in name and p.ndim == 2]
weights = torch.cat(
    [p.detach().flatten() for p in matrices]
)  # all weights of the linear layers
normal = torch.randn(
    2**17, generator=torch.Generator().manual_seed(0)
)  # exactly normal numbers

# %% [markdown]
# ## 1. A block, a scale, an index
#
# Take a **block** of 64 weights. Find the largest absolute value: this is the **absmax**, the
# scale of the block. Divide all 64 by it. Now they lie between -1 and 1.
#
# For each number, write down the nearest of 16 fixed **levels**. An index from 0 to 15 needs
# only 4 bits. To decode, look up the level and multiply by the absmax.
#
# ??? The 16 levels lie evenly between -1 and 1. A typical weight is 0.3 of its block's absmax.
#   How large is the mean error of a weight, compared with its mean size?
# - [ ] about 1 % || Two levels are 2/15 = 0.13 apart. That is not a fine grid.
# - [x] about 10 % || The levels are 0.13 apart, so the mean error is 0.13/4 = 0.033. Compared
#   with 0.3, this is about 10 %.
# - [ ] about 50 % || The error is at most half of a step: 0.067 of the absmax.


# %%
def quantize_by_hand(w: torch.Tensor, levels: torch.Tensor, blocksize: int):
    """The index of each number, and the absmax of each block."""
    blocks = w.view(-1, blocksize)
    absmax = blocks.abs().amax(1, keepdim=True)  # (blocks, 1)
    distance = ((blocks / absmax)[..., None] - levels).abs()  # (blocks, blocksize, 16)
    return distance.argmin(-1), absmax


def error(w: torch.Tensor, levels: torch.Tensor, blocksize: int = 64) -> float:
    """Mean error of a decoded number, relative to the mean size of a number."""
    index, absmax = quantize_by_hand(w, levels, blocksize)
    decoded = (levels[index] * absmax).view(-1)
    return ((decoded - w).abs().mean() / w.abs().mean()).item()


even = torch.linspace(-1, 1, 16)
typical = (weights.view(-1, 64) / weights.view(-1, 64).abs().amax(1, keepdim=True)).abs().mean()
print(f"mean size of a weight: {typical:.2f} of its absmax")
print(f"even levels: mean error {error(weights, even):.1%}")

# %% tags=["fold"]
# check
wrong = error(weights, even)
true_option(wrong < 0.03, 0.06 < wrong < 0.16, wrong > 0.3)
assert 0.25 < typical < 0.35, "are these the weights of the linear layers?"

# %% [markdown]
# ## 2. Put the levels where the weights are
#
# Trained weights look roughly like a bell curve: many are small, and few are large. Even levels
# waste precision on the few large ones. NF4 takes **quantiles** of the normal distribution at
# evenly spaced probabilities, divided by the largest. At the outermost level (1.85 standard
# deviations) the curve has only 18 % of its height. Eight levels are positive, seven are
# negative, and one is exactly zero.
#
# (The text of the paper has another formula; like its code, we use this one. A quantile of p is
# the number below which a share p of the distribution lies. The quantile of 1 is infinite, so
# the outermost level uses 0.9677083. The [deep dive](deep/07_nf4.py) shows where this number
# comes from.)
#
# ??? The gap between two neighbouring levels is narrow near zero and wide at the ends. How many
#   times as wide is the widest gap?
# - [ ] 1 time: all gaps are equal || Those are the even levels.
# - [ ] 2 times || The bell curve falls faster than that.
# - [x] about 4 times || The curve is about five times lower at the ends, so a gap is several
#   times wider there.

# %%
last = 0.9677083
above = [
    NormalDist().inv_cdf(p) for p in torch.linspace(last, 0.5, 9)[:-1].tolist()
]  # 8 levels
below = [
    -NormalDist().inv_cdf(p) for p in torch.linspace(last, 0.5, 8)[:-1].tolist()
]  # 7 levels
levels = torch.tensor(sorted([*above, 0.0, *below]))
levels = levels / levels.max()
gaps = levels.diff()
print("positive levels:", [round(level, 2) for level in levels[8:].tolist()])
print(f"gaps: {gaps.min():.2f} next to zero, {gaps.max():.2f} at the negative end")

# %%
print(f"mean error: even {error(weights, even):.1%}, NF4 {error(weights, levels):.1%}")

# %% tags=["fold"]
# plot: the weights and the levels
units = weights.view(-1, 64) / weights.view(-1, 64).abs().amax(1, keepdim=True)
figure, panel = plt.subplots(figsize=(7.2, 3.2))
panel.hist(units.flatten().numpy(), bins=120, color=COLOURS["untouched"], density=True)
panel.annotate("weights / absmax", (0.42, 0.75))
for y, name, values, colour in ((1.5, "even", even, "full"), (1.8, "NF4", levels, "qlora")):
    panel.plot(values.numpy(), [y] * 16, "|", ms=14, mew=2, color=COLOURS[colour])
    panel.annotate(name, (1.03, y - 0.05), color=COLOURS[colour])
panel.set(xlabel="weight / absmax", ylabel="density", xlim=(-1.05, 1.25), ylim=(0, 2.1))
panel.set(title="NF4 has most of its levels where most weights are")
show(figure, "07_levels")

# %% tags=["fold"]
# check
ratio = (gaps.max() / gaps.min()).item()
true_option(ratio < 1.1, 1.5 < ratio < 2.5, 3 < ratio < 5)
assert torch.equal(levels, nf4.levels("nf4")), "one side has 8 levels and the other 7"
assert error(weights, levels) < 0.9 * error(weights, even), (
    "quantiles should fit weights better"
)

# %% [markdown]
# (The two small peaks at -1 and 1 are the largest numbers of each block.) From here on `levels`
# are those of NF4. They are equal to the library's, to the last bit.
#
# ## 3. Two indices in one byte
#
# The smallest unit of memory is a byte, 8 bits. So two indices share one byte. The first one
# goes into the **high half** (the left four bits).
#
# ??? The indices 15 and 7 (they mean the levels 1.0 and 0.0) are put into one byte. Which
#   number is this byte?
# - [ ] 22 || That is the sum. The first index must move four bits to the left.
# - [ ] 127 || That is 7 · 16 + 15: the halves are swapped.
# - [x] 247 || 15 · 16 + 7.

# %%
byte = (15 << 4) | 7
library = nf4.quantize(torch.tensor([1.0, 0.0]))
print("by hand:", byte, " library:", library.packed.item())

# %% tags=["fold"]
# check: this byte, and all bytes of all weights
true_option(byte == 22, byte == 127, byte == 247 == library.packed.item())
index, absmax = quantize_by_hand(weights, levels, 64)
high, low = index.view(-1, 2).unbind(1)
whole = nf4.quantize(weights)
assert torch.equal(((high << 4) | low).to(torch.uint8), whole.packed.view(-1)), (
    "high half first"
)
assert torch.equal(absmax.view(-1), whole.absmax), "one absmax for each block of 64"
assert torch.equal((levels[index] * absmax).view(-1), nf4.dequantize(whole)), (
    "level times absmax"
)

# %% [markdown]
# ## 4. How large may a block be?
#
# A larger block needs fewer scales. But its absmax is larger, so most numbers become small
# compared with it, and more of them share the few levels near zero.
#
# ??? The absmax is a float32 number of 32 bits. Blocks have 64 weights. How many bits does one
#   weight need in total?
# - [ ] 4 || The scale is missing.
# - [x] 4.5 || 4 + 32/64.
# - [ ] 36 || The scale is shared by 64 weights.

# %%
sizes = (32, 64, 256, 4096)
plain = {size: (4 + 32 / size, error(weights, levels, size)) for size in sizes}
for size, (bits, wrong) in plain.items():
    print(f"blocks of {size:4}: {bits:.2f} bits, mean error {wrong:.1%}")

# %% tags=["fold"]
# check
true_option(plain[64][0] == 4, plain[64][0] == 4.5, plain[64][0] == 36)
assert whole.bits_per_parameter == 4.5, (
    "4.5 expected: is the absmax stored in 32 bits, once for 64 weights?"
)
assert plain[4096][1] > 1.3 * plain[64][1], "a larger block must have larger errors"

# %% [markdown]
# QLoRA uses 64: a good compromise between bits and error.
#
# <div class="widget" data-widget="nf4">
#
# ![A block of numbers, its levels, and the error of each number](diagrams/widget_nf4.svg)
#
# *In the book (`python -m tutorials book`) you can move an outlier and change the block size
# here.*
#
# </div>
#
# ## 5. The scales have scales
#
# The scales cost half a bit per weight. **Double quantization** quantizes the scales as well,
# and each one gets 8 bits: subtract the mean of all scales, and quantize the rest in blocks of
# 256 scales. Each of these blocks has one float32 scale.
#
# ??? How many bits per weight does this save?
# - [ ] 0.1 || Compute 32/64 bits before, and about 8/64 bits after.
# - [x] about 0.37 || 32/64 = 0.5 before, 8/64 + 32/(64 · 256) = 0.127 after.
# - [ ] 0.5 || Then the scales would need no bits at all.

# %%
before, after = 32 / 64, 8 / 64 + 32 / (64 * 256)
double = nf4.quantize(normal, double_quant=True)
print(f"bits for scales: {before:.3f} before, {after:.3f} after")
print(f"all bits per weight, as stored: {double.bits_per_parameter:.3f}")

# %%
for nested in (False, True):
    decoded = nf4.dequantize(nf4.quantize(normal, double_quant=nested))
    wrong = (decoded - normal).abs().mean() / normal.abs().mean()
    print(f"double quantization {nested!s:5}: mean error {wrong:.2%}")

# %% tags=["fold"]
# check
saved = before - after
true_option(saved < 0.2, 0.36 < saved < 0.38, saved >= 0.5)
assert abs(double.bits_per_parameter - (4 + after)) < 1e-3, "4 bits, and the bits of the scales"
once, twice = (
    (nf4.dequantize(nf4.quantize(normal, double_quant=nested)) - normal).abs().mean()
    for nested in (False, True)
)
assert twice < 1.005 * once, "the error grew: was the mean of the scales not subtracted?"

# %% [markdown]
# (The error is measured on 131,072 exactly normal numbers, so it is not the 9.6 % of our
# weights.)
#
# Are 4 bits enough? A model with 22 M parameters, trained on SST-2, had an accuracy of 0.853
# before its layers were quantized, and 0.859 after
# ([report](../training/results/qlora/report.md)).
#
# ## 6. Break it on purpose: one outlier
#
# Here is a block of 64 normal numbers. We replace one of them by 100.
#
# ??? What happens to the other 63 when they are stored and decoded?
# - [ ] They get a slightly larger error. || The absmax is 100 now. Compare a number near 1 with
#   the smallest positive level, 0.08 · 100.
# - [ ] They become 100. || Each number has its own index.
# - [x] All become zero. || The level next to zero is 0.08, which means 8 here. All other
#   numbers are nearer to 0.

# %%
block = torch.randn(64, generator=torch.Generator().manual_seed(1))
block[0] = 100
back = nf4.dequantize(nf4.quantize(block))
print(f"the outlier comes back as {back[0]:.0f}")
print(f"zeros among the other 63: {(back[1:] == 0).sum()}")

# %% tags=["fold"]
# check
others = back[1:]
true_option(
    0 < (others - block[1:]).abs().mean() < 0.5, (others == 100).all(), (others == 0).all()
)
bad = torch.ones(64)
bad[5] = float("nan")
try:
    nf4.quantize(bad, name="layers.3.weight")
except ValueError as refusal:
    assert "layers.3.weight" in str(refusal), "the error should name the weight"
else:
    raise AssertionError("a NaN would spoil its block without a word")

# %% [markdown]
# One large number costs its whole block. This is why blocks are small. It is also why this
# format is for weights, and not for activations, which have such outliers.
#
# ## The same in bitsandbytes
#
# bitsandbytes is a widely used library for 4-bit weights. Its default type is FP4, so ask for
# `nf4`. Then its bytes and ours are the same:

# %% tags=["fold"]
# the same in bitsandbytes: the bytes of all weights
import logging

logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # it looks for a GPU
from bitsandbytes.functional import quantize_4bit

packed, state = quantize_4bit(weights, blocksize=64, quant_type="nf4")
assert torch.equal(packed.view(-1), whole.packed.view(-1)), "another index, or swapped halves"
assert torch.equal(state.absmax, whole.absmax), "another scale"
print(f"the same {packed.numel():,} bytes and {state.absmax.numel():,} scales")

# %% [markdown]
# ## Find the bug
#
# This decoder gives numbers of the right size, but the model writes nonsense.
#
# ```python
# packed = packed.long()             # (n,) bytes
# first = levels[packed & 15]
# second = levels[packed >> 4]
# w = torch.stack([first, second], 1).view(-1, 64) * absmax
# ```
#
# ??? What is wrong?
# - [ ] `& 15` should be `& 16`. || 15 is 1111 in bits: it keeps the lower four.
# - [x] The halves are swapped. || The first number is in the high half: `packed >> 4`.
# - [ ] Decoding must divide by the absmax. || Quantizing divides, decoding multiplies.

# %% tags=["fold"]
# check: the buggy decoder swaps each pair
packed, absmax = whole.packed.view(-1), whole.absmax[:, None]
buggy = (
    torch.stack([levels[(packed & 15).long()], levels[(packed >> 4).long()]], 1).view(-1, 64)
    * absmax
)
correct = nf4.dequantize(whole)
true_option(False, torch.equal(buggy.view(-1, 2).flip(1), correct.view(-1, 2)), False)

# %% [markdown]
# ## Quiz
#
# ??? What is stored for one block of 64 weights, without double quantization?
# - [ ] 64 bytes || Two indices share a byte.
# - [x] 32 bytes and one float32 || 64 indices of 4 bits, and the absmax.
# - [ ] 16 levels || The levels are the same for all blocks. They are part of the program.
#
# ??? How large is a layer of 4096 × 4096 in NF4 with double quantization, compared with 16
#   bits?
# - [ ] half as large || That would be 8 bits.
# - [x] about a quarter || 4.127 bits against 16.
# - [ ] about an eighth || That is compared with 32 bits.
#
# ??? Why does NF4 have a level at exactly zero?
# - [x] so that zeros stay zero || Padding and pruned weights are zeros.
# - [ ] because most weights are zero || They are near zero, but not zero.
# - [ ] to save a bit || It is one of the 16 levels.
#
# ??? The largest weight of a block is 0.8. What does it come back as, without double
#   quantization?
# - [x] 0.8 || Divided by itself it is 1 (or -1), which is a level.
# - [ ] a bit less than 0.8 || Only numbers between two levels have an error.
# - [ ] 1 || The decoder multiplies by the absmax.
#
# ??? Your model has one layer with very large outliers. What helps?
# - [ ] larger blocks || Then more numbers share a block with an outlier.
# - [x] keep this layer in 16 bits || One layer costs little memory.
# - [ ] double quantization || The scales need fewer bits. The errors stay.

# %% tags=["fold"]
# check of the first, the second and the fourth answer
block = nf4.quantize(torch.linspace(-0.8, 0.5, 64))
assert block.packed.numel() == 32 and block.absmax.numel() == 1, "32 bytes and one scale"
assert 3.8 < 16 / double.bits_per_parameter < 4, "4.127 bits against 16"
assert nf4.dequantize(block)[0] == -0.8, "-1 is a level, so the largest number has no error"

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | the decoded weight is noise | the halves of the byte are swapped | section 3: the first number is in the high half |
# | zeros do not stay zero | other levels | section 2: compare with `nf4.levels("nf4")` |
# | one layer is much worse than the others | outliers in its blocks | section 6: its error in the report of `quantize_model` |
# | the file is larger than 4 bits | scales in float32; embeddings stay whole | section 5; [lesson 08](08_qlora.py) |
#
# ## Exercises
#
# Write in [exercises/07_nf4.py](exercises/07_nf4.py), then run `python -m tutorials check 07`.
#
# 1. ★ `bits_per_number`: from the block size, with and without double quantization.
#    <details><summary>Hint</summary>Sections 4 and 5 have both formulas for blocks of 64.</details>
# 2. ★★ `pack`: indices to bytes, the first in the high half; an odd count is filled with the
#    index of zero, 7.
#    <details><summary>Hint</summary>Make the count even first; then every second index is a high
#    half.</details>
# 3. ★★ `nearest_index`: the index of the nearest level for each number from -1 to 1; on a tie
#    the lower one.
#    <details><summary>Hint</summary>Count the midpoints that lie strictly below the number.</details>
#
# **Change and measure:** make five of the weights 100 times as large:
# `weights[::20000] *= 100`. How much larger is the mean error with blocks of 64, and with
# blocks of 4096?
#
# ## Summary
#
# 1. NF4 stores a 4-bit index per weight, and one scale per block of 64: 4.5 bits.
# 2. Its 16 levels are quantiles of a normal distribution, with an exact zero.
# 3. Double quantization stores the scales in 8 bits: 4.127 bits, with nearly the same error.
#
# **Next:** [lesson 08](08_qlora.py), QLoRA: train LoRA next to such a weight.
#
# More: [deep dive](deep/07_nf4.py) (where 0.9677083 comes from, simpler levels, block sizes) ·
# [glossary](GLOSSARY.md)
#
# ## On the real thing
#
# The first two commands need a folder of a model. The last one runs here:
#
# ```bash
# python -m loralib quantize path/to/Llama-3.2-1B --out path/to/llama-nf4
# python -m training --task e2e_nlg --model path/to/Llama-3.2-1B --method qlora
# python -m kernels.bench nf4
# ```
