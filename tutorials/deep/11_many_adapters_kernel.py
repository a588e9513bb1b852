# %% [markdown]
# # 11 · Deep dive: train many adapters, with the same bits every time
#
# **Needs** [lesson 11](../11_many_adapters_kernel.py) · **Read and do** 25 minutes
# · **Runs in** about 15 s on one CPU thread · **Memory** 2 GB
#
# The core page used two kernels for the forward pass. This page adds the backward pass, and
# shows why one program should own each sum. (The idea of grouping rows is that of Punica, Chen
# et al. 2023, and S-LoRA, Sheng et al. 2023. They serve; ours also trains.)

# %% tags=["fold"]
# set-up: the interpreter, imports, our folders, three adapters
import os
import sys
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders
os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when a kernel is defined

import torch

from kernels.formulas.grouped_lora import grouped_lora_reference, stack_adapters, tile_table
from kernels.triton_kernels import grouped_lora_triton as grouped
from tutorials.answers import true_option
from tutorials.interpreted import count_launches

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator)


M, K, N, L, R = 64, 48, 40, 3, 16
ranks = (4, 8, 2)
As, Bs = [random(r, K) for r in ranks], [random(N, r) for r in ranks]
A, B = stack_adapters(As, Bs, rank=R)
x, y, dy = random(M, K), random(M, N), random(M, N)
ids = torch.randint(-1, L, (M,), generator=generator)
scaling = torch.tensor([0.5, 1.0, 2.0])
table = tile_table(ids, L, grouped.HEIGHT)
S = grouped.grouped_forward(y.clone(), x, A, B, scaling, table)

# %% [markdown]
# ## 1. Different ranks in one stack
#
# ??? Ranks 4, 8 and 2 in a stack of rank 16: which part of A is zeros?
# - [ ] 10 % || Only 14 of 48 rows are used.
# - [ ] 50 % || That would be a mean rank of 8.
# - [x] 71 % || 1 − (4 + 8 + 2) / 48.

# %%
zeros = (A == 0).float().mean().item()
print(f"stacked: A {tuple(A.shape)}, B {tuple(B.shape)}; {zeros:.0%} of A is zeros")

# %% tags=["fold"]
# check: zeros change no result
true_option(zeros < 0.2, 0.4 < zeros < 0.6, 0.65 < zeros < 0.75)
for own_A, own_B, wide_A, wide_B in zip(As, Bs, A, B, strict=True):
    assert torch.allclose(own_B @ own_A, wide_B @ wide_A, atol=1e-5), (
        "zeros times anything add nothing"
    )

# %% [markdown]
# ## 2. Backward: the same two kernels, and one more
#
# | | forward | backward |
# |:--|:--|:--|
# | shrink | S = s x Aᵀ | dS = s dy B: B in the place of Aᵀ |
# | expand | y += S Bᵀ | dx += dS A: A in the place of Bᵀ |
# | outer | | dB = dyᵀ S and dA = dSᵀ x: a sum over the examples of an adapter |
#
# Nothing is transposed in memory. `.T` only exchanges two **strides** (how far apart neighbours
# lie), and the kernels take strides.
#
# ??? How many launches does a backward pass need?
# - [ ] 2 || dA and dB are still missing.
# - [ ] 3 || `outer` runs twice.
# - [x] 4 || shrink, expand, and outer for dA and for dB.

# %%
dx = torch.zeros(M, K)
with count_launches() as started:
    dA, dB = grouped.grouped_backward(dy, dx, x, A, B, S, scaling, table)
print(f"{started.launches} launches")

# %% tags=["fold"]
# check: all gradients against autograd in float64
true_option(started.launches == 2, started.launches == 3, started.launches == 4)
leaves = [t.double().requires_grad_() for t in (x, A, B)]
exact = torch.autograd.grad(
    grouped_lora_reference(y.double(), *leaves, scaling.double(), ids), leaves, dy.double()
)
for name, got, expected in zip(("dx", "dA", "dB"), (dx, dA, dB), exact, strict=True):
    assert (got.double() - expected).norm() < 2e-6 * expected.norm(), (
        f"{name} differs from autograd's"
    )

# %% [markdown]
# ## 3. The same bits every time
#
# Many kernels sum a gradient with **atomic additions**: several programs add to one place, in
# whatever order they come. Sums of floating-point numbers depend on the order. In our kernels
# each piece of a gradient belongs to one program, which goes through the adapter's examples in
# order.
#
# ??? We add 4096 numbers in 20 random orders, in float32. How many different sums do we get?
# - [ ] 1 || In exact arithmetic. float32 rounds after each addition.
# - [ ] 2 or 3 || There are many ways to round.
# - [x] more than 3 || Each order rounds differently.

# %%
numbers = random(4096)
orders = [torch.randperm(4096, generator=generator) for _ in range(20)]
sums = {float(numbers[order].numpy().cumsum(dtype="float32")[-1]) for order in orders}
print(f"{len(sums)} different sums, {max(sums) - min(sums):.1e} apart")

# %% tags=["fold"]
# check: our backward pass twice
true_option(len(sums) == 1, len(sums) in (2, 3), len(sums) > 3)
again = grouped.grouped_backward(dy, torch.zeros(M, K), x, A, B, S, scaling, table)
assert torch.equal(again[0], dA) and torch.equal(again[1], dB), (
    "(the interpreter has one order anyway; a GPU is the real test)"
)

# %% [markdown]
# ## Summary
#
# 1. Smaller ranks are filled up with zeros, which change no result.
# 2. Backward is four launches: shrink, expand, and outer twice.
# 3. One program owns each sum, so gradients have the same bits every time.
#
# **Next:** [lesson 12](../12_bottleneck_adapters.py).
#
# ## On the real thing
#
# ```bash
# python -m kernels.bench grouped       # on a GPU
# ```
