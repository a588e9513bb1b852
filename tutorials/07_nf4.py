# %% [markdown]
# # 07 · Sixteen well-chosen levels and one scale for 64 numbers hold a weight in 4.13 bits
#
# | | |
# |:--|:--|
# | **Needs** | lesson [01](01_lora_by_hand.py); what a quantile is |
# | **Read and do** | 50 minutes |
# | **Runs in** | about 15 s on one CPU thread |
# | **Memory** | 2 GB |
#
# A weight takes 32 bits, or 16. QLoRA keeps it in about 4, and trains LoRA beside it. How can 4 bits be enough? You will build
# the type called **NF4** by hand, to the last bit: its 16 levels, its scales, its bytes, and the scales of its scales. And you
# will check two things that are often said: that quantiles make all levels equally busy, and that a simpler recipe for the
# levels is wrong.
#
# | symbol | code | meaning |
# |:--|:--|:--|
# | $c_i$ | `levels` | the 16 values that a 4-bit index can mean, from -1 to 1 |
# | absmax | `absmax` | scale of a block: its largest absolute value |
# | B | `blocksize` | numbers that share a scale, 64 by default |
#
# Differences from the paper (QLoRA, Dettmers et al. 2023, section 3): it derives the levels from $2^k + 1$ quantiles, k being
# the bits; its code, the library bitsandbytes, takes another formula. We follow the code, for its files are what you will meet.

# %%
import sys
from pathlib import Path
from statistics import NormalDist

ROOT = Path.cwd() if Path("loralib").is_dir() else Path.cwd().parent
sys.path.insert(0, str(ROOT))  # so that our folders are found, from the project's root and from tutorials/

import torch
import transformers
from matplotlib import pyplot as plt

from kernels.formulas import nf4
from training.models.base_models import load_base
from training.reports.records import COLOURS, use_style
from training.data.tasks import find_task
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
use_style()

model = load_base(find_task("data2text"), seed=0).model
weights = torch.cat([p.detach().flatten() for name, p in model.named_parameters() if ".c_" in name and p.ndim == 2])
print(f"{len(weights):,} weights of the small world's decoder; standard deviation {weights.std():.3f}")

# %% [markdown]
# ## 1. A block, a scale, an index
#
# Divide a block of 64 numbers by its largest absolute value: now all lie between -1 and 1. Write down the nearest of 16 fixed
# levels for each. To decode, look the level up and multiply.
#
# **Predict:** the levels lie evenly, -1, -0.87, ..., 0.87, 1. How far off is a number on average, in per cent of the average
# size of a number: 1 %, 12 %, or 50 %?


# %%
def there_and_back(w: torch.Tensor, levels: torch.Tensor, blocksize: int = 64) -> torch.Tensor:
    """Quantise and decode by hand; the count of numbers has to be a multiple of the block size."""
    blocks = w.view(-1, blocksize)
    absmax = blocks.abs().amax(1, keepdim=True)  # (blocks, 1)
    distance = ((blocks / absmax)[..., None] - levels).abs()  # (blocks, blocksize, 16)
    return (levels[distance.argmin(-1)] * absmax).view(-1)


def error(w: torch.Tensor, levels: torch.Tensor, blocksize: int = 64) -> float:
    return float((there_and_back(w, levels, blocksize) - w).abs().mean() / w.abs().mean())


even = torch.linspace(-1, 1, 16)
units = weights.view(-1, 64) / weights.view(-1, 64).abs().amax(1, keepdim=True)  # (blocks, 64), from -1 to 1
print(f"even levels: {error(weights, even):.1%} off on average; a number is {units.abs().mean():.2f} of its block's largest")
assert 0.08 < error(weights, even) < 0.15, "about a tenth: is each number divided by the largest of its own block?"

# %% [markdown]
# Two levels are 0.13 apart, so a number is 0.033 off on average (0 at a level, 0.067 half way between two). Against 0.29 that is
# the 12 %.
#
# ## 2. Levels where the numbers are
#
# Trained weights look roughly like a bell curve: many small numbers, few large ones. Even levels are wasted at the ends. NF4 puts
# them at **quantiles** of the normal distribution, divided by the largest. Eight levels lie above zero, seven below, and zero
# itself is one of them.
#
# The outermost level cannot be the quantile of 1 (it is infinite). The code takes the quantile of 0.9677083. Cut a normal
# distribution into 16 equal shares: the middle of the last share is the quantile of 1 - 1/32 = 0.969. Of 15 shares: of 1 - 1/30
# = 0.967.
#
# **Predict:** where does 0.9677083 come from, then? And how many times as wide as the narrowest gap between two levels is the
# widest one: 1, 2 or 4 times?

