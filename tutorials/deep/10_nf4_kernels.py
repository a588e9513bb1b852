# %% [markdown]
# # 10 · Deep dive: 4-bit weights with some tokens and with many
#
# **Needs** [lesson 10](../10_nf4_kernels.py) · **Read and do** 30 minutes
# · **Runs in** about 20 s on one CPU thread · **Memory** 2 GB
#
# The core page looked at one token. With more tokens one decoded weight serves several of them,
# and the tensor cores (units that multiply small matrices) do the multiplications. This page
# finds the number of tokens from which it is better to decode the weight only once.

# %% tags=["fold"]
# set-up: the interpreter, imports, our folders
import os
import sys
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders
os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when a kernel is defined

import torch
from matplotlib import pyplot as plt

from kernels.formulas import nf4
from kernels.triton_kernels import nf4_matmul_triton, nf4_triton
from kernels.triton_kernels.ahead_of_time import read_table
from kernels.triton_kernels.lora_matmul_triton import shrink
from training.reports.records import COLOURS, use_style
from tutorials.answers import true_option
from tutorials.show import show, show_table

torch.set_num_threads(1)
use_style()
generator = torch.Generator().manual_seed(0)
N, K, r = 96, 512, 8
W, A, B = (torch.randn(shape, generator=generator) for shape in ((N, K), (r, K), (N, r)))
q = nf4.quantize(W, double_quant=True)
exact = nf4.dequantize(q).double()
table = {(row["kernel"], row["variant"]): row for row in read_table() if row["sm"] == "90"}
bandwidth, instructions_per_second = 4.3e12, 132 * 128 * 1.98e9
bits = 4 + 8 / 64 + 32 / (64 * 256)

# %% [markdown]
# ## 1. Some tokens: exchange the operands
#
# Hopper's instruction for tensor cores (`wgmma`) takes its **first** operand from registers or
# from shared memory, and the second from shared memory only. The decoded weight is in
# registers. So `gemm_kernel` computes $y^\top = W x^\top$: the weight comes first.
#
# ??? Now no instruction multiplies a single weight with a token. But each weight must be
#   scaled, rounded to bfloat16 and put into the right register. Compared with the 5.3
#   instructions of one token: are there more or fewer per weight?
# - [x] more || Scaling, rounding and placing cost more than one multiply-add.
# - [ ] fewer || That would be so if the decoded weight could be used as it is.
# - [ ] exactly as many || The two kernels do different things after decoding.

# %%
gemv = float(table["gemv_kernel", "M=1 r=16"]["per_weight"])
per_weight = {
    M: float(table["gemm_kernel", f"M={M} r=16"]["per_weight"]) for M in (16, 64, 256)
}
print(f"one token: {gemv} instructions per weight")
for M, count in per_weight.items():
    row = table["gemm_kernel", f"M={M} r=16"]
    print(f"{M:3} tokens: {count} per weight, {row['wgmma']} wgmma instructions")

# %% tags=["fold"]
# check: the counts, and the values with LoRA next to the weight
true_option(
    min(per_weight.values()) > gemv,
    max(per_weight.values()) < gemv,
    gemv in per_weight.values(),
)
x = torch.randn(20, K, generator=generator)
S = shrink(x, A, 0.5)
y = nf4_matmul_triton.nf4_matmul(x, q, None, S, B)  # LoRA is a last step here, too
wanted = x.double() @ exact.T + 0.5 * (x.double() @ A.double().T) @ B.double().T
assert (y.double() - wanted).norm() < 1e-5 * wanted.norm(), (
    "base in 4 bits and LoRA: is S scaled?"
)
with_wgmma = [
    row for key, row in table.items() if key[0] == "gemm_kernel" and int(row["wgmma"])
]
assert all(row["mma"] == "0" for row in with_wgmma), "the older instruction is used"
assert torch.equal(nf4_triton.dequantize(q), nf4.dequantize(q)), (
    "the kernel that decodes a whole weight"
)

