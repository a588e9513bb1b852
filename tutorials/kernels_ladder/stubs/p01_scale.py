"""Puzzle 01: multiply a vector by a number. Check it with  python -m tutorials ladder 01"""

import triton
import triton.language as tl


@triton.jit
def scale(x, y, BLOCK: tl.constexpr):
    # x and y are addresses of the first numbers. BLOCK is 8, and three programs run.
    program = tl.program_id(0)
    # your code: which 8 places belong to this program? Load them, multiply by 2.5, store them.


def launch(x, y):
    scale[(3,)](x, y, BLOCK=8)
