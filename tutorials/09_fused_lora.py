# %% [markdown]
# # 09 · Fused LoRA: a kernel can win little, and counting says how little
#
# **Needs** lesson [01](01_lora_by_hand.py); what a matrix multiplication costs
# · **Read and do** 60 minutes · **Runs in** about 15 s on one CPU thread · **Memory** 2 GB
#
# "Our **fused** LoRA kernel is 4 times faster." (A **kernel** is a function that a GPU runs.
# Fused: one kernel does several operations at once.) Can this be true?
#
# ![Time of the base, and of the passes over large matrices that LoRA adds](diagrams/09_time.svg)
#
# You can answer this without a GPU and without any kernel. On this page you count operations
# and bytes, and you compute how fast a LoRA layer can be at best. Then you compare your numbers
# with measurements on an H200.
#
# After this page: [write a kernel, tile by tile](topics/kernel_by_tiles.py), and [the backward
# pass](topics/kernel_backward.py). To practise, there are [the
# puzzles](kernels_ladder/README.md).

# %% tags=["fold"]
# set-up: imports, our folders, one thread
import sys
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import torch
from matplotlib import pyplot as plt

from kernels.formulas.lora_matmul import lora_forward
from kernels.measure import moved_bytes
from kernels.roofline import Ceilings
from training.reports.records import COLOURS, use_style
from tutorials.answers import true_option
from tutorials.show import show, show_table

torch.set_num_threads(1)
use_style()
generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## 1. LoRA adds few operations
#
# The layer computes $y = x W^\top + s\,(x A^\top) B^\top$. Let $x$ have M rows (tokens) and K
# columns, and $y$ N columns. A multiplication of an M × K and a K × N matrix needs $2 M K N$
# operations: one multiplication and one addition for each of $M K N$ terms.
#
# ??? Take M = 8192 tokens, K = N = 4096 and r = 16. How many operations does LoRA add?
# - [x] about 1 % || r (K + N) against K N: 16 · 8192 against 16,777,216.
# - [ ] about 10 % || r is much smaller than K and N.
# - [ ] about 100 % || It adds two matrix multiplications, but both are thin.

# %%
M, K, N, r = 8192, 4096, 4096, 16
base_operations = 2 * M * K * N
lora_operations = 2 * M * r * (K + N)
print(f"LoRA adds {lora_operations / base_operations:.2%} of the operations")

# %% tags=["fold"]
# check
share = lora_operations / base_operations
true_option(share < 0.02, 0.05 < share < 0.2, share > 0.5)
assert share == r * (K + N) / (K * N), "r (K + N) / (K N): M cancels"

# %% [markdown]
# ## 2. LoRA moves many bytes
#
# A GPU also has to read and write memory. Written step by step, the layer writes the result of
# each operation to memory, and the next operation reads it again. `moved_bytes` runs a function
# and adds up the bytes that its operations read and write.
#
# ??? `step_by_step` below computes x Wᵀ first. Then it computes the LoRA term, multiplies it by
#   s, and adds it. How many times does this read or write a matrix as large as x or y, in
#   addition to the base?
# - [ ] 1 time || The LoRA term alone has to be written once.
# - [ ] 3 times || Count: write the term; read and write it for the scale; read two and write
#   one for the sum.
# - [x] about 7 times || 1 + 2 + 3 = 6, and x is read again for x Aᵀ (x is as large as y here).

# %%
m, k, n = 512, 256, 256  # small sizes; r stays 16
x, W, A, B = (
    torch.randn(shape, generator=generator) for shape in ((m, k), (n, k), (r, k), (n, r))
)


def step_by_step():
    return x @ W.T + 0.5 * ((x @ A.T) @ B.T)  # (m, n) + s · (m, r) (r, n)


def in_place():
    y, _ = lora_forward(
        x, W, None, A, B, 0.5, ((0, n),)
    )  # `addmm_` adds into y, with the scale
    return y


base = moved_bytes(lambda: x @ W.T)
one_pass = 4 * m * n  # bytes of one M × N matrix in float32
passes = {f.__name__: (moved_bytes(f) - base) / one_pass for f in (step_by_step, in_place)}
for name, count in passes.items():
    print(f"{name:12} {count:.1f} passes over an M × N matrix more than the base")

# %% tags=["fold"]
# check
eager = passes["step_by_step"]
true_option(eager < 2, 2.5 < eager < 3.5, 6.5 < eager < 7.6)
assert 3 < passes["in_place"] < 3.6, "read x; read and write y: is an operation too many?"
assert torch.allclose(step_by_step(), in_place(), rtol=1e-4, atol=1e-3), "two ways, one result"

