# %% [markdown]
# # A forward kernel alone is not enough to train a model
#
# **Needs** [lesson 09](../09_fused_lora.py) and [a kernel, tile by tile](kernel_by_tiles.py)
# · **Read and do** 50 minutes · **Runs in** about 15 s on one CPU thread · **Memory** 2 GB
#
# Your forward kernel works. What is still missing before a model can be trained with it, and
# when should a layer use it at all?
#
# ![dy comes in, and the backward pass computes four gradients from it](../diagrams/09_backward.svg)
#
# Training needs the gradients of $x$, $A$ and $B$, and one more in between, $dS$. If the
# forward pass used dropout, the backward pass needs the same mask again. And a kernel should
# only be used where it is faster. So four things are missing: gradients, the same mask, good
# settings of the kernel, and a decision where to use it. This page adds one after the other.

# %% tags=["fold"]
# set-up: the interpreter, imports, our folders
import os
import re
import sys
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders
os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when a kernel is defined

import torch
from matplotlib import pyplot as plt

import loralib
from kernels.triton_kernels import lora_backward_triton, lora_matmul_triton
from kernels.triton_kernels.ahead_of_time import read_table
from kernels.triton_kernels.configs import Tiles, gemm_tiles
from kernels.triton_kernels.philox import keep_mask
from loralib.compute import dispatch
from training.reports.records import COLOURS, use_style
from tutorials.answers import true_option
from tutorials.interpreted import traffic
from tutorials.show import show, show_table

torch.set_num_threads(1)
use_style()
generator = torch.Generator().manual_seed(0)
M, N, K, r, s = 96, 128, 96, 16, 0.5
shapes = ((M, K), (N, K), (r, K), (N, r), (M, N))
x, W, A, B, dy = (torch.randn(shape, generator=generator) for shape in shapes)

# %% [markdown]
# ## 1. Four gradients
#
# Forward: $S = s\, x A^\top$ and $y = x W^\top + S B^\top$. $x$ has the shape (M, K) for M
# tokens,
# $W$ (N, K), $A$ (r, K), $B$ (N, r), $S$ (M, r) and $y$ (M, N). Let $dy$ be the gradient of the
# loss with respect to $y$, and so on. The chain rule gives
#
# $$dS = s\, dy\, B, \quad dB = dy^\top S,$$
#
# $$dA = dS^\top x, \quad dx = dy\, W + dS\, A.$$
#
# Here $dS$ is the gradient with respect to $x A^\top$, not to $S$. So $dS$ contains $s$, as $S$
# does. This is why the other three formulas have no $s$.
#
# ??? dS and dB both need all of dy, which is as large as y. How often does a good kernel read
#   dy for both of them?
# - [x] once || One program loads a tile of dy and uses it for both.
# - [ ] twice || Two separate kernels would do this, one for dS and one for dB.
# - [ ] r times || The rank decides how much is computed, not how often dy is read.

# %%
y, S = lora_matmul_triton.lora_forward(x, W, None, A, B, s)
dS_by_hand = s * dy @ B  # (M, r)
dB_by_hand = dy.T @ (s * x @ A.T)  # (N, r)
dA_by_hand = dS_by_hand.T @ x  # (r, K)
dx_by_hand = dy @ W + dS_by_hand @ A  # (M, K)
with traffic() as counted:
    tiles = Tiles(32, 32, 0, split=2)  # tiles of 32 × 32; two programs share the columns
    dS, dB = lora_backward_triton.grad_rank(dy, B, S, s, tiles)  # (M, r), (N, r)
rest = 2 * S[:, :r].nbytes + M // 32 * B.nbytes  # S has r columns and padding
print(f"dy has {dy.nbytes:,} bytes; loaded: {counted.loaded:,}, of which S and B are {rest:,}")

# %% tags=["fold"]
# check: the loads, and all gradients against autograd in float64
reads = (counted.loaded - rest) / dy.nbytes
true_option(reads == 1, reads == 2, reads == r)
dx, dA, dB = lora_backward_triton.lora_backward(dy, x, W, A, B, S, s)
formulas = (dx_by_hand, dA_by_hand, dB_by_hand)
for got, expected in zip((dx, dA, dB), formulas, strict=True):
    assert torch.allclose(got, expected, rtol=1e-3, atol=1e-2), (
        "the kernels compute other formulas"
    )
