# %% [markdown]
# # 11 · Many adapters in two launches: sort the numbers, not the examples
#
# **Needs** lessons [06](06_many_adapters.py) and [09](09_fused_lora.py)
# · **Read and do** 45 minutes · **Runs in** about 15 s on one CPU thread · **Memory** 2 GB
#
# A server has one base model and 64 adapters. In each batch, each example says which of the
# adapters it wants. A loop over the adapters starts many small kernels. Is there a better way?
#
# ![Examples are sorted by adapter and cut into tiles; each program gets one line of a table](diagrams/11_table.svg)
#
# Yes: sort the *numbers* of the examples by adapter, and give each program a line of a **table
# of tiles**. On this page you build this table by hand, and a kernel that uses it. Then two
# launches serve any number of adapters.

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

import loralib
from kernels.formulas.grouped_lora import (
    TileTable,
    grouped_lora_reference,
    stack_adapters,
    tile_table,
)
from kernels.measure import count_operations
from kernels.triton_kernels import grouped_lora_triton as grouped
from training.reports.records import COLOURS, use_style
from tutorials.answers import true_option
from tutorials.interpreted import count_launches, traffic
from tutorials.show import show, show_table

torch.set_num_threads(1)
use_style()
generator = torch.Generator().manual_seed(0)
M, K, N = 64, 64, 40  # examples, d_in, d_out


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator)


# %% [markdown]
# ## 1. What a loop costs
#
# On a GPU, each operation is at least one **launch**: it takes some microseconds to start,
# whatever it computes. `count_operations` counts the operations of the loop of lesson 06. For
# each adapter it compares, lists the examples, picks them, multiplies twice, and adds.
#
# ??? How many operations does the loop need for 64 adapters?
# - [ ] 64 || Each adapter needs more than one operation.
# - [x] 384 || 6 for each adapter.
# - [ ] 4,096 || That would be 64 for each adapter.


# %%
def looped(x, y, As, Bs, ids):
    for a, (A, B) in enumerate(zip(As, Bs, strict=True)):
        chosen = (ids == a).nonzero().view(-1)
        y.index_add_(0, chosen, x[chosen] @ A.T @ B.T)


launches = {}
for L in (1, 8, 16, 32, 64):  # adapters
    As, Bs = [random(4, K) for _ in range(L)], [random(N, 4) for _ in range(L)]
    x, y, ids = random(M, K), random(M, N), torch.arange(M) % L
    arguments = (x, y, As, Bs, ids)
    launches[L] = sum(count_operations(lambda arguments=arguments: looped(*arguments)).values())
print("adapters  ", *(f"{L:4}" for L in launches))
print("operations", *(f"{count:4}" for count in launches.values()))

# %% tags=["fold"]
# check
true_option(launches[64] == 64, launches[64] == 384, launches[64] == 4096)
assert launches[64] == 64 * launches[1], "is something counted outside the loop?"

# %% [markdown]
# ## 2. The table of tiles, by hand
#
# A program of a kernel takes a tile of examples and multiplies it with *one* adapter. So we
# sort the numbers of the examples by adapter. (The examples themselves stay where they are.)
# Then we cut the examples of each adapter into tiles. A tile never contains two adapters. An id
# of -1 means: the base model alone.
#
# ??? ids = [1, 0, 1, -1, 1, 1, 0, 1], and a tile has at most 2 examples. How many tiles are
#   there?
# - [ ] 3 || Adapter 1 has five examples.
# - [x] 4 || One for adapter 0, three for adapter 1. The example of the base is in no tile.
# - [ ] 5 || The base needs no tile: nothing is added to it.

# %%
ids, height = torch.tensor([1, 0, 1, -1, 1, 1, 0, 1]), 2
order = torch.argsort(ids, stable=True).tolist()
tiles = []  # (adapter, first place in `order`, number of examples)
for a in (0, 1):
    places = [place for place, example in enumerate(order) if ids[example] == a]
    for i in range(0, len(places), height):
        tiles.append((a, places[i], min(height, len(places) - i)))