# %% [markdown]
# PyTorch's `addmm_` adds the LoRA term directly into $y$. That is 3 passes, and it is the
# honest baseline for any kernel. Our fused form is two kernels. The first reads $x$ once more,
# for $x A^\top$; the second computes $y$ with the LoRA term in it. So it needs only one extra
# pass.
#
# ![Passes over a large matrix: written step by step 7, in place 3, fused 1](diagrams/09_passes.svg)
#
#
# ## 3. How much faster can it be at best?
#
# A GPU has two limits: operations per second, and bytes per second. An algorithm needs at least
# the larger of two times: operations divided by speed, and bytes divided by **bandwidth**
# (bytes per second). This is the **roofline** (Williams et al. 2009).
#
# For an H200 we assume 790 · 10¹² operations per second in bfloat16 (2 bytes per number), and
# 4.3 · 10¹² bytes per second: 80 % and 90 % of its data sheet. (The paper draws operations per
# second over operations per byte; we write the same two limits as times.) Each PyTorch
# operation is a kernel of its own. They run one after the other, so their times add up. Inside
# one kernel the larger time counts. The base is limited by its operations, and the extra passes
# by their bytes.
#
# ??? The base of section 1 takes about 350 µs. One pass over an M × N matrix takes 16 µs. How
#   many times faster than step by step is the fused form, if both run at their limits?
# - [ ] 4 times || Both ways need the 350 µs of the base.
# - [ ] 7 times || Only the extra passes become 7 times fewer.
# - [x] about 1.26 times || (350 + 7 · 16) / (350 + 16).

# %%
h200 = Ceilings(bandwidth=4.3e12, flops=790e12)
bf16 = 2  # bytes per number
base_time = h200.floor(base_operations, bf16 * (M * K + K * N + M * N))  # seconds
times = {
    name: base_time + count * bf16 * M * N / h200.bandwidth
    for name, count in (("step by step", 7), ("in place", 3), ("fused", 1))
}
for name, seconds in times.items():
    print(f"{name:12} {1e6 * seconds:.0f} µs at least: {seconds / times['fused']:.2f} × fused")

# %% tags=["fold"]
# check
best = times["step by step"] / times["fused"]
true_option(best > 3.5, best > 6.5, 1.2 < best < 1.3)
assert 1.05 < times["in place"] / times["fused"] < 1.12, (
    "against the honest baseline: about 9 %"
)

# %% [markdown]
# So if all of them run at their limits, a fused kernel is 1.26 times faster than step by step,
# and 1.09 times faster than in place. "4 times" would need a baseline that is far above its own
# limit. There is also a warning in this: a kernel whose own x Wᵀ is 9 % slower than that of
# NVIDIA's library (cuBLAS) has already lost.
#
# ## 4. Where is more to win?
#
# The extra passes cost bytes. The base costs operations. Their ratio depends on the width of
# the layer.
#
# ??? For which layer can fusing win more: 768 → 768, or 8192 → 8192?
# - [x] 768 → 768 || Operations grow with the square of the width, the extra bytes only with the
#   width. So in a narrow layer the extra passes weigh more.
# - [ ] 8192 → 8192 || There the base has so many operations that the extra bytes hardly matter.
# - [ ] both the same || The bytes grow like M (K + N), the operations like M K N.

# %%
layers = {f"{width}→{width}": (width, width) for width in (768, 2048, 4096, 8192)}
extra = {
    "step by step": (1, 6),
    "in place": (1, 2),
    "fused": (1, 0),
}  # passes over x and over y
gains = {}
for layer, (d_in, d_out) in layers.items():
    numbers = M * (d_in + d_out) + d_in * d_out
    alone = h200.floor(2 * M * d_in * d_out, bf16 * numbers)
    more = {
        way: bf16 * M * (of_x * d_in + of_y * d_out) / h200.bandwidth
        for way, (of_x, of_y) in extra.items()
    }
    gains[layer] = {way: (alone + more[way]) / (alone + more["fused"]) for way in extra}
    gain = gains[layer]["step by step"]
    print(f"{layer:11} fused can be {gain:.2f} times faster than step by step")

# %% tags=["fold"]
# plot: how much a perfect kernel can win
figure, panel = plt.subplots(figsize=(7, 3))
ways = (("step by step", "peft"), ("in place", "random"))
for offset, (way, colour) in zip((-0.2, 0.2), ways, strict=True):
    heights = [gain[way] for gain in gains.values()]
    places = [i + offset for i in range(len(gains))]
    bars = panel.bar(places, heights, 0.36, color=COLOURS[colour], label=f"faster than {way}")
    panel.bar_label(bars, fmt="%.2f", padding=2)
