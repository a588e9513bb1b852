"""The published forms that the GPU benchmark compares with, in the interpreter on odd shapes. Oracle: float64 by autograd."""

import pytest
import torch
from canary import inside_nan, watched_outputs
from triton_here import DEVICE, DTYPES, bound, error, needs_triton

from kernels.bench.gpu.contenders import lorafusion_triton, unsloth
from kernels.formulas.lora_matmul import lora_matmul_reference

SHAPES = [(1, 3, 5, 1), (33, 65, 31, 8), (70, 40, 97, 33)]
"""M, N, K, r"""


def drawn(M, N, K, r, dtype):
    g = torch.Generator().manual_seed(M)
    shapes = [(M, K), (N, K), (r, K), (N, r), (M, N)]
    return [torch.randn(s, generator=g, dtype=torch.float64).to(DEVICE, dtype) for s in shapes]


def exact(x, W, A, B, dy, keep=1.0):
    """y, dx, dA, dB for the scale 0.7; `keep`: the dropout mask over 1 - p."""
    x, W, A, B, dy = (t.double() for t in (x, W, A, B, dy))
    x, A, B = (t.requires_grad_() for t in (x, A, B))
    y = lora_matmul_reference(x, W, None, A, B, 0.0) + 0.7 * ((x * keep) @ A.T) @ B.T
    return y, *torch.autograd.grad(y, (x, A, B), dy)


def close(result, wanted, dtype):
    for name, one, other in zip(("y", "dx", "dA", "dB"), result, wanted, strict=True):
        assert error(one, other) < 3 * bound(dtype), name  # S, dS and the result are rounded


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.0, 0.25])
class TestLoraFusion:
    pytestmark = needs_triton()

    def test_forward_and_gradients(self, shape, dtype, p):
        """Inputs lie in NaN, outputs start as NaN: nothing outside is read, everything inside is written."""
        x, W, A, B, dy = (inside_nan(t) for t in drawn(*shape, dtype))
        with watched_outputs():
            y, S, dropped, mask = lorafusion_triton.forward(x, W, A, B, 0.7, p)
            grads = lorafusion_triton.backward(dy, dropped, mask, W, A, B, S, 0.7, p)
        assert (mask is None) == (p == 0)
        close((y, *grads), exact(x, W, A, B, dy, 1.0 if mask is None else mask.double() / (1 - p)), dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unsloth_form(shape):
    x, W, A, B, dy = drawn(*shape, torch.float32)
    grads = unsloth.backward(dy, x, W, A, B, 0.7)
    assert [g.shape for g in grads] == [x.shape, A.shape, B.shape]
    close((unsloth.forward(x, W, A, B, 0.7), *grads), exact(x, W, A, B, dy), torch.float32)


def test_unsloth_form_casts_the_factors_to_the_dtype_of_x():
    x, W, A, B, dy = drawn(20, 12, 16, 4, torch.float32)
    half = [t.to(torch.bfloat16) for t in (x, W, dy)]
    assert unsloth.forward(*half[:2], A, B, 0.7).dtype == torch.bfloat16
    assert all(t.dtype == torch.bfloat16 for t in unsloth.backward(half[2], *half[:2], A, B, 0.7))
