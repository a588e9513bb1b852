"""The gradients of the LoRA operation in Triton, one read of each large matrix, and the same bits every time.

    dS = s · dy B    and   dB = dyᵀ S      from one read of dy      `grad_rank_kernel`
    dA = dSᵀ x̃                             one read of x            `grad_a_kernel`
    dx = mask(dS A) + dy W                 one GEMM                 `grad_x_kernel`

Letters as in lora_matmul_triton.py: M tokens, K = d_in, N = d_out, s the scale, x̃ = x after dropout. S = s · x̃ Aᵀ comes from
forward with the scale already in it (`down` in the kernels).
Sums over programs go through float32 planes that are added up in a fixed order, not through atomic additions, whose order
changes from run to run. Their price: dB has a plane for each BM rows, R / 64 of
dy's bytes in bf16 at BM = 128, written and read once.
The dropout mask is made again from the seed. In `grad_x_kernel` the rank-r matmul comes first, because the mask is for it
alone: the GEMM then adds to the same accumulator.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton_kernels.configs import Tiles, capability, gemm_tiles, rank_tiles
from kernels.triton_kernels.launching import (
    check_down_projection,
    check_dtypes,
    check_shapes,
    dropout,
    options,
    strides,
    tile_count,
)
from kernels.triton_kernels.tiles_triton import keep_tile, load_tile, padded_rank, precision, store_tile, tile_of


@triton.jit
def grad_rank_kernel(
    dy, b, down, ds_parts, db_parts, M, N, r, scaling, dy_row, dy_col, b_row, b_col, down_row,
    R: tl.constexpr, SPLIT: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: BM rows of dy, every SPLIT-th of its column tiles. Writes a plane of dS per part and of dB per BM rows."""
    block, part = tl.program_id(0), tl.program_id(1)
    rows, ranks = block * BM + tl.arange(0, BM), tl.arange(0, R)
    down_tile = load_tile(down, rows, ranks, down_row, 1, M, r)
    ds = tl.zeros((BM, R), tl.float32)
    for n in range(part * BN, N, SPLIT * BN):
        columns = n + tl.arange(0, BN)
        dy_tile = load_tile(dy, rows, columns, dy_row, dy_col, M, N)
        b_tile = load_tile(b, columns, ranks, b_row, b_col, N, r)
        ds = tl.dot(dy_tile, b_tile, ds, input_precision=PRECISION)
        db = tl.dot(tl.trans(dy_tile), down_tile, input_precision=PRECISION)  # (BN, R)
        place = (block.to(tl.int64) * N + columns)[:, None] * R + ranks[None, :]
        tl.store(db_parts + place, db, mask=columns[:, None] < N)
    place = (part.to(tl.int64) * M + rows)[:, None] * R + ranks[None, :]
    tl.store(ds_parts + place, ds * scaling, mask=rows[:, None] < M)


