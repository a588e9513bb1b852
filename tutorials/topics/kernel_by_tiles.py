# %% [markdown]
# # A kernel, tile by tile: LoRA is one more step along K
#
# **Needs** [lesson 09](../09_fused_lora.py) · **Read and do** 60 minutes
# · **Runs in** about 20 s on one CPU thread · **Memory** 2 GB
#
# A GPU has thousands of arithmetic units. How do you tell all of them what to do, and where
# does LoRA fit in?
#
# ![One program of a matrix multiplication: it goes along K and keeps an accumulator](../diagrams/09_tile.svg)
#
# In Triton, a language for GPUs inside Python, you write what *one* **program** does. Many
# programs run at the same time. On this page you write a **kernel** (a function for the GPU)
# for a matrix multiplication, count what it loads, and add LoRA in two ways. You need no GPU:
# Triton's interpreter runs the programs one after the other with numpy.

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

from kernels.formulas.lora_matmul import lora_matmul_reference
from kernels.triton_kernels import lora_matmul_triton
from kernels.triton_kernels.ahead_of_time import read_table
from kernels.triton_kernels.configs import Tiles
from kernels.triton_kernels.tiles_triton import tile_of
from training.reports.records import COLOURS, use_style
from tutorials.answers import true_option
from tutorials.built_by_hand import built
from tutorials.interpreted import traffic
from tutorials.kernels_ladder.watching import watching
from tutorials.show import show

torch.set_num_threads(1)
use_style()
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## 1. One program
#
# The smallest kernel computes y = 2 x. Each program handles 8 numbers. It asks for its own
# number, computes which places belong to it, loads, and stores.


# %%
@triton.jit
def double(x, y, n, BLOCK: tl.constexpr):  # constexpr: known when the kernel is compiled
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # program 1: 8, 9, ..., 15
    inside = places < n  # the mask: the last program may reach past the end
    values = tl.load(x + places, mask=inside)  # x is the address of number 0
    tl.store(y + places, 2 * values, mask=inside)


# %% [markdown]
# ??? The vector has 20 numbers, and a program handles 8. How many programs do we have to start?
# - [ ] 2 || They would handle 16 numbers.
# - [x] 3 || The last one has 4 numbers; its mask leaves out the other 4 places.
# - [ ] 20 || One program handles a whole block.

# %%
x, y = torch.arange(20.0), torch.zeros(20)
programs = triton.cdiv(20, 8)  # divide and round up
double[(programs,)](x, y, 20, BLOCK=8)
print(f"{programs} programs: y =", y.int().tolist()[:4], "...", y.int().tolist()[-2:])

# %% tags=["fold"]
# check
true_option(programs == 2, programs == 3, programs == 20)
assert torch.equal(y, 2 * x), "is a number of the last block missing?"

# %% [markdown]
# ## 2. One tile of a matrix multiplication
#
# A matrix lies in memory row after row. So number (i, j) of a matrix with K columns is at
# `x + i * K + j`.
#
# A program computes one **tile** of $y = x W^\top$: BLOCK rows and BLOCK columns. It goes along
# K in steps. In each step it loads a tile of $x$ and a tile of $W$, multiplies them, and adds
# the result to an **accumulator**, a tile that stays inside the program.


