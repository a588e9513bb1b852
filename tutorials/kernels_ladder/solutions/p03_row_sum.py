"""Puzzle 03: the sum of each row of a matrix."""

import triton
import triton.language as tl


@triton.jit
def row_sum(x, y, K, BK: tl.constexpr):
    row = tl.program_id(0)
    total = tl.zeros((BK,), tl.float32)
    for k in range(0, K, BK):
        columns = k + tl.arange(0, BK)
        total += tl.load(x + row * K + columns, mask=columns < K, other=0.0)
    tl.store(y + row, tl.sum(total, 0))


def launch(x, y):
    M, K = x.shape
    row_sum[(M,)](x, y, K, BK=16)