print("tiles (adapter, first place, number):", tiles)

# %% tags=["fold"]
# check: against the library's table
true_option(len(tiles) == 3, len(tiles) == 4, len(tiles) == 5)
table = tile_table(ids, adapters=2, height=height)
assert order == table.order.tolist(), "another order: is the sort stable?"
assert tiles == [tuple(line) for line in table.tiles.tolist() if line[0] >= 0], "other tiles"
assert len(table.tiles) == 8 // 2 + 2, "M // height + L lines, filled up with adapter -1"

# %% [markdown]
# For M examples and L adapters, the library's table always has M // height + L lines, filled up
# with adapter -1. So all batches of M examples start the same number of programs.
#
# Adapters of different ranks lie in one tensor, A with shape (L, R, K). A smaller rank is
# filled up with zeros, and zeros add nothing. R is a power of two and at least 16, because the
# kernel's `tl.dot` needs that.
#
# ## 3. A kernel that reads the table
#
# A program of `shrink` reads its line: adapter, first place, number of examples. It fetches
# these examples of $x$, wherever they are, and multiplies them with its adapter's $A$.


# %%
@triton.jit
def shrink(x, a, s, order, tiles, K: tl.constexpr, R: tl.constexpr, HEIGHT: tl.constexpr):
    line = tiles + tl.program_id(0) * 3  # adapter, first place, number of examples
    adapter, first, count = tl.load(line), tl.load(line + 1), tl.load(line + 2)
    if adapter < 0:  # a line that only fills the table
        return
    places, ranks, depth = tl.arange(0, HEIGHT), tl.arange(0, R), tl.arange(0, K)
    inside = places < count
    rows = tl.load(order + first + places, mask=inside, other=0)
    x_tile = tl.load(x + rows[:, None] * K + depth[None, :], mask=inside[:, None], other=0.0)
    a_tile = tl.load(a + adapter * R * K + ranks[None, :] * K + depth[:, None])  # a tile of Aᵀ
    low = tl.dot(x_tile, a_tile)  # (HEIGHT, R)
    tl.store(s + (first + places)[:, None] * R + ranks[None, :], low, mask=inside[:, None])


# %% [markdown]
# ??? 64 examples ask for 3 adapters or for the base; a tile has up to 32 examples. An example
#   asks for an adapter. How often is its row of x loaded?
# - [x] once || Each example is in exactly one tile.
# - [ ] 3 times, once for each adapter || A program loads only the examples of its line.
# - [ ] 32 times || A tile is loaded as a whole, by one program.

# %%
L, R = 3, 16
A, B = stack_adapters(
    [random(r, K) for r in (4, 8, 2)], [random(N, r) for r in (4, 8, 2)], rank=R
)
ids = torch.randint(-1, L, (M,), generator=generator)
x = random(M, K)
table = tile_table(ids, L, grouped.HEIGHT)  # up to 32 examples in a tile
S = torch.zeros(M, R)
with traffic() as counted:
    shrink[(len(table.tiles),)](x, A, S, table.order, table.tiles, K, R, grouped.HEIGHT)
examples, used = int((ids >= 0).sum()), int((table.tiles[:, 0] >= 0).sum())
numbers = used * R * K + examples + 3 * len(table.tiles)  # A for each tile, `order`, the table
per_example = (counted.loaded / 4 - numbers) / (examples * K)
print(f"{examples} examples in {used} tiles; each one is loaded {per_example:.0f} time")

# %% tags=["fold"]
# check: the loads, and the values against the library's kernel
true_option(per_example == 1, per_example == 3, per_example == 32)
library = grouped.grouped_shrink(x, A, torch.ones(L), table)
assert torch.allclose(S, library, atol=1e-4), "is another adapter's A used?"