# %%
@triton.jit
def matmul(x, w, y, M, N, K, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    for k in range(0, K, BLOCK):
        depth = k + tl.arange(0, BLOCK)
        x_inside = (rows[:, None] < M) & (depth[None, :] < K)
        w_inside = (columns[None, :] < N) & (depth[:, None] < K)
        x_tile = tl.load(x + rows[:, None] * K + depth[None, :], mask=x_inside, other=0.0)
        w_tile = tl.load(w + columns[None, :] * K + depth[:, None], mask=w_inside, other=0.0)
        acc = tl.dot(x_tile, w_tile, acc)  # (rows, depth) @ (depth, columns)
    inside = (rows[:, None] < M) & (columns[None, :] < N)
    tl.store(y + rows[:, None] * N + columns[None, :], acc, mask=inside)


# %% [markdown]
# ??? M = N = K = 64, and tiles have 32 rows and columns. How often do the programs load each
#   number of x?
# - [ ] once || Every program of a row of tiles needs these rows of x.
# - [x] 2 times || y has 2 columns of tiles, and each program loads its rows of x.
# - [ ] 64 times || That would be so with tiles of one column.

# %%
x, W = torch.randn(64, 64, generator=generator), torch.randn(64, 64, generator=generator)
y = torch.empty(64, 64)
with traffic() as counted:
    matmul[(2, 2)](x, W, y, 64, 64, 64, BLOCK=32)
times = counted.loaded / (x.nbytes + W.nbytes)
print(f"loaded {counted.loaded:,} bytes: {times:.0f} times x and W; stored {counted.stored:,}")

# %% tags=["fold"]
# check
true_option(times == 1, times == 2, times == 64)
assert torch.allclose(y, x @ W.T, atol=1e-4), "is W read as its transpose?"

# %% [markdown]
# Larger tiles load less: with tiles of 128 × 256, each number of $x$ is loaded N/256 times.
# (Now is a good time for the puzzles 01 to 06 of the [ladder](../kernels_ladder/README.md).)
#
# ## 3. The order of the tiles, and the cache
#
# Programs that run at about the same time load the same rows. A GPU keeps what was loaded
# recently in its **L2 cache** (tens of MB). So the order of the tiles decides how much must
# come from memory.
#
# Below we compare two orders: along a row of tiles, then the next row; or down 4 rows of tiles,
# then one column to the right. We count the bytes from memory behind a small cache of 6 kB.
#
# ![The numbers of the programs in both orders](../diagrams/ladder_07.svg)
#
# ??? There are 8 × 8 tiles, and a tile of x or W has 1 kB. Which order loads less from memory?
# - [ ] along the rows || It keeps one tile of x, but the 8 tiles of W do not fit into the cache
#   together. So each row of tiles loads W again.
# - [x] down 4 rows, then right || 4 tiles of x stay in the cache, and each tile of W is used 4
#   times before it is forgotten.
# - [ ] both the same || The same tiles are loaded, but not at the same time.


# %%
@triton.jit
def ordered(x, w, y, N, tiles, K: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr):
    # down GROUP rows of tiles, then one column to the right
    tile_m, tile_n = tile_of(tl.program_id(0), tiles, tiles, GROUP)
    rows = tile_m * BLOCK + tl.arange(0, BLOCK)
    columns = tile_n * BLOCK + tl.arange(0, BLOCK)
    depth = tl.arange(0, K)
    x_tile = tl.load(x + rows[:, None] * K + depth[None, :])
    w_tile = tl.load(w + columns[None, :] * K + depth[:, None])
    tl.store(y + rows[:, None] * N + columns[None, :], tl.dot(x_tile, w_tile))


x, W = torch.randn(128, 16, generator=generator), torch.randn(128, 16, generator=generator)
from_memory = {}
for group in (1, 4):
    y = torch.empty(128, 128)
    with watching({"x": x, "W": W}, {"y": y}, cache=6 * 1024) as counted:
        ordered[(64,)](x, W, y, 128, 8, K=16, BLOCK=16, GROUP=group)
    from_memory[group] = counted.loaded
print(f"along the rows: {from_memory[1]:,} bytes, down 4 rows: {from_memory[4]:,} bytes")

# %% tags=["fold"]
# check
true_option(
    from_memory[1] < from_memory[4],
    from_memory[4] < from_memory[1],
    from_memory[1] == from_memory[4],
)
assert torch.allclose(y, x @ W.T, atol=1e-4), "the order must not change the result"

# %% [markdown]
# (A real GPU runs over a hundred programs at once, so the gain is smaller there.) Our kernels
# take groups of 8 rows of tiles (`tile_of` in `kernels/triton_kernels/tiles_triton.py`).
#
# ## 4. LoRA in one launch
#
# The simplest fusion: each program keeps a second, thin accumulator for its rows of $x A^\top$.
# When K is done, it multiplies the thin accumulator with its tile of $B$.
#
# (To stay short, this kernel has no masks. All sizes are multiples of the tile.)


# %%
@triton.jit
def one_launch(x, w, a, b, y, s, N, K, R: tl.constexpr, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ranks = tl.arange(0, R)
    acc, low = tl.zeros((BLOCK, BLOCK), tl.float32), tl.zeros((BLOCK, R), tl.float32)
    for k in range(0, K, BLOCK):
        depth = k + tl.arange(0, BLOCK)
        x_tile = tl.load(x + rows[:, None] * K + depth[None, :])
        acc = tl.dot(x_tile, tl.load(w + columns[None, :] * K + depth[:, None]), acc)
        low = tl.dot(x_tile, tl.load(a + ranks[None, :] * K + depth[:, None]), low)
    b_tile = tl.load(b + columns[None, :] * R + ranks[:, None])  # (R, BLOCK): a tile of Bᵀ
    acc = tl.dot(low * s, b_tile, acc)
    tl.store(y + rows[:, None] * N + columns[None, :], acc)


# %% [markdown]
# ??? y has 2 rows and 4 columns of tiles. How many times is all of A loaded?
# - [ ] once || Each program needs all of A.
# - [ ] 2 times || That is the number of rows of tiles. Each program loads A for itself.
# - [x] 8 times || Once for each program: 2 · 4.

# %%
M, N, K, r = 64, 128, 96, 16
shapes = {"x": (M, K), "W": (N, K), "A": (r, K), "B": (N, r)}
x, W, A, B = (torch.randn(shape, generator=generator) for shape in shapes.values())
y = torch.empty(M, N)
with traffic() as counted:
    one_launch[(2, 4)](x, W, A, B, y, 0.5, N, K, R=r, BLOCK=32)
base_loads = 4 * x.nbytes + 2 * W.nbytes  # as in section 2
of_A = (counted.loaded - base_loads - 2 * B.nbytes) / A.nbytes
print(f"the base loads {base_loads:,} bytes; A is loaded {of_A:.0f} times")

# %% tags=["fold"]
# check
true_option(of_A == 1, of_A == 2, of_A == 8)
library, _ = lora_matmul_triton.one_launch(x, W, None, A, B, 0.5, tiles=Tiles(32, 32, 32))
exact = lora_matmul_reference(x.double(), W.double(), None, A.double(), B.double(), 0.5)
assert torch.allclose(y, library, atol=1e-5), (
    "the library's kernel, which also has masks and dropout"
)
assert (y.double() - exact).norm() < 1e-6 * exact.norm(), "is the scale applied once?"

# %% [markdown]
# One launch is right for a few tokens, where starting a second kernel costs more than the work.
# But every program of a row computes the same $x A^\top$ again. For training, with thousands of
# tokens, this is too much: with tiles of 256 columns it adds r/256 of the operations.
#
# ## 5. LoRA in two launches
#
# $S = s\, x A^\top$ is thin. So a first kernel, `shrink`, writes it once. The second kernel,
# `expand`, uses a trick:
#
# ![Shrink writes S. Expand multiplies [x, S] with [W, B] transposed.](../diagrams/09_two_launches.svg)
#
# $[\,x \mid S\,]\,[\,W \mid B\,]^\top = x W^\top + S B^\top$. The LoRA term is just one more
# step along K, into the same accumulator.
#
# ??? What does expand load in addition to the base?
# - [x] S once for each column of tiles, B once for each row of tiles || S has r columns in
#   place of K.
# - [ ] x once more || Shrink has read x. Expand reads it as the base does.
# - [ ] the LoRA term, as large as y || It is never written.

# %%
tiles = Tiles(32, 32, 32)
with traffic() as of_shrink:
    S = lora_matmul_triton.shrink(x, A, 0.5, tiles=Tiles(32, 0, 32))
with traffic() as of_expand:
    y2 = lora_matmul_triton.expand(x, W, None, S, B, tiles, persistent=False)
more = of_expand.loaded - base_loads
print(f"shrink loads {of_shrink.loaded:,} bytes: x once ({x.nbytes:,}), and A twice")
print(f"expand loads {more:,} bytes more than the base: S and B")

# %% tags=["fold"]
# check
thin = 4 * S[:, :r].nbytes + 2 * B.nbytes  # S for each column of tiles, B for each row of tiles
true_option(more == thin, more >= x.nbytes + thin, more >= y2.nbytes + thin)
assert of_shrink.loaded == x.nbytes + 2 * A.nbytes, "x once, and A for each 32 rows"
assert torch.allclose(y2, y, atol=1e-5), "is S scaled twice, or is B read as its transpose?"
persistent = lora_matmul_triton.expand(x, W, None, S, B, tiles, persistent=True)
assert torch.allclose(persistent, y2, atol=1e-5), (
    "version 3: each program computes several tiles"
)

# %% [markdown]
# Here K = 96 is small. With K = 4096, S has 256 times fewer numbers than x. Then the read of x
# by shrink is what counts, as in lesson 09.
#
# <div class="widget" data-widget="tiles">
#
# ![The first step of a matrix multiplication in tiles](../diagrams/widget_tiles.svg)
#
# *In the book (`python -m tutorials book`) you can step through the three kernels here.*
#
# </div>
#
# ## 6. Break it on purpose: one accumulator too many
#
# A GPU program is executed by **warps**, groups of 32 threads. Its accumulator lies in
# **registers**, the fastest memory, and a thread has at most 255 of them. A register holds one
# 32-bit number, and the tile is shared among all threads. The natural way to write the last
# step is `acc += tl.dot(low, b_tile) * s`, with the names of section 4, after the loop. The
# result is correct. But the compiler then needs registers for a second accumulator.
#
# We compile both forms for a Hopper GPU (such as an H200) with tiles of 128 × 256 and 8 warps.
# No GPU is needed for this.
#
# ??? How many registers does one thread need for one accumulator, and for two?
# - [ ] 16 and 32 || 128 · 256 numbers, divided by 8 · 32 threads.
# - [x] 128 and 256 || 128 · 256 / 256 threads. Two do not fit into 255 registers.
# - [ ] 255 and 510 || 255 is the limit, not the need.

# %%
each = 128 * 256 // (8 * 32)
print(f"{each} registers for one accumulator, {2 * each} for two")
reports = built()
for name in ("inside the accumulator", "beside the accumulator"):
    report = reports[name]
    print(f"{name}: {report['registers']} registers, {report['spilled']} bytes spilled")

# %% tags=["fold"]
# check
true_option(each == 16, each == 128, each == 255)
assert reports["inside the accumulator"]["spilled"] == 0, (
    "the LoRA term is a step of the same accumulator"
)
assert reports["beside the accumulator"]["spilled"] > 0, "two accumulators should not fit"

# %% tags=["fold"]
# plot: the compiler's report of the library's LoRA kernels (Hopper, r = 16)
shown = [
    row
    for row in read_table()
    if row["sm"] == "90"
    and row["variant"] in ("r=16", "M=8192 r=16")
    and "grouped" not in row["kernel"]
]
figure, panel = plt.subplots(figsize=(7, 2.8))
names = [row["kernel"].removesuffix("_kernel") for row in shown]
panel.barh(names, [int(row["registers"]) for row in shown], color=COLOURS["lora"], height=0.6)
panel.axvline(255, color=COLOURS["broken"], linestyle="--")
panel.annotate(
    "limit", (255, -0.3), xytext=(-30, 0), textcoords="offset points", color=COLOURS["broken"]
)
panel.invert_yaxis()
panel.set(
    title="the library's LoRA kernels stay below 255 registers",
    xlabel="registers of a thread",
    ylabel="kernel",
)
show(figure, "kernel_registers")

# %% [markdown]
# What does not fit is **spilled**: written to slow memory and read again. The interpreter does
# not show this, and the compiler does not see a wrong sum. So our tests check each kernel
# twice: its values in the interpreter, and the compiler's report ([a committed
# table](../../kernels/triton_kernels/ahead_of_time.csv)): registers, spills, and shared memory
# (fast memory of one program: 227 kB on Hopper).
#
# ## The same in Triton's own tutorial
#
# Triton's tutorial 03 has this matrix multiplication, with the same order of tiles. (It
# multiplies by a matrix of shape (K, N); our W is (N, K). It calls GROUP `GROUP_SIZE_M`.) Its
# groups and ours visit the tiles in the same order:

# %% tags=["fold"]
# the same in Triton's tutorial 03: its formula for the order of the tiles
visited = {}


@triton.jit
def write_order(out, tiles_m, tiles_n, GROUP: tl.constexpr):
    tile_m, tile_n = tile_of(tl.program_id(0), tiles_m, tiles_n, GROUP)
    tl.store(out + 2 * tl.program_id(0), tile_m)
    tl.store(out + 2 * tl.program_id(0) + 1, tile_n)


tiles_m, tiles_n, group = 6, 5, 4
ours = torch.zeros(tiles_m * tiles_n, 2, dtype=torch.int32)
write_order[(tiles_m * tiles_n,)](ours, tiles_m, tiles_n, group)
for program in range(tiles_m * tiles_n):
    first = program // (group * tiles_n) * group
    height = min(tiles_m - first, group)  # the last group may have fewer rows
    inside_group = program % (group * tiles_n)
    assert ours[program].tolist() == [first + inside_group % height, inside_group // height], (
        f"program {program}: row and column exchanged, or the height of the last group?"
    )
print("the same order of", tiles_m * tiles_n, "tiles")

# %% [markdown]
# ## Find the bug
#
# This kernel adds two vectors. It works for 1024 numbers. For 1000 numbers, another tensor is
# sometimes damaged.
#
# ```python
# offsets = tl.program_id(0) * 256 + tl.arange(0, 256)
# total = tl.load(x + offsets, mask=offsets < n) + tl.load(z + offsets, mask=offsets < n)
# tl.store(y + offsets, total)
# ```
#
# ??? What is wrong?
# - [ ] 256 is too large. || It is a power of two, as `tl.arange` needs it.
# - [x] The store has no mask. || The last program writes 24 numbers past the end of y. There is
#   no error message.
# - [ ] `other` is missing. || Masked places are not stored if the store has a mask.
#
# ## Quiz
#
# ??? What does `x + tl.arange(0, 4)` mean in a kernel?
# - [ ] the numbers x[0] to x[3], plus 0 to 3 || x is an address, not a tensor.
# - [x] the addresses of the numbers 0 to 3 of x || `tl.load` reads what is there.
# - [ ] a new tensor with 4 numbers || Nothing is allocated.
#
# ??? M = 100 and BLOCK = 32. How many rows of tiles are there?
# - [ ] 3 || They cover 96 rows.
# - [x] 4 || 100/32, rounded up. The last one has a mask.
# - [ ] 100 || A tile has 32 rows.
#
# ??? You double the width of all tiles (BLOCK columns). What happens to the loads of x?
# - [x] half as many || There are half as many columns of tiles.
# - [ ] twice as many || Each program loads the same rows of x as before.
# - [ ] the same || Fewer programs load x.
#
# ??? Why does expand need no second accumulator?
# - [ ] S is zero at the start. || That is B, in training.
# - [ ] The scale is 1. || The scale is already in S.
# - [x] S Bᵀ is one more step of the loop along K. || It is added to the same accumulator.
#
# ??? A kernel is correct in the interpreter, but very slow on the GPU. What do you look at
#   first?
# - [ ] the values || They are correct.
# - [x] the compiler's report: does it spill? || The interpreter cannot show it.
# - [ ] the seed || It has no influence on the speed.

# %% tags=["fold"]
# check of the second and the third answer
assert triton.cdiv(100, 32) == 4, "round up"
wide = {
    block: (128 // block) * 64 * 64 * 4 for block in (16, 32)
}  # columns of tiles × bytes of x
assert wide[32] == wide[16] / 2, "half as many columns of tiles"

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | correct, but far too slow | the kernel spills | section 6: `python -m kernels.bench builds` |
# | NaN or random numbers for odd sizes | a load or store without a mask | the ladder's check names the address |
# | bfloat16 is wrong in the interpreter only | it multiplies bit patterns | test in float32 and float16 |
# | `only 0-dimensional arrays` in the interpreter | Triton 3.6 with numpy 2.4 or newer | Triton 3.7, or numpy 2.3 |
#
# ## Exercises
#
# The exercises of this page are puzzles of the [ladder](../kernels_ladder/README.md): ★ 01, 02
# and 03, ★★ 04 to 07, 09 and 10. (The kernels of 06 and 09 are on this page: write them without
# looking.) Start with 01, 02 and 05: `python -m tutorials ladder 01`. Each one checks the
# values, the bytes, and every address.
#
# **Change and measure:** in section 3, use GROUP = 2 and GROUP = 8. Which one loads least from
# memory behind this cache, and why?
#
# ## Summary
#
# 1. A kernel describes one program. Masks protect the ends, and an accumulator collects along
#    K.
# 2. Count loads before you optimize: tiles, their order, and what is computed again.
# 3. LoRA fits into two launches: a thin S, and then one more step along K.
#
# **Next:** [the backward pass, and why we measure](kernel_backward.py).
#
# More: [twelve puzzles](../kernels_ladder/README.md) · [glossary](../GLOSSARY.md)
#
# ## On the real thing
#
# The second command runs anywhere. On a GPU, the first one times one launch and two launches.
# The last one needs a network:
#
# ```bash
# python -m kernels.bench lora
# python -m kernels.bench builds
# python -m training --task sst2 --model roberta-base --method lora
# ```
