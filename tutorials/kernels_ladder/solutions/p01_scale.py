"""Puzzle 01: multiply a vector by a number."""

import triton
import triton.language as tl


@triton.jit
def scale(x, y, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(x + offsets)
    tl.store(y + offsets, 2.5 * values)


def launch(x, y):
    scale[(3,)](x, y, BLOCK=8)
