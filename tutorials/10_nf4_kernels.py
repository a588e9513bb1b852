# %% [markdown]
# # 10 · A 4-bit weight has a quarter of the bytes, and its kernel is bound by instructions
#
# | | |
# |:--|:--|
# | **Needs** | lessons [07](07_nf4.py) and [09](09_fused_lora.py) |
# | **Read and do** | 60 minutes |
# | **Runs in** | about 30 s on one CPU thread |
# | **Memory** | 2 GB |
#
# When a model writes one token at a time, each weight is read once for each token: the time is the time of reading. A 4-bit
# weight has 3.9 times fewer bytes. Is writing a token then 3.9 times faster? You will find the answer by counting machine
# instructions, without a GPU, and see what a good kernel does about it. "Decode" means here: from 4 bits to numbers.
#
# | symbol | code | meaning |
# |:--|:--|:--|
# | W | `packed` | (N, K) weight, two 4-bit indices in a byte |
# | $c_i$ | `pairs` | the levels; in the kernel a table of both levels of each of the 256 bytes |
# | absmax | `absmax` | the scale of a block of 64 weights |
# | SM | | one of the GPU's processors; an H200 has 132 |
#
# The format is QLoRA's (Dettmers et al. 2023), decoded to the bit as `kernels/formulas/nf4.py` defines it.

# %%
import os
import sys
from pathlib import Path

ROOT = Path.cwd() if Path("loralib").is_dir() else Path.cwd().parent
sys.path.insert(0, str(ROOT))  # so that our folders are found, from the project's root and from tutorials/
os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined: it must be set before

import torch
import triton
import triton.language as tl
from matplotlib import pyplot as plt

from kernels.formulas import nf4
from kernels.triton_kernels import nf4_matmul_triton, nf4_triton
from kernels.triton_kernels.ahead_of_time import read_table
from kernels.triton_kernels.lora_matmul_triton import shrink
from training.reports.records import COLOURS, use_style
from tutorials.built_by_hand import WAYS, built, decode_kernel
from tutorials.interpreted import traffic
from tutorials.show import show

torch.set_num_threads(1)
use_style()
generator = torch.Generator().manual_seed(0)  # the seed of all numbers below

# %% [markdown]
# ## 1. The promise: bytes
#
# As in lesson 09 we assume an H200's memory speed: 4.3 TB/s. (bf16 is a number of 16 bits.)
#
# **Predict:** a weight of 14336 × 4096 in bf16 and in NF4 with double quantisation: how many megabytes each, and in how many
# microseconds can each be read?

# %%
N, K = 14336, 4096
bits = {"bf16": 16.0, "NF4": 4 + 8 / 64 + 32 / (64 * 256)}
bandwidth = 4.3e12  # bytes per second
read = {name: N * K * b / 8 / bandwidth for name, b in bits.items()}
for name, seconds in read.items():
    print(f"{name}: {N * K * bits[name] / 8e6:6.1f} MB, {seconds * 1e6:.1f} µs")
promise = read["bf16"] / read["NF4"]
print(f"the promise: {promise:.2f} times faster")
assert 3.8 < promise < 3.95, "16 bits against 4.127"

# %% [markdown]
# ## 2. The budget: instructions
#
# By its data sheet an H200 has 132 SMs, and each can issue instructions for 128 threads in each of its 1.98 billion cycles per
# second. While the weights stream in at full speed, how many instructions are there for each weight?
#
# **Predict:** 4, 40, or 400? For comparison, this must be done for a weight: take its 4 bits out of a byte, look the level up,
# scale, multiply, add.

# %%
issue = 132 * 128 * 1.98e9  # instructions per second
weights_per_second = bandwidth / (bits["NF4"] / 8)
budget = issue / weights_per_second
print(f"{budget:.1f} instructions for each weight, if it is to come at full speed")
assert 3.8 < budget < 4.2, "about 4: is the bandwidth in bytes and the weight in bits?"

# %% [markdown]
# A bf16 weight has no such problem: 16 bits arrive four times slower, and go to a tensor core as they are.
#
# ## 3. Three ways to decode
#
# A byte holds two indices, the first in the high half. Here are two ways to turn it into two levels, as small Triton functions.
# A third way, with a tree of 15 **comparisons** for each index, is in [built_by_hand.py](built_by_hand.py), with the kernel
# around all three.
#
# **Predict:** the second way looks up a whole byte at once. How many entries has its table, and how many bytes has an entry
# that holds two float32 levels?


# %%
@triton.jit
def by_nibble(table, byte):
    return tl.load(table + (byte >> 4)), tl.load(table + (byte & 15))  # two look-ups in 16 levels