# %% [markdown]
# In return, one decoded weight serves all tokens of a tile.
#
# ## 2. Many tokens: decode once
#
# Each tile of 128 tokens decodes the weight again. The other way is to decode the weight once
# to 16 bits, and to call cuBLAS. From how many tokens on is this better? That depends on
# whether a program decodes and multiplies **at the same time** (the longer time counts), or
# **in turn** (the sum counts).
#
# ??? For a weight of 14336 × 4096, decoding once takes at least 34 µs. Decoding inside the
#   multiplication takes 12 µs for each tile of 128 tokens. In turn, when is decoding once
#   better?
# - [ ] from 129 tokens on || Two tiles decode for 24 µs, less than 34.
# - [x] from 257 tokens on || Three tiles decode for 37 µs, more than 34.
# - [ ] never || That is the case if both happen at the same time.

# %%
N, K = 14336, 4096
once = N * K * (16 + bits) / 8 / bandwidth  # read 4 bits, write 16 bits
per_tile = N * K * per_weight[256] / instructions_per_second
per_token = 2 * N * K / 790e12  # the multiplications of one token


def limits(M: int) -> tuple[float, float, float]:
    """Seconds at least: decode once; packed, in turn; packed, both at the same time."""
    multiply, decode = M * per_token, -(-M // 128) * per_tile
    return once + max(multiply, N * K * 2 / bandwidth), decode + multiply, max(decode, multiply)


crossing = next(M for M in range(1, 8193) if limits(M)[1] > limits(M)[0])
print(f"decode once {1e6 * once:.1f} µs, for each tile {1e6 * per_tile:.1f} µs")
print(f"in turn, decoding once is better from {crossing} tokens on")

# %% tags=["fold"]
# plot: the limits of the three ways
figure, panel = plt.subplots(figsize=(7, 3.4))
tokens = list(range(16, 2049, 16))
first, high, low = ([1e6 * limits(M)[way] for M in tokens] for way in range(3))
panel.plot(tokens, first, color=COLOURS["head"], label="decode once, then cuBLAS")
panel.plot(tokens, high, color=COLOURS["lora"], label="packed, in turn")
panel.plot(tokens, low, color=COLOURS["lora"], linestyle="--", label="packed, at the same time")
panel.axvline(crossing, color=COLOURS["full"], linewidth=1, linestyle=":")
panel.annotate(f"{crossing} tokens", (crossing, 25), xytext=(5, 0), textcoords="offset points")
panel.set_xscale("log", base=2)
panel.set_yscale("log")
panel.set_yticks([20, 50, 100, 200], ["20", "50", "100", "200"])
panel.set_yticks([], minor=True)
panel.set(
    xlabel="tokens",
    ylabel="µs at least",
    title=f"in turn, the packed way loses from {crossing} tokens on",
)
panel.legend()
show(figure, "10_crossing")

# %% tags=["fold"]
# check
true_option(crossing == 129, crossing == 257, crossing > 4096)
assert all(limits(M)[2] <= limits(M)[0] for M in range(1, 8193)), (
    "at the same time, packed never loses"
)

# %% [markdown]
# These are limits. On an H200 the packed way loses much earlier: our `gemm_kernel` was slower
# than "decode, then cuBLAS" at every size that we measured, so no layer uses it. Probably the
# look-ups in the table take the time (core page, section 6). The table below has "decode, then
# cuBLAS" only, because no layer uses the other.

# %% tags=["fold"]
# table: from the committed report of the H200
show_table(
    "kernels/results/nvidia-h200/summary.md#NF4; cases; over torch; over the library; share of the limit"
)

# %% [markdown]
# Three more things that can go wrong:
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | fast alone, slow in the model | the benchmark's weight lay in the L2 cache | go through several weights |
# | `rows of whole blocks` is raised | K is not a multiple of the block size | `nf4.dequantize` first, as the layer does |
# | last bits differ on a GPU only | a multiply-add rounds once, not twice | `enable_fp_fusion=False` in `nf4_triton.py` |
#
# ## Summary
#
# 1. The decoded weight comes first, because it is in registers.
# 2. By the limits, decoding once pays from 257 tokens on. By measurement, it was faster at
#    every size from 4 tokens on.
#
# **Next:** [lesson 11](../11_many_adapters_kernel.py).
#
# ## On the real thing
#
# ```bash
# python -m kernels.bench nf4       # on a GPU
# ```
