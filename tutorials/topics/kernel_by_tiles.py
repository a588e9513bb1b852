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
# for a matrix multiplication, count what it loads, and add LoRA to it. Then you look at the
# form with two launches that our library uses. You need no GPU: Triton's interpreter runs the
# programs one after the other with numpy.

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
from kernels.triton_kernels.configs import Tiles
from kernels.triton_kernels.tiles_triton import tile_of  # section 3 writes it out
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
# The smallest kernel computes y = 2 x. Each program handles 8 entries. It asks for its own
# index, computes which entries belong to it, loads them, and stores the results.
#
# ![Program 1 of 3 loads and stores its own part of a vector](../diagrams/ladder_01.svg)


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
# Let $x$ have the shape (M, K), $W$ (N, K) and $y$ (M, N). A program computes one **tile** of
# $y = x W^\top$: BLOCK rows and BLOCK columns. It goes along
# K in steps. In each step it loads a tile of $x$ and a tile of $W$, multiplies them, and adds
# the result to an **accumulator**, a tile that stays inside the program.
#
# `rows[:, None] * K + depth[None, :]` gives all addresses of a tile at once, with the shape
# (rows, depth). For $W$ we write `columns[None, :]` and `depth[:, None]`. So its tile arrives
# with the shape (depth, columns): it is transposed while it is loaded. Masked entries count as
# 0 (`other`).


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
        acc = tl.dot(x_tile, w_tile, acc)  # acc + (rows, depth) @ (depth, columns)
    inside = (rows[:, None] < M) & (columns[None, :] < N)
    tl.store(y + rows[:, None] * N + columns[None, :], acc, mask=inside)


# %% [markdown]
# ??? M = N = K = 64, and tiles have 32 rows and columns. How often do the programs load each
#   number of x?
# - [ ] once || Two programs compute the same rows of y (other columns), and both need these rows
#   of x.
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
    group, place = tl.program_id(0) // (GROUP * tiles), tl.program_id(0) % (GROUP * tiles)
    tile_m, tile_n = group * GROUP + place % GROUP, place // GROUP
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
# take groups of 8 rows of tiles (`tile_of` in `kernels/triton_kernels/tiles_triton.py`, which
# also handles a last group with fewer rows).
#
# ## 4. LoRA in one launch
#
# The simplest fusion: each program keeps a second, thin accumulator for its rows of $x A^\top$.
# When K is done, it multiplies the thin accumulator with its tile of $B$.
#
# ![One program loads rows of x and W, all of A, and its part of B](../diagrams/ladder_09.svg)
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
    "the library scales and adds in the same order: where is s applied?"
)
assert (y.double() - exact).norm() < 1e-6 * exact.norm(), "is the scale applied once?"

# %% [markdown]
# One launch is right for a few tokens, where starting a second kernel costs more than the work.
# But all programs in a row of tiles compute the same $x A^\top$. With tiles of 256 columns this
# adds r/256 of the operations: 6 % for r = 16. With thousands of tokens, that is most of what a
# fused kernel can win (lesson 09).
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
# - [x] S once for each column of tiles, B once for each row of tiles || Expand
#   treats S like x, and B like W. They are just thinner.
# - [ ] x once more || Shrink has read x. Expand reads it as the base does.
# - [ ] the LoRA term, as large as y || It is never written.

# %%
tiles = Tiles(32, 32, 32)
with traffic() as of_shrink:
    S = lora_matmul_triton.shrink(x, A, 0.5, tiles=Tiles(32, 0, 32))  # 32 rows, steps of 32
with traffic() as of_expand:
    one_tile_each = {"persistent": False}  # each program computes one tile
    y2 = lora_matmul_triton.expand(x, W, None, S, B, tiles, **one_tile_each)
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
    "persistent: each program computes several tiles. Does it start a new accumulator?"
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
# 32-bit number, and the tile is shared among all threads. Suppose that
# S was stored without its scale s. Then the natural way to write the LoRA step of `expand`,
# after the loop, is `acc += tl.dot(s_tile, b_tile) * s`. The result is correct. But the
# compiler then needs registers for a second accumulator.
#
# ```python
# acc = tl.dot(s_tile, b_tile, acc)       # inside the accumulator
# acc += tl.dot(s_tile, b_tile) * s       # beside the accumulator
# ```
#
# We compile both forms for a Hopper GPU (such as an H200) with tiles of 128 × 256 and 8 warps.
# No GPU is needed for this: Triton's compiler runs on the CPU.
#
# ??? How many registers does one thread need for one accumulator, and for two?
# - [ ] 16 and 32 || That would be right for a tile of 64 × 64.
# - [x] 128 and 256 || 128 · 256 entries, divided by 8 · 32 = 256 threads. Two accumulators do not
#   fit into 255 registers.
# - [ ] 255 and 510 || 255 is the most that a thread can have.

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
# plot: registers and spilled bytes of both forms
figure, panels = plt.subplots(1, 2, figsize=(7, 2.2), sharey=True)
forms = ("inside the accumulator", "beside the accumulator")
colours = [COLOURS["lora"], COLOURS["broken"]]
for panel, key, title in zip(
    panels, ("registers", "spilled"), ("registers", "bytes spilled"), strict=True
):
    values = [reports[form][key] for form in forms]
    bars = panel.barh([form.split()[0] for form in forms], values, color=colours, height=0.6)
    panel.bar_label(bars, padding=3)
    panel.set(xlabel=f"{title} of a thread", xlim=(0, 1.25 * max(values)))
