"""The LoRA matmul  y = x Wᵀ + b + s · (x̃ Aᵀ) Bᵀ  in Triton, from simple to fast. The definition is formulas/lora_matmul.py.

1. `one_launch_kernel`: a tiled GEMM that also makes its own S = x̃ Aᵀ. One launch, but every column of tiles makes S again:
   right for a few tokens, where a second launch costs more than the sums.
2. `shrink_kernel` + `expand_kernel`: S once, small enough to write to memory (M × r); then a GEMM whose last step of K is the
   rank-r matmul, into the same accumulator. LoRA costs one more read of x, and nothing at full width.
3. `expand_persistent_kernel`: the same GEMM with as many programs as the GPU has SMs, tiles copied by the tensor memory
   accelerator (Hopper), and the output written in two halves, so that the loads of the next tile fit.

What must not be done is `acc += tl.dot(S, B) * s`: a second accumulator next to the first does not fit into the registers.
Scaling and dropout are folded into S. Backward: kernels/triton_kernels/lora_backward_triton.py.

Letters: M tokens, K = d_in, N = d_out, r rank, R the rank padded to a power of two ≥ 16; s is the scale α / r (`scaling`),
x̃ is x after dropout, and S = s · x̃ Aᵀ (M, R) are the tokens after the down-projection. A kernel calls the pointer to S `down`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton_kernels.configs import SMALL_M, Tiles, capability, gemm_tiles, multiprocessors, shrink_tiles
from kernels.triton_kernels.launching import (
    check_down_projection,
    check_dtypes,
    check_shapes,
    contiguous_bias,
    dropout,
    options,
    scratch_memory,
    strides,
    tile_count,
)
from kernels.triton_kernels.tiles_triton import (
    add_lora_and_bias,
    keep_tile,
    load_tile,
    padded_rank,
    precision,
    store_tile,
    tile_of,
)

FASTEST_RANK = 32
"""`one_launch_kernel` pads the rank to at least this: with 16 columns of S it took about twice as long on an H200"""
PERSISTENT_M = 128
"""up to this many tokens `expand_kernel` was faster on an H200 than the persistent one"""

# ---------------------------------------------------------------- version 1: one launch


@triton.jit
def one_launch_kernel(
    x, w, bias, a, b, down, y, seed, M, N, K, r, scaling, threshold, inverse,
    x_row, x_col, w_row, w_col, a_row, a_col, b_row, b_col,
    HAS_BIAS: tl.constexpr, DROPOUT: tl.constexpr, R: tl.constexpr, S_WIDTH: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y and S in one launch. R columns of S are computed, the first S_WIDTH of them are stored."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    ranks = tl.arange(0, R)
    acc = tl.zeros((BM, BN), tl.float32)
    down_acc = tl.zeros((BM, R), tl.float32)
    for k in range(0, K, BK):
        depth = k + tl.arange(0, BK)
        x_tile = load_tile(x, rows, depth, x_row, x_col, M, K)
        w_tile = load_tile(w, depth, columns, w_col, w_row, K, N)  # (BK, BN): a tile of Wᵀ
        acc = tl.dot(x_tile, w_tile, acc, input_precision=PRECISION)
        if DROPOUT:
            x_tile = tl.where(keep_tile(seed, threshold, rows, k, K, BM, BK), x_tile, 0.0)
        a_tile = load_tile(a, depth, ranks, a_col, a_row, K, r)
        down_acc = tl.dot(x_tile, a_tile, down_acc, input_precision=PRECISION)
    down_tile = (down_acc * (scaling * inverse)).to(x.dtype.element_ty)
    acc = add_lora_and_bias(acc, down_tile, b, bias, ranks, columns, N, r, b_row, b_col, HAS_BIAS, PRECISION)
    store_tile(y, acc, rows, columns, N, M, N)
    if tl.program_id(1) == 0:  # saved for the backward pass
        store_tile(down, down_tile, rows, ranks, S_WIDTH, M, S_WIDTH)


# ---------------------------------------------------------------- version 2: S once, then one GEMM


@triton.jit
def shrink_kernel(
    x, a, down, seed, M, K, r, scaling, threshold, inverse, x_row, x_col, a_row, a_col,
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
    tl.store(down + place, acc.to(down.dtype.element_ty), mask=rows[:, None] < M)


@triton.jit
def expand_kernel(
    x, w, bias, down, b, y, M, N, K, r, x_row, x_col, w_row, w_col, b_row, b_col, down_row,
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
    down_tile = load_tile(down, rows, ranks, down_row, 1, M, r)
    acc = add_lora_and_bias(acc, down_tile, b, bias, ranks, columns, N, r, b_row, b_col, HAS_BIAS, PRECISION)  # last step
    store_tile(y, acc, rows, columns, N, M, N)


# ---------------------------------------------------------------- version 3: persistent, with tensor descriptors


@triton.jit
def expand_persistent_kernel(
    x, w, bias, down, b, y, M, N, K, r, x_row, w_row, b_row, b_col, down_row,
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
        down_tile = load_tile(down, rows, ranks, down_row, 1, M, r)
        acc = add_lora_and_bias(acc, down_tile, b, bias, ranks, columns, N, r, b_row, b_col, HAS_BIAS, PRECISION)
        halves = tl.permute(tl.reshape(acc, (BM, 2, BN // 2)), (0, 2, 1))
        first, second = tl.split(halves)  # half a tile of shared memory at a time
        y_tiles.store([top, left], first.to(y.dtype.element_ty))
        y_tiles.store([top, left + BN // 2], second.to(y.dtype.element_ty))


# ---------------------------------------------------------------- launching


def lora_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, lora_A: Tensor, lora_B: Tensor, scaling: float,
    seed: Tensor | None = None, p: float = 0.0, gemm: Tiles | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(M, K) → y (M, N) and S (M, R) = s · x̃ Aᵀ, both in x's dtype. `seed` (1,) int64 and `p` make the dropout mask.

    `gemm`: the tiles of the kernel that makes y. ValueError if the shapes, dtypes or devices do not fit together.
    """
    if len(x) <= SMALL_M:
        return one_launch(x, weight, bias, lora_A, lora_B, scaling, seed, p, gemm)
    S = shrink(x, lora_A, scaling, seed, p)
    return expand(x, weight, bias, S, lora_B, gemm), S