panel.axhline(1, color="black", linewidth=1)
panel.set_xticks(range(len(gains)), list(gains))
panel.set(title="the wider the layer, the less a kernel can win", ylim=(0, 3))
panel.set(ylabel="times faster, at best", xlabel="layer (r = 16, 8192 tokens)")
panel.legend()
show(figure, "09_gains")

# %% tags=["fold"]
# check
narrow, wide = gains["768→768"]["step by step"], gains["8192→8192"]["step by step"]
true_option(narrow > wide + 0.1, wide > narrow + 0.1, abs(narrow - wide) < 0.1)
assert all(gain["in place"] >= 1 for gain in gains.values()), (
    "a form has fewer passes than fused"
)

# %% [markdown]
# (These are limits by arithmetic. For narrow layers we have no measurement.)
#
# ## 5. Break it on purpose: only one limit
#
# Somebody writes a roofline with operations only. When a model writes text, it handles one
# token at a time: M = 1.
#
# ??? How wrong is the time that operations alone predict for one token and a layer of 4096 ×
#   4096?
# - [ ] hardly: operations are what a GPU does || For one token, W is read once and used once.
# - [ ] 2 times too small || Compare 2 · 4096² operations with 2 · 4096² bytes, at 790 and 4.3 ·
#   10¹² per second.
# - [x] more than 100 times too small || Reading W takes 790/4.3 times longer than computing
#   with it.

# %%
operations, size = 2 * 1 * K * N, bf16 * (K * N + K + N)
by_operations, by_bytes = operations / h200.flops, size / h200.bandwidth
print(f"operations alone: {1e6 * by_operations:.2f} µs, bytes: {1e6 * by_bytes:.2f} µs")

# %% tags=["fold"]
# check
wrong = by_bytes / by_operations
true_option(wrong < 1.5, 1.5 < wrong < 3, wrong > 100)
assert h200.floor(operations, size) == by_bytes, "the roofline is the larger of the two"

# %% [markdown]
# This is also why a weight in 4 bits promises so much when a model writes text ([lesson
# 10](10_nf4_kernels.py)).
#
# ## 6. What the H200 measured
#
# Our kernels were measured on one H200. Each number is our time divided by another time, so
# below 1 ours is faster.
#
# ??? In section 3, a fused layer at its limit was 1.09 times faster than in place at its limit.
#   So with many tokens we expect at least 0.92 of its time. What did our kernels reach for 4096
#   and 8192 tokens?
# - [ ] 0.5 to 0.7 || Then PyTorch's in-place form would be far from its own limit. With many
#   tokens it is not.
# - [x] 0.93 to 0.99 || Between the limit and no win.
# - [ ] more than 1 || Then our x Wᵀ would be about 9 % slower than cuBLAS, or more. It is not.

# %% tags=["fold"]
# table: from the committed report of the H200
show_table(
    "kernels/results/nvidia-h200/summary.md#LoRA; over torch; over the library; share of the limit"
)

# %% tags=["fold"]
# check: the row of long batches, read from the same table
import re

summary = (ROOT / "kernels/results/nvidia-h200/summary.md").read_text()
row = re.search(r"LoRA forward, 4096 and 8192 tokens \| \d+ \| ([\d.]+) to ([\d.]+)", summary)
low, high = float(row[1]), float(row[2])
true_option(high < 0.8, 0.9 < low < high < 1, low > 1)
assert low > 0.88, "faster than the limit: is it another row?"

# %% [markdown]
# "Over torch" is the honest baseline, in place. "The library" is peft. With 1 and 16 tokens the
# ratios are lower than the limits say, because there PyTorch's three launches are far from
# their own limit. The limit is the roofline at the speed that this GPU reached. A layer uses a
# kernel only where it was measured to be faster, so with 64 to 512 tokens it mostly uses
# PyTorch. [The backward pass](topics/kernel_backward.py) shows how it decides.
#
# ## The same in peft
#
# peft's layer is written step by step. Its bytes are those of `step_by_step`:

# %% tags=["fold"]
# the same in peft: bytes of its LoRA layer
import logging

logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # it looks for a GPU
from peft import LoraConfig, get_peft_model

layer = torch.nn.Linear(k, n, bias=False)
peft_model = get_peft_model(torch.nn.Sequential(layer), LoraConfig(r=r, target_modules=["0"]))
with torch.no_grad():
    peft_passes = (moved_bytes(lambda: peft_model(x)) - base) / one_pass
assert 6.5 < peft_passes < 8.5, "peft has changed how it computes"
print(f"peft: {peft_passes:.1f} passes more than the base")