# %%
offset = 1 - (1 / 32 + 1 / 30) / 2
print(f"the mean of the two: {offset:.7f}")
above = [NormalDist().inv_cdf(p) for p in torch.linspace(0.9677083, 0.5, 9)[:-1].tolist()]  # 8 levels; 0.5 itself is zero
below = [-NormalDist().inv_cdf(p) for p in torch.linspace(0.9677083, 0.5, 8)[:-1].tolist()]  # 7 levels, negative
by_hand = torch.tensor(sorted([*above, 0.0, *below]))
by_hand = by_hand / by_hand.max()
print([round(level, 3) for level in by_hand.tolist()])
gaps = by_hand.diff()
print(f"gaps: {gaps.min():.3f} beside zero, {gaps.max():.3f} at the end: {gaps.max() / gaps.min():.1f} times as wide")
assert torch.equal(by_hand, nf4.levels("nf4")), "equal to the library's, to the last bit: is one side 8 and the other 7 long?"
assert abs(offset - 0.9677083) < 1e-7, "the mean of the two middles"

# %% [markdown]
# **Predict:** quantiles cut a distribution into equal shares. So does each level get a sixteenth of the weights, 6 %? How
# many per cent get level 0, and how many level 1?

# %%
nearest = (units[..., None] - by_hand).abs().argmin(-1)
shares = torch.bincount(nearest.flatten(), minlength=16) / nearest.numel()
largest = torch.randn(2048, 64, generator=torch.Generator().manual_seed(0)).abs().amax(1).mean()
print(f"level 0 gets {shares[7]:.1%} of the weights, level 1 gets {shares[15]:.1%}")
print(f"the largest of 64 normal numbers: {largest:.2f}; the outermost quantile: {NormalDist().inv_cdf(offset):.2f}")
assert shares[7] > 0.08 and shares[15] < 0.03, "the middle is busy, the ends are not: are all blocks divided by their largest?"

# %% [markdown]
# Not equal at all. The levels were divided by the outermost *quantile*, 1.85 standard deviations; a block is divided by its
# largest *number*, about 2.6 of them. So the levels lie further out than the quantiles of the numbers. (Yoshida 2023, "NF4 Isn't
# Information Theoretically Optimal (and that's Good)", [arXiv 2306.06965](https://arxiv.org/abs/2306.06965), says why.)
#
# ## 3. Is it better, and is a simpler recipe wrong?
#
# A simpler recipe for "quantiles of a normal" fits in one line: those of $(i + 0.5) / 16$, for $i$ from 0 to 15. That has no
# zero. We compare four sets of levels, on our weights and on exactly normal numbers. The fourth, FP4, is a tiny floating-point
# number: one bit of sign, two of exponent, one more.
#
# **Predict:** order them by error. Where does the one-line recipe stand: far behind NF4, or next to it?

# %%
one_line = torch.tensor([NormalDist().inv_cdf((i + 0.5) / 16) for i in range(16)])
one_line = one_line / one_line.max()
types = {"even": even, "FP4": nf4.levels("fp4"), "one-line recipe": one_line, "NF4": nf4.levels("nf4")}
normal = torch.randn(2**17, generator=torch.Generator().manual_seed(0))
found = {name: (error(weights, levels), error(normal, levels)) for name, levels in types.items()}
print("                  weights   normal numbers")
for name, (real, ideal) in found.items():
    print(f"{name:16} {real:8.2%} {ideal:12.2%}")
assert found["NF4"][0] < 0.9 * found["even"][0] < found["FP4"][0], "quantiles help; FP4's levels lie worst"
assert abs(found["one-line recipe"][0] / found["NF4"][0] - 1) < 0.02, "within 2 %: not worse, but another type"

zeros = torch.cat([torch.zeros(32), torch.linspace(-1, 1, 32)])
back = {name: there_and_back(zeros, types[name])[0].item() for name in ("one-line recipe", "NF4")}
print("zeros come back:", ", ".join(f"{name} {value:.3f}" for name, value in back.items()))
assert back["NF4"] == 0 != back["one-line recipe"], "only a set with a level at zero keeps zeros"

