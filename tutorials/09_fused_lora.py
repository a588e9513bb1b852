# %% [markdown]
# # 09 · Fused, LoRA costs one more read of x; on a wide layer there is a quarter to win, not a factor of four
#
# | | |
# |:--|:--|
# | **Needs** | lesson [01](01_lora_by_hand.py); what a matrix product costs |
# | **Read and do** | 70 minutes |
# | **Runs in** | about 30 s on one CPU thread |
# | **Memory** | 2 GB |
#
# Can a **fused** LoRA kernel, one that does several operations at once, be "4x faster"? On a wide layer it cannot. You will count
# bytes and operations, find the most that fusing can win, and write a kernel in **Triton**, a language for GPUs, up to its first
# fused form; then you read two others, made for many tokens. No GPU is needed: Triton's **interpreter** runs a kernel with numpy,
# and its **compiler** builds machine code for a GPU that is not here.
#
# | symbol | code | meaning |
# |:--|:--|:--|
# | M, K, N, r | `M, K, N, r` | tokens, d_in, d_out, rank |
# | S | `S` | $s \cdot x A^T$, (M, r): the scale is folded into it |
# | BM, BN, BK | `BM, BN, BK` | a **tile**: the rows, columns and depth that one program takes at a time |
# | $\tilde x$ | | x after dropout |
#
# The split into two kernels at S is that of LoRAFusion (Zhu et al. 2025). Ours differs: dropout comes from a seed instead of a
# stored mask, gradients are the same bits every time, and any rank and shape is allowed.

# %%
import os
import sys
from pathlib import Path

ROOT = Path.cwd() if Path("loralib").is_dir() else Path.cwd().parent
sys.path.insert(0, str(ROOT))  # so that our folders are found, from the project's root and from tutorials/
os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined: it must be set before

# %%
import torch
import triton
import triton.language as tl
from matplotlib import pyplot as plt

from kernels.triton_kernels import lora_backward_triton, lora_matmul_triton
from kernels.triton_kernels.ahead_of_time import read_table
from kernels.triton_kernels.configs import Tiles
from kernels.formulas.lora_matmul import lora_forward, lora_matmul_reference
from kernels.measure import moved_bytes
from kernels.triton_kernels.philox import keep_mask
from kernels.roofline import Ceilings
from training.reports.records import COLOURS, use_style
from tutorials.built_by_hand import built
from tutorials.interpreted import traffic
from tutorials.show import show

torch.set_num_threads(1)
use_style()
generator = torch.Generator().manual_seed(0)  # the seed of all numbers below

# %% [markdown]
# ## 1. Few operations, many bytes
#
# The layer computes $y = x W^T + s\,(x A^T) B^T$. Take 8192 tokens, K = N = 4096, r = 16.
#
# **Predict:** how many per cent of the base's multiplications does the LoRA branch add: 0.8 %, 8 %, or 80 %? And if an
# implementation writes the branch's output to memory, scales it, and adds it: how many times does it read or write a whole
# matrix as large as y (x is as large: K = N)?

# %%
M, K, N, r = 8192, 4096, 4096, 16
base_flops, branch_flops = 2 * M * K * N, 2 * M * r * (K + N)
print(f"the branch adds {branch_flops / base_flops:.1%} of the operations")
assert abs(branch_flops / base_flops - 0.0078) < 1e-4, "r (K + N) against K N"

# %% [markdown]
# Now the bytes, measured: `moved_bytes` runs a function and adds up what each of its operations reads and writes. We use a small
# layer and count in units of one M × N matrix.

# %%
m, k, n = 512, 256, 256
x, W, A, B = (torch.randn(s, generator=generator) for s in ((m, k), (n, k), (r, k), (n, r)))
unit = 4 * m * n  # bytes of one M × N matrix


def eager():
    """As peft writes it: each step is an operation of its own."""
    result = x @ W.T
    return result + (x @ A.T) @ B.T * 0.5