@triton.jit
def by_byte(table, byte):
    both = tl.load(table + byte)  # one look-up: 64 bits that hold two float32
    first = both.to(tl.int32).to(tl.float32, bitcast=True)  # the low half, its bits read as a float
    return first, (both >> 32).to(tl.int32).to(tl.float32, bitcast=True)


# %%
weight = torch.randn(8, 256, generator=generator)
q = nf4.quantize(weight)
levels = nf4.levels("nf4")
pairs = nf4.level_pairs("nf4", torch.device("cpu")).view(torch.int64)  # two float32 side by side, read as one 64-bit number
print(f"{len(pairs)} entries of {pairs.element_size()} bytes: {pairs.nbytes} bytes, against {levels.nbytes} for the 16 levels")
assert len(pairs) == 256 and pairs.element_size() == 8, "one for each byte"
decoded = {}
for how, name in enumerate(WAYS):
    out = torch.empty_like(weight)
    decode_kernel[(1,)](q.packed, q.absmax, pairs if how == 2 else levels, out, len(q.packed), how, 32)
    decoded[name] = out
for name, values in decoded.items():
    assert torch.equal(values, nf4.dequantize(q)), f"{name}: not the definition's numbers"
print("all three are the definition, to the bit")

# %% [markdown]
# ## 4. Count them
#
# The kernel around them reads bytes, decodes, scales, and writes bf16 weights. We compile it three times for a Hopper GPU
# (H100, H200) that is not here, and divide all its instructions by the weights that a thread decodes.
#
# **Predict:** order the three. Which of them come near the budget of 4?

# %%
found = built()
print("instructions per weight")
for name in WAYS:
    print(f"  {name:20} {found[name]['per weight']:5.1f}   at most {budget / found[name]['per weight']:.0%} of the bandwidth")
assert found["comparisons"]["per weight"] > 3 * found["table of 256 pairs"]["per weight"], "a comparison is an instruction too"
assert found["table of 256 pairs"]["per weight"] < 8, "one look-up for two weights"
assert found["table of 256 pairs"]["per weight"] > budget, "even the best stays above the budget"

# %%
figure, axes = plt.subplots(figsize=(7, 3.2))
counts = [found[name]["per weight"] for name in WAYS]
axes.barh(WAYS, counts, color=[COLOURS["broken"], COLOURS["head"], COLOURS["lora"]], height=0.55)
axes.axvline(budget, color=COLOURS["full"], lw=1.5, ls="--", label="budget at full bandwidth")
axes.set(xlabel="instructions per weight (sm_90)", title="None of the three ways fits the budget of 4 instructions")
axes.legend(loc="lower right")
axes.invert_yaxis()
show(figure, "instructions")

# %% [markdown]
# So the speed is limited by the number of instructions, not by memory. 16 bits need 3.9 times as many bytes, so 4 bits win only
# if they reach more than 1 / 3.9 = 26 % of the bandwidth. A tree of comparisons, as in one of bitsandbytes' Triton kernels,
# reaches 13 % at most: with it, 4 bits are slower than 16.
#
# ## 5. One token: a product without tensor cores
#
# `gemv_kernel` is for 1 to 4 tokens. A byte holds two neighbours of a row, $w_1 = c_1 a$ and $w_2 = c_2 a$, with levels c and
# the scale a of their block. Their part of the sum is $w_1 x_1 + w_2 x_2$. A multiply-add (a product, added to a sum) is one
# instruction.
#
# **Predict:** how many instructions does it take to add this to the sum so far, if each weight is scaled first? And how many if
# the scale waits, $(c_1 x_1 + c_2 x_2)\,a$?

# %%
N, K, r = 96, 512, 8
W, A, B = (torch.randn(s, generator=generator) for s in ((N, K), (r, K), (N, r)))
q = nf4.quantize(W, double_quant=True)
exact = nf4.dequantize(q).double()
x = torch.randn(1, K, generator=generator)
with traffic() as seen:
    y = nf4_matmul_triton.nf4_matmul(x, q)