leaves = [t.double().requires_grad_() for t in (x, A, B)]
exact_y = leaves[0] @ W.double().T + s * (leaves[0] @ leaves[1].T) @ leaves[2].T
exact = torch.autograd.grad(exact_y, leaves, dy.double())
for name, got, expected in zip(("dx", "dA", "dB"), (dx, dA, dB), exact, strict=True):
    assert (got.double() - expected).norm() < 2e-6 * expected.norm(), (
        f"{name}: is s applied once?"
    )

# %% [markdown]
# ## 2. Dropout without a stored mask
#
# LoRA's dropout acts on the input of $A$. The backward pass needs the same mask again: dA uses
# x after dropout, and in dx the mask acts on dS A. PyTorch stores the mask. There is another
# way: **Philox** (Salmon et al. 2011) is a function that turns (seed, place) into random bits.
# (The paper calls them key and counter.) Both passes use the same seed, so they compute the
# same mask.
#
# ![Forward and backward load x or dy, and no mask](../diagrams/ladder_11.svg)
#
# ??? 8192 tokens of width 4096. A stored mask has one byte per entry. What does each of the
#   two ways store?
# - [ ] 4 MB and 8 bytes || 8192 · 4096 is more than 33 million.
# - [x] 34 MB and 8 bytes || The seed is one 64-bit number.
# - [ ] 34 MB and 34 MB || Philox needs only the seed: it computes each bit when it is needed.

# %%
seed, p = torch.tensor([2026]), 0.25
mask_bytes, seed_bytes = 8192 * 4096, seed.nbytes
keep = keep_mask(seed, M, K, p)  # the definition, in plain PyTorch
print(f"a mask: {mask_bytes / 1e6:.0f} MB, a seed: {seed_bytes} bytes")
print(f"with this seed {1 - keep.float().mean():.1%} of x are dropped (p = {p})")

# %% tags=["fold"]
# check: the kernels use exactly this mask, in both directions
true_option(mask_bytes < 1e7, mask_bytes > 3e7 and seed_bytes == 8, seed_bytes > 1e7)
y, S = lora_matmul_triton.lora_forward(x, W, None, A, B, s, seed, p)
dropped = x.double() * keep / (1 - p)
exact_y = x.double() @ W.double().T + s * (dropped @ A.double().T) @ B.double().T
assert (y.double() - exact_y).norm() < 1e-6 * exact_y.norm(), "forward uses another mask"
gradients = lora_backward_triton.lora_backward(dy, x, W, A, B, S, s, seed, p)
xd, Ad, Bd = (t.double().requires_grad_() for t in (x, A, B))
exact_y = xd @ W.double().T + s * (xd * keep.double() / (1 - p)) @ Ad.T @ Bd.T
for got, expected in zip(
    gradients, torch.autograd.grad(exact_y, (xd, Ad, Bd), dy.double()), strict=True
):
    assert (got.double() - expected).norm() < 2e-6 * expected.norm(), (
        "backward uses another mask"
    )

# %% [markdown]
# ## 3. Break it on purpose: another seed in the backward pass
#
# Suppose that the backward pass draws a new seed. No shape is wrong, and no error is raised.
#
# ??? How wrong is the gradient of A? (We divide the norm of its error by its norm.)
# - [ ] not at all: on average the masks are equal || Both masks drop a quarter, but not the
#   same quarter.
# - [ ] about 1 % || Each mask drops a quarter, and mostly different places.
# - [x] more than 20 % || Many entries of x were kept in the forward pass and dropped in the backward
#   pass. Others were dropped first and kept later.

# %%
other_seed = torch.tensor([2027])
wrong = lora_backward_triton.lora_backward(dy, x, W, A, B, S, s, other_seed, p)
error = ((wrong[1] - gradients[1]).norm() / gradients[1].norm()).item()
print(f"the gradient of A is {error:.0%} wrong")

# %% tags=["fold"]
# check
true_option(error < 1e-3, 0.001 < error < 0.05, error > 0.2)
again = lora_backward_triton.lora_backward(dy, x, W, A, B, S, s, seed, p)
assert all(map(torch.equal, gradients, again)), (
    "other bits from the same seed: are sums added in a random order (atomics)?"
)