base = moved_bytes(lambda: x @ W.T)  # below, the library in plain torch: `addmm` scales, and adds the branch straight into y
ways = {"eager": eager, "in place": lambda: lora_forward(x, W, None, A, B, 0.5, ((0, n),))}
extra = {name: (moved_bytes(way) - base) / unit for name, way in ways.items()}
for name, passes in extra.items():
    print(f"{name:9} {passes:.2f} passes over an M × N matrix more than the base")
assert 7 < extra["eager"] < 7.5, "read x; write; scale: read, write; add: read, read, write; S, A, B are the rest"
assert 3 < extra["in place"] < 3.5, "read x; addmm: read, write; S, A, B are the rest"

# %% [markdown]
# ## 2. The most that a kernel can win
#
# A GPU has two limits: operations per second and bytes per second. The time of anything is at least the larger of the two
# quotients: the **roofline**. We assume two speeds of an H200 and do not measure them: 790 TFLOP/s (10¹² operations a second)
# with bf16 numbers of 2 bytes, and 4.3 TB/s. They are 80 % and 90 % of the data sheet's 989 and 4.8: no kernel gets all of it.
#
# **Predict:** the base at these sizes is limited by operations. How many times faster than the eager form can a perfect kernel
# be: 1.05, 1.26, or 2?

# %%
h200 = Ceilings(bandwidth=4.3e12, flops=790e12)
bf16 = 2
base_time = h200.floor(base_flops, bf16 * (M * K + K * N + M * N))
passes = {"eager": 7, "in place": 3, "fused": 1}  # of M × N, K = N; a fused kernel reads x once more for S, and no more
times = {name: base_time + count * bf16 * M * N / h200.bandwidth for name, count in passes.items()}
for name, seconds in times.items():
    print(f"{name:9} {seconds * 1e6:.0f} µs: {seconds / base_time:.3f} of the base alone")
over_eager, over_in_place = times["eager"] / times["fused"], times["in place"] / times["fused"]
print(f"a perfect kernel is {over_eager:.2f} times as fast as eager, {over_in_place:.2f} times as fast as in place")
assert 1.25 < over_eager < 1.27, "fusing can win a quarter over eager at these sizes, never 4x"
assert 1.08 < over_in_place < 1.09, "against the honest baseline it is 9 % at most"

# %%
figure, axes = plt.subplots(figsize=(7.5, 3.4))
layers = {"768→768": (768, 768), "4096→4096": (4096, 4096), "4096→14336": (4096, 14336), "14336→4096": (14336, 4096)}
narrow = {}
for offset, (name, colour) in zip((-0.25, 0, 0.25), (("eager", "peft"), ("in place", "head"), ("fused", "lora")), strict=True):
    heights = []
    for d_in, d_out in layers.values():
        alone = h200.floor(2 * M * d_in * d_out, bf16 * (M * (d_in + d_out) + d_in * d_out))
        more = {"eager": d_in + 6 * d_out, "in place": d_in + 2 * d_out, "fused": d_in}[name] * M * bf16 / h200.bandwidth
        heights.append(100 * more / alone)
    narrow[name] = heights[0]
    axes.bar([place + offset for place in range(4)], heights, 0.24, color=COLOURS[colour], label=name)
axes.set_xticks(range(4), [f"layer\n{name}" for name in layers])
axes.set(ylabel="extra time over the base, %", title="The wider the layer, the less LoRA's bytes cost (r = 16, 8192 tokens)")
axes.legend(ncols=3)
show(figure, "ceilings")
assert 2 < (100 + narrow["eager"]) / (100 + narrow["fused"]) < 3, "a narrow layer is all traffic: there fusing can win more"