def one_launch(x, weight, bias, lora_A, lora_B, scaling: float, seed=None, p: float = 0.0, tiles: Tiles | None = None):
    """Version 1: y and S in one launch."""
    shapes = "x M K, weight N K, bias N, lora_A r K, lora_B N r"
    check_shapes(shapes, x=x, weight=weight, bias=bias, lora_A=lora_A, lora_B=lora_B)
    check_dtypes(x, weight, bias, lora_A, lora_B)
    (M, K), N, r = x.shape, len(weight), len(lora_A)
    R = padded_rank(r)
    y, S = x.new_empty(M, N), x.new_empty(M, R)
    t = tiles or gemm_tiles(M, N, x.dtype, capability(x.device))
    if M and N:
        one_launch_kernel[triton.cdiv(M, t.M), triton.cdiv(N, t.N)](
            x, weight, contiguous_bias(bias), lora_A, lora_B, S, y, seed, M=M, N=N, K=K, r=r, scaling=scaling, **dropout(p),
            **strides(x=x, w=weight, a=lora_A, b=lora_B), HAS_BIAS=bias is not None, R=max(R, FASTEST_RANK), S_WIDTH=R,
            BM=t.M, BN=t.N, BK=t.K, PRECISION=precision(x.dtype), **options(t),
        )  # fmt: skip
    return y, S


