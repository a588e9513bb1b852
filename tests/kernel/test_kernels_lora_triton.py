"""The fused LoRA kernels, in Triton's interpreter (on a GPU: for real). Oracle: float64, and autograd of the definition."""

import itertools

import pytest
import torch
from canary import inside_nan, watched_outputs
from triton_here import DEVICE, DTYPES, ON_GPU, bound, error, needs_triton, triton

from kernels.formulas.lora_matmul import lora_matmul_reference
from kernels.triton_kernels import lora_backward_triton as back
from kernels.triton_kernels import lora_matmul_triton as fused
from kernels.triton_kernels.configs import Tiles
from kernels.triton_kernels.philox import keep_mask

tl = triton.language
pytestmark = needs_triton()
SMALL = Tiles(32, 32, 16, stages=2)


def drawn(M, N, K, r, dtype, seed=0):
    g = torch.Generator().manual_seed(seed + M + 7 * N + 11 * K + r)
    shapes = [(M, K), (N, K), (N,), (r, K), (N, r), (M, N)]
    return [torch.randn(s, generator=g, dtype=torch.float64).to(DEVICE, dtype) for s in shapes]


def shapes_of(r: int) -> list[tuple[int, int, int]]:
    """Ten (M, N, K) for each rank: one token, tile sizes and their neighbours, and six at random."""
    g = torch.Generator().manual_seed(r)
    random = [tuple(int(v) for v in torch.randint(1, 100, (3,), generator=g)) for _ in range(6)]
    return [(1, 3, 5), (33, 32, 31), (64, 65, 63), (2, 97, 40), *random]


SEED = torch.tensor([2**40 + 77], device=DEVICE)


def by_definition(x, W, b, A, B, keep, scaling, dy):
    """y, dx, dA, dB in float64 by autograd."""
    x, A, B = (t.clone().requires_grad_() for t in (x, A, B))
    y = lora_matmul_reference(x, W, b, A, B, 0.0) + scaling * ((x * keep) @ A.T) @ B.T
    return y, *torch.autograd.grad(y, (x, A, B), dy)