# %% [markdown]
# So "4x" is refuted by arithmetic for a wide layer: a forward pass can win 1.26 over the eager form and 1.09 over the in-place
# form, at best. For narrow layers (768, as in RoBERTa-base) it is more, but they are so short that launches decide. It also
# says what is *not* allowed: a kernel whose own product is 9 % slower than cuBLAS (NVIDIA's library) has lost everything it
# could win at width
# 4096. So a dispatcher must measure (section 8).
#
# ## 3. A tile, by hand
#
# In Triton you write what **one program** does. Many programs run at the same time, and each asks for its own number. The
# smallest kernel first: y = 2 x, eight numbers a program.


# %%
@triton.jit
def double(x, y, n, BLOCK: tl.constexpr):  # constexpr: known when the kernel is compiled
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # program 0 has places 0 to 7, program 1 has 8 to 15, ...
    inside = places < n  # a mask: the last program may reach past the end
    numbers = tl.load(x + places, mask=inside)  # x is an address; x + i is the address of number i
    tl.store(y + places, 2 * numbers, mask=inside)


x, y = torch.arange(20.0), torch.zeros(20)
double[(3,)](x, y, 20, 8)  # the grid: three programs
assert torch.equal(y, 2 * x), "are 20 numbers more than two programs of 8?"

# %% [markdown]
# A matrix lies in memory row after row, so number (i, j) of a matrix with K columns is at x + i K + j. A program of the product
# computes one tile of y: BM rows, BN columns. It walks along K in steps of BK, loads a tile of x and one of W, and adds their
# product to an **accumulator**, a tile that stays in registers.
#
# **Predict:** M = N = K = 64 and tiles of 32: how many programs run, and how often is each number of x loaded?


# %%
@triton.jit
def naive(x, w, y, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)  # a grid of two dimensions: two program numbers
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        depth = k + tl.arange(0, BK)
        x_in, w_in = (rows[:, None] < M) & (depth[None, :] < K), (depth[:, None] < K) & (columns[None, :] < N)
        x_tile = tl.load(x + rows[:, None] * K + depth[None, :], mask=x_in, other=0.0)  # other: what a masked place counts as
        w_tile = tl.load(w + columns[None, :] * K + depth[:, None], mask=w_in, other=0.0)  # a tile of Wᵀ
        acc = tl.dot(x_tile, w_tile, acc)
    tl.store(y + rows[:, None] * N + columns[None, :], acc, mask=(rows[:, None] < M) & (columns[None, :] < N))


# %%
x, W = (torch.randn(64, 64, generator=generator) for _ in range(2))
y = torch.empty(64, 64)
with traffic() as seen:
    naive[(2, 2)](x, W, y, 64, 64, 64, 32, 32, 32)  # a grid of 2 × 2 programs
print(f"loaded {seen.loaded:,} bytes: {seen.loaded / (x.nbytes + W.nbytes)} times x and W; stored {seen.stored:,}")
assert seen.loaded == 2 * (x.nbytes + W.nbytes) and seen.stored == y.nbytes, "each number once per tile column (or row)"
assert torch.allclose(y, x @ W.T, atol=1e-4), "is W read as its transpose?"

# %% [markdown]
# Larger tiles load less: with tiles of 128 × 256 each number of x is read N / 256 times. What programs read at about the same
# time comes from the L2 cache; the order of the tiles (`tile_of` in `kernels/triton_kernels/tiles_triton.py`) sees to that.
#
# ## 4. Version 1: one launch
#
# The simplest fusion: the same program keeps a second, thin accumulator for S. When K is done, it multiplies S with its tile of
# B. (To stay short, ours has no masks: sizes are multiples of the tile here.)
#
# **Predict:** each program makes the S of its rows. With 2 rows and 4 columns of tiles, how many times is all of A read?