# %% [markdown]
# A second kernel, `expand`, multiplies the thin S of each tile with $B$ and adds the result to
# these rows of $y$. So forward is two launches, for any number of adapters. The backward pass
# uses the same two kernels with exchanged roles, and one more ([deep
# dive](deep/11_many_adapters_kernel.py)).
#
# ??? An example asks for the base alone (id -1). After both launches, is its row of y
#   unchanged?
# - [x] yes, bit for bit || It is in no tile, so no program touches it.
# - [ ] yes, up to rounding || Nothing is added to it, not even a zero.
# - [ ] no || Then the base would have changed.

# %%
scaling, y = torch.tensor([0.5, 1.0, 2.0]), random(M, N)
out = y.clone()
with count_launches() as started:
    grouped.grouped_forward(out, x, A, B, scaling, table)
same = torch.equal(out[ids == -1], y[ids == -1])
print(f"{started.launches} launches; the rows of the base are unchanged: {same}")

# %% tags=["fold"]
# check: against the definition in float64
changed = (out[ids == -1] - y[ids == -1]).abs().max()
true_option(same, 0 < changed < 1e-5, changed > 1e-5)
exact = grouped_lora_reference(
    y.double(), x.double(), A.double(), B.double(), scaling.double(), ids
)
assert (out.double() - exact).norm() < 1e-6 * exact.norm(), "is each adapter's own scale used?"

# %% tags=["fold"]
# plot: launches of the loop and of the kernels
grouped_launches = []
for count in launches:
    stacked = torch.zeros(count, R, K), torch.zeros(count, N, R)
    lines = tile_table(torch.arange(M) % count, count, grouped.HEIGHT)
    with count_launches() as started:
        grouped.grouped_forward(random(M, N), random(M, K), *stacked, torch.ones(count), lines)
    grouped_launches.append(started.launches)
figure, panel = plt.subplots(figsize=(7, 2.8))
panel.plot(
    list(launches),
    list(launches.values()),
    "o-",
    color=COLOURS["head"],
    label="loop over the adapters",
)
panel.plot(
    list(launches), grouped_launches, "o-", color=COLOURS["lora"], label="grouped kernels"
)
panel.set(title="two launches, whatever the number of adapters", ylim=(0, None))
panel.set(xlabel="adapters in the batch", ylabel="launches for one layer")
panel.legend()
show(figure, "11_launches")
assert grouped_launches == [2] * len(launches), "shrink and expand"

# %% [markdown]
# ## 4. Break it on purpose: a tile with two adapters
#
# Somebody cuts tiles of 32 examples and does not look at the borders between adapters. Adapter
# 0 has 20 examples, adapter 1 has 44.
#
# ??? Which examples get a wrong result?
# - [ ] all of them || The examples 0 to 19 and 32 to 63 still meet their own adapter.
# - [x] the examples 20 to 31 || They belong to adapter 1, but their tile uses adapter 0.
# - [ ] none, because all shapes are right || The shapes are right, and nothing raises an error.

# %%
ids = torch.tensor([0] * 20 + [1] * 44)
right = tile_table(ids, L, 32)
careless = torch.tensor([(0, 0, 32), (1, 32, 32)], dtype=torch.int32)
results = []
for cut in (right, TileTable(right.order, careless, right.bounds)):
    out = torch.zeros(M, N)
    grouped.grouped_forward(out, x, A, B, scaling, cut)
    results.append(out)
wrong = [i for i in range(M) if not torch.allclose(results[0][i], results[1][i], atol=1e-4)]
print(f"wrong: the examples {wrong[0]} to {wrong[-1]}")

# %% tags=["fold"]
# check
true_option(len(wrong) == M, wrong == list(range(20, 32)), not wrong)
assert torch.allclose(results[0][32:], results[1][32:], atol=1e-4), (
    "is the second tile's adapter not 1, or its first place not 32?"
)