# %% [markdown]
# No error message appears, and training continues with wrong gradients. (This page does not
# measure how much worse the model gets.) A comparison with autograd finds the mistake.
#
# ## 4. Tiles, warps and stages
#
# A kernel has parameters that change its speed, but not its result: the size of the tiles, the
# number of warps (groups of 32 threads) per program, and the **stages**. With 3 stages, the
# loads of the next two steps along K run while the current step computes. Each stage needs
# memory inside the program (shared memory) for a tile of $x$ and a tile of $W$.
#
# ![Three stages: one is used, two are being loaded](../diagrams/09_stages.svg)
#
# ??? Tiles of 128 × 256 with steps of 64 along K, bfloat16 (2 bytes), 3 stages. How much shared
#   memory does the loop need?
# - [ ] 49,152 bytes || That is one stage: (128 + 256) · 64 · 2.
# - [x] 147,456 bytes || Three times that. Hopper has 232,448 bytes per program.
# - [ ] 442,368 bytes || Only the tiles of x and W are in shared memory, once per stage.

# %%
tiles = gemm_tiles(M=8192, N=4096, dtype=torch.bfloat16)
shared = tiles.stages * (tiles.M + tiles.N) * tiles.K * 2
reports = {(row["sm"], row["kernel"], row["variant"]): row for row in read_table()}
report = reports["90", "expand_kernel", "M=8192 r=16"]  # 90: Hopper
print(f"{tiles.M} × {tiles.N}, steps of {tiles.K}, {tiles.warps} warps, {tiles.stages} stages")
print(f"by hand {shared:,} bytes, the compiler's report {int(report['shared']):,}")

# %% tags=["fold"]
# check
true_option(shared == 49_152, shared == 147_456 == int(report["shared"]), shared == 442_368)
assert int(report["limit"]) == 232_448, "another GPU's report: Hopper allows 232,448"

# %% [markdown]
# Triton can **autotune**: it times many combinations at the first call, and keeps the fastest.
# We use a small table instead (`kernels/triton_kernels/configs.py`). A search takes time at the
# start of each run, and for each new shape. Two runs may choose different tiles, and then
# the last bits of their results differ. For the sizes up to 512 tokens, we timed 342
# combinations once on an H200, and wrote the winners into the table.
#
# ## 5. When does a layer use the kernel?
#
# For 8192 tokens, a kernel can save only a few per cent (lesson 09). For 16 tokens, one launch
# replaces three, so more is possible. A guess is not good enough. So we measured the time of
# the kernel and of our PyTorch path (two matrix multiplications and one in-place `addmm_`), and
# divided one by the other. A layer uses Triton only if this ratio is at most 0.98 for the
# nearest measured shape on the same model of GPU. All ratios are in `kernels/measured.json`
# (rank 16). In training, the ratio of "forward and backward" together decides.
#
# ??? On an H200, we measured the forward pass of a layer from 4096 to 4096 with 16, 512 and 8192
#   tokens. Where does a layer use the kernel?
# - [ ] everywhere || With 512 tokens the kernel needs about 9 % more time.
# - [x] with 16 and with 8192 tokens || The ratios are 0.60 and 0.93.
# - [ ] only with 16 tokens || With 8192 tokens the ratio is 0.93, which is smaller than 0.98.

# %%
chosen = {}
for tokens in (16, 512, 8192):
    choice = dispatch.by_measurement(
        "lora forward", "NVIDIA H200", torch.bfloat16, (tokens, 4096, 4096)
    )
    chosen[tokens] = choice.path
    print(f"{tokens:5} tokens: {choice.path}")
layer = torch.nn.Sequential(torch.nn.Linear(64, 64))
loralib.inject(layer, loralib.LoraConfig(r=8, target_modules=["0"]))
print(
    "on this machine, layer", str(loralib.explain(layer, tokens=4096)).splitlines()[-1].strip()
)

# %% tags=["fold"]
# plot: the measured ratios of the H200
rows = dispatch.MEASUREMENTS["NVIDIA H200"]["bfloat16"]
figure, panel = plt.subplots(figsize=(7, 3))
for mode, style in (("forward", "o-"), ("both", "s--")):
    points = sorted(
        (m, ratio) for m, n, k, ratio in rows[f"lora {mode}"] if (n, k) == (4096, 4096)
    )
    label = "forward" if mode == "forward" else "forward and backward"
    panel.semilogx(*zip(*points, strict=True), style, color=COLOURS["lora"], label=label)