# %% [markdown]
# ## Find the bug
#
# A colleague measures a kernel on a GPU, and it is 50 times faster than the roofline allows.
#
# ```python
# start = time.perf_counter()
# y = fused_lora(x, W, A, B)
# print(time.perf_counter() - start)
# ```
#
# ??? What is wrong?
# - [ ] One run is not enough. || True, but it does not explain 50 times.
# - [x] The GPU is not finished when the clock stops. || PyTorch only starts the work and goes
#   on. `torch.cuda.synchronize()` waits for it.
# - [ ] `perf_counter` is too coarse. || It counts nanoseconds.
#
# ## Quiz
#
# ??? How many operations does a multiplication of a 100 × 200 and a 200 × 300 matrix need?
# - [ ] 6,000,000 || Each term has a multiplication and an addition.
# - [x] 12,000,000 || 2 · 100 · 200 · 300.
# - [ ] 60,000 || That is the size of the second matrix.
#
# ??? A layer needs 100 µs for its operations, and 40 µs for its bytes. How fast can it be at
#   best?
# - [ ] 40 µs || The operations take longer.
# - [x] 100 µs || The larger of the two.
# - [ ] 140 µs || A GPU reads and computes at the same time.
#
# ??? Which baseline is honest for a fused LoRA kernel?
# - [ ] step by step || A user of PyTorch can write the faster form in one line.
# - [ ] the layer on a CPU || That says nothing about the kernel.
# - [x] in place, with `addmm_` || It is the best that plain PyTorch does.
#
# ??? Your kernel needs a third of the time that the roofline allows. What do you do?
# - [ ] publish it || The limit is physics.
# - [ ] use larger tiles || The measurement is the problem.
# - [x] look for an error in the measurement || Or in the number of bytes and operations.
#
# ??? One token at a time: what limits a layer of 4096 × 4096?
# - [x] reading the weight || Each weight is read once and used once.
# - [ ] the multiplications || They take less than a hundredth of the time.
# - [ ] writing y || y has 4096 numbers, W has 16 million.

# %% tags=["fold"]
# check of the first two answers
assert 2 * 100 * 200 * 300 == 12_000_000, "two operations for each term"
assert Ceilings(bandwidth=1.0, flops=1.0).floor(100e-6, 40e-6) == 100e-6, (
    "the larger of the two"
)

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | a time below the limit | the GPU was not finished, or wrong counts | sections 2 and 3 |
# | a very large speed-up | the baseline is far from its own limit | measure its share of the limit |
# | a fused kernel is slower than PyTorch | its own x Wᵀ is slower than cuBLAS | section 3: 9 % decides |
# | a kernel wins with 1 to 16 tokens, but not with 64 | one launch in place of three; then cuBLAS is very good | section 6 |
# | `pip install kernels` is advised at the start | bitsandbytes finds our folder `kernels` | harmless: do not install it |
#
# ## Exercises
#
# Write in [exercises/09_fused_lora.py](exercises/09_fused_lora.py), then run
# `python -m tutorials check 09`.
#
# 1. ★ `extra_bytes`: what LoRA moves in addition to the base, in three forms.
#    <details><summary>Hint</summary>Count the passes of section 2 over x and over y separately.</details>
# 2. ★★ `tile_loads`: how many bytes the programs of a tiled matrix multiplication load. (Read
#    sections 1 and 2 of [a kernel, tile by tile](topics/kernel_by_tiles.py) first.)
#    <details><summary>Hint</summary>How many programs are there, and how many rows of length K does
#    each one load?</details>
# 3. ★★★ `add_kernel`: your first kernel: x + s · z for vectors of any length.
#    <details><summary>Hint</summary>First solve the puzzles 01 and 02 of the ladder.</details>
#
# **Change and measure:** in section 3, use K = N = 2048 in place of 4096. Does the possible
# gain become larger or smaller?
#
# ## Summary
#
# 1. LoRA adds 1 % of the operations, but written step by step it makes 7 passes over large
#    matrices.
# 2. For a 4096 → 4096 layer and 8192 tokens, with both at their limits, a fused kernel is 1.26
#    times faster than step by step, and 1.09 times than in place.
# 3. Compare with the best plain PyTorch. A time below the limit is an error; a large speed-up
#    may mean a slow baseline.
#
# **Next:** [a kernel, tile by tile](topics/kernel_by_tiles.py).
#
# More: [the backward pass](topics/kernel_backward.py) · [lesson 10](10_nf4_kernels.py) ·
# [kernel puzzles](kernels_ladder/README.md) · [glossary](GLOSSARY.md)
#
# ## On the real thing
#
# On a GPU, the first command compares with peft and with the bare layer. Here it times the CPU
# forms. The last one needs a network:
#
# ```bash
# python -m kernels.bench lora
# python -m kernels.bench builds
# python -m training --task sst2 --model roberta-base --method lora
# ```
