"""Puzzle 05: a matrix multiplication that fits into one tile. Check it with  python -m tutorials ladder 05"""

import triton
import triton.language as tl


@triton.jit
def matmul(x, w, y, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    rows, columns, depth = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    x_tile = tl.load(x + rows[:, None] * K + depth[None, :])  # all addresses of x at once: (M, K)
    # your code: load Wᵀ, of shape (K, N); W has N rows of K numbers. Then tl.dot, and store y, of shape (M, N).


def launch(x, w, y):
    matmul[(1,)](x, w, y, M=16, N=16, K=32)