look_ups = 8 * q.packed.numel()  # an entry of 8 bytes for each byte; the table has 2 kB and lies in a cache
print(f"loaded {seen.loaded:,} bytes: {q.packed.nbytes:,} packed, {look_ups:,} from the table, the rest scales and x")
assert q.packed.nbytes + look_ups < seen.loaded < 1.2 * (q.packed.nbytes + look_ups), "each packed byte once"
assert torch.allclose(y.double(), x.double() @ exact.T, rtol=1e-4, atol=1e-4), "is the scale the block's own?"
first = ["c1·a", "c2·a", "sum + ·x1", "sum + ·x2"]
later = ["c1·x1", "+ c2·x2", "sum + ·a"]
table = {(row["kernel"], row["variant"]): row for row in read_table() if row["sm"] == "90"}
gemv = float(table["gemv_kernel", "M=1 r=16"]["per_weight"])
print(f"scaled first {len(first)} instructions for a byte, scaled later {len(later)}")
best = budget / gemv
print(f"all of the main loop: {gemv} per weight; at most {best:.0%} of the bandwidth, {promise * best:.1f} times bf16's speed")
assert budget < gemv < 8, "decode, scales of scales, two products. (Nothing is written here, so it is less than in section 4)"

# %% [markdown]
# That is the answer for one token: at best 2.9 times faster, not 3.9, if the look-ups cost no more than their instructions.
#
# ## 6. Some tokens: swap the operands
#
# Tensor cores multiply tiles; Hopper's instruction for that is `wgmma`. It takes the **first** operand from registers or from
# shared memory (fast memory of an SM), the second from shared memory only. The decoded weight is in registers. So `gemm_kernel`
# computes $y^T = W x^T$: the weight comes first, and the tokens are the narrow side.
#
# As second operand the weight would be written to shared memory and read again, at each step.
#
# **Predict:** now a weight is no longer multiplied by an instruction of its own, but it must be rounded to bf16 and put in place
# for `wgmma`. Are there more or fewer instructions per weight than the 5.28 of one token?

# %%
x = torch.randn(20, K, generator=generator)
S = shrink(x, A, 0.5)
y = nf4_matmul_triton.nf4_matmul(x, q, None, S, B)  # LoRA is a last step here too
wanted = x.double() @ exact.T + 0.5 * (x.double() @ A.double().T) @ B.double().T
assert (y.double() - wanted).norm() < 1e-5 * wanted.norm(), "base in 4 bits and LoRA beside it: is S scaled?"
for M in (16, 64, 256):
    row = table["gemm_kernel", f"M={M} r=16"]
    print(f"M = {M:3}: {row['wgmma']} wgmma, {row['mma']} of the older mma, {row['per_weight']} instructions per weight")
    assert int(row["wgmma"]) > 0 and row["mma"] == "0", "all products through wgmma, none through the older mma"
    assert float(row["per_weight"]) > gemv, "rounding and placing a weight costs more than a multiply-add"

# %% [markdown]
# More. In return, one decoded weight serves all tokens of the tile.
#
# ## 7. Many tokens: decode once
#
# Every tile of 128 tokens decodes the weight again. With many tokens it is better to decode it once to bf16, and call cuBLAS.
# From how many tokens on? That depends on whether a program decodes and multiplies **at the same time** (then the longer of the
# two counts) or **in turn** (then their sum).
#
# **Predict:** decoding once takes 34 µs (it writes 117 MB and reads 30). Decoding inside the product takes 12 µs for each tile
# of 128 tokens. From how many tokens on does decoding once pay, if the packed product works in turn?

# %%
N, K = 14336, 4096
once = N * K * (16 + bits["NF4"]) / 8 / bandwidth  # seconds to decode to bf16
per_tile = N * K * float(table["gemm_kernel", "M=256 r=16"]["per_weight"]) / issue
per_token = 2 * N * K / 790e12  # an H200's tensor cores: 790 · 10¹² operations a second
print(f"once {once * 1e6:.1f} µs, for each tile {per_tile * 1e6:.1f} µs, product of one token {per_token * 1e6:.3f} µs")