panel.axhline(
    dispatch.WINS,
    color="black",
    linestyle=":",
    linewidth=1,
    label="0.98: up to here, the kernel is used",
)
panel.set(
    title="the forward kernel wins for few tokens and for many",
    xlabel="tokens (4096 → 4096, H200, log scale)",
)
panel.set(ylabel="time of the kernel / PyTorch's", ylim=(0.5, 1.3))
panel.legend()
show(figure, "kernel_dispatch")

# %% tags=["fold"]
# check
uses = [tokens for tokens, path in chosen.items() if path == "triton"]
true_option(len(uses) == 3, uses == [16, 8192], uses == [16])
assert chosen[512] == "torch", "was kernels/measured.json written again?"

# %% [markdown]
# Why is it slower in the middle? Up to 32 tokens our kernel needs one launch where PyTorch
# needs three. With more tokens it needs `shrink` and `expand`, and in the middle also small
# operations that add up the parts of S. Probably there are also too few tiles to fill the GPU,
# and cuBLAS is very good at such sizes. This is a negative result. At such
# sizes the layer uses PyTorch.
#
# The table below has all sizes. "Over torch" is the time of the kernel divided by that of our
# PyTorch path. "Over the bare layer" compares with a layer without an adapter. The limit is the
# roofline of lesson 09, at the speed that this GPU reached.
#
# ??? With dropout, forward and backward, 8192 tokens: what is the ratio "over torch"?
# - [ ] as without dropout, 0.94 to 1.00 || PyTorch must also write and read a mask and a copy of x.
# - [x] smaller, 0.66 to 0.84 || Compared with our PyTorch path, the kernel saves more than without
#   dropout, because it needs only a seed.
# - [ ] larger, 1.1 to 1.3 || Computing the mask twice is cheaper than moving it through memory.

# %% tags=["fold"]
# table: from the committed report of the H200
show_table(
    "kernels/results/nvidia-h200/summary.md#LoRA; over torch; over the bare layer; share of the limit"
)

# %% tags=["fold"]
# check: the row of the table with dropout
summary = (ROOT / "kernels/results/nvidia-h200/summary.md").read_text()
row = next(line for line in summary.splitlines() if "backward with dropout" in line)
low, high = map(float, re.search(r"\| ([\d.]+) to ([\d.]+) \|", row).groups())
true_option(low >= 0.94 and high <= 1.0, high < 0.9, low > 1.05)

# %% [markdown]
# ## The same in PyTorch
#
# `torch.autograd.Function` is the place where a kernel meets autograd. The library's layer uses
# it, and its gradients are those of plain autograd:

# %% tags=["fold"]
# the same in PyTorch: the layer with its kernels against the autograd of section 1
plain = torch.nn.Linear(K, N, bias=False)
with torch.no_grad():
    plain.weight.copy_(W)
model = torch.nn.Sequential(plain)
loralib.inject(model, loralib.LoraConfig(r=r, lora_alpha=r * s, target_modules=["0"]))
with torch.no_grad():
    model[0].lora_A["default"].copy_(A)
    model[0].lora_B["default"].copy_(B)
with loralib.use_kernels("triton"):  # the interpreter here
    model(x).backward(dy)
for letter, expected in (("A", exact[1]), ("B", exact[2])):
    got = model[0].get_parameter(f"lora_{letter}.default").grad.double()
    assert (got - expected).norm() < 2e-6 * expected.norm(), (
        f"d{letter} differs from autograd's"
    )
print("the layer's gradients are those of autograd in float64")

# %% [markdown]
# ## Find the bug
#
# The gradient of B from this function agrees with autograd. Those of A and x do not.
#
# ```python
# def backward(ctx, dy):
#     x, W, A, B, S = ctx.saved_tensors
#     dS = dy @ B
#     dA, dB = dS.T @ x, dy.T @ S      # S = s * x @ A.T
#     return dy @ W + dS @ A, None, dA, dB  # x, W (frozen), A, B
# ```
#
# ??? What is wrong?
# - [ ] dB has the wrong shape. || (N, M) @ (M, r) is (N, r), as B.
# - [ ] dx is missing the LoRA part. || It is there: dS @ A.
# - [x] The scale is missing in dS. || S contains s, so dB is right. But dA and the LoRA part of
#   dx need s, too.

