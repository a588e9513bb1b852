# %% [markdown]
# # 10 · For one token, an NF4 kernel is limited by decoding, not bytes
#
# **Needs** lessons [07](07_nf4.py) and [09](09_fused_lora.py)
# · **Read and do** 50 minutes · **Runs in** about 25 s on one CPU thread · **Memory** 2 GB
#
# When a model writes text, each weight is read once for each token. So reading the weights
# takes almost all of the time. A 4-bit weight has 3.9 times fewer bytes than a 16-bit weight.
# Is writing then 3.9 times faster?
#
# ![From a byte to two weights: a table of 256 pairs, two levels, times absmax](diagrams/10_decode.svg)
#
# "Decode" means here: from 4 bits to numbers. On this page you count the **instructions** (the
# single commands of the machine) that this needs, without a GPU. Then you compare your answer
# with measurements on an H200.

# %% tags=["fold"]
# set-up: the interpreter, imports, our folders
import os
import sys
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders
os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when a kernel is defined

import torch
import triton
import triton.language as tl
from matplotlib import pyplot as plt

from kernels.formulas import nf4
from kernels.triton_kernels import nf4_matmul_triton
from kernels.triton_kernels.ahead_of_time import read_table
from training.reports.records import COLOURS, use_style
from tutorials.answers import true_option
from tutorials.built_by_hand import WAYS, built, decode_kernel
from tutorials.interpreted import traffic
from tutorials.show import show, show_table

torch.set_num_threads(1)
use_style()
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## 1. The promise: bytes
#
# As in lesson 09 we assume that an H200 reads 4.3 · 10¹² bytes per second.
#
# ??? A weight of 14336 × 4096 has 117 MB in 16 bits. How large is it in NF4, and how much
#   faster can it be read?
# - [x] 30 MB, 3.9 times faster || 4.127 bits in place of 16.
# - [ ] 30 MB, equally fast || The time of reading is proportional to the bytes.
# - [ ] 15 MB, 8 times faster || That is compared with 32 bits.

# %%
N, K, bandwidth = 14336, 4096, 4.3e12  # d_out, d_in, bytes per second
bits = {"16 bits": 16.0, "NF4": 4 + 8 / 64 + 32 / (64 * 256)}
for name, width in bits.items():
    size = N * K * width / 8
    print(f"{name}: {size / 1e6:5.1f} MB, read in {1e6 * size / bandwidth:.1f} µs")
promise = bits["16 bits"] / bits["NF4"]
print(f"the promise: {promise:.1f} times faster")

# %% tags=["fold"]
# check
true_option(3.8 < promise < 4, promise < 1.1, promise > 7)
assert bits["NF4"] < 4.2, "are the scales in 8 bits?"

# %% [markdown]
# ## 2. The budget: instructions
#
# An H200 has 132 processors (SMs). Each one can start instructions for 128 threads in each
# cycle, and there are 1.98 · 10⁹ cycles per second.
#
# ??? The weights arrive at full speed. How many instructions can the GPU start for each weight?
# - [x] about 4 || 132 · 128 · 1.98 · 10⁹ instructions per second, divided by 8.3 · 10¹² weights
#   per second.
# - [ ] about 40 || A GPU is fast, but the weights arrive very fast, too.
# - [ ] about 400 || Then decoding would cost nothing.

# %%
instructions_per_second = 132 * 128 * 1.98e9
weights_per_second = bandwidth / (bits["NF4"] / 8)
budget = instructions_per_second / weights_per_second
print(f"{weights_per_second:.1e} weights per second: {budget:.1f} instructions for each")

# %% tags=["fold"]
# check
true_option(3 < budget < 5, 20 < budget < 80, budget > 200)
assert budget < 5, "is the bandwidth in bytes, and the weight in bits?"

