# %% [markdown]
# # 11 · Two launches serve any number of adapters, and three kernels train them
#
# | | |
# |:--|:--|
# | **Needs** | lessons [06](06_many_adapters.py) and [09](09_fused_lora.py) |
# | **Read and do** | 50 minutes |
# | **Runs in** | about 20 s on one CPU thread |
# | **Memory** | 2 GB |
#
# A server holds one base and many adapters, and each row of a batch asks for its own. Lesson 06 ran the base once and looped
# over the adapters. With 64 adapters that is hundreds of small launches. You will build the other way: a **table of tiles**
# that tells each program which rows belong together, and one of the kernels that use it; then you see that two kernels are a
# forward, and three a backward.
#
# | symbol | code | meaning |
# |:--|:--|:--|
# | M, K, N | `M, K, N` | rows, d_in, d_out |
# | L, R | `L, R` | adapters; their largest rank, padded to a power of two from 16 on |
# | $a_i$ | `ids[i]` | the adapter of row i; -1 is the base alone |
#
# The idea of grouping rows is Punica's and S-LoRA's (Chen et al. 2023, Sheng et al. 2023). Theirs serve; ours also trains, and
# gives the same bits every time.

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

import loralib
from kernels.triton_kernels import grouped_lora_triton as grouped
from kernels.formulas.grouped_lora import TileTable, grouped_lora_reference, stack_adapters, tile_table
from kernels.measure import count_operations
from training.reports.records import COLOURS, use_style
from tutorials.interpreted import count_launches, traffic
from tutorials.show import show

# %%
torch.set_num_threads(1)
use_style()
generator = torch.Generator().manual_seed(0)  # the seed of all numbers below


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator)


# %% [markdown]
# ## 1. What a loop costs
#
# On a GPU each operation is a **launch**: it takes some microseconds to start, whatever it computes. `count_operations` counts
# them (views such as `.T` move no data and are left out).
#
# **Predict:** for each adapter the loop compares, lists its rows, picks them, multiplies twice, and adds. How many operations
# is that for 8 adapters, and how many for 64?

# %%
M, K, N = 64, 48, 40


def looped(x, y, As, Bs, ids):
    for a, (A, B) in enumerate(zip(As, Bs, strict=True)):
        rows = (ids == a).nonzero().view(-1)
        y.index_add_(0, rows, x[rows] @ A.T @ B.T)


launches = {}
for L in (1, 8, 16, 32, 64):
    As, Bs = [draw(4, K) for _ in range(L)], [draw(N, 4) for _ in range(L)]
    x, y, ids = draw(M, K), draw(M, N), torch.arange(M) % L
    launches[L] = sum(count_operations(lambda args=(x, y, As, Bs, ids): looped(*args)).values())
    print(f"{L:3} adapters: {launches[L]} operations")
assert launches[64] == 64 * 6, "six for each adapter: compare, list, pick, two products, add"

# %% [markdown]
# ## 2. The table of tiles, by hand
#
# A program of a kernel takes a tile of rows, and multiplies it with **one** adapter. So sort the rows by adapter (their
# numbers, not the rows themselves), and cut each adapter's rows into tiles. A tile never holds two adapters.
#
# **Predict:** ids [1, 0, 1, -1, 1, 0], tiles of 2 rows. How many tiles, and what becomes of row 3?

# %%
ids, height = torch.tensor([1, 0, 1, -1, 1, 0]), 2
order = torch.argsort(ids, stable=True).tolist()
tiles = []
for a in (0, 1):
    places = [place for place, row in enumerate(order) if ids[row] == a]
    tiles += [(a, places[i], min(height, len(places) - i)) for i in range(0, len(places), height)]
print("order of the rows:", order)
print("tiles (adapter, first place, rows):", tiles)
table = tile_table(ids, adapters=2, height=height)
assert order == table.order.tolist() and tiles == [tuple(t) for t in table.tiles.tolist() if t[0] >= 0], "equal to the library's"
assert 3 not in [order[p] for _, low, n in tiles for p in range(low, low + n)], "the base's row is in no tile: nothing touches it"
assert len(table.tiles) == 6 // 2 + 2, "always M // height + L lines, filled up with adapter -1"

