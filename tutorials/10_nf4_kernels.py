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
# weight is 3.9 times smaller. Is decoding a token then 3.9 times faster? On real cards 4 bits have often been *slower* than 16.
# You will find the reason by counting machine instructions, without a GPU, and see what a good kernel does about it.
#
# | symbol | code | meaning |
# |:--|:--|:--|
# | W | `packed` | (N, K) weight, two 4-bit indices in a byte |
# | $c_i$ | `pairs` | the levels; in the kernel a table of both levels of each of the 256 bytes |
# | absmax | `absmax` | the scale of a block of 64 weights |
# | SM | | one of the GPU's processors; an H200 has 132 |
#
# The format is QLoRA's (Dettmers et al. 2023), decoded to the bit as `kernels/nf4.py` defines it.

# %%
import os
import sys
from pathlib import Path

ROOT = Path.cwd() if Path("loralib").is_dir() else Path.cwd().parent
sys.path.insert(0, str(ROOT))  # so that our folders are found, from the project's root and from tutorials/
os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined: it must be set before

import torch
from matplotlib import pyplot as plt

from kernels import nf4, nf4_matmul_triton, nf4_triton
from kernels.bench import builds
from kernels.lora_matmul_triton import shrink
from training.records import COLOURS, use_style
from tutorials.built_by_hand import WAYS, built, decode_kernel
from tutorials.interpreted import traffic
from tutorials.show import show

torch.set_num_threads(1)
use_style()
generator = torch.Generator().manual_seed(0)  # the seed of all numbers below

# %% [markdown]
# ## 1. The promise: bytes
#
# **Predict:** a weight of 14336 × 4096 in bf16 and in NF4 with double quantisation: how many megabytes each? With 4.3 TB/s, in
# how many microseconds can each be read?

# %%
N, K = 14336, 4096
bits = {"bf16": 16.0, "NF4": 4 + 8 / 64 + 32 / (64 * 256)}
bandwidth = 4.3e12  # bytes per second of an H200, from the notes of this project
read = {name: N * K * b / 8 / bandwidth for name, b in bits.items()}
for name, seconds in read.items():
    print(f"{name}: {N * K * bits[name] / 8e6:6.1f} MB, {seconds * 1e6:.1f} µs")
promise = read["bf16"] / read["NF4"]
print(f"the promise: {promise:.2f} times faster")
assert 3.8 < promise < 3.95, "16 bits against 4.127"

# %% [markdown]
# ## 2. The budget: instructions
#
# Each of 132 SMs can issue 128 instructions (of single threads) in each of its 1.98 billion cycles per second. While the weights
# stream in at full speed, how many instructions are there for each of them?
#
# **Predict:** 4, 40, or 400? And what must be done for a weight: take its 4 bits out of a byte, look the level up, scale,
# multiply, add.

# %%
issue = 132 * 128 * 1.98e9  # instructions per second
weights_per_second = bandwidth / (bits["NF4"] / 8)
budget = issue / weights_per_second
print(f"{budget:.1f} instructions for each weight, if it is to come at full speed")
assert 3.8 < budget < 4.2, "an instruction more costs a fifth of the speed"

# %% [markdown]
# A bf16 weight has no such problem: 16 bits arrive four times slower, and go to a tensor core as they are.
#
# ## 3. Three ways to decode, the same bits
#
# `decode_kernel` in [built_by_hand.py](built_by_hand.py) decodes in three ways: by 15 **comparisons** for each index; with a
# **table of 16** levels, one look-up per index; with a **table of 256 pairs**, one look-up for a byte, which holds two indices.
#
# **Predict:** do all three give the same numbers, to the last bit?

# %%
weight = torch.randn(8, 256, generator=generator)
q = nf4.quantize(weight)
levels = nf4.levels("nf4")
pairs = nf4.level_pairs("nf4", torch.device("cpu")).view(torch.int64)  # both levels of a byte in 64 bits
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
# The same kernel, compiled for a Hopper GPU that is not here. We divide all its instructions by the weights that a thread
# decodes.
#
# **Predict:** order the three. Which of them come near the budget of 4?

# %%
found = built()
print("instructions per weight")
for name in WAYS:
    print(f"  {name:20} {found[name]['per weight']:5.1f}   at most {budget / found[name]['per weight']:.0%} of the bandwidth")