# %% [markdown]
# For each weight, a kernel must take 4 bits out of a byte, look up the level, multiply by the
# scale, multiply by a number of $x$, and add. Even if multiply and add are one instruction,
# that is 4, and loading the byte and computing addresses are not counted yet. A 16-bit weight
# does not have this problem: it takes four times as long to arrive, and it needs no decoding.
#
# ## 3. Two ways to decode a byte
#
# A byte holds two indices. One can look up each index in a table of 16 levels. Or one can look
# up the whole byte in a table of 256 pairs of levels.


# %%
@triton.jit
def by_index(table, byte):
    return tl.load(table + (byte >> 4)), tl.load(table + (byte & 15))  # two look-ups


@triton.jit
def by_byte(table, byte):
    pair = tl.load(table + byte)  # one look-up: 64 bits, which are two float32 numbers
    first = pair.to(tl.int32).to(tl.float32, bitcast=True)  # the lower half, read as a float
    return first, (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)


# %% [markdown]
# ??? How large is the table of pairs?
# - [ ] 64 bytes || That is the table of 16 levels.
# - [ ] 512 bytes || An entry has two float32 numbers, so 8 bytes.
# - [x] 2,048 bytes || 256 entries of 8 bytes. It fits into the fastest cache of a processor.

# %%
weight = torch.randn(8, 256, generator=generator)  # (N, K)
q = nf4.quantize(weight)
levels, pairs = nf4.levels("nf4"), nf4.level_pairs("nf4", torch.device("cpu")).view(torch.int64)
print(f"{len(pairs)} entries of {pairs.element_size()} bytes: {pairs.nbytes:,} bytes")

# %% tags=["fold"]
# check: all three ways decode to the bit (the third compares: see tutorials/built_by_hand.py)
true_option(pairs.nbytes == 64, pairs.nbytes == 512, pairs.nbytes == 2048)


@triton.jit
def both_ways(levels, pairs, out):
    byte = tl.arange(0, 256)
    high, low = by_index(levels, byte)
    first, second = by_byte(pairs, byte)
    tl.store(out + byte, (high - first) + (low - second))


difference = torch.ones(256)
both_ways[(1,)](levels, pairs, difference)
assert not difference.any(), "the pair of a byte must be the levels of its two halves"
for how, name in enumerate(WAYS):
    out = torch.empty_like(weight)
    table = pairs if how == 2 else levels
    decode_kernel[(1,)](q.packed, q.absmax, table, out, len(q.packed), how, 32)
    assert torch.equal(out, nf4.dequantize(q)), f"{name}: not the numbers of the definition"

# %% [markdown]
# ## 4. Count the instructions
#
# A third way needs no table: a tree of 15 comparisons for each index. We compile all three ways
# for a Hopper GPU and divide the number of instructions by the number of weights that a thread
# decodes.
#
# ??? Which of the three stays within the budget of 4 instructions per weight?
# - [ ] the table of pairs only || It is the best one. But each weight also has to be scaled,
#   rounded and stored.
# - [x] none of them || Even the table of pairs needs more.
# - [ ] both tables || Two look-ups, shifts and masks are more than 4.

# %%
reports = built()
for name in WAYS:
    per_weight = reports[name]["per weight"]
    share = budget / per_weight
    print(f"{name:20} {per_weight:5.1f} per weight: at most {share:.0%} of the bandwidth")

# %% tags=["fold"]
# plot: instructions per weight
figure, panel = plt.subplots(figsize=(7, 2.8))
counts = [reports[name]["per weight"] for name in WAYS]
colours = [COLOURS["broken"], COLOURS["head"], COLOURS["lora"]]
panel.bar_label(panel.barh(WAYS, counts, color=colours, height=0.55), fmt="%.1f", padding=3)
panel.axvline(budget, color=COLOURS["full"], linestyle="--")
panel.annotate("budget", (budget, 2.75), xytext=(4, 0), textcoords="offset points")
panel.set(xlabel="instructions per weight (Hopper)", xlim=(0, 36), ylim=(-0.6, 3.1))
panel.set(title="none of the three ways stays within the budget")
panel.set_yticks(range(3), WAYS)
show(figure, "10_instructions")