@pytest.mark.parametrize("r", [1, 4, 8, 16, 33, 64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_and_gradients_against_float64(r, dtype):
    """60 shapes. Inputs lie in NaN, outputs start as NaN: nothing outside is read, everything inside is written."""
    for i, (M, N, K) in enumerate(shapes_of(r)):
        *inputs, dy = drawn(M, N, K, r, dtype)
        x, W, b, A, B = inputs
        bias, p = (b, 0.0) if i % 2 else (None, 0.25)
        keep = keep_mask(SEED, M, K, p).double() / (1 - p)
        exact = [None if t is None else t.double() for t in (x, W, bias, A, B, keep)]
        wanted = by_definition(*exact, 0.7, dy.double())
        # with random signs a sum's typical size is the root of its squared terms: the definition on squares
        squares = by_definition(*(None if t is None else t**2 for t in exact), 0.7**2, dy.double() ** 2)
        sizes = [float(s.detach().sum().sqrt()) for s in squares]
        x, W, A, B, dy = map(inside_nan, (x, W, A, B, dy))
        tiles = SMALL if i % 3 else None
        with watched_outputs():
            y, S = fused.lora_forward(x, W, bias, A, B, 0.7, SEED, p, tiles)
            result = back.lora_backward(dy, x, W, A, B, S, 0.7, SEED, p, thin=tiles, gemm=tiles)
        # dA multiplies two roundings (dS) and sums M terms: twice the bound
        for name, one, other, size in zip(("y", "dx", "dA", "dB"), (y, *result), wanted, sizes, strict=True):
            assert error(one, other, size) < (1 if name == "y" else 2) * bound(dtype), (name, M, N, K, r)


def test_the_three_versions_agree():
    x, W, b, A, B, _ = drawn(70, 72, 64, 8, torch.float16)
    S = fused.shrink(x, A, 0.5)
    plain = fused.expand(x, W, b, S, B, SMALL, persistent=False)
    one, S1 = fused.one_launch(x, W, b, A, B, 0.5, tiles=SMALL)
    assert torch.equal(fused.expand(x, W, b, S, B, SMALL, persistent=True), plain)  # the same sums in the same order
    assert error(one, plain) < 2**-10 and error(S1, S) < 2**-10


def test_split_k_sums_its_parts():
    x, _, _, A, _, _ = drawn(20, 1, 90, 4, torch.float32)
    whole = fused.shrink(x, A, 0.5, SEED, 0.3, Tiles(16, 0, 16, stages=2))
    parts = fused.shrink(x, A, 0.5, SEED, 0.3, Tiles(16, 0, 16, stages=2, split=4))
    assert error(parts, whole) < 1e-6 and not parts[:, 4:].any()


def test_no_rows_no_columns():
    for M, N in ((0, 5), (5, 0), (0, 0)):
        x, W, b, A, B, dy = drawn(M, N, 6, 3, torch.float32)
        y, S = fused.lora_forward(x, W, b, A, B, 1.0)
        dx, dA, dB = back.lora_backward(dy, x, W, A, B, S, 1.0)
        assert y.shape == (M, N) and dx.shape == x.shape and not dA.any() and not dB.any()


def test_strided_inputs():
    """Transposed, every second row, expanded: any strides give the values of the contiguous copy."""
    x, W, b, A, B, dy = drawn(40, 34, 50, 4, torch.float32)
    wanted = lora_matmul_reference(*(t.double() for t in (x, W, b, A, B)), 0.7)
    turned = [t.T.contiguous().T for t in (x, W, A, B)]
    y, S = fused.lora_forward(turned[0], turned[1], b, *turned[2:], 0.7)
    assert error(y, wanted) < 1e-6
    wide = torch.stack([x, x * torch.nan]).transpose(0, 1).reshape(-1, 50)[::2]
    assert error(fused.lora_forward(wide, W, b, A, B, 0.7)[0], wanted) < 1e-6
    sums = dy[:1].expand_as(dy)  # what `y.sum().backward()` sends: strides of zero
    result = back.lora_backward(sums, x, W, A, B, S, 0.7)
    for one, other in zip(result, back.lora_backward(sums.contiguous(), x, W, A, B, S, 0.7), strict=True):
        assert torch.equal(one, other)


def test_shared_input_reads_x_once_for_all():
    """q, k, v with one stacked down-projection: each as if it were alone."""
    x, W, b, A, B, _ = drawn(45, 40, 33, 4, torch.float32)
    _, W2, _, A2, B2, _ = drawn(45, 23, 33, 4, torch.float32, seed=9)
    ys, S = fused.shared_forward(x, [W, W2], [b, None], [A, A2], [B, B2], 0.5)
    assert S.shape == (45, 16)
    for y, one in zip(ys, ((W, b, A, B), (W2, None, A2, B2)), strict=True):
        wanted = lora_matmul_reference(x.double(), *(None if t is None else t.double() for t in one), 0.5)
        assert error(y, wanted) < 1e-6


# ---------------------------------------------------------------- dropout


def test_the_mask_in_the_kernels_is_philox():
    """A of ones in one column: S is then the kept x of that column, in forward and, through dA and dx, in backward."""
    M, K, p = 50, 37, 0.4
    keep = keep_mask(SEED, M, K, p)
    x = torch.ones(M, K, device=DEVICE)
    visited = torch.cat([fused.shrink(x, torch.eye(K, device=DEVICE)[i : i + 1], 1 - p, SEED, p)[:, :1] for i in range(K)], 1)
    assert torch.equal(visited.bool(), keep)
    dy, W, A, B = torch.ones(M, 1, device=DEVICE), torch.zeros(1, K, device=DEVICE), torch.ones(1, K, device=DEVICE), None
    B = torch.ones(1, 1, device=DEVICE)
    S = torch.zeros(M, 16, device=DEVICE)
    dx, dA, _ = back.lora_backward(dy, x, W, A, B, S, 1 - p, SEED, p)
    assert torch.equal(dx.bool(), keep)
    torch.testing.assert_close(dA[0], keep.sum(0).float())


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_keep_rate_is_binomial(p):
    """Within 5 standard deviations over 200 000 draws, in all and in each of 8 columns; another seed, another mask."""
    keep = keep_mask(SEED, 25_000, 8, p)
    for share, n in ((keep.double().mean(), keep.numel()), *((keep[:, i].double().mean(), 25_000) for i in range(8))):
        assert abs(float(share) - (1 - p)) < 5 * (p * (1 - p) / n) ** 0.5
    other = keep_mask(SEED + 1, 25_000, 8, p)
    agree = (keep == other).double().mean()
    expected = p**2 + (1 - p) ** 2
    assert abs(float(agree) - expected) < 5 * (expected * (1 - expected) / keep.numel()) ** 0.5


def test_philox_known_answer():
    """Random123's own test vector has 10 rounds; ours has 7, so ten are run here."""
    from kernels.triton_kernels import philox

    rounds, philox.ROUNDS = philox.ROUNDS, 10
    try:
        words = philox.philox(torch.tensor([0]), torch.tensor([0]))
    finally:
        philox.ROUNDS = rounds
    assert [f"{int(w):08x}" for w in words] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


def test_backward_gives_the_same_bits_every_time():
    x, W, b, A, B, dy = drawn(90, 70, 60, 8, torch.float32)
    _, S = fused.lora_forward(x, W, b, A, B, 0.7, SEED, 0.2)
    first, second = (back.lora_backward(dy, x, W, A, B, S, 0.7, SEED, 0.2) for _ in range(2))
    assert all(map(torch.equal, first, second))


# ---------------------------------------------------------------- the gate catches what it is for


@triton.jit
def reads_too_far(x, y, M, N, BM: tl.constexpr, BN: tl.constexpr):
    """Copies a matrix's row sums, without a mask on its columns: the planted bug."""
    rows, columns = tl.program_id(0) * BM + tl.arange(0, BM), tl.arange(0, BN)
    tile = tl.load(x + rows[:, None] * N + columns[None, :], mask=rows[:, None] < M, other=0.0)
    tl.store(y + rows, tl.sum(tile, 1), mask=rows < M)


@triton.jit
def writes_too_far(x, y, M, BM: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    tl.store(y + rows, tl.load(x + rows, mask=rows < M, other=0.0))


@triton.jit
def forgets_the_tail(x, y, M, BM: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    tl.store(y + rows, tl.load(x + rows, mask=rows < M, other=0.0), mask=rows < M - 1)


def test_the_canary_catches_a_read_outside():
    x = inside_nan(torch.ones(8, 10, device=DEVICE))
    y = x.new_empty(8)
    reads_too_far[(1,)](x, y, 8, x.stride(0), 8, 16)  # 16 columns of 10
    assert y.isnan().all(), "a read outside the matrix went unseen"


def test_the_watch_catches_a_write_outside_and_a_hole():
    x = torch.ones(10, device=DEVICE)
    with pytest.raises(AssertionError, match="outside its output"), watched_outputs():
        writes_too_far[(1,)](x, x.new_empty(10), 10, 16)
    with watched_outputs():
        y = x.new_empty(10)
        forgets_the_tail[(1,)](x, y, 10, 16)
    assert y.isnan().sum() == 1


def test_there_are_at_least_sixty_shapes():
    shapes = list(itertools.chain(*([(s, r) for s in shapes_of(r)] for r in (1, 4, 8, 16, 33, 64))))
    assert len(set(shapes)) >= 60
    assert any(M % 16 and N % 16 and K % 16 for (M, N, K), _ in shapes)


def test_a_bias_with_strides_and_weights_far_apart():
    """A bias that is every second number or one number for all; rows of W more than 2^31 numbers apart in all."""
    x, W, b, A, B, _ = drawn(20, 40, 16, 4, torch.float32)
    for bias in (torch.stack([b, b * torch.nan], 1)[:, 0], b[:1].expand(40)):
        wanted = lora_matmul_reference(*(t.double() for t in (x, W, bias, A, B)), 0.5)
        S = fused.shrink(x, A, 0.5)
        for y in (fused.one_launch(x, W, bias, A, B, 0.5)[0], fused.expand(x, W, bias, S, B)):
            assert error(y, wanted) < 1e-6


@pytest.mark.skipif(ON_GPU, reason="on a CPU untouched memory costs nothing; on a GPU this needs 11 GB")
def test_offsets_beyond_32_bits():
    """150 rows (or columns) that lie 2^24 numbers apart: the last starts at 2.5 · 10^9, which an int32 cannot hold."""
    for shape, strides in (((150, 16), (2**24, 1)), ((16, 150), (1, 2**24))):
        x, W, _, A, B, dy = drawn(20, *shape, 4, torch.float32)
        apart = torch.empty(149 * 2**24 + 16).as_strided(shape, strides).copy_(W)
        S = fused.shrink(x, A, 0.5)
        assert error(fused.expand(x, apart, None, S, B), fused.expand(x, W, None, S, B)) < 1e-6
        assert error(fused.one_launch(x, apart, None, A, B, 0.5)[0], fused.one_launch(x, W, None, A, B, 0.5)[0]) < 1e-6
        assert error(back.grad_x(dy, apart, S, A), back.grad_x(dy, W, S, A)) < 1e-6


def test_which_tensors_the_tensor_memory_accelerator_can_copy(monkeypatch):
    """Halves on Hopper, contiguous rows, strides and starts in multiples of 16 bytes: every tensor has to fit."""

    class OnHopper:
        is_cuda, device = True, "cuda:0"

        def __init__(self, row=64, column=1, start=0, size=2):
            self.strides, self.start, self.size = (row, column), start, size

        def stride(self, dim):
            return self.strides[dim]

        def data_ptr(self):
            return self.start

        def element_size(self):
            return self.size

    capability = [9, 0]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: tuple(capability))
    good = OnHopper()
    assert fused.fits_descriptors(good, OnHopper(row=8), OnHopper(start=32))
    for bad in (OnHopper(row=60), OnHopper(column=2), OnHopper(start=8)):
        for tensors in ((bad, good, good), (good, bad, good), (good, good, bad)):
            assert not fused.fits_descriptors(*tensors)
    assert not fused.fits_descriptors(OnHopper(size=4), good, good)
    assert not fused.fits_descriptors(torch.zeros(64, 64, dtype=torch.float16), good, good)  # not on a GPU
    capability[0] = 8
    assert not fused.fits_descriptors(good, good, good)