# %% [markdown]
# The library's table has five lines here, two of them empty. Its length depends on M, L and the height alone: full tiles are
# M // height at most, and each adapter has one at most that is not full. So each batch starts the same number of programs.
#
# ## 3. Different ranks in one stack
#
# The adapters lie in one tensor, A (L, R, K). An adapter of smaller rank has zeros behind its own rows, as in lesson 06.
#
# **Predict:** ranks 4, 8 and 2 in a stack of rank 16: which part of A is zeros, 10 %, 50 % or 71 %? Do they change any output?

# %%
ranks = (4, 8, 2)
As, Bs = [draw(r, K) for r in ranks], [draw(N, r) for r in ranks]
A, B = stack_adapters(As, Bs, rank=16)
print(f"stacked: A {tuple(A.shape)}, B {tuple(B.shape)}; {float((A == 0).float().mean()):.0%} of A is zeros")
for own_A, own_B, wide_A, wide_B in zip(As, Bs, A, B, strict=True):
    assert torch.allclose(own_B @ own_A, wide_B @ wide_A, atol=1e-5), "zeros times anything: nothing is added"

# %% [markdown]
# ## 4. Forward: shrink, expand
#
# A program of **shrink** reads its line of the table: adapter, first place, number of rows. It fetches these rows of x,
# wherever they lie (`order` says where), and multiplies them with its adapter's A. Here is the whole kernel, without scale and
# masks on K.
#
# **Predict:** 64 rows, each for one of 3 adapters or for the base; tiles of 32 rows. How often is a row of x loaded, and how
# often the A of an adapter?


# %%
@triton.jit
def shrink(x, a, s, order, tiles, K: tl.constexpr, R: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr):
    line = tiles + tl.program_id(0) * 3
    adapter, first, count = tl.load(line), tl.load(line + 1), tl.load(line + 2)
    if adapter < 0:  # a line that only fills the table
        return
    places, ranks = tl.arange(0, BM), tl.arange(0, R)
    mine = places[:, None] < count
    rows = tl.load(order + first + places, mask=places < count, other=0)
    acc = tl.zeros((BM, R), tl.float32)
    for k in range(0, K, BK):
        depth = k + tl.arange(0, BK)
        x_tile = tl.load(x + rows[:, None] * K + depth[None, :], mask=mine, other=0.0)
        acc = tl.dot(x_tile, tl.load(a + adapter * R * K + ranks[None, :] * K + depth[:, None]), acc)
    tl.store(s + (first + places)[:, None] * R + ranks[None, :], acc, mask=mine)


# %%
L, R = 3, 16
ids = torch.randint(-1, L, (M,), generator=generator)
x, y = draw(M, K), draw(M, N)
table = tile_table(ids, L, grouped.HEIGHT)  # 32 rows a tile
by_hand = torch.zeros(M, R)
with traffic() as seen:
    shrink[(len(table.tiles),)](x, A, by_hand, table.order, table.tiles, K, R, grouped.HEIGHT, 16)
ones = torch.ones(L)
S = grouped.grouped_shrink(x, A, ones, table)
used, mine = int((table.tiles[:, 0] >= 0).sum()), int((ids >= 0).sum())
numbers = 4 * K * (mine + used * R) + 4 * (mine + len(table.tiles) * 3)
print(f"{mine} rows of x once, A for each of {used} tiles, and the table: {numbers:,} bytes; loaded {seen.loaded:,}")
assert seen.loaded == numbers, "each row of x once"
assert torch.allclose(by_hand, S, atol=1e-4), "yours is the library's `grouped_shrink_kernel`, which also scales"

# %% [markdown]
# **expand** multiplies the thin S of its tile with B, and adds the result to these rows of y, in place.
#
# **Predict:** is a row of the base what it was to the last bit, or up to rounding?

# %%
scaling = torch.tensor([0.5, 1.0, 2.0])
out = y.clone()
with traffic() as seen:
    S = grouped.grouped_forward(out, x, A, B, scaling, table)  # both launches