# %% tags=["fold"]
# check
inside = [name for name in WAYS if reports[name]["per weight"] <= budget]
true_option(inside == ["table of 256 pairs"], not inside, len(inside) == 2)
assert reports["comparisons"]["per weight"] > 3 * reports["table of 256 pairs"]["per weight"], (
    "did the compiler turn the tree into a table?"
)

# %% [markdown]
# So for a kernel that multiplies at once, bytes are not the limit: the instructions alone take
# longer. (To compare the ways, this kernel also writes its weights. A kernel that only decodes
# moves 5 times as many bytes, so its budget is about 20 instructions. Here the question is a
# kernel that multiplies at once.) A 4-bit kernel beats 16 bits only if it reaches more than
# 1/3.9 = 26 % of the bandwidth. The tree of comparisons reaches less: with it, 4 bits would be
# slower than 16.
#
# ## 5. One token: scale late
#
# A byte holds two neighbours of a row, $w_1 = c_1 a$ and $w_2 = c_2 a$, with levels $c$ and the
# scale $a$ of their block. Their part of the output is $w_1 x_1 + w_2 x_2$, added to a sum. A
# multiplication with an addition is one instruction.
#
# ??? How many instructions are saved per byte if the scale waits: $(c_1 x_1 + c_2 x_2)\, a$?
# - [ ] none: the result is the same || The result is the same, but the number of
#   multiplications is not.
# - [x] one || Scaled first: c₁a, c₂a, and two multiply-adds: 4. Scaled later: c₁x₁, one
#   multiply-add with c₂x₂, and one with a: 3.
# - [ ] two || Three instructions are needed: for c₁x₁, for c₂x₂, and for a.

# %%
early = ["c1 · a", "c2 · a", "sum += · x1", "sum += · x2"]
late = ["c1 · x1", "+ c2 · x2", "sum += · a"]
print(f"scaled first: {len(early)} instructions for a byte, scaled late: {len(late)}")

# %%
table = {(row["kernel"], row["variant"]): row for row in read_table() if row["sm"] == "90"}
gemv = float(table["gemv_kernel", "M=1 r=16"]["per_weight"])
faster = promise * budget / gemv
print(f"our kernel for one token: {gemv} per weight")
print(f"so it is at most {faster:.1f} times faster than 16 bits")

# %% tags=["fold"]
# check: the library's kernel, its values and what it loads
saved = len(early) - len(late)
true_option(saved == 0, saved == 1, saved == 2)
W = torch.randn(96, 512, generator=generator)
q = nf4.quantize(W, double_quant=True)
x = torch.randn(1, 512, generator=generator)
with traffic() as counted:
    y = nf4_matmul_triton.nf4_matmul(x, q)
exact = x.double() @ nf4.dequantize(q).double().T
assert torch.allclose(y.double(), exact, rtol=1e-4, atol=1e-4), "is the scale the block's own?"
look_ups = 8 * q.packed.numel()  # an entry of 8 bytes for each byte
assert q.packed.nbytes + look_ups < counted.loaded < 1.2 * (q.packed.nbytes + look_ups), (
    "each byte once"
)

# %% [markdown]
# So by instructions, our kernel can be at most 2.9 times faster than 16 bits for one token, not
# 3.9 times. (The QLoRA paper calls the scale c. Here c is a level, and a the scale.) This
# assumes that a look-up costs no more than one instruction.
#
# ## 6. What the H200 measured
#
# ??? Our count allows 75 % of the bandwidth for one token (4.0 / 5.3). What did our kernel
#   reach on an H200?
# - [ ] about 75 % || The count is an upper limit. It does not know how long a look-up takes.
# - [ ] more than 90 % || The limit by instructions is 75 %.
# - [x] less than 20 % || The count left out how long a look-up takes. They go through a cache
#   that all threads of a processor share. (This is our explanation, not a measurement.)

# %% tags=["fold"]
# table: from the committed report of the H200
show_table(
    "kernels/results/nvidia-h200/summary.md#NF4; over the library; over the bare layer; share of the limit"
)

# %% tags=["fold"]
# check: the row of one token, from the same table
import re