assert found["comparisons"]["per weight"] > 3 * found["table of 256 pairs"]["per weight"], "a comparison is an instruction too"
assert found["table of 256 pairs"]["per weight"] < 8, "one look-up for two weights"
assert found["table of 256 pairs"]["per weight"] > budget, "even the best stays above the budget: bound by instructions"

# %%
figure, axes = plt.subplots(figsize=(7, 3.2))
counts = [found[name]["per weight"] for name in WAYS]
axes.barh(WAYS, counts, color=[COLOURS["broken"], COLOURS["head"], COLOURS["lora"]], height=0.55)
axes.axvline(budget, color=COLOURS["full"], lw=1.5, ls="--")
axes.annotate("budget at full bandwidth", (budget, -0.42), xytext=(6, 0), textcoords="offset points", fontsize=8)
axes.set(xlabel="instructions per weight (sm_90)", title="No way of decoding fits the budget; a table of pairs comes nearest")
axes.invert_yaxis()
show(figure, "instructions")

# %% [markdown]
# A tree of comparisons is what some published Triton kernels do (bitsandbytes has one). There a card spends its time on
# questions: at most 13 % of the bandwidth is reached, and a 4-bit weight is slower than a 16-bit one (whose 3.9 times more
# bytes come at full speed: 26 % would be a draw).
#
# ## 5. One token: a product without tensor cores
#
# `gemv_kernel` is for 1 to 4 tokens. A byte holds two neighbours, so a thread multiplies its two levels with two numbers of x,
# adds the two products, and applies the block's scale to the **sum**.
#
# **Predict:** for two weights this takes one multiplication and one multiply-add, and a multiply-add for the scale. How many
# would it take if each weight were scaled first?

# %%
N, K, r = 96, 256, 8
W, A, B = (torch.randn(s, generator=generator) for s in ((N, K), (r, K), (N, r)))
q = nf4.quantize(W, double_quant=True)
exact = nf4.dequantize(q).double()
x = torch.randn(1, K, generator=generator)
with traffic() as seen:
    y = nf4_matmul_triton.nf4_matmul(x, q)
print(f"the packed weight has {q.packed.nbytes:,} bytes; the float32 one would have {W.nbytes:,}")
assert torch.allclose(y.double(), x.double() @ exact.T, rtol=1e-4, atol=1e-4), "is the scale the block's own?"
scaled_later, scaled_first = 3, 4
print(f"{scaled_later} against {scaled_first} instructions for a byte: a quarter of the arithmetic saved")
table = {(row["kernel"], row["variant"]): row for row in builds.read() if row["sm"] == "90"}
gemv = float(table["gemv_kernel", "M=1 r=16"]["per_weight"])
print(f"all in all, in the main loop: {gemv} instructions per weight, so at most {budget / gemv:.0%} of the bandwidth")
assert budget < gemv < 8, "decode, scales of scales, two products"

# %% [markdown]
# ## 6. Some tokens: swap the operands
#
# Tensor cores multiply tiles. Hopper's can take the **first** operand from registers, the second from shared memory only. The
# decoded weight is in registers. So `gemm_kernel` computes $y^T = W x^T$: the weight comes first, and the tokens are the narrow
# side.
#
# **Predict:** with the weight as second operand it would have to be written to shared memory and read again, for each step. In
# the table of builds, which instruction shows that the fast tensor cores are used?

# %%
x = torch.randn(20, K, generator=generator)
S = shrink(x, A, 0.5)
y = nf4_matmul_triton.nf4_matmul(x, q, None, S, B)  # LoRA is a last step here too
wanted = x.double() @ exact.T + 0.5 * (x.double() @ A.double().T) @ B.double().T
assert (y.double() - wanted).norm() < 1e-5 * wanted.norm(), "base in 4 bits and LoRA beside it"
for M in (16, 64, 256):
    row = table["gemm_kernel", f"M={M} r=16"]
    print(f"M = {M:3}: {row['wgmma']} wgmma, {row['mma']} of the older mma, {row['per_weight']} instructions per weight")
    assert int(row["wgmma"]) > 0 and row["mma"] == "0", "wgmma is Hopper's tensor-core instruction"

# %% [markdown]
# ## 7. Many tokens: decode once
#
# Every tile of 128 tokens decodes the weight again. With many tokens it is better to decode it once to bf16, and call cuBLAS.
# How soon depends on whether a program decodes and multiplies **at the same time** (then the larger counts) or **in turn** (the
# sum).
#
# **Predict:** decoding first writes 117 MB and reads 30 MB. From how many tokens on does it pay, if the packed product works in
# turn: 64, 512, or 4096? And if it did both at the same time, perfectly?