wanted = grouped_lora_reference(y.double(), x.double(), A.double(), B.double(), scaling.double(), ids)
assert (out.double() - wanted).norm() < 1e-6 * wanted.norm(), "float32 rounding, no more"
assert torch.equal(out[ids == -1], y[ids == -1]), "a row of the base is in no tile: not touched at all"

# %% [markdown]
# ## 5. Backward: the same two kernels, and one more
#
# | | forward | backward |
# |:--|:--|:--|
# | shrink | S = s x Aᵀ | dS = s dy B: B in the place of Aᵀ |
# | expand | y += S Bᵀ | dx += dS A: A in the place of Bᵀ |
# | outer | | dB = dyᵀ S and dA = dSᵀ x: a sum over the rows of an adapter |
#
# Nothing is transposed in memory: `.T` only exchanges two **strides** (how far apart neighbours lie), and the kernels take
# strides. So a backward is four launches: shrink, expand, and outer twice.
#
# **Predict:** an adapter without rows in this batch: what is its gradient?

# %%
dy, dx = draw(M, N), torch.zeros(M, K)
dA, dB = grouped.grouped_backward(dy, dx, x, A, B, S, scaling, table)
leaves = [t.double().requires_grad_() for t in (x, A, B)]
exact = torch.autograd.grad(grouped_lora_reference(y.double(), *leaves, scaling.double(), ids), leaves, dy.double())
for name, one, other in zip(("dx", "dA", "dB"), (dx, dA, dB), exact, strict=True):
    assert (one.double() - other).norm() < 2e-6 * other.norm(), f"{name} differs from autograd's"
lonely = tile_table(torch.full((M,), 1), L, grouped.HEIGHT)
S1 = grouped.grouped_shrink(x, A, scaling, lonely)
dA1, _ = grouped.grouped_backward(dy, torch.zeros(M, K), x, A, B, S1, scaling, lonely)
print("gradients of adapters without rows:", float(dA1[0].abs().sum()), float(dA1[2].abs().sum()))
assert not dA1[0].any() and not dA1[2].any(), "zero, and written as zero: the memory was not cleared before"

# %% [markdown]
# ## 6. The same bits every time
#
# Many kernels sum a gradient by **atomic additions**: programs add to one place in whatever order they come. Sums of
# floating-point numbers depend on the order. Here each piece of a gradient belongs to one program, which walks the adapter's rows
# in order.
#
# **Predict:** we add 4096 numbers in 20 random orders, in float32. How many different sums?

# %%
numbers = draw(4096)
orders = [torch.randperm(4096, generator=generator) for _ in range(20)]
sums = {float(numbers[order].numpy().cumsum(dtype="float32")[-1]) for order in orders}  # one after the other
print(f"{len(sums)} different sums, {max(sums) - min(sums):.1e} apart")
again = grouped.grouped_backward(dy, torch.zeros(M, K), x, A, B, S, scaling, table)
assert len(sums) > 3, "addition in floating point is not associative"
assert torch.equal(again[0], dA) and torch.equal(again[1], dB), "(the interpreter has one order anyway: a GPU is the real test)"

# %% [markdown]
# ## 7. Through the library
#
# `mixed_batch` of lesson 06 takes this path by itself only on a GPU where it was measured to win. `use_kernels` overrules that,
# so that we can compare here. (As counted here, the library's two launches are one operation of torch.)
#
# **Predict:** for three adapters and two layers, by which factor does the number of operations fall: 1.5, 5 or 20?

# %%
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(K, N), torch.nn.ReLU(), torch.nn.Linear(N, 10))
names = ["law", "poems", "code"]
for name, r in zip(names, (4, 8, 2), strict=True):
    config = loralib.LoraConfig(r=r, target_modules=["0", "2"], init_lora_weights=False)
    loralib.inject(model, config, adapter_name=name) if name == "law" else loralib.add_adapter(model, config, name)
rows = [names[i % 3] if i % 5 else None for i in range(30)]
results, counted, same = {}, {}, draw(30, K)
for path in ("torch", "triton"):
    with torch.no_grad(), loralib.use_kernels(path), loralib.mixed_batch(model, rows):
        results[path] = model(same)
        counted[path] = sum(count_operations(lambda: model(same)).values())