summary = (ROOT / "kernels/results/nvidia-h200/summary.md").read_text()
row = re.search(r"NF4, packed weight × 1 token \|.*\| (\d+)% to (\d+)% \|", summary)
reached = int(row[2]) / 100
true_option(0.7 < reached < 0.8, reached > 0.9, reached < 0.2)
assert reached < budget / gemv, "faster than the count: was the weight in a cache?"

# %% [markdown]
# Each ratio is our time divided by the other's, so below 1 ours is faster. More than 100 % of
# the limit means that a weight of this size stayed partly in the cache. The row of one token is
# a negative result, and an important one. For one token our kernel is slower than bitsandbytes
# ("the library") and slower than a 16-bit layer ("the bare layer"; in the first row: a copy of
# the weight). The count of instructions gave a limit, but not the time. Only a measurement
# shows what look-ups cost. (Decoding a whole weight at once is different: there ours needs 0.7
# of bitsandbytes' time.)
#
# The [deep dive](deep/10_nf4_kernels.py) looks at more tokens: with 4 tokens it was already
# faster to decode the weight once and to call cuBLAS. (Our layer does so from 2 tokens on.)
#
# ## Break it on purpose: the halves of a byte
#
# We exchange the two levels of every entry of the table of pairs.
#
# ??? Which of these checks would notice it?
# - [ ] the mean and the standard deviation of the weight || They stay the same: the same
#   numbers are there, in another order.
# - [ ] a histogram || It does not depend on the order.
# - [x] a comparison place by place || Each weight has changed places with its neighbour.

# %%
weight = torch.randn(4, 64, generator=generator)
q = nf4.quantize(weight)
swapped = pairs.view(torch.float32).view(256, 2).flip(1).contiguous().view(torch.int64)
out, right = torch.empty_like(weight), nf4.dequantize(q)
decode_kernel[(1,)](q.packed, q.absmax, swapped, out, len(q.packed), 2, 32)
print(f"mean   {out.mean():.4f} and {right.mean():.4f}")
print(f"spread {out.std():.4f} and {right.std():.4f}")
print(f"equal in their places: {(out == right).float().mean():.0%}")

# %% tags=["fold"]
# check
same_mean = torch.isclose(out.mean(), right.mean(), atol=1e-6)
true_option(
    not same_mean,
    not torch.equal(out.flatten().sort()[0], right.flatten().sort()[0]),
    bool((out != right).any()),
)
assert torch.equal(out[:, ::2], right[:, 1::2]), "each pair has changed places"

# %% [markdown]
# ## The same in bitsandbytes
#
# On a GPU, bitsandbytes multiplies with the packed weight, too (`gemv_4bit`). Here we compare x
# times the weight that it decodes with the result of our kernel:

# %% tags=["fold"]
# the same in bitsandbytes: one token times a packed weight
import logging

logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # it looks for a GPU
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

packed, state = quantize_4bit(W, blocksize=64, quant_type="nf4")
plain = nf4.quantize(W)
assert torch.equal(packed.view(-1), plain.packed.view(-1)), "other bytes"
bnb_result = x @ dequantize_4bit(packed, state).T
assert torch.allclose(
    nf4_matmul_triton.nf4_matmul(x, plain), bnb_result, rtol=1e-4, atol=1e-4
), "another result"
print("the same result from the same bytes")