# %%
figure, axes = plt.subplots(figsize=(7.5, 3.6))
axes.hist(units.flatten().numpy(), bins=120, color=COLOURS["untouched"], density=True, label="our weights / their absmax")
for y, (name, colour) in zip((1.72, 1.58, 1.44), (("even", "full"), ("FP4", "broken"), ("NF4", "qlora")), strict=True):
    axes.plot(types[name].numpy(), [y] * 16, "|", ms=12, mew=2, color=COLOURS[colour], label=f"levels: {name}")
axes.set(xlabel="weight / absmax", ylabel="density", ylim=(0, 2.6), title="NF4 has most of its levels where most weights are")
axes.legend(loc="upper right", ncols=2, fontsize=8)
show(figure, "levels")

# %% [markdown]
# (The two spikes are the largest numbers themselves: one of each 64 is 1 or -1. FP4 has two levels at zero, +0 and -0.)
#
# So the recipe is not *bad*. It is a different type: a zero (padding, a pruned weight) does not stay zero, and bytes written with
# it mean something else to every program that reads NF4. It is even a little better, on normal numbers as well: NF4 is a good
# choice, not an optimal one.
#
# ## 4. How large may a block be?
#
# A larger block needs fewer scales, but its largest number is larger, so all the others become smaller against it.
#
# **Predict:** a scale has 32 bits. With blocks of 64, how many bits does a number cost, all in all: 4.0, 4.1 or 4.5? Blocks of 64
# are 9.6 % off. And blocks of 4096?

# %%
sizes = (32, 64, 128, 256, 1024, 4096)
plain = {B: (4 + 32 / B, error(weights, nf4.levels("nf4"), B)) for B in sizes}
for B, (bits, wrong) in plain.items():
    print(f"B = {B:4}: {bits:.3f} bits, {wrong:.1%} off")
assert plain[64][0] == 4.5, "4 bits, and 32 shared by 64"
assert plain[4096][1] > 1.4 * plain[64][1], "the larger the block, the coarser its small numbers"

# %% [markdown]
# ## 5. Two numbers in one byte
#
# Computers have no 4-bit numbers. Two indices go into one byte: the first into the **high** half.
#
# **Predict:** the indices 15 and 7 (the levels 1 and 0) make one byte. Which number is it: 127, 247 or 157?

# %%
byte = (15 << 4) | 7
q = nf4.quantize(torch.tensor([1.0, 0.0]))
print(f"by hand {byte}, the library {q.packed.item()}")
assert byte == q.packed.item() == 247, "15 · 16 + 7"

whole = nf4.quantize(weights)
assert torch.equal(nf4.dequantize(whole), there_and_back(weights, nf4.levels("nf4"))), "the library decodes what you decoded"
print(f"{len(weights):,} numbers: {whole.nbytes:,} bytes, {whole.bits_per_parameter} bits each; float32: {4 * len(weights):,}")

# %% [markdown]
# These bytes are those of bitsandbytes, bit for bit, for every shape and dtype that we tried (`test_kernels_nf4.py`).
#
# ## 6. The scales have scales
#
# Half a bit a number goes into scales. **Double quantisation** stores them in 8 bits: take off their mean, and code the rest
# with 256 levels, in blocks of 256 scales that share one float32. (These levels are the *dynamic map*, dense near zero; lesson 08
# looks at it.)
#
# **Predict:** 8 bits a scale instead of 32, and one float32 for 256 scales. How much does this save a number: 0.1, 0.37 or 0.5
# bits?

# %%
before, after = 32 / 64, 8 / 64 + 32 / (64 * 256)
double = nf4.quantize(normal, double_quant=True)
print(f"scales cost {before} bits a number, then {after:.4f}: {before - after:.4f} saved; all: {double.bits_per_parameter:.4f}")
wrong = {}
for nested in (False, True):
    decoded = nf4.dequantize(nf4.quantize(normal, double_quant=nested))
    wrong[nested] = (decoded - normal).abs().mean().item()
print(f"mean error {wrong[False]:.5f} without, {wrong[True]:.5f} with double quantisation")
assert abs(before - after - 0.373) < 1e-3, "8 instead of 32 bits for 64 numbers, and a little for the scales of scales"
assert wrong[True] < 1.005 * wrong[False], "the scales are close to each other, so 8 bits are plenty for them"
assert abs(double.bits_per_parameter - 4.127) < 1e-3, "measured on what is stored"