# %% [markdown]
# One user gets a text with another user's adapter, and nothing complains. This is why the table
# is made in one place, its ids are checked (`check_ids`), and its tiles are tested example by
# example against the loop.
#
# ## 5. What the H200 measured
#
# ??? 8 adapters with 64 examples each, on an H200. How long do the grouped kernels take,
#   compared with the *same two kernels* and one adapter for all 512 examples? (The update
#   alone; the tables are made before.)
# - [ ] 8 times as long || A loop needed about 7 times as long.
# - [ ] 2 times as long || There are two launches in both cases.
# - [x] about 1.05 times as long || Equal numbers of examples and launches. Only more A and B
#   are read.

# %% tags=["fold"]
# table: from the committed report of the H200
show_table(
    "kernels/results/nvidia-h200/summary.md#Many adapters; over torch; over the bare layer; share of the limit"
)

# %% tags=["fold"]
# check: this row, from the same table
import re

summary = (ROOT / "kernels/results/nvidia-h200/summary.md").read_text()
row = re.search(
    r"8 adapters × 64 examples in one launch \|.*\| ([\d.]+) to ([\d.]+) \|", summary
)
high = float(row[2])
true_option(high > 6, 1.5 < high < 3, 1 < high < 1.2)
assert high > 1, "faster than one adapter: were equal examples timed?"

# %% [markdown]
# ("In one launch" in the table means: without a loop. It is the two launches of section 3.) In
# this row, "over torch" is the loop: the kernels need 0.14 to 0.16 of its time. "The bare
# layer" is one adapter in the same kernels. With 512 examples, an ordinary layer with one
# adapter was 1.4 to 1.7 times faster still ([report](../kernels/results/nvidia-h200/report.md),
# [first run](../kernels/results/nvidia-h200/first_run/report.md)), so a small batch with one
# adapter should use that one.
#
# ## The same in the library
#
# `mixed_batch` of lesson 06 takes these kernels on a GPU where they were measured to be faster.
# peft has a loop (`adapter_names` in its forward). [Punica](https://arxiv.org/abs/2310.18547)
# and [S-LoRA](https://arxiv.org/abs/2311.03285) (2023) have the same idea for serving.
# (Punica's SGMV has the same two steps; ours also fetches the examples where they are, with
# `order`.) Here the library's two paths (each layer's two launches count as one operation):

# %% tags=["fold"]
# the same in the library: the loop and the kernels
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(K, N), torch.nn.ReLU(), torch.nn.Linear(N, 10))
names = ["law", "poems", "code"]
for name, r in zip(names, (4, 8, 2), strict=True):
    config = loralib.LoraConfig(r=r, target_modules=["0", "2"], init_lora_weights=False)
    if name == "law":
        loralib.inject(model, config, adapter_name=name)
    else:
        loralib.add_adapter(model, config, name)
asked = [names[i % 3] if i % 5 else None for i in range(30)]
x30, by_path, operations = random(30, K), {}, {}
for path in ("torch", "triton"):
    with torch.no_grad(), loralib.use_kernels(path), loralib.mixed_batch(model, asked):
        by_path[path] = model(x30)
        operations[path] = sum(count_operations(lambda: model(x30)).values())
assert torch.allclose(*by_path.values(), atol=1e-5), "the loop and the kernels must agree"
print(
    f"operations: {operations['torch']} with the loop, {operations['triton']} with the kernels"
)

