"""The LoRA matmul  y = x Wᵀ + b + s · (x̃ Aᵀ) Bᵀ  in Triton, from simple to fast. The definition is formulas/lora_matmul.py.

1. `one_launch_kernel`: a tiled GEMM that also makes its own S = x̃ Aᵀ. One launch, but every column of tiles makes S again:
   right for a few tokens, where a second launch costs more than the sums.
2. `shrink_kernel` + `expand_kernel`: S once, small enough to write to memory (M × r); then a GEMM whose last step of K is the
   rank-r matmul, into the same accumulator. LoRA costs one more read of x, and nothing at full width.
3. `expand_persistent_kernel`: the same GEMM with as many programs as the GPU has SMs, tiles copied by the tensor memory
   accelerator (Hopper), and the output written in two halves, so that the loads of the next tile fit.

What must not be done is `acc += tl.dot(S, B) * s`: a second accumulator next to the first does not fit into the registers.
Scaling and dropout are folded into S. Backward: kernels/triton_kernels/lora_backward_triton.py.

Letters: M tokens, K = d_in, N = d_out, r rank, R the rank padded to a power of two ≥ 16.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton_kernels.configs import SMALL_M, Tiles, capability, gemm_tiles, multiprocessors, shrink_tiles
from kernels.triton_kernels.philox import threshold
from kernels.triton_kernels.tiles_triton import keep_tile, load_tile, padded_rank, precision, tile_of

FASTEST_RANK = 32
"""`one_launch_kernel` pads the rank to at least this: with 16 columns of S it took about twice as long on an H200"""
PERSISTENT_M = 128
"""up to this many tokens `expand_kernel` was faster on an H200 than the persistent one"""

# ---------------------------------------------------------------- version 1: one launch


@triton.jit
def one_launch_kernel(
    x, w, bias, a, b, s, y, seed, M, N, K, r, scaling, threshold, inverse, x_row, x_col, w_row, w_col, a_row, a_col, b_row, b_col,
    HAS_BIAS: tl.constexpr, DROPOUT: tl.constexpr, R: tl.constexpr, S_WIDTH: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """R columns of S are computed, the first S_WIDTH of them are stored."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    ranks = tl.arange(0, R)
    acc = tl.zeros((BM, BN), tl.float32)
    small = tl.zeros((BM, R), tl.float32)
    for k in range(0, K, BK):
        depth = k + tl.arange(0, BK)
        x_tile = load_tile(x, rows, depth, x_row, x_col, M, K)
        w_tile = load_tile(w, depth, columns, w_col, w_row, K, N)  # (BK, BN): a tile of Wᵀ
        acc = tl.dot(x_tile, w_tile, acc, input_precision=PRECISION)
        if DROPOUT:
            x_tile = tl.where(keep_tile(seed, threshold, rows, k, K, BM, BK), x_tile, 0.0)
        a_tile = load_tile(a, depth, ranks, a_col, a_row, K, r)
        small = tl.dot(x_tile, a_tile, small, input_precision=PRECISION)
    small = (small * (scaling * inverse)).to(x.dtype.element_ty)
    b_tile = load_tile(b, ranks, columns, b_col, b_row, r, N)
    acc = tl.dot(small, b_tile, acc, input_precision=PRECISION)
    if HAS_BIAS:
        acc += tl.load(bias + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
    inside = (rows[:, None] < M) & (columns[None, :] < N)
    tl.store(y + rows.to(tl.int64)[:, None] * N + columns[None, :], acc.to(y.dtype.element_ty), mask=inside)
    if tl.program_id(1) == 0:  # saved for the backward pass
        stored = (rows[:, None] < M) & (ranks[None, :] < S_WIDTH)
        tl.store(s + rows.to(tl.int64)[:, None] * S_WIDTH + ranks[None, :], small, mask=stored)


# ---------------------------------------------------------------- version 2: S once, then one GEMM


@triton.jit
def shrink_kernel(
    x, a, s, seed, M, K, r, scaling, threshold, inverse, x_row, x_col, a_row, a_col,
    DROPOUT: tl.constexpr, R: tl.constexpr, SPLIT: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """S = s · x̃ Aᵀ. Bound by the read of x. With SPLIT parts of K, each part goes to a plane of its own: (SPLIT, M, R)."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    part = tl.program_id(1)
    ranks = tl.arange(0, R)
    acc = tl.zeros((BM, R), tl.float32)
    for k in range(part * BK, K, SPLIT * BK):
        depth = k + tl.arange(0, BK)
        x_tile = load_tile(x, rows, depth, x_row, x_col, M, K)
        if DROPOUT:
            x_tile = tl.where(keep_tile(seed, threshold, rows, k, K, BM, BK), x_tile, 0.0)
        a_tile = load_tile(a, depth, ranks, a_col, a_row, K, r)
        acc = tl.dot(x_tile, a_tile, acc, input_precision=PRECISION)
    acc *= scaling * inverse  # 1 / (1 - p) too: once per element of S, not of x
    place = (part.to(tl.int64) * M + rows)[:, None] * R + ranks[None, :]
    tl.store(s + place, acc.to(s.dtype.element_ty), mask=rows[:, None] < M)


@triton.jit
def expand_kernel(
    x, w, bias, s, b, y, M, N, K, r, x_row, x_col, w_row, w_col, b_row, b_col, s_row,
    HAS_BIAS: tl.constexpr, R: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y = x Wᵀ + S Bᵀ + b."""
    tile_m, tile_n = tile_of(tl.program_id(0), tl.cdiv(M, BM), tl.cdiv(N, BN), GROUP)
    rows = tile_m * BM + tl.arange(0, BM)
    columns = tile_n * BN + tl.arange(0, BN)
    ranks = tl.arange(0, R)
    x_rows, w_rows = rows % M, columns % N  # rows past the end read row 0 again, and are not stored: no mask in the loop
    x_tiles = x + x_rows.to(tl.int64)[:, None] * x_row + tl.arange(0, BK)[None, :] * x_col
    w_tiles = w + w_rows.to(tl.int64)[None, :] * w_row + tl.arange(0, BK)[:, None] * w_col
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        inside_k = k + tl.arange(0, BK) < K
        x_tile = tl.load(x_tiles, mask=inside_k[None, :], other=0.0)
        w_tile = tl.load(w_tiles, mask=inside_k[:, None], other=0.0)
        acc = tl.dot(x_tile, w_tile, acc, input_precision=PRECISION)
        x_tiles += BK * x_col
        w_tiles += BK * w_col
    s_tile = load_tile(s, rows, ranks, s_row, 1, M, r)
    b_tile = load_tile(b, ranks, columns, b_col, b_row, r, N)
    acc = tl.dot(s_tile, b_tile, acc, input_precision=PRECISION)  # the last step of K
    if HAS_BIAS:
        acc += tl.load(bias + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
    inside = (rows[:, None] < M) & (columns[None, :] < N)
    tl.store(y + rows.to(tl.int64)[:, None] * N + columns[None, :], acc.to(y.dtype.element_ty), mask=inside)


# ---------------------------------------------------------------- version 3: persistent, with tensor descriptors


@triton.jit
def expand_persistent_kernel(
    x, w, bias, s, b, y, M, N, K, r, x_row, w_row, b_row, b_col, s_row,
    HAS_BIAS: tl.constexpr, R: tl.constexpr, PROGRAMS: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As `expand_kernel`, for rows that are contiguous and whose strides are multiples of 16 bytes."""
    x_tiles = tl.make_tensor_descriptor(x, [M, K], [x_row, 1], [BM, BK])
    w_tiles = tl.make_tensor_descriptor(w, [N, K], [w_row, 1], [BN, BK])
    y_tiles = tl.make_tensor_descriptor(y, [M, N], [N, 1], [BM, BN // 2])
    tiles_m, tiles_n = tl.cdiv(M, BM), tl.cdiv(N, BN)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, PROGRAMS):
        tile_m, tile_n = tile_of(tile, tiles_m, tiles_n, GROUP)
        top, left = tile_m * BM, tile_n * BN
        rows, columns, ranks = top + tl.arange(0, BM), left + tl.arange(0, BN), tl.arange(0, R)
        acc = tl.zeros((BM, BN), tl.float32)
        for k in range(0, K, BK):
            acc = tl.dot(x_tiles.load([top, k]), w_tiles.load([left, k]).T, acc, input_precision=PRECISION)
        s_tile = load_tile(s, rows, ranks, s_row, 1, M, r)
        b_tile = load_tile(b, ranks, columns, b_col, b_row, r, N)
        acc = tl.dot(s_tile, b_tile, acc, input_precision=PRECISION)
        if HAS_BIAS:
            acc += tl.load(bias + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
        halves = tl.permute(tl.reshape(acc, (BM, 2, BN // 2)), (0, 2, 1))
        first, second = tl.split(halves)  # half a tile of shared memory at a time
        y_tiles.store([top, left], first.to(y.dtype.element_ty))
        y_tiles.store([top, left + BN // 2], second.to(y.dtype.element_ty))


# ---------------------------------------------------------------- launching


def lora_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, lora_A: Tensor, lora_B: Tensor, scaling: float,
    seed: Tensor | None = None, p: float = 0.0, tiles: Tiles | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(M, K) → y (M, N) and S (M, R) = s · x̃ Aᵀ, both in x's dtype. `seed` (1,) int64 and `p` make the dropout mask."""
    if len(x) <= SMALL_M:
        return one_launch(x, weight, bias, lora_A, lora_B, scaling, seed, p, tiles)
    S = shrink(x, lora_A, scaling, seed, p)
    return expand(x, weight, bias, S, lora_B, tiles), S


def one_launch(x, weight, bias, lora_A, lora_B, scaling: float, seed=None, p: float = 0.0, tiles: Tiles | None = None):
    """Version 1: y and S in one launch."""
    (M, K), N, r = x.shape, len(weight), len(lora_A)
    R = padded_rank(r)
    y, S, bias = x.new_empty(M, N), x.new_empty(M, R), in_line(bias)
    t = tiles or gemm_tiles(M, N, x.dtype, capability(x.device))
    computed = max(R, FASTEST_RANK)
    if M and N:
        one_launch_kernel[triton.cdiv(M, t.M), triton.cdiv(N, t.N)](
            x, weight, bias, lora_A, lora_B, S, y, seed, M, N, K, r, scaling, *drop_numbers(p),
            *x.stride(), *weight.stride(), *lora_A.stride(), *lora_B.stride(),
            bias is not None, p > 0, computed, R, t.M, t.N, t.K, precision(x.dtype), num_warps=t.warps, num_stages=t.stages,
        )  # fmt: skip
    return y, S


def shrink(x: Tensor, lora_A: Tensor, scaling: float, seed=None, p: float = 0.0, tiles: Tiles | None = None) -> Tensor:
    """S = s · x̃ Aᵀ, (M, R)."""
    (M, K), r = x.shape, len(lora_A)
    R = padded_rank(r)
    t = tiles or shrink_tiles(M, K, x.dtype, capability(x.device))
    parts = x.new_empty(t.split, M, R, dtype=torch.float32 if t.split > 1 else x.dtype)
    if M:
        shrink_kernel[triton.cdiv(M, t.M), t.split](
            x, lora_A, parts, seed, M, K, r, scaling, *drop_numbers(p), *x.stride(), *lora_A.stride(),
            p > 0, R, t.split, t.M, t.K, precision(x.dtype), num_warps=t.warps, num_stages=t.stages,
        )  # fmt: skip
    return parts[0] if t.split == 1 else parts.sum(0).to(x.dtype)  # in a fixed order: the same bits every time


def expand(x, weight, bias, S: Tensor, lora_B: Tensor, tiles: Tiles | None = None, persistent: bool | None = None) -> Tensor:
    """y = x Wᵀ + S Bᵀ + b, (M, N). S may be some columns of a wider one.

    `persistent` None: for more than PERSISTENT_M tokens, where the layout allows it.
    """
    (M, K), (N, r) = x.shape, lora_B.shape
    y, bias = x.new_empty(M, N), in_line(bias)
    if not (M and N):
        return y
    t = tiles or gemm_tiles(M, N, x.dtype, capability(x.device))
    meta = {"num_warps": t.warps, "num_stages": t.stages}
    sizes = bias is not None, padded_rank(r)
    if (M > PERSISTENT_M and fits_descriptors(x, weight, y)) if persistent is None else persistent:
        triton.set_allocator(_scratch)
        programs = min(multiprocessors(x.device), triton.cdiv(M, t.M) * triton.cdiv(N, t.N))
        expand_persistent_kernel[(programs,)](
            x, weight, bias, S, lora_B, y, M, N, K, r, x.stride(0), weight.stride(0), *lora_B.stride(), S.stride(0),
            *sizes, programs, t.M, t.N, t.K, t.group, precision(x.dtype), **meta,
        )  # fmt: skip
    else:
        expand_kernel[(triton.cdiv(M, t.M) * triton.cdiv(N, t.N),)](
            x, weight, bias, S, lora_B, y, M, N, K, r, *x.stride(), *weight.stride(), *lora_B.stride(), S.stride(0),
            *sizes, t.M, t.N, t.K, t.group, precision(x.dtype), **meta,
        )  # fmt: skip
    return y


def _scratch(size: int, alignment: int, stream: int | None) -> Tensor:
    """Where a kernel on a GPU puts its tensor descriptors."""
    return torch.empty(size, dtype=torch.int8, device="cuda")  # of the current device, which ops.py sets


def shared_forward(x, weights, biases, lora_As, lora_Bs, scaling: float, seed=None, p: float = 0.0):
    """Several layers on one x (q, k, v; gate, up): x is read once for all their down-projections.

    Returns ([y_i], S), S (M, R) with the r columns of layer i at i · r. They share the scale and the dropout mask.
    """
    S = shrink(x, torch.cat(lora_As), scaling, seed, p)
    r = len(lora_As[0])
    layers = enumerate(zip(weights, biases, lora_Bs, strict=True))
    return [expand(x, w, bias, S[:, i * r : (i + 1) * r], B) for i, (w, bias, B) in layers], S


def in_line(bias: Tensor | None) -> Tensor | None:
    """The kernels read a bias without a stride."""
    return None if bias is None else bias.contiguous()


def drop_numbers(p: float) -> tuple[int, float]:
    """Dropout as the kernels take it: the threshold as a signed 32-bit word, and 1 / (1 - p)."""
    word = threshold(p)
    return word - 2**32 if word >= 2**31 else word, 1 / (1 - p)


def fits_descriptors(x: Tensor, weight: Tensor, y: Tensor) -> bool:
    """Whether the tensor memory accelerator can copy tiles: Hopper or newer, contiguous rows, 16-byte strides and starts."""
    hopper = x.is_cuda and torch.cuda.get_device_capability(x.device)[0] >= 9
    size = x.element_size()
    aligned = all(t.stride(1) == 1 and t.stride(0) * size % 16 == 0 and t.data_ptr() % 16 == 0 for t in (x, weight, y))
    return hopper and size == 2 and aligned