# %%
figure, axes = plt.subplots(figsize=(7, 3.6))
nested = {}
for B in sizes:
    q = nf4.quantize(normal, B, double_quant=True)
    nested[B] = (4 + 8 / B + 32 / (B * 256), float((nf4.dequantize(q) - normal).abs().mean() / normal.abs().mean()))
ideal = {B: (4 + 32 / B, error(normal, nf4.levels("nf4"), B)) for B in sizes}
for points, colour, label in ((ideal, "untouched", "float32 scales"), (nested, "qlora", "scales in 8 bits")):
    axes.plot(*zip(*points.values(), strict=True), "o-", color=COLOURS[colour], label=label)
for B, (bits, wrong_by) in nested.items():
    axes.annotate(f"{B}", (bits, wrong_by), xytext=(-4, -14), textcoords="offset points", fontsize=8)
axes.set(xlabel="bits a number (points: block sizes)", ylabel="relative error, normal numbers")
axes.set_title("Double quantisation: 0.37 bits less at B = 64, the error the same")
axes.legend()
show(figure, "bits")

# %% [markdown]
# ## 7. Break it on purpose: one outlier
#
# **Predict:** in a block of 64 normal numbers we replace one by 100. What happens to the other 63?

# %%
block = torch.randn(64, generator=torch.Generator().manual_seed(1))
spoilt = torch.cat([torch.tensor([100.0]), block[1:]])
back = nf4.dequantize(nf4.quantize(spoilt))
print(f"the outlier comes back as {back[0]:.1f}; of the others {int((back[1:] == 0).sum())} of 63 are zero")
assert back[0] == 100 and (back[1:] == 0).all(), "the level beside zero is 0.08: 8 here, and half way is 4"
bad = torch.ones(64)
bad[5] = float("nan")
try:
    nf4.quantize(bad, name="layers.3.weight")
except ValueError as refusal:
    print("refused:", refusal)

# %% [markdown]
# One large number costs its whole block. This is why blocks are small, and why activations (which have such outliers) are not
# stored like this. A number that is not finite would spoil the block without a word, so the library names the weight and stops.
#
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | the decoded weight is noise | the halves of the byte are swapped | section 5: the first number is in the high half |
# | zeros do not stay zero | levels from another recipe | section 3: compare with `nf4.levels("nf4")` |
# | one layer is much worse than the others | outliers in its blocks | section 7: its error in the report of `quantize_model` |
# | bitsandbytes decodes rows of 96 wrongly on a CPU | its kernel, when a row ends inside a block | `test_kernels_nf4.py` |
# | the file is larger than 4 bits | scales in float32, embeddings and heads unquantised | section 6, and lesson 08 |
#
# ## Exercises
#
# Write in [exercises/07_nf4.py](exercises/07_nf4.py), then `python -m tutorials check 07`.
#
# 1. ★ `bits_per_number`: from the block size, with and without double quantisation.
# 2. ★★ `pack`: indices to bytes, the first in the high half; an odd count is filled with the index of zero, 7.
#    <details><summary>Hint</summary>Make the count even first; then every second index is a high half.</details>
# 3. ★★ `nearest_index`: the index of the nearest level for each number in -1 to 1; on a tie the lower one.
#    <details><summary>Hint</summary>Count the midpoints that lie strictly below the number.</details>
#
# ## Summary
#
# 1. NF4 is 16 quantiles of a normal distribution with an exact zero, and one scale for 64 numbers: 4.5 bits.
# 2. Double quantisation stores the scales in 8 bits: 4.127 bits, at nearly the same error.
# 3. An index means nothing without its table: other levels are another type, even when they are as good.
#
# **Next:** [lesson 08](08_qlora.py), QLoRA: training beside such a weight.
#
# ## On the real thing
#
# ```bash
# python -m loralib quantize path/to/Llama-3.2-1B --out path/to/llama-nf4                # a folder from disk: 4 bits in its files
# python -m training --task e2e_nlg --model path/to/Llama-3.2-1B --method qlora         # trains beside it (lesson 08)
# python -m kernels.bench nf4          # times it: the kernels on a GPU (lesson 10), torch on a CPU
# ```