# %% tags=["fold"]
# check: the buggy function against autograd, without dropout
S0 = s * x @ A.T
buggy_dS = dy @ B
buggy = {"dA": buggy_dS.T @ x, "dB": dy.T @ S0}
true_option(
    buggy["dB"].shape != B.shape,
    torch.equal(dy @ W + buggy_dS @ A, dy @ W),
    torch.allclose(s * buggy["dA"], dA, rtol=1e-3, atol=1e-2)
    and torch.allclose(buggy["dB"], dB, rtol=1e-3, atol=1e-2),
)

# %% [markdown]
# ## Quiz
#
# ??? Which tensors does the backward pass of LoRA need from the forward pass, without dropout?
# - [ ] only x || dB needs S.
# - [x] x and S || dA needs x, dB needs S. The weights are there anyway.
# - [ ] x, S and y || No formula contains y.
#
# ??? What must forward and backward share for dropout?
# - [ ] the mask in memory || It can be computed again.
# - [x] the seed || And the numbering of the places.
# - [ ] nothing || Then the two masks differ, and the gradient is wrong.
#
# ??? A GPU was never measured. Which path does our layer take there?
# - [x] PyTorch || A kernel that nobody timed is a guess.
# - [ ] Triton || It might be slower.
# - [ ] the faster one || Nobody knows which one that is.
#
# ??? Two stages instead of three, same tiles. How much shared memory does the loop need?
# - [ ] the same || Each stage needs its own tiles.
# - [ ] half || From 3 to 2 is not half.
# - [x] two thirds || 2 · 49,152 = 98,304 bytes.
#
# ??? A report says "fused LoRA: 1.6 times faster". What do you ask first?
# - [ ] which GPU || Also important, but second.
# - [x] faster than what, and for which sizes || Against step by step or in place, for 16 or for
#   8192 tokens?
# - [ ] how many lines of code || That is not a question of speed.

# %% tags=["fold"]
# check of the third and the fourth answer
unknown = dispatch.by_measurement(
    "lora forward", "no such GPU", torch.bfloat16, (16, 4096, 4096)
)
assert unknown.path == "torch", "an unknown GPU takes PyTorch"
assert 2 * (128 + 256) * 64 * 2 == 98_304 == 147_456 * 2 // 3, "two stages"

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | gradients of A and x are wrong, only with dropout | another mask in the backward pass | section 3: compare with autograd |
# | the gradient of A is wrong by a constant factor | the scale is missing, or applied twice | "Find the bug" |
# | results differ from run to run | autotuning, or atomic additions | `torch.equal` of two runs |
# | a layer does not use the kernel | it was not faster there, or never measured | `loralib.explain(model)` |
#
# ## Exercises
#
# 1. ★ Puzzle 03 of the [ladder](../kernels_ladder/README.md): a program adds up a row.
# 2. ★★ Puzzle 11: dropout from a seed, forward and backward. `python -m tutorials ladder 11`.
# 3. ★★★ Puzzle 13: dS and dB from one read of dy. `python -m tutorials ladder 13`.
#    <details><summary>Hint</summary>One program per block of rows. dS is complete after all columns.
#    dB is a sum over programs, so each program writes its own part.</details>
#
# **Change and measure:** in section 3, set p = 0.5 and p = 0.05. How wrong is the gradient of
# A? Can you derive the number from p? <details><summary>Hint</summary>The two masks
# are independent. For one entry, compute the mean of the squared difference of the two
# masks, and divide it by the mean of one squared mask.</details>
#
# ## Summary
#
# 1. The backward pass needs four gradients. One read of dy serves two of them.
# 2. Dropout needs a seed and no mask, if both directions compute the same function of (seed,
#    place).
# 3. A layer uses a kernel only where the nearest measurement says that it is faster.
#
# **Next:** [lesson 10](../10_nf4_kernels.py), kernels for 4-bit weights.
#
# More: [kernel puzzles](../kernels_ladder/README.md) · [glossary](../GLOSSARY.md)
#
# ## On the real thing
#
# The first two need a GPU: the first one measures, the second one also remembers the results for
# the layers. The third one trains with the path that was chosen; it needs a network.
#
# ```bash
# python -m kernels.bench lora
# python -m kernels.bench all --remember
# python -m training --task sst2 --model roberta-base --method lora
# ```