def shrink(x: Tensor, lora_A: Tensor, scaling: float, seed=None, p: float = 0.0, tiles: Tiles | None = None) -> Tensor:
    """S = s · x̃ Aᵀ, (M, R)."""
    check_shapes("x M K, lora_A r K", x=x, lora_A=lora_A)
    check_dtypes(x, lora_A)
    (M, K), r = x.shape, len(lora_A)
    R = padded_rank(r)
    t = tiles or shrink_tiles(M, K, x.dtype, capability(x.device))
    parts = x.new_empty(t.split, M, R, dtype=torch.float32 if t.split > 1 else x.dtype)
    if M:
        shrink_kernel[triton.cdiv(M, t.M), t.split](
            x, lora_A, parts, seed, M=M, K=K, r=r, scaling=scaling, **dropout(p), **strides(x=x, a=lora_A),
            R=R, SPLIT=t.split, BM=t.M, BK=t.K, PRECISION=precision(x.dtype), **options(t),
        )  # fmt: skip
    return parts[0] if t.split == 1 else parts.sum(0).to(x.dtype)  # in a fixed order: the same bits every time


def expand(x, weight, bias, S: Tensor, lora_B: Tensor, tiles: Tiles | None = None, persistent: bool | None = None) -> Tensor:
    """y = x Wᵀ + S Bᵀ + b, (M, N). S has at least r columns, and may be some columns of a wider one.

    `persistent` None: for more than PERSISTENT_M tokens, where the layout allows it.
    """
    check_shapes("x M K, weight N K, bias N, lora_B N r, S M R", x=x, weight=weight, bias=bias, lora_B=lora_B, S=S)
    check_dtypes(x, weight, bias, lora_B, S)
    check_down_projection(S, lora_B)
    (M, K), (N, r) = x.shape, lora_B.shape
    y = x.new_empty(M, N)
    if not (M and N):
        return y
    t = tiles or gemm_tiles(M, N, x.dtype, capability(x.device))
    operands = x, weight, contiguous_bias(bias), S, lora_B, y
    numbers = {"M": M, "N": N, "K": K, "r": r, "down_row": S.stride(0), **strides(b=lora_B)}
    constants = {"HAS_BIAS": bias is not None, "R": padded_rank(r), "BM": t.M, "BN": t.N, "BK": t.K, "GROUP": t.group}
    constants |= {"PRECISION": precision(x.dtype), **options(t)}
    if (M > PERSISTENT_M and fits_descriptors(x, weight, y)) if persistent is None else persistent:
        triton.set_allocator(scratch_memory)
        programs = min(multiprocessors(x.device), tile_count(M, N, t))
        rows = {"x_row": x.stride(0), "w_row": weight.stride(0)}
        expand_persistent_kernel[(programs,)](*operands, **numbers, **rows, PROGRAMS=programs, **constants)
    else:
        expand_kernel[(tile_count(M, N, t),)](*operands, **numbers, **strides(x=x, w=weight), **constants)
    return y


def shared_forward(x, weights, biases, lora_As, lora_Bs, scaling: float, seed=None, p: float = 0.0):
    """Several layers on one x (q, k, v; gate, up): x is read once for all their down-projections.

    Returns ([y_i], S). Layer i, of rank r_i, has the next r_i columns of S. They share the scale and the dropout mask.
    """
    S = shrink(x, torch.cat(lora_As), scaling, seed, p)
    ys, column = [], 0
    for w, bias, B in zip(weights, biases, lora_Bs, strict=True):
        ys.append(expand(x, w, bias, S[:, column : column + B.shape[1]], B))
        column += B.shape[1]
    return ys, S


def fits_descriptors(x: Tensor, weight: Tensor, y: Tensor) -> bool:
    """Whether the tensor memory accelerator can copy tiles: Hopper or newer, contiguous rows, 16-byte strides and starts."""
    hopper = x.is_cuda and torch.cuda.get_device_capability(x.device)[0] >= 9
    size = x.element_size()
    aligned = all(t.stride(1) == 1 and t.stride(0) * size % 16 == 0 and t.data_ptr() % 16 == 0 for t in (x, weight, y))
    return hopper and size == 2 and aligned
