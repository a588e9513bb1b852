"""The fused LoRA that LoRAFusion describes (Zhu et al. 2025, arXiv 2510.00206), written here from the description.

    x̂, mask = dropout(x)            one kernel that stores both           torch's `native_dropout`, as in its released code
    S = x̂ Aᵀ                        a plain matmul                        torch
    y = s · S Bᵀ + x Wᵀ             S Bᵀ is the first MMA                 `rank_first_kernel`
    dS = s · dy B,  dB = s · dyᵀ S  one read of dy, atomic additions      `grad_rank_atomic_kernel`
    dA = dSᵀ x̂                      a plain matmul                        torch
    dx = mask(dS A) + dy W          dS A is the first MMA                 `rank_first_kernel`

Ours (lora_matmul_triton.py, lora_backward_triton.py) differs in five things: dropout is made again from a seed, S comes
from a kernel that splits K, S Bᵀ is the last MMA, a persistent kernel copies tiles with the tensor memory accelerator on Hopper,
and dS and dB are summed in a fixed order. The tile sizes are ours, from configs.py, because LoRAFusion's own table has no
H200: the times here say how the form does with our tiles, not what its authors would reach with tuned ones. LoRAFusion also has
variants that use the tensor memory accelerator (for the backward pass off by default); they are not written here.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton_kernels.configs import capability, gemm_tiles, rank_tiles
from kernels.triton_kernels.tiles_triton import load_tile, padded_rank, precision, tile_of


@triton.jit
def rank_first_kernel(
    small, factor, left, right, mask, out, M, N, K, r, scaling, small_row, factor_row, factor_col,
    left_row, left_col, right_row, right_col,
    HAS_MASK: tl.constexpr, R: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out (M, N) = mask ⊙ scaling · small (M, r) factor (r, N) + left (M, K) right (K, N)."""
    tile_m, tile_n = tile_of(tl.program_id(0), tl.cdiv(M, BM), tl.cdiv(N, BN), GROUP)
    rows, columns, ranks = tile_m * BM + tl.arange(0, BM), tile_n * BN + tl.arange(0, BN), tl.arange(0, R)
    small_tile = load_tile(small, rows, ranks, small_row, 1, M, r)
    factor_tile = load_tile(factor, ranks, columns, factor_row, factor_col, r, N)
    acc = tl.dot(small_tile, factor_tile, input_precision=PRECISION) * scaling
    if HAS_MASK:
        acc = tl.where(load_tile(mask, rows, columns, N, 1, M, N) != 0, acc, 0.0)
    left_rows, right_columns = rows % M, columns % N  # those past the end read an earlier one again and are not stored
    left_tiles = left + left_rows.to(tl.int64)[:, None] * left_row + tl.arange(0, BK)[None, :] * left_col
    right_tiles = right + tl.arange(0, BK).to(tl.int64)[:, None] * right_row + right_columns.to(tl.int64)[None, :] * right_col
    for k in range(0, K, BK):
        inside_k = k + tl.arange(0, BK) < K
        left_tile = tl.load(left_tiles, mask=inside_k[None, :], other=0.0)
        right_tile = tl.load(right_tiles, mask=inside_k[:, None], other=0.0)
        acc = tl.dot(left_tile, right_tile, acc, input_precision=PRECISION)
        left_tiles += BK * left_col
        right_tiles += BK * right_row
    inside = (rows[:, None] < M) & (columns[None, :] < N)
    tl.store(out + rows.to(tl.int64)[:, None] * N + columns[None, :], acc.to(out.dtype.element_ty), mask=inside)


@triton.jit
def grad_rank_atomic_kernel(
    dy, b, s, ds, db, M, N, r, scaling, dy_row, dy_col, b_row, b_col, s_row,
    R: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds one tile of dy to dS (M, R) and dB (N, R), both float32 and zero at the start."""
    rows, columns = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN)
    ranks = tl.arange(0, R)
    dy_tile = load_tile(dy, rows, columns, dy_row, dy_col, M, N)
    b_tile = load_tile(b, columns, ranks, b_row, b_col, N, r)
    s_tile = load_tile(s, rows, ranks, s_row, 1, M, r)
    part_s = tl.dot(dy_tile, b_tile, input_precision=PRECISION) * scaling
    part_b = tl.dot(tl.trans(dy_tile), s_tile, input_precision=PRECISION) * scaling
    tl.atomic_add(ds + rows.to(tl.int64)[:, None] * R + ranks[None, :], part_s, mask=rows[:, None] < M)
    tl.atomic_add(db + columns.to(tl.int64)[:, None] * R + ranks[None, :], part_b, mask=columns[:, None] < N)


# ---------------------------------------------------------------- launching


def forward(
    x: Tensor, weight: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float, p: float = 0.0
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """x (M, K) → y (M, N), and for the backward pass S (M, r), x̂ (M, K) and the mask (M, K), None without dropout."""
    dropped, mask = torch.native_dropout(x, p, True) if p else (x, None)  # mask: bool, one byte per element
    S = dropped @ lora_A.T
    return rank_first(S, lora_B.T, x, weight.T, scaling), S, dropped, mask


def backward(
    dy: Tensor, dropped: Tensor, mask: Tensor | None, weight: Tensor, lora_A: Tensor, lora_B: Tensor, S: Tensor,
    scaling: float, p: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """dx (M, K) in dy's dtype, dA (r, K) and dB (N, r)."""
    dS, dB = grad_rank_atomic(dy, lora_B, S, scaling)
    dA = dS.T @ dropped
    return rank_first(dS, lora_A, dy, weight, 1 / (1 - p), mask), dA, dB


def rank_first(small: Tensor, factor: Tensor, left: Tensor, right: Tensor, scaling: float, mask: Tensor | None = None) -> Tensor:
    """mask ⊙ scaling · small factor + left right, in left's dtype; any strides, but columns of `small` side by side."""
    (M, K), (r, N) = left.shape, factor.shape
    out, t = left.new_empty(M, N), gemm_tiles(M, N, left.dtype, capability(left.device))
    small, mask = small.contiguous(), None if mask is None else mask.view(torch.uint8)
    rank_first_kernel[(triton.cdiv(M, t.M) * triton.cdiv(N, t.N),)](
        small, factor, left, right, mask, out, M, N, K, r, scaling, small.stride(0), *factor.stride(),
        *left.stride(), *right.stride(), mask is not None, padded_rank(r),
        t.M, t.N, t.K, t.group, precision(left.dtype), num_warps=t.warps, num_stages=t.stages,
    )  # fmt: skip
    return out


def grad_rank_atomic(dy: Tensor, lora_B: Tensor, S: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """dS (M, r) in dy's dtype and dB (N, r) in float32; their last bits change from run to run."""
    (M, N), r = dy.shape, lora_B.shape[1]
    R = padded_rank(r)
    t = rank_tiles(M, N, R, dy.dtype, capability(dy.device))
    ds, db = (dy.new_zeros(size, R, dtype=torch.float32) for size in (M, N))
    grad_rank_atomic_kernel[triton.cdiv(M, t.M), triton.cdiv(N, t.N)](
        dy, lora_B, S, ds, db, M, N, r, scaling, *dy.stride(), *lora_B.stride(), S.stride(0),
        R, t.M, t.N, precision(dy.dtype), num_warps=t.warps, num_stages=t.stages,
    )  # fmt: skip
    return ds[:, :r].to(dy.dtype), db[:, :r]
