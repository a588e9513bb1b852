"""The LoRA operation against its definition in float64, over odd shapes and parts. Oracle: the definition, autograd."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from kernels.formulas.lora_matmul import lora_backward, lora_forward, lora_matmul_reference
from kernels.measure import count_operations, saved_bytes

sizes = st.integers(1, 9)


def make(M, K, part, count, chosen, r, seed=0):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    parts = tuple((i * part, (i + 1) * part) for i in range(count) if i in chosen)
    p = len(parts)
    return draw(M, K), draw(part * count, K), draw(part * count), draw(p * r, K), draw(p * part, r), parts


@given(M=st.integers(0, 7), K=sizes, part=sizes, count=st.integers(1, 3), r=sizes, which=st.integers(1, 7))
def test_forward_and_backward_equal_autograd_of_the_definition(M, K, part, count, r, which):
    chosen = [i for i in range(count) if which >> i & 1] or [0]
    x, W, b, A, B, parts = make(M, K, part, count, chosen, r)
    leaves = [t.clone().requires_grad_() for t in (x, A, B)]
    y = lora_matmul_reference(leaves[0], W, b, leaves[1], leaves[2], 0.7, parts)
    dy = torch.randn(y.shape, dtype=torch.float64)
    wanted = torch.autograd.grad(y, leaves, dy)
    ours, S = lora_forward(x, W, b, A, B, 0.7, parts)
    grads = lora_backward(dy, x, W, A, B, S, 0.7, parts, None, (True, True, True))
    torch.testing.assert_close(ours, y.detach(), rtol=1e-12, atol=1e-12)
    for got, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_backward_computes_only_what_is_needed():
    x, W, _, A, B, parts = make(5, 4, 6, 1, [0], 2)
    S = x @ A.T
    dy = torch.ones(5, 6, dtype=torch.float64)
    assert [g is not None for g in lora_backward(dy, x, W, A, B, S, 1.0, parts, None, (False, True, False))] == [0, 1, 0]
    assert [g is not None for g in lora_backward(dy, x, W, A, B, S, 1.0, parts, None, (False, False, True))] == [0, 0, 1]


def test_forward_is_three_operations():
    x, W, b, A, B, parts = make(5, 4, 6, 1, [0], 2)
    counts = count_operations(lambda: lora_forward(x, W, b, A, B, 0.5, parts))
    assert sum(counts.values()) == 3, counts


def test_saved_bytes_counts_each_storage_once_and_leaves_parameters_out():
    w = torch.nn.Parameter(torch.randn(4, 4))
    x = torch.randn(2, 4)
    assert saved_bytes(lambda: (x @ w) + (x @ w), [w]) == x.nbytes  # x is kept twice, but lies in memory once