# %% [markdown]
# ## Find the bug
#
# A report says: "Our 4-bit kernel reaches 95 % of the bandwidth of the 16-bit layer, so there
# is hardly anything left to gain."
#
# ```python
# bandwidth_16 = 2 * N * K / seconds_16
# bandwidth_4 = 2 * N * K / seconds_4
# print(bandwidth_4 / bandwidth_16)   # 0.95
# ```
#
# ??? What is wrong?
# - [ ] The times have to be exchanged. || Bytes divided by seconds is right.
# - [x] The 4-bit weight has 0.52 bytes per weight, not 2. || The times are nearly equal, but it
#   uses only a quarter of what the memory can do. By bytes, up to 3.9 times are left to gain;
#   by instructions, less.
# - [ ] N K has to be doubled. || Each weight is read once.
#
# ## Quiz
#
# ??? A kernel needs 8 instructions per weight, the budget is 4. Which share of the bandwidth
#   can it reach?
# - [ ] 200 % || More instructions make it slower.
# - [x] 50 % || The instructions take twice as long as the bytes.
# - [ ] 100 % || Then instructions would cost nothing.
#
# ??? 4-bit weights reach 30 % of the bandwidth. How fast is this compared with 16 bits at full
#   bandwidth?
# - [ ] 3.3 times slower || There are also 3.9 times fewer bytes.
# - [x] about 1.2 times faster || 0.3 · 3.9 = 1.16.
# - [ ] 3.9 times faster || That would need 100 %.
#
# ??? Why is one look-up for a whole byte better than two?
# - [x] fewer instructions per weight || One load, and no shift and mask for each index.
# - [ ] the table is smaller || It is 32 times larger.
# - [ ] the result is more exact || Both decode to the bit.
#
# ??? With thousands of tokens, is the weight still what limits the speed?
# - [ ] yes || Each weight is then used thousands of times after one read.
# - [x] no, the multiplications do || The roofline of lesson 09: operations grow with the
#   tokens, bytes of the weight do not.
# - [ ] no, the scales do || They are a small part.
#
# ??? What does a count of instructions tell you?
# - [ ] the time || Only a measurement does.
# - [x] a limit that no kernel with these instructions can beat || The real time may be far
#   worse, as it was here.
# - [ ] nothing || It excluded the tree of comparisons without a GPU.

# %% tags=["fold"]
# check of the first two answers
assert 4 / 8 == 0.5, "the budget divided by the need"
assert 1.1 < 0.3 * promise < 1.2, "the share times the promise"

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | 4 bits are slower than 16 | decoding, not memory | sections 4 and 6: count, then measure |
# | the model writes nonsense, all statistics look right | the halves of the byte | "Break it on purpose" |
# | the packed way is slow for 256 tokens | every tile decodes the weight again | [deep dive](deep/10_nf4_kernels.py), section 2 |

#
# ## Exercises
#
# Write in [exercises/10_nf4_kernels.py](exercises/10_nf4_kernels.py), then run
# `python -m tutorials check 10`. The puzzle 08 of the [ladder](kernels_ladder/README.md) is the
# decoder as a kernel.
#
# 1. ★ `budget`: instructions per weight at full speed, for any GPU.
#    <details><summary>Hint</summary>Section 2, with names in place of the numbers.</details>
# 2. ★★ `pair_table`: the table of 256 pairs.
#    <details><summary>Hint</summary>Going down the 256 rows, the first index stays the same for 16
#    rows, while the second one runs.</details>
# 3. ★★ `best_path`: packed or decoded first, by the limits of the [deep
#    dive](deep/10_nf4_kernels.py), section 2.
#    <details><summary>Hint</summary>Decoding first is paid once. The packed way decodes for each
#    tile of tokens.</details>
#
# **Change and measure:** in section 2, take the numbers of another GPU from its data sheet. Is
# its budget larger or smaller than 4?
#
# ## Summary
#
# 1. NF4 promises 3.9 times fewer bytes. But at full speed there are only 4 instructions for
#    each weight.
# 2. A table of 256 pairs needs the fewest instructions. Still, our kernel for one token is
#    slower than bitsandbytes.
# 3. A count gives a limit. A measurement gives the time.
#
# **Next:** [lesson 11](11_many_adapters_kernel.py), many adapters in one launch.
#
# More: [deep dive](deep/10_nf4_kernels.py) (some tokens, many tokens) · [glossary](GLOSSARY.md)
#
# ## On the real thing
#
# On a GPU, the first command times the kernels next to bitsandbytes:
#
# ```bash
# python -m kernels.bench nf4
# python -m training --task e2e_nlg --model path/to/Llama-3.2-1B --method qlora
# ```
