"""Puzzle 12: many adapters in one launch. Check it with  python -m tutorials ladder 12"""

import triton
import triton.language as tl


@triton.jit
def shrink(x, a, S, order, tiles, K: tl.constexpr, R: tl.constexpr, HEIGHT: tl.constexpr):
    line = tiles + tl.program_id(0) * 3  # a line of the table: adapter, first place, number of rows
    places, ranks, depth = tl.arange(0, HEIGHT), tl.arange(0, R), tl.arange(0, K)
    # your code: read the line; return if the adapter is -1; load the row numbers, the rows of x, and one A; store S


def launch(x, a, order, tiles, S):
    shrink[(len(tiles),)](x, a, S, order, tiles, K=32, R=16, HEIGHT=4)
