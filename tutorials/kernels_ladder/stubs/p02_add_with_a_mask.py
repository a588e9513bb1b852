"""Puzzle 02: add two vectors whose length is not a multiple of the block. Check it with  python -m tutorials ladder 02"""

import triton
import triton.language as tl


@triton.jit
def add(x, z, y, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    # your code: change the next two lines. The last program reads and writes past the end.
    total = tl.load(x + offsets) + tl.load(z + offsets)
    tl.store(y + offsets, total)


def launch(x, z, y):
    n = x.numel()
    add[(triton.cdiv(n, 8),)](x, z, y, n, BLOCK=8)