def floors(M: int) -> tuple[float, float, float]:
    """Seconds: decode once; packed, in turn; packed, both at the same time."""
    multiply, decode = M * per_token, -(-M // 128) * per_tile
    return once + max(multiply, N * K * 2 / bandwidth), decode + multiply, max(decode, multiply)


crossing = next(M for M in range(1, 8193) if floors(M)[1] > floors(M)[0])
print(f"in turn, the packed product loses from {crossing} tokens on")
assert crossing == 257, "three tiles decode the weight three times: 37 µs, more than the 34 of decoding once"
assert all(floors(M)[2] < floors(M)[0] for M in range(1, 8193)), "at the same time it never loses: the lower edge of the picture"

# %%
figure, axes = plt.subplots(figsize=(7, 3.6))
tokens = list(range(16, 2049, 16))
first, high, low = ([1e6 * floors(M)[way] for M in tokens] for way in range(3))
axes.plot(tokens, first, color=COLOURS["head"], label="decode once + cuBLAS")
axes.fill_between(tokens, low, high, color=COLOURS["lora"], alpha=0.35, label="packed: at the same time … in turn")
axes.axvline(crossing, color=COLOURS["full"], lw=1, ls="--", label=f"{crossing} tokens")
axes.set_xscale("log", base=2)
axes.set_yscale("log")
axes.set_yticks([20, 50, 100, 200, 500], ["20", "50", "100", "200", "500"])
axes.set_yticks([], minor=True)
axes.set(xlabel="tokens M", ylabel="µs at least", title=f"In turn, the packed product loses from {crossing} tokens on")
axes.legend()
show(figure, "crossing")

# %% [markdown]
# ## 8. Break it on purpose: the halves of a byte
#
# **Predict:** we swap the two levels of every entry of the table of pairs. Is the result noise, or something more orderly?

# %%
weight = torch.randn(4, 64, generator=generator)
q = nf4.quantize(weight)
swapped = nf4.level_pairs("nf4", torch.device("cpu")).view(torch.float32).view(256, 2).flip(1).contiguous().view(torch.int64)
out = torch.empty_like(weight)
decode_kernel[(1,)](q.packed, q.absmax, swapped, out, len(q.packed), 2, 32)
right = nf4.dequantize(q)
print(f"mean {out.mean():.4f} and {right.mean():.4f}, spread {out.std():.4f} and {right.std():.4f}")
neighbours = (out[:, ::2] == right[:, 1::2]).float().mean()
print(f"equal to the right weights: {(out == right).float().mean():.0%}; to their neighbours: {neighbours:.0%}")
assert torch.equal(out[:, ::2], right[:, 1::2]) and torch.equal(out[:, 1::2], right[:, ::2]), "every pair is turned round"
assert torch.equal(nf4_triton.dequantize(q), right), "the library's kernel, for comparison"

# %% [markdown]
# (Some pairs hold the same level twice, so a few weights are right by chance.) Mean, spread and histogram of the weight stay
# the same, and the layer computes nonsense. Only a comparison place by place finds it, or a product with the identity matrix
# (`tests/kernel/test_kernels_nf4_triton.py`).
#
# ## What no count shows
#
# All times above are floors: arithmetic with an H200's speeds. The counts of instructions are measured, on what the compiler
# made. What the look-ups really cost (they go through the L1 cache, which no count shows) only a GPU can say:
# `python -m kernels.bench nf4` there times them beside bitsandbytes and writes every target as met or missed. On an H200 the
# look-ups took most of the time: the product with one token reached 13 % of the memory limit, and bitsandbytes needed 0.55 of its
# time. From 4 tokens on, decoding first and calling cuBLAS was faster than `gemm_kernel` ([all
# figures](../kernels/results/README.md#on-an-h200)).
#
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | 4 bits are slower than 16 | decoding by comparisons | section 4: instructions per weight |
# | fast alone, slow in the model | the benchmark's weight lay in the L2 cache | walk through several weights |
# | the layer's output is nonsense, its weights look right | halves of a byte swapped | section 8: the identity matrix |
# | `rows of whole blocks` is raised | K is not a multiple of the block size | `nf4.dequantize` first, as the layer does |
# | last bits differ on a GPU only | a multiply-add rounds once, not twice | `enable_fp_fusion=False` in `nf4_triton.py` |
#
# ## Exercises
#
# Write in [exercises/10_nf4_kernels.py](exercises/10_nf4_kernels.py), then `python -m tutorials check 10`.
#
# 1. ★ `budget`: instructions per weight at full speed, for any card.
# 2. ★★ `pair_table`: the table of 256 pairs.
#    <details><summary>Hint</summary>Down the 256 rows, the first index stays for 16 rows while the second runs.</details>
# 3. ★★ `best_path`: packed or decoded first, by the floors of section 7.
#    <details><summary>Hint</summary>Decoding is paid once; the packed product pays for each tile of tokens.</details>
#
# ## Summary
#
# 1. A 4-bit weight has 3.9 times fewer bytes; at full speed that leaves 4 instructions for each weight.
# 2. Decoding with a table of pairs takes about 6, with comparisons 31. One token is at best 2.9 times faster than in bf16.
# 3. Few tokens: keep the weight packed, as the first operand. Many: decode once, then cuBLAS.
#
# **Next:** [lesson 11](11_many_adapters_kernel.py), many adapters, two launches.
#
# ## On the real thing
#
# ```bash
# python -m kernels.bench nf4                                                     # on a GPU: the kernels beside bitsandbytes
# python -m loralib quantize path/to/Llama-3.2-1B --out path/to/llama-nf4          # a base in 4 bits on disk
# python -m training --task e2e_nlg --model path/to/Llama-3.2-1B --method qlora   # trains beside a 4-bit base
# ```