# %%
@triton.jit
def fused(x, w, a, b, y, scale, N, K, R: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rows, columns = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    ranks = tl.arange(0, R)
    acc, thin = tl.zeros((BM, BN), tl.float32), tl.zeros((BM, R), tl.float32)
    for k in range(0, K, BK):
        depth = k + tl.arange(0, BK)
        x_tile = tl.load(x + rows[:, None] * K + depth[None, :])
        acc = tl.dot(x_tile, tl.load(w + columns[None, :] * K + depth[:, None]), acc)
        thin = tl.dot(x_tile, tl.load(a + ranks[None, :] * K + depth[:, None]), thin)  # a tile of Aᵀ
    b_tile = tl.load(b + columns[None, :] * R + ranks[:, None])  # a tile of Bᵀ
    acc = tl.dot(thin * scale, b_tile, acc)
    tl.store(y + rows[:, None] * N + columns[None, :], acc)


# %%
M, N, K, r = 64, 128, 96, 16
x, W, A, B = (torch.randn(s, generator=generator) for s in ((M, K), (N, K), (r, K), (N, r)))
tiles = Tiles(32, 32, 32)
y1 = torch.empty(M, N)
with traffic() as mine:
    fused[(2, 4)](x, W, A, B, y1, 0.5, N, K, r, 32, 32, 32)
with traffic() as library:
    y_library, _ = lora_matmul_triton.one_launch(x, W, None, A, B, 0.5, tiles=tiles)
base_loads = (N // 32) * x.nbytes + (M // 32) * W.nbytes
wanted = lora_matmul_reference(*(t.double() for t in (x, W)), None, *(t.double() for t in (A, B)), 0.5)
print(f"the base alone loads {base_loads:,} bytes; A, 8 times, is {8 * A.nbytes:,} more: {8 * A.nbytes / base_loads:.0%}")
assert mine.loaded == library.loaded == base_loads + 8 * A.nbytes + 2 * B.nbytes, "A for each program, B for each row of tiles"
assert torch.allclose(y1, y_library, atol=1e-5), "yours is the library's: `one_launch_kernel`, which also has masks and dropout"
assert (y1.double() - wanted).norm() < 1e-6 * wanted.norm(), "float32 rounding, no more"

# %% [markdown]
# It needs no second launch, so it is right for a few tokens, where a launch costs more than the sums. But each program makes the
# S of its rows anew. For each tile of x that is r columns more beside BN: at r = 64 and BN = 256 a quarter of the base's
# products. That is wrong for training.
#
# ## 5. Version 2: S once, then one more step of K
#
# S is tiny (M × r). So one small kernel, **shrink**, writes it, with the scale folded in. Then comes the trick of the second,
# **expand**: `[x | S] [W | B]ᵀ` is the sum that we want. The rank-r product is only one more step of K, into the same
# accumulator.
#
# **Predict:** what does expand load more than the base: S and B once per tile that needs them, or something as large as y?

# %%
with traffic() as shrinking:
    S = lora_matmul_triton.shrink(x, A, 0.5, tiles=Tiles(32, 0, 32))
with traffic() as expanding:
    y2 = lora_matmul_triton.expand(x, W, None, S, B, tiles, persistent=False)
more = expanding.loaded - base_loads
print(f"shrink loads {shrinking.loaded:,}: x once ({x.nbytes:,}), A per 32 rows ({M // 32 * A.nbytes:,})")
print(f"expand loads {more:,} more than the base: S {(N // 32) * S[:, :r].nbytes:,}, B {(M // 32) * B.nbytes:,}")
real = (4096 // 256) * 8192 * 16 * bf16 / (8192 * 4096 * bf16)  # S for each column of tiles, against y, at real sizes
print(f"at 8192 tokens, 4096 → 4096 and tiles of 256 columns, the reads of S are {real:.1%} of y")
assert shrinking.loaded == x.nbytes + (M // 32) * A.nbytes, "x once, A once for every 32 rows"
assert more == (N // 32) * 4 * M * r + (M // 32) * B.nbytes, "S per column of tiles, B per row of tiles"
assert torch.allclose(y2, y1, atol=1e-5) and S.shape == (M, 16), "tensor cores take ranks from 16 on: smaller ones are padded"

# %% [markdown]
# S and B are small, so section 2 was right to count a fused layer as one more read of x.
#
# Version 3, `expand_persistent_kernel`, computes the same. It starts as many programs as the GPU has processors;
# each walks several tiles, and Hopper's copy engine fetches them.

# %%
y3 = lora_matmul_triton.expand(x, W, None, S, B, tiles, persistent=True)
assert torch.allclose(y3, y2, atol=1e-5), "the same sums; numpy may add them in another order"

# %% [markdown]
# ## 6. Break it on purpose: one accumulator too many
#
# A GPU's accumulator lies in **registers**, and there are not many. The natural way to write the last step is
# `acc += tl.dot(S, B) * s` after the loop. The numbers are right. We build both forms for a Hopper
# GPU (compute capability 9.0), with tiles of 128 × 256. A program is 8 **warps** there, groups of 32 threads that run together.
#
# **Predict:** these 256 threads hold the accumulator in registers of 32 bits. How many does one thread need for one
# accumulator, and how many for two? (A thread can have 255, and needs some for addresses.)

# %%
each = 128 * 256 // (8 * 32)
print(f"{each} registers for one accumulator, {2 * each} for two")
found = built()
for name in ("inside the accumulator", "beside the accumulator"):
    print(f"{name}: {found[name]['registers']} registers, {found[name]['spilled']} bytes spilled to memory per thread")
assert each == 128 and found["inside the accumulator"]["spilled"] == 0, "the product is a step of the same accumulator"
assert found["beside the accumulator"]["spilled"] > 0, "a second accumulator of 128 registers does not fit"

# %% [markdown]
# What found no register is **spilled**: written to slow memory and read again. The interpreter cannot see this, and the compiler
# cannot see a wrong sum. So every kernel passes two gates in our tests: numbers in the interpreter, with NaN around every input,
# and builds for four kinds of GPU, compared with
# [a committed table](../kernels/triton_kernels/ahead_of_time.csv). Its rows for Hopper (the last three kernels are for backward):

# %%
for row in read_table():
    if row["sm"] == "90" and row["variant"] in ("r=16", "M=8192 r=16") and "grouped" not in row["kernel"]:
        print(
            f"{row['kernel']:26} {row['registers']:>4} registers, {row['spilled']} spilled, {int(row['shared']):>7,} bytes shared"
        )

# %% [markdown]
# ## 7. Backward, and dropout without a mask
#
# The gradients are $dS = s\,dy\,B$, $dB = dy^T S$, $dA = dS^T \tilde x$, $dx = \text{mask}(dS\,A) + dy\,W$. Here mask(...) does
# what dropout did to x: some places become 0, the others are divided by 1 - p. dS and dB need all of dy; one kernel makes both
# from one read. Dropout keeps no mask: `philox`, a random function of (seed, place), gives the same mask again.
#
# **Predict:** for 8192 tokens of width 4096, how many bytes does a mask of one byte each need, and how many a seed?

# %%
M, p = 96, 0.25
x, dy = torch.randn(M, K, generator=generator), torch.randn(M, N, generator=generator)
seed = torch.tensor([2026])
y, S = lora_matmul_triton.lora_forward(x, W, None, A, B, 0.5, seed, p)
tall = Tiles(32, 32, 0, split=2)  # split: two programs share the columns of dy
with traffic() as ranks:
    dS, dB = lora_backward_triton.grad_rank(dy, B, S, 0.5, tall)
rest = 2 * S[:, :r].nbytes + M // 32 * B.nbytes
print(f"mask {8192 * 4096:,} bytes, seed {seed.nbytes}; loaded for dS and dB: dy once, {dy.nbytes:,}, and S and B, {rest:,}")
assert ranks.loaded == dy.nbytes + rest, "dy once; S for each of 2 parts, B for each 32 rows"
dx, dA, dB = lora_backward_triton.lora_backward(dy, x, W, A, B, S, 0.5, seed, p)
keep = keep_mask(seed, M, K, p) / (1 - p)  # the definition in plain torch gives the kernels' mask
xd, Ad, Bd = (t.double().requires_grad_() for t in (x, A, B))
exact = xd @ W.double().T + 0.5 * (xd * keep.double()) @ Ad.T @ Bd.T
for name, one, other in zip(("dx", "dA", "dB"), (dx, dA, dB), torch.autograd.grad(exact, (xd, Ad, Bd), dy.double()), strict=True):
    assert (one.double() - other).norm() < 2e-6 * other.norm(), f"{name} differs: is the mask of backward that of forward?"
again = lora_backward_triton.lora_backward(dy, x, W, A, B, S, 0.5, seed, p)
assert all(map(torch.equal, (dx, dA, dB), again)), "one order of sums; in the interpreter always, on a GPU it counts"

# %% [markdown]
# ## 8. What a GPU says
#
# `python -m kernels.bench all` on a GPU measures the machine's own copy and product first, then every form beside peft and the
# bare layer. A layer takes a kernel only where such a measurement says that it wins; `loralib.explain(model)` tells.
#
# **Predict:** on this machine, which path does a LoRA layer take, Triton or torch?

# %%
import loralib

small = loralib.get_peft_model(torch.nn.Sequential(torch.nn.Linear(64, 64)), loralib.LoraConfig(r=8, target_modules=["0"]))
print(loralib.explain(small, tokens=4096))
measured = loralib.compute.dispatch.MEASUREMENTS
print("GPUs measured so far:", ", ".join(measured) or "none. The kernels are checked, not timed: no GPU was to be had")
assert "torch" in str(loralib.explain(small)), "without a GPU, plain torch: is TRITON_INTERPRET taken for one?"

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | right numbers, far too slow | the kernel spills | section 6: `python -m kernels.bench builds` |
# | NaN or garbage at odd sizes | a load without a mask | `tests/helpers/canary.py`: put the inputs inside NaN |
# | bfloat16 is wrong in the interpreter only | it multiplies bit patterns | test in float32 and float16 |
# | slower than plain torch | its product is slower than cuBLAS | section 2: 9 % decides |
# | `pip install kernels` is advised at the start | bitsandbytes finds our folder `kernels` | harmless: do not install it |
# | `only 0-dimensional arrays` in the interpreter | Triton 3.6 with numpy 2.4 or newer | Triton 3.7, or numpy 2.3 |
#
# ## Exercises
#
# Write in [exercises/09_fused_lora.py](exercises/09_fused_lora.py), then `python -m tutorials check 09`.
#
# 1. ★ `extra_bytes`: what LoRA moves beyond the base in three forms.
# 2. ★★ `tile_loads`: how many bytes the programs of a tiled product ask for.
#    <details><summary>Hint</summary>How many programs are there, and how many rows of length K does each one load?</details>
# 3. ★★★ `add_kernel`: your first kernel: x + s · z for vectors of any length.
#    <details><summary>Hint</summary>As `double`: mask the loads and the store.</details>
#
# ## Summary
#
# 1. LoRA's branch is 0.8 % of the operations, and written eagerly adds 31 % to the time: traffic over full-size matrices.
# 2. Fused, it costs one more read of x: S once, then a last step of K in the same accumulator.
# 3. The most to win at width 4096 is 1.26 over eager, 1.09 over in place: use a kernel only where it was measured to win.
#
# **Next:** [lesson 10](10_nf4_kernels.py), kernels for 4-bit weights.
#
# ## On the real thing
#
# ```bash
# python -m kernels.bench lora                # on a GPU: against peft and the bare layer
# python -m kernels.bench builds              # anywhere: registers, spills, shared memory for four kinds of GPU
# python -m training --task sst2 --model roberta-base --method lora
# ```