@triton.jit
def grad_a_kernel(
    ds, x, da_parts, seed, M, K, threshold, inverse, x_row, x_col,
    DROPOUT: tl.constexpr, R: tl.constexpr, SPLIT: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: BK columns of x, every SPLIT-th of its row tiles. Writes a plane of dA per part."""
    first, part = tl.program_id(0) * BK, tl.program_id(1)
    columns, ranks = first + tl.arange(0, BK), tl.arange(0, R)
    acc = tl.zeros((R, BK), tl.float32)
    for m in range(part * BM, M, SPLIT * BM):
        rows = m + tl.arange(0, BM)
        x_tile = load_tile(x, rows, columns, x_row, x_col, M, K)
        if DROPOUT:
            x_tile = tl.where(keep_tile(seed, threshold, rows, first, K, BM, BK), x_tile, 0.0)
        ds_tile = load_tile(ds, rows, ranks, R, 1, M, R)
        acc = tl.dot(tl.trans(ds_tile), x_tile, acc, input_precision=PRECISION)
    place = (part.to(tl.int64) * R + ranks)[:, None] * K + columns[None, :]
    tl.store(da_parts + place, acc * inverse, mask=columns[None, :] < K)


@triton.jit
def grad_x_kernel(
    dy, w, ds, a, dx, seed, M, N, K, r, threshold, inverse, dy_row, dy_col, w_row, w_col, a_row, a_col,
    DROPOUT: tl.constexpr, R: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dx (M, K): tiles of BM × BN of it, and steps of BK along d_out."""
    tile_m, tile_k = tile_of(tl.program_id(0), tl.cdiv(M, BM), tl.cdiv(K, BN), GROUP)
    rows, columns, ranks = tile_m * BM + tl.arange(0, BM), tile_k * BN + tl.arange(0, BN), tl.arange(0, R)
    ds_tile = load_tile(ds, rows, ranks, R, 1, M, R)
    a_tile = load_tile(a, ranks, columns, a_row, a_col, r, K)
    acc = tl.dot(ds_tile, a_tile, input_precision=PRECISION)
    if DROPOUT:
        acc = tl.where(keep_tile(seed, threshold, rows, tile_k * BN, K, BM, BN), acc * inverse, 0.0)
    dy_rows, w_columns = rows % M, columns % K  # as in forward: those past the end are not stored
    dy_tiles = dy + dy_rows.to(tl.int64)[:, None] * dy_row + tl.arange(0, BK)[None, :] * dy_col
    w_tiles = w + tl.arange(0, BK).to(tl.int64)[:, None] * w_row + w_columns.to(tl.int64)[None, :] * w_col
    for n in range(0, N, BK):
        inside_n = n + tl.arange(0, BK) < N
        dy_tile = tl.load(dy_tiles, mask=inside_n[None, :], other=0.0)
        w_tile = tl.load(w_tiles, mask=inside_n[:, None], other=0.0)
        acc = tl.dot(dy_tile, w_tile, acc, input_precision=PRECISION)
        dy_tiles += BK * dy_col
        w_tiles += BK * w_row
    store_tile(dx, acc, rows, columns, K, M, K)


# ---------------------------------------------------------------- launching


def lora_backward(
    dy: Tensor, x: Tensor, weight: Tensor, lora_A: Tensor, lora_B: Tensor, S: Tensor, scaling: float,
    seed: Tensor | None = None, p: float = 0.0, need_x: bool = True, thin: Tiles | None = None, gemm: Tiles | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """dx (M, K) in dy's dtype (empty without `need_x`), dA (r, K) and dB (N, r) in float32.

    `thin`: the tiles of the kernels for dS, dB and dA. `gemm`: those of the kernel for dx.
    """
    shapes = "x M K, weight N K, lora_A r K, lora_B N r, dy M N, S M R"
    check_shapes(shapes, x=x, weight=weight, lora_A=lora_A, lora_B=lora_B, dy=dy, S=S)
    check_dtypes(dy, x, weight, lora_A, lora_B, S)
    check_down_projection(S, lora_B)
    dS, dB = grad_rank(dy, lora_B, S, scaling, thin)
    dA = grad_a(dS, x, len(lora_A), seed, p, thin)
    dx = grad_x(dy, weight, dS, lora_A, seed, p, gemm) if need_x else dy.new_empty(0)
    return dx, dA, dB


def grad_rank(dy, lora_B, S, scaling: float, tiles: Tiles | None = None) -> tuple[Tensor, Tensor]:
    """dS (M, R) in dy's dtype and dB (N, r) in float32."""
    (M, N), r = dy.shape, lora_B.shape[1]
    R = padded_rank(r)
    t = tiles or rank_tiles(M, N, R, dy.dtype, capability(dy.device))
    blocks = triton.cdiv(M, t.M)
    ds, db = dy.new_empty(t.split, M, R, dtype=torch.float32), dy.new_empty(blocks, N, R, dtype=torch.float32)
    if M:
        grad_rank_kernel[blocks, t.split](
            dy, lora_B, S, ds, db, M=M, N=N, r=r, scaling=scaling, **strides(dy=dy, b=lora_B), down_row=S.stride(0),
            R=R, SPLIT=t.split, BM=t.M, BN=t.N, PRECISION=precision(dy.dtype), **options(t),
        )  # fmt: skip
    return ds.sum(0).to(dy.dtype), db.sum(0)[:, :r]


def grad_a(dS: Tensor, x: Tensor, r: int, seed=None, p: float = 0.0, tiles: Tiles | None = None) -> Tensor:
    """dA (r, K) in float32."""
    M, K = x.shape
    R, t = dS.shape[1], tiles or rank_tiles(M, K, dS.shape[1], x.dtype, capability(x.device))
    parts = x.new_empty(t.split, R, K, dtype=torch.float32)
    if M and K:
        grad_a_kernel[triton.cdiv(K, t.N), t.split](
            dS, x, parts, seed, M=M, K=K, **dropout(p), **strides(x=x),
            R=R, SPLIT=t.split, BM=t.M, BK=t.N, PRECISION=precision(x.dtype), **options(t),
        )  # fmt: skip
    return parts.sum(0)[:r] if M else parts.new_zeros(r, K)


def grad_x(dy, weight, dS: Tensor, lora_A, seed=None, p: float = 0.0, tiles: Tiles | None = None) -> Tensor:
    """dx (M, K) in dy's dtype."""
    (M, N), (r, K) = dy.shape, lora_A.shape
    dx, t = dy.new_empty(M, K), tiles or gemm_tiles(M, K, dy.dtype, capability(dy.device))
    if M and K:
        grad_x_kernel[(tile_count(M, K, t),)](
            dy, weight, dS, lora_A, dx, seed, M=M, N=N, K=K, r=r, **dropout(p), **strides(dy=dy, w=weight, a=lora_A),
            R=dS.shape[1], BM=t.M, BN=t.N, BK=t.K, GROUP=t.group, PRECISION=precision(dy.dtype), **options(t),
        )  # fmt: skip
    return dx
