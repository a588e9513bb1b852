"""Matmuls with a 4-bit weight that is decoded on the way: y = x Wᵀ + b (+ S Bᵀ), W in NF4 or FP4, never written out.

1. `gemv_kernel`, 1 to 4 tokens: no tensor cores. A thread multiplies the two levels of a byte with their two x, sums the
   pair, and applies the block's scale once per pair: the scale never meets a weight of its own.
2. `gemm_kernel`, up to 256 tokens: yᵀ = W xᵀ, the operands swapped. The decoded weight is the first operand, which tensor
   cores take from registers; the tokens are the narrow side, 16 at a time. (x Wᵀ would send the weight through shared memory.)

On an H200 only one token is faster this way (`PACKED_PAYS`): 2 took about twice as long as 1, because the first kernel decodes
again for each token, and the second kernel decodes slower than decoding once and calling cuBLAS takes in all.
Rows must hold whole blocks (K a multiple of the block size). The sums run in float32; the GEMM rounds each weight to x's
dtype first, as a matmul with the decoded weight does.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.formulas.nf4 import Quantized
from kernels.triton_kernels.configs import capability, nf4_gemm_tiles, nf4_gemv_tiles
from kernels.triton_kernels.launching import check_down_projection, check_dtypes, check_shapes, contiguous_bias, options, strides
from kernels.triton_kernels.nf4_triton import decode_pairs, decode_scales, tables
from kernels.triton_kernels.tiles_triton import load_tile, precision

GEMV_M = 4
GEMM_M = 256
PACKED_PAYS = 1
"""tokens: up to here a layer multiplies with the packed weight; above, it decodes first (kernels/results/nvidia-h200)"""


@triton.jit
def spread(scale, ROWS: tl.constexpr, BLOCKS: tl.constexpr, WIDTH: tl.constexpr):
    """(ROWS, BLOCKS) scales to one for each of the WIDTH bytes of a block: (ROWS, BLOCKS · WIDTH)."""
    return tl.reshape(tl.broadcast_to(scale[:, :, None], (ROWS, BLOCKS, WIDTH)), (ROWS, BLOCKS * WIDTH))


@triton.jit
def gemv_kernel(
    x, packed, absmax, nested, offset, dynamic, pairs, bias, down, b, y, N, K, r, x_row, down_row, b_row, b_col,
    HAS_BIAS: tl.constexpr, NESTED: tl.constexpr, BLOCKSIZE: tl.constexpr, M: tl.constexpr, R: tl.constexpr,
    BN: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """BN rows of W against all M tokens; a step takes BLOCKS blocks of each row."""
    half: tl.constexpr = BLOCKSIZE // 2
    columns = tl.program_id(0) * BN + tl.arange(0, BN)
    row_blocks = K // BLOCKSIZE
    for m in tl.static_range(M):
        acc = tl.zeros((BN, BLOCKS * half), tl.float32)
        for first_block in range(0, row_blocks, BLOCKS):
            inner = first_block + tl.arange(0, BLOCKS)
            block = columns.to(tl.int64)[:, None] * row_blocks + inner[None, :]  # (BN, BLOCKS)
            inside = (columns[:, None] < N) & (inner[None, :] < row_blocks)
            scale = decode_scales(absmax, nested, offset, dynamic, block, inside, NESTED)
            place = first_block * half + tl.arange(0, BLOCKS * half)
            known = (columns[:, None] < N) & (place[None, :] < K // 2)
            byte = tl.load(packed + columns.to(tl.int64)[:, None] * (K // 2) + place[None, :], mask=known, other=0)
            first, second = decode_pairs(pairs, byte)  # (BN, BLOCKS · half)
            even = tl.load(x + m * x_row + 2 * place, mask=place < K // 2, other=0.0).to(tl.float32)
            odd = tl.load(x + m * x_row + 2 * place + 1, mask=place < K // 2, other=0.0).to(tl.float32)
            acc += (first * even[None, :] + second * odd[None, :]) * spread(scale, BN, BLOCKS, half)
        total = tl.sum(acc, 1)
        if R:
            ranks = tl.arange(0, R)
            down_tile = tl.load(down + m * down_row + ranks, mask=ranks < r, other=0.0).to(tl.float32)
            b_tile = load_tile(b, columns, ranks, b_row, b_col, N, r).to(tl.float32)
            total += tl.sum(b_tile * down_tile[None, :], 1)
        if HAS_BIAS:
            total += tl.load(bias + columns, mask=columns < N, other=0.0).to(tl.float32)
        tl.store(y + m * N + columns, total.to(y.dtype.element_ty), mask=columns < N)


@triton.jit
def gemm_kernel(
    x, packed, absmax, nested, offset, dynamic, pairs, bias, down, b, y, M, N, K, r, x_row, x_col, down_row, b_row, b_col,
    HAS_BIAS: tl.constexpr, NESTED: tl.constexpr, BLOCKSIZE: tl.constexpr, R: tl.constexpr, SPLIT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A step takes BK weights of each of BN rows: part of one block, or some whole ones. Part 0 adds bias and LoRA."""
    SCALES: tl.constexpr = max(1, BK // BLOCKSIZE)
    columns, rows = tl.program_id(0) * BN + tl.arange(0, BN), tl.program_id(1) * BM + tl.arange(0, BM)
    part = tl.program_id(2)
    row_blocks, n_bytes = K // BLOCKSIZE, K // 2
    known = columns < N
    line = packed + columns.to(tl.int64)[:, None] * n_bytes + tl.arange(0, BK // 2)[None, :]
    acc = tl.zeros((BN, BM), tl.float32)
    for k in range(part * BK, K, SPLIT * BK):
        inside = known[:, None] & (k // 2 + tl.arange(0, BK // 2)[None, :] < n_bytes)
        byte = tl.load(line + k // 2, mask=inside, other=0)
        first, second = decode_pairs(pairs, byte)
        inner = k // BLOCKSIZE + tl.arange(0, SCALES)
        block = columns.to(tl.int64)[:, None] * row_blocks + inner[None, :]
        inside = known[:, None] & (inner[None, :] < row_blocks)
        scale = decode_scales(absmax, nested, offset, dynamic, block, inside, NESTED)
        scale = spread(scale, BN, SCALES, BK // 2 // SCALES)
        weight = tl.reshape(tl.join(first * scale, second * scale), (BN, BK)).to(x.dtype.element_ty)
        x_tile = load_tile(x, k + tl.arange(0, BK), rows, x_col, x_row, K, M)  # (BK, BM): a tile of xᵀ
        acc = tl.dot(weight, x_tile, acc, input_precision=PRECISION)
    if R:
        if part == 0:
            ranks = tl.arange(0, R)
            b_tile = load_tile(b, columns, ranks, b_row, b_col, N, r)
            down_tile = load_tile(down, ranks, rows, 1, down_row, r, M)
            acc = tl.dot(b_tile, down_tile, acc, input_precision=PRECISION)
    if HAS_BIAS:
        if part == 0:
            acc += tl.load(bias + columns, mask=known, other=0.0).to(tl.float32)[:, None]
    place = (part.to(tl.int64) * M + rows)[None, :] * N + columns[:, None]
    tl.store(y + place, acc.to(y.dtype.element_ty), mask=known[:, None] & (rows[None, :] < M))


# ---------------------------------------------------------------- launching


def fits(x: Tensor, weight: Quantized) -> bool:
    """Whether a matmul with the packed weight is written for this: rows of whole blocks, and at most GEMM_M tokens."""
    return x.shape[1] % weight.blocksize == 0 and len(x) <= GEMM_M


def nf4_matmul(x: Tensor, weight: Quantized, bias: Tensor | None = None, S: Tensor | None = None, lora_B=None) -> Tensor:
    """(M, K) → (M, N) in x's dtype: x Wᵀ + b, and + S Bᵀ with S (M, R) from `lora_matmul_triton.shrink`.

    ValueError if `fits` says no, or if the shapes, dtypes or devices do not fit together.
    """
    if not fits(x, weight):
        raise ValueError(
            f"x {tuple(x.shape)} and blocks of {weight.blocksize}: expected rows of whole blocks and at most "
            f"{GEMM_M} tokens; decode the weight and multiply instead"
        )
    N, columns = weight.shape
    if columns != x.shape[1]:
        raise ValueError(f"x {tuple(x.shape)} and a weight {tuple(weight.shape)}: expected as many columns in both")
    check_shapes("x M K, S M R, lora_B N r, bias N", x=x, S=S, lora_B=lora_B, bias=bias)
    check_dtypes(x, bias, S, lora_B)
    check_down_projection(S, lora_B)
    if weight.packed.device != x.device:
        raise ValueError(f"x on {x.device} and the 4-bit weight on {weight.packed.device}: expected one device")
    M = len(x)
    if not (M and N):
        return x.new_empty(M, N)
    launch = _gemv if M <= GEMV_M and x.stride(1) == 1 else _gemm
    return launch(x, weight, bias, S, lora_B)


def _gemv(x, weight: Quantized, bias, S, lora_B) -> Tensor:
    (M, K), N = x.shape, weight.shape[0]
    y, t = x.new_empty(M, N), nf4_gemv_tiles(weight.blocksize, K, capability(x.device))
    gemv_kernel[(triton.cdiv(N, t.N),)](
        x, bias=contiguous_bias(bias), y=y, M=M, N=N, K=K, x_row=x.stride(0), HAS_BIAS=bias is not None,
        **_weight(weight), **_lora(S, lora_B), BN=t.N, BLOCKS=t.K // weight.blocksize, **options(t),
    )  # fmt: skip
    return y


def _gemm(x, weight: Quantized, bias, S, lora_B) -> Tensor:
    (M, K), N = x.shape, weight.shape[0]
    t = nf4_gemm_tiles(M, N, K, x.dtype, capability(x.device))
    y = x.new_empty(t.split, M, N, dtype=x.dtype if t.split == 1 else torch.float32)
    gemm_kernel[triton.cdiv(N, t.N), triton.cdiv(M, t.M), t.split](
        x, bias=contiguous_bias(bias), y=y, M=M, N=N, K=K, **strides(x=x), HAS_BIAS=bias is not None,
        **_weight(weight), **_lora(S, lora_B),
        SPLIT=t.split, BM=t.M, BN=t.N, BK=t.K, PRECISION=precision(x.dtype), **options(t),
    )  # fmt: skip
    return y[0] if t.split == 1 else y.sum(0).to(x.dtype)


def _weight(weight: Quantized) -> dict:
    """The kernels' arguments about the 4-bit weight."""
    return {**tables(weight), "NESTED": weight.nested is not None, "BLOCKSIZE": weight.blocksize}


def _lora(S: Tensor | None, lora_B: Tensor | None) -> dict:
    """The kernels' arguments about LoRA. R = 0: there is none."""
    if S is None or lora_B is None:
        return {"down": None, "b": None, "r": 0, "R": 0, "down_row": 0, "b_row": 0, "b_col": 0}
    return {"down": S, "b": lora_B, "r": lora_B.shape[1], "R": S.shape[1], "down_row": S.stride(0), **strides(b=lora_B)}