panels[0].axvline(255, color="black", linestyle="--")
panels[0].set(ylabel="LoRA step")
panels[0].invert_yaxis()
panels[0].set_title("a second accumulator does not fit (dashed: the limit, 255)", loc="left")
show(figure, "kernel_registers")

# %% [markdown]
# What does not fit is **spilled**: written to slow memory and read again. The interpreter does
# not show this, and the compiler does not check values. So our tests check each kernel twice:
# its values in the interpreter, and the compiler's report ([a committed
# table](../../kernels/triton_kernels/ahead_of_time.csv)): registers, spills, and shared memory
# (fast memory of one program: 232,448 bytes on Hopper).
#
# ## The same in Triton's own tutorial
#
# Triton's tutorial 03 has this matrix multiplication, with the same order of tiles. (It
# multiplies by a matrix of shape (K, N); our W is (N, K). Our GROUP has the name `GROUP_SIZE_M`
# there.) Its groups and ours visit the tiles in the same order:

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

# %% tags=["fold"]
# check: the kernel of the question on memory that continues behind y


@triton.jit
def without_mask(x, z, y, n):
    offsets = tl.program_id(0) * 256 + tl.arange(0, 256)
    total = tl.load(x + offsets, mask=offsets < n) + tl.load(z + offsets, mask=offsets < n)
    tl.store(y + offsets, total)


memory = torch.full((1024,), 7.0)  # y is its first 1000 entries, the rest is another tensor
without_mask[(4,)](torch.ones(1000), torch.ones(1000), memory, 1000)
true_option(False, (memory[:1000] == 2).all() and (memory[1000:] != 7).any(), False)

# %% [markdown]
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
# ??? You use tiles of y with twice as many columns and the same rows. What happens to the loads of
#   x?
# - [x] half as many || There are half as many columns of tiles.
# - [ ] twice as many || Each program loads the same rows of x as before.
# - [ ] the same || Fewer programs load x.
#
# ??? Why does expand need no second accumulator?
# - [ ] S is zero at the start. || S is not zero. (B is zero, at the start of training.)
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
# The exercises of this page are puzzles of the [ladder](../kernels_ladder/README.md). Each one
# checks the values, the bytes, and every address. `python -m tutorials ladder 01` starts the
# first.
#
# 1. ★ Puzzle 01: scale a vector.
#    <details><summary>Hint</summary>Section 1 does the same with another factor.</details>
# 2. ★★ Puzzle 04: softmax of a row.
#    <details><summary>Hint</summary>Masked places must not become e⁰ = 1: which value of `other`
#    gives 0?</details>
# 3. ★★★ Puzzle 10: LoRA in two launches.
#    <details><summary>Hint</summary>`expand` is section 2 with one more `tl.dot` after the
#    loop.</details>
#
# The kernels of puzzles 05, 06, 07 and 09 are on this page. You can write them without looking.
#
# **Change and measure:** in section 3, use GROUP = 2 and GROUP = 8. Which one loads least from
# memory behind this cache, and why?
# <details><summary>Hint</summary>How many tiles of x and of W must be in the cache at the same
# time, so that each one is loaded once for a group? The cache holds 6.</details>
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
# More: [kernel puzzles](../kernels_ladder/README.md) · [glossary](../GLOSSARY.md)
#
# ## On the real thing
#
# The first command needs a GPU: it measures one launch and two launches. The second one runs on
# every machine. The last one needs a network:
#
# ```bash
# python -m kernels.bench lora
# python -m kernels.bench builds
# python -m training --task sst2 --model roberta-base --method lora
# ```