print(f"operations: {counted['torch']} with the loop, {counted['triton']} with the kernels")
assert counted["triton"] <= 9, "for each layer the base, a copy, and one operation that launches both kernels; and the ReLU"
assert torch.allclose(*results.values(), atol=1e-5), "the loop and the kernels agree"

# %%
figure, axes = plt.subplots(figsize=(7, 3.2))
axes.plot(list(launches), list(launches.values()), "o-", color=COLOURS["head"], label="loop over adapters")
flat = []
for count in launches:
    stacked = torch.zeros(count, R, K), torch.zeros(count, N, R)
    lines = tile_table(torch.arange(M) % count, count, grouped.HEIGHT)
    with count_launches() as started:
        grouped.grouped_forward(draw(M, N), draw(M, K), *stacked, torch.ones(count), lines)
    flat.append(started.launches)
axes.plot(list(launches), flat, "o-", color=COLOURS["lora"], label="grouped kernels")
title = f"A loop needs {launches[64]} launches for 64 adapters, the kernels {flat[-1]}"
axes.set(xlabel="adapters in the batch", ylabel="launches for one layer", title=title)
axes.legend()
show(figure, "launches")
assert flat == [2] * len(launches), "shrink and expand, whatever the number of adapters"

# %% [markdown]
# ## 8. Break it on purpose: a tile of two adapters
#
# **Predict:** we cut tiles of 32 rows without looking at the borders between adapters. Which rows come out wrong: all, some, or
# those behind a border?

# %%
ids = torch.tensor([0] * 20 + [1] * 44)
right = tile_table(ids, L, 32)
careless = torch.tensor([(0, 0, 32), (1, 32, 32)], dtype=torch.int32)  # places 20 to 31 belong to adapter 1
wrong = TileTable(right.order, careless, right.bounds)
outs = []
for cut in (right, wrong):
    out = torch.zeros(M, N)
    grouped.grouped_forward(out, x, A, B, scaling, cut)
    outs.append(out)
bad = [i for i in range(M) if not torch.allclose(outs[0][i], outs[1][i], atol=1e-4)]
print(f"wrong rows: {bad[0]} to {bad[-1]}; all others are right, and no shape is wrong")
assert bad == list(range(20, 32)), "one user's text is written with another user's adapter, and nothing raises"

# %% [markdown]
# This is why the table is made in one place, checked there (`check_ids`), and tested row by row against the loop.
#
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | some rows have another adapter's style | a tile across a border | section 8: compare row by row with the loop |
# | gradients differ from run to run | atomic additions | section 6: run backward twice, `torch.equal` |
# | a captured CUDA graph replays an old batch | the table was made anew elsewhere | copy the new table into the captured one |
# | slower than the loop | few adapters with many rows each | `loralib.explain`, `python -m kernels.bench grouped` |
# | the adapter of a finished request still counts | its rows were not set to -1 | ids of the table |
#
# ## Exercises
#
# Write in [exercises/11_many_adapters_kernel.py](exercises/11_many_adapters_kernel.py), then `python -m tutorials check 11`.
#
# 1. ★ `most_tiles`: how long the table can get.
# 2. ★★ `make_tiles`: the table, from ids.
#    <details><summary>Hint</summary>The base's rows come first: begin at <code>ids.count(-1)</code>.</details>
# 3. ★ `pad_rank`: the rank that a tensor core takes.
#    <details><summary>Hint</summary>`(r - 1).bit_length()` counts the bits of r - 1.</details>
#
# ## Summary
#
# 1. A table of tiles, made once per batch, tells each program its adapter and its rows; the rows of x are not moved.
# 2. Shrink and expand are a forward; with outer they are a backward, for any number of adapters and mixed ranks.
# 3. One program owns each sum, so gradients are the same bits every time.
#
# **Next:** [lesson 12](12_bottleneck_adapters.py), adapters that are small networks.
#
# ## On the real thing
#
# ```bash
# python -m kernels.bench grouped             # on a GPU: against the loop and against one adapter for all rows
# python -m training --task sst2 --model roberta-base --method lora   # adapters for `loralib.mixed_batch`: lesson 06
# ```
