"""What every Triton kernel here uses inside: the order of the tiles, the dropout mask, the padded rank.

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
    wide = GROUP * tiles_n
    first = (pid // wide) * GROUP
    height = tl.minimum(tiles_m - first, GROUP)
    return first + (pid % wide) % height, (pid % wide) // height


@triton.jit
def keep_tile(seed, threshold, rows, column, K, BM: tl.constexpr, BK: tl.constexpr):
    """The dropout mask of rows × [column, column + BK). One Philox call decides four neighbours; column is a multiple of 4."""
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