# %% [markdown]
# ## Find the bug
#
# This code sorts the examples of a batch by adapter. The answers come back to the wrong users.
#
# ```python
# order = torch.argsort(ids)
# y_sorted = grouped_forward(x[order], ids[order])
# return y_sorted
# ```
#
# ??? What is wrong?
# - [ ] `argsort` must sort in descending order. || The direction does not matter.
# - [x] The results are in sorted order. || They have to go back: `y[order] = y_sorted`. Our
#   kernels avoid this: they read and write the rows where they are.
# - [ ] `ids[order]` is not needed. || The kernel needs to know each example's adapter.
#
# ## Quiz
#
# ??? 100 examples, 10 adapters, tiles of 32. How many lines has the library's table?
# - [ ] 10 || An adapter can have more than one tile.
# - [x] 13 || 100 // 32 + 10.
# - [ ] 100 || A line is for a tile, not for an example.
#
# ??? Adapters of rank 4, 8 and 2 are stacked with rank 16. What do the added zeros change?
# - [x] nothing in the result || They cost a little memory and time.
# - [ ] They make the update smaller. || Zero times something is zero, and the rest stays.
# - [ ] They need training. || They stay zero.
#
# ??? Why are the numbers of the examples sorted, and not the examples?
# - [ ] Numbers are easier to sort. || Both are easy.
# - [x] Moving the examples would read and write all of x. || The kernel fetches them from where
#   they are.
# - [ ] The order of the examples must be random. || It does not matter.
#
# ??? A small batch has one adapter for all examples. What is better than the grouped kernels?
# - [ ] a loop || It has one round here, but also its extra operations.
# - [ ] nothing || The table is not needed at all.
# - [x] the ordinary LoRA layer || It needs no table (section 5: 1.4 to 1.7 times faster).
#
# ??? An adapter has no example in this batch. What is its gradient?
# - [ ] undefined || The kernel writes it.
# - [x] zero || And it must be *written* as zero, because the memory was not cleared before.
# - [ ] the one of the last batch || That is the bug if nobody writes it.

# %% tags=["fold"]
# check of the first and the last answer
assert len(tile_table(torch.arange(100) % 10, 10, 32).tiles) == 100 // 32 + 10, (
    "M // height + L"
)
lonely = tile_table(torch.full((M,), 1), L, grouped.HEIGHT)
S1 = grouped.grouped_shrink(x, A, scaling, lonely)
dA, _ = grouped.grouped_backward(random(M, N), torch.zeros(M, K), x, A, B, S1, scaling, lonely)
assert not dA[0].any() and not dA[2].any(), "adapters without examples have a gradient of zero"

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | some examples get another adapter | a tile across a border | section 4: compare with the loop |
# | answers go to the wrong users | the results stay in sorted order | "Find the bug" |
# | a captured CUDA graph repeats an old batch | the table was made anew elsewhere | compare with the loop after a second batch |
# | slower than one ordinary adapter | a small batch, all with the same adapter | use the ordinary layer (section 5) |
#
# ## Exercises
#
# Write in [exercises/11_many_adapters_kernel.py](exercises/11_many_adapters_kernel.py), then
# run `python -m tutorials check 11`. The puzzle 12 of the [ladder](kernels_ladder/README.md) is
# the kernel of section 3.
#
# 1. ★ `most_tiles`: how long the table can become.
#    <details><summary>Hint</summary>Full tiles: M // height at most. How many tiles are not
#    full?</details>
# 2. ★★ `make_tiles`: the table, from ids.
#    <details><summary>Hint</summary>The examples of the base come first: begin at
#    <code>ids.count(-1)</code>.</details>
# 3. ★ `pad_rank`: the rank that a tensor core takes.
#    <details><summary>Hint</summary><code>(r - 1).bit_length()</code> counts the bits of r − 1.
#    </details>
#
# **Change and measure:** in section 3, use 64 adapters with one example each. How many bytes of
# A are loaded now, compared with x?
#
# ## Summary
#
# 1. A table of tiles says for each program its adapter and its examples. The examples are not
#    moved.
# 2. Two launches serve any number of adapters, of any rank.
# 3. A tile across a border gives wrong answers without an error. Make the table in one place,
#    and test it.
#
# **Next:** [lesson 12](12_bottleneck_adapters.py), adapters that are small networks.
#
# More: [deep dive](deep/11_many_adapters_kernel.py) (backward, the same bits every time) ·
# [glossary](GLOSSARY.md)
#
# ## On the real thing
#
# On a GPU, the first command compares with the loop and with one adapter for all examples:
#
# ```bash
# python -m kernels.bench grouped
# python -m training --task sst2 --model roberta-base --method lora
# ```
