"""The 4-bit kernels, in Triton's interpreter (on a GPU: for real). Oracle: nf4.py to the bit, float64 for matmuls."""

from dataclasses import replace

import pytest
import torch
from canary import inside_nan, watched_outputs
from triton_here import DEVICE, DTYPES, bound, error, needs_triton

from kernels.formulas import nf4
from kernels.triton_kernels import lora_matmul_triton, nf4_matmul_triton, nf4_triton

pytestmark = needs_triton()
SHAPES = [(64, 64), (100, 130), (7, 9), (1, 63), (33,), (0, 5), (3, 257), (129, 64)]


def drawn(*shapes, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=g, dtype=torch.float64).to(DEVICE, dtype) for s in shapes]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("quant_type", ["nf4", "fp4"])
def test_quantise_and_decode_to_the_bit(shape, dtype, quant_type):
    (weight,) = drawn(shape, dtype=dtype)
    for blocksize in (32, 64, 4096):
        for double_quant in (False, True):
            ours = nf4_triton.quantize(weight, blocksize, quant_type, double_quant)
            wanted = nf4.quantize(weight, blocksize, quant_type, double_quant)
            assert torch.equal(ours.packed, wanted.packed) and torch.equal(ours.absmax, wanted.absmax)
            for target in (dtype, torch.float32):
                assert torch.equal(nf4_triton.dequantize(ours, target), nf4.dequantize(wanted, target))


def test_edges_to_the_bit():
    """Ties between levels, zeros, -0.0, tiny blocks, huge ones, and a last block of one number."""
    levels = nf4.levels("nf4")
    for numbers in (
        (levels[1:] + levels[:-1]) / 2,
        torch.tensor([0.0, -0.0] * 40),
        torch.full((65,), 1e-39),
        torch.tensor([3e38, -3e38, 1.0, 0.5] * 17),
        torch.tensor([1.0] * 64 + [-0.3]),
    ):
        weight = numbers.to(DEVICE)
        ours, wanted = nf4_triton.quantize(weight), nf4.quantize(weight)
        assert torch.equal(ours.packed, wanted.packed) and torch.equal(ours.absmax, wanted.absmax), numbers
        assert torch.equal(nf4_triton.dequantize(ours), nf4.dequantize(wanted))


def test_it_refuses_what_the_definition_refuses():
    bad = torch.ones(70, device=DEVICE)
    bad[66] = torch.nan
    with pytest.raises(ValueError, match=r"lm_head.*block 1"):
        nf4_triton.quantize(bad, name="lm_head")
    with pytest.raises(TypeError, match="int64"):
        nf4_triton.quantize(torch.ones(64, dtype=torch.int64))
    with pytest.raises(ValueError, match="blocksize=48"):
        nf4_triton.quantize(torch.ones(64, device=DEVICE), blocksize=48)


PRODUCTS = [  # M, N, K, r, blocksize, double quantisation
    (1, 70, 128, 1, 64, True),
    (2, 50, 1024, 4, 64, False),
    (3, 33, 192, 8, 64, True),
    (4, 40, 64, 33, 32, False),
    (4, 9, 512, 4, 512, True),
    (5, 65, 320, 16, 64, True),
    (7, 130, 256, 8, 64, False),
    (33, 66, 128, 16, 128, True),
    (40, 31, 256, 4, 256, False),
    (130, 70, 192, 64, 64, True),
    (256, 20, 64, 8, 32, False),
    (9, 40, 2048, 8, 64, False),
]


@pytest.mark.parametrize("case", PRODUCTS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_with_a_packed_weight(case, dtype):
    """GEMV up to 4 tokens, GEMM above; with and without LoRA, bias, double quantisation. Inputs lie in NaN."""
    M, N, K, r, blocksize, double_quant = case
    x, W, b, A, B = drawn((M, K), (N, K), (N,), (r, K), (N, r), dtype=dtype)
    packed = nf4.quantize(W, blocksize, "nf4", double_quant)
    decoded = nf4.dequantize(packed, torch.float32).to(dtype).double()
    S = lora_matmul_triton.shrink(x, A, 0.5)
    base = x.double() @ decoded.T
    with watched_outputs():
        plain = nf4_matmul_triton.nf4_matmul(inside_nan(x), packed)
        full = nf4_matmul_triton.nf4_matmul(inside_nan(x), packed, b, S, inside_nan(B))
    # the GEMV does not round its weights to half precision, which the reference does: one more rounding each
    assert error(plain, base) < 1.5 * bound(dtype)
    assert error(full, base + b.double() + 0.5 * (x.double() @ A.double().T) @ B.double().T) < 1.5 * bound(dtype)


def test_the_identity_gives_the_decoded_weight_to_the_bit():
    """x = I: each output is one weight times one, and sums of zeros. The decoding inside the GEMM is the definition's."""
    (W,) = drawn((40, 64))
    packed = nf4.quantize(W, 64, "nf4", False)
    eye = torch.eye(64, device=DEVICE)
    assert torch.equal(nf4_matmul_triton.nf4_matmul(eye, packed).T, nf4.dequantize(packed))
    for row in (0, 1, 33):  # GEMV
        assert torch.equal(nf4_matmul_triton.nf4_matmul(eye[row : row + 1], packed)[0], nf4.dequantize(packed)[:, row])


def test_strided_tokens_and_no_tokens():
    x, W = drawn((10, 128), (24, 128))
    packed = nf4.quantize(W)
    wanted = x.double() @ nf4.dequantize(packed).double().T
    for M in (2, 10):
        turned = x[:M].T.contiguous().T
        assert error(nf4_matmul_triton.nf4_matmul(turned, packed), wanted[:M]) < 1e-6
    assert nf4_matmul_triton.nf4_matmul(x[:0], packed).shape == (0, 24)


def test_products_that_are_not_written_are_refused():
    x, W = drawn((10, 100), (24, 100))
    with pytest.raises(ValueError, match="rows of whole blocks"):
        nf4_matmul_triton.nf4_matmul(x, nf4.quantize(W))
    x, W = drawn((300, 128), (24, 128))
    with pytest.raises(ValueError, match="at most 256 tokens"):
        nf4_matmul_triton.nf4_matmul(x, nf4.quantize(W))


def test_parts_that_do_not_lie_in_a_line():
    """Packed bytes and scales with strides: as the definition reads them."""
    x, W = drawn((3, 128), (24, 128))
    q = nf4.quantize(W)
    odd = replace(
        q, packed=torch.cat([q.packed, q.packed], 1)[:, :1], absmax=torch.stack([q.absmax, q.absmax * torch.nan], 1)[:, 0]
    )
    assert torch.equal(nf4_triton.dequantize(odd), nf4.dequantize(q))
    assert error(nf4_matmul_triton.nf4_matmul(x, odd), x.double() @ nf4.dequantize(q).double().T) < 1e-6


def test_the_compiler_may_not_fuse_a_multiplication_and_an_addition(monkeypatch):
    """The interpreter never does; on a GPU the decoded scales would differ from the definition in their last bit."""
    launches = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **options: launches.append(options)

    monkeypatch.setattr(nf4_triton, "dequantize_kernel", Kernel())
    nf4_triton.dequantize(nf4.quantize(torch.ones(64, 64)))
    assert [options["enable_fp_fusion"] for options in launches] == [False]