# %%
N, K = 14336, 4096
once = N * K * (16 + bits["NF4"]) / 8 / bandwidth  # seconds to decode to bf16
per_weight = float(table["gemm_kernel", "M=256 r=16"]["per_weight"])
tokens = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192]
curves = {"decode once + cuBLAS": [], "packed, in turn": [], "packed, at the same time": []}
for M in tokens:
    multiply = 2 * M * N * K / 790e12
    decode = -(-M // 128) * N * K * per_weight / issue  # once for each tile of 128 tokens
    curves["decode once + cuBLAS"].append(once + max(multiply, N * K * 2 / bandwidth))
    curves["packed, in turn"].append(decode + multiply)
    curves["packed, at the same time"].append(max(decode, multiply))
first, in_turn, together = curves.values()
crossing = next(M for M, one, two in zip(tokens, in_turn, first, strict=True) if one > two)
print(f"decoding once: {once * 1e6:.0f} µs; in turn, the packed product loses from {crossing} tokens on")
assert crossing == 512, "four tiles decode the weight four times"
assert all(one < two for one, two in zip(together, first, strict=True)), "perfect overlap would never lose; nobody has it"

# %%
figure, axes = plt.subplots(figsize=(7, 3.6))
axes.plot(tokens, [1e6 * s for s in first], "o-", color=COLOURS["head"], label="decode once + cuBLAS")
low, high = ([1e6 * s for s in side] for side in (together, in_turn))
axes.fill_between(tokens, low, high, color=COLOURS["lora"], alpha=0.35, label="packed: at the same time … in turn")
axes.set_xscale("log", base=2)
axes.set_yscale("log")
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
neighbours = (out[:, ::2] == right[:, 1::2]).float().mean()
print(f"equal to the right weights: {(out == right).float().mean():.0%}; to their neighbours: {neighbours:.0%}")
assert torch.equal(out[:, ::2], right[:, 1::2]) and torch.equal(out[:, 1::2], right[:, ::2]), "every pair is turned round"
assert torch.equal(nf4_triton.dequantize(q), right), "the library's kernel, for comparison"

# %% [markdown]
# Every statistic of the weight stays right (mean, spread, error per block), and the layer computes nonsense. Only a comparison
# to the bit finds it, or a product with the identity matrix (`tests/test_kernels_nf4_triton.py`).
#
# ## What a GPU says
#
# All times above are floors: arithmetic with an H200's two speeds. The counts of instructions are measured, on what the compiler
# made. What the look-ups really cost (they go through the L1 cache, which no count shows) only a GPU can say:
# `python -m kernels.bench nf4` there times them beside bitsandbytes and writes every target as met or missed.
#
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | 4 bits are slower than 16 | decoding by comparisons | section 4: instructions per weight |
# | fast alone, slow in the model | the benchmark's weight lay in the L2 cache | walk through several weights |
# | the layer's output is nonsense, its weights look right | halves of a byte swapped | section 8: the identity matrix |
# | `rows of whole blocks` is raised | K is not a multiple of the block size | the layer decodes first by itself; so should you |
# | one bit off in the scales | a fused multiply-add rounds once | `enable_fp_fusion=False`, as in `nf4_triton.py` |
#
# ## Exercises
#
# Write in [exercises/10_nf4_kernels.py](exercises/10_nf4_kernels.py), then `python -m tutorials check 10`.
#
# 1. ★ `budget`: instructions per weight at full speed, for any card.
# 2. ★★ `pair_table`: the table of 256 pairs.
# 3. ★★ `best_path`: packed or decoded first, by the floors of section 7.
#    <details><summary>Hint</summary>Decoding is paid once; the packed product pays for each tile of tokens.</details>
#
# ## Summary
#
# 1. A 4-bit weight has 3.9 times fewer bytes; at full speed that leaves 4 instructions for each weight.
# 2. A table of pairs decodes with about 6, comparisons with about 31: that is why 4 bits are often slow.
# 3. Few tokens: keep the weight packed, as the first operand. Many: decode once, then cuBLAS.
#
# **Next:** [lesson 11](11_many_adapters_kernel.py), many adapters in one launch.
#
# ## On the real thing
#
# ```bash
# python -m kernels.bench nf4
# python -m loralib quantize path/to/Llama-3.2-1B --out path/to/llama-nf4
# python -m training --task e2e_nlg --model path/to/Llama-3.2-1B --method qlora
# ```
