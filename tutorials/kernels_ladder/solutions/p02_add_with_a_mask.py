"""Puzzle 02: add two vectors whose length is not a multiple of the block."""

import triton
import triton.language as tl


@triton.jit
def add(x, z, y, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < n
    total = tl.load(x + offsets, mask=inside) + tl.load(z + offsets, mask=inside)
    tl.store(y + offsets, total, mask=inside)


def launch(x, z, y):
    n = x.numel()
    add[(triton.cdiv(n, 8),)](x, z, y, n, BLOCK=8)
