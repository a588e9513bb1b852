"""Cross-entropy from hidden states in chunks: against all logits, gradcheck, and the memory that it saves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.formulas.vocabulary_loss import plain_vocabulary_loss, vocabulary_loss


def tensors(N=23, D=7, V=50, dtype=torch.float64, bias=True):
    g = torch.Generator().manual_seed(0)
    hidden, weight, b = (torch.randn(s, generator=g, dtype=torch.float64).to(dtype) for s in ((N, D), (V, D), (V,)))
    labels = torch.randint(V, (N,), generator=g)
    leaves = [t.requires_grad_() for t in (hidden, weight, b)]
    return (*leaves[:2], leaves[2] if bias else None), labels


def with_gradients(loss, leaves):
    return [loss, *torch.autograd.grad(loss, [t for t in leaves if t is not None])]


@pytest.mark.parametrize("bias", [True, False])
def test_gradcheck(bias):
    leaves, labels = tensors(bias=bias)
    assert torch.autograd.gradcheck(lambda *t: vocabulary_loss(*t, labels, 4 * 50 * 5), leaves)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 60), st.integers(1, 45))
@settings(max_examples=40, deadline=None)
def test_it_equals_all_logits_for_any_sizes(N, D, V, rows):
    leaves, labels = tensors(N, D, V)
    ours = with_gradients(vocabulary_loss(*leaves, labels, 4 * V * rows), leaves)
    for computed, wanted in zip(ours, with_gradients(plain_vocabulary_loss(*leaves, labels), leaves), strict=True):
        torch.testing.assert_close(computed, wanted, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
def test_rounding(dtype, bound):
    """float32: 1e-6. bfloat16: the logits, dz and each result are rounded to 8 bits, 2^-9 each."""
    leaves, labels = tensors(64, 48, 300, dtype)
    ours = with_gradients(vocabulary_loss(*leaves, labels, 4 * 300 * 9), leaves)
    exact = [t.detach().double().requires_grad_() for t in leaves]
    for computed, wanted in zip(ours, with_gradients(plain_vocabulary_loss(*exact, labels), exact), strict=True):
        assert (computed.double() - wanted).norm() <= bound * wanted.norm()
    assert ours[0].dtype == torch.float32 and [t.dtype for t in ours[1:]] == [dtype] * 3


def test_large_logits_stay_finite():
    hidden, weight = torch.full((2, 1), 1e4, requires_grad=True), torch.tensor([[1.0], [-1.0], [0.5]])
    loss = vocabulary_loss(hidden, weight, None, torch.tensor([0, 1]))
    assert loss.item() == 2e4 and torch.isfinite(torch.autograd.grad(loss, hidden)[0]).all()


def test_no_token_and_no_gradient():
    leaves, labels = tensors()
    empty = vocabulary_loss(leaves[0][:0], leaves[1], leaves[2], labels[:0])
    assert [float(t.detach().abs().sum()) for t in with_gradients(empty, leaves)] == [0.0] * 4
    with torch.no_grad():
        assert torch.allclose(vocabulary_loss(*leaves, labels), plain_vocabulary_loss(*leaves, labels))


def test_a_frozen_head_gets_no_gradient():
    (hidden, weight, bias), labels = tensors()
    loss = vocabulary_loss(hidden, weight.detach(), bias.detach(), labels)
    wanted = torch.autograd.grad(plain_vocabulary_loss(hidden, weight, bias, labels), hidden)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, hidden)[0], wanted)


class Largest(TorchDispatchMode):
    """The number of elements of the largest new tensor."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_no_tensor_is_larger_than_a_chunk_or_the_weight():
    leaves, labels = tensors(N=200, D=4, V=100, dtype=torch.float32)
    with Largest() as mode:
        with_gradients(vocabulary_loss(*leaves, labels, 4 * 100 * 10), leaves)
    assert mode.elements == 10 * 100
    with Largest() as mode:
        with_gradients(plain_vocabulary_loss(*leaves, labels), leaves)
    assert mode.elements == 200 * 100
