"""What every Triton kernel here uses inside: the order of the tiles, the dropout mask, loads, the last sums and stores.

A kernel works on tiles: BM rows of M, BN columns of N, BK of the axis that is summed over. Names in capitals are compile-time
constants. Row numbers are int64 before they meet a stride: 2^31 elements are not many.
"""

import torch
import triton
import triton.language as tl

ROUNDS = tl.constexpr(7)  # as in kernels/triton_kernels/philox.py


def padded_rank(r: int) -> int:
    """The rank that a tensor core takes: a power of two, at least 16. The added columns are zeros and add nothing."""
    return max(16, 1 << (r - 1).bit_length())


def precision(dtype: torch.dtype) -> str:
    """How a float32 matmul is rounded: exactly ("ieee") unless torch is set to allow TF32."""
    return "tf32" if dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


@triton.jit
def tile_of(pid, tiles_m, tiles_n, GROUP: tl.constexpr):
    """Program number to (tile row, tile column), GROUP tile rows at a time: neighbours in time share tiles in the L2 cache."""
    group_size = GROUP * tiles_n
    first_row = (pid // group_size) * GROUP
    group_rows = tl.minimum(tiles_m - first_row, GROUP)  # the last group may have fewer
    return first_row + (pid % group_size) % group_rows, (pid % group_size) // group_rows


@triton.jit
def keep_tile(seed, threshold, rows, column, K, BM: tl.constexpr, BK: tl.constexpr):
    """The dropout mask of rows × [column, column + BK). One Philox call decides four neighbours; column is a multiple of 4."""
    tl.static_assert(BK % 4 == 0, "a tile of the mask has a multiple of 4 columns")
    quads = column // 4 + tl.arange(0, BK // 4)
    counter = rows.to(tl.int64)[:, None] * tl.cdiv(K, 4) + quads[None, :]
    w0, w1, w2, w3 = tl.randint4x(tl.load(seed), counter, ROUNDS)
    evens, odds = tl.join(w0, w2), tl.join(w1, w3)  # (BM, BK/4, 2)
    words = tl.reshape(tl.join(evens, odds), (BM, BK))  # element 4q + i has word i
    return words.to(tl.uint32, bitcast=True) >= threshold.to(tl.uint32, bitcast=True)


@triton.jit
def load_tile(pointer, rows, columns, row_stride, column_stride, n_rows, n_columns):
    """A tile of a matrix, zero outside it."""
    places = pointer + rows.to(tl.int64)[:, None] * row_stride + columns.to(tl.int64)[None, :] * column_stride
    return tl.load(places, mask=(rows[:, None] < n_rows) & (columns[None, :] < n_columns), other=0.0)


@triton.jit
def store_tile(pointer, tile, rows, columns, row_stride, n_rows, n_columns):
    """Writes the part of a tile that lies in the matrix, in the matrix's dtype. Its columns are contiguous."""
    inside = (rows[:, None] < n_rows) & (columns[None, :] < n_columns)
    places = pointer + rows.to(tl.int64)[:, None] * row_stride + columns[None, :]
    tl.store(places, tile.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def add_lora_and_bias(
    acc, down_tile, b, bias, ranks, columns, N, r, b_row, b_col,
    HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The end of every LoRA GEMM: acc + S Bᵀ + b, in the accumulator of x Wᵀ. `down_tile` is a tile of S (BM, R)."""
    b_tile = load_tile(b, ranks, columns, b_col, b_row, r, N)  # (R, BN): a tile of Bᵀ
    acc = tl.dot(down_tile, b_tile, acc, input_precision=PRECISION)
    if HAS_BIAS:
        acc += tl.load(bias + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
    return acc
