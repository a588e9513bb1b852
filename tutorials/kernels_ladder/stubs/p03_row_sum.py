"""Puzzle 03: the sum of each row of a matrix. Check it with  python -m tutorials ladder 03"""

import triton
import triton.language as tl


@triton.jit
def row_sum(x, y, K, BK: tl.constexpr):
    row = tl.program_id(0)  # row number `row` has K numbers and starts at x + row * K
    total = tl.zeros((BK,), tl.float32)
    for k in range(0, K, BK):
        columns = k + tl.arange(0, BK)
        # your code: load these columns of the row (with a mask), and add them to `total`
    # your code: store the sum of `total`


def launch(x, y):
    M, K = x.shape
    row_sum[(M,)](x, y, K, BK=16)
