"""Puzzle 08: decode 4-bit weights."""

import triton
import triton.language as tl


@triton.jit
def decode(packed, absmax, levels, y, BYTES: tl.constexpr):
    block = tl.program_id(0)
    offsets = block * BYTES + tl.arange(0, BYTES)
    byte = tl.load(packed + offsets).to(tl.int32)
    scale = tl.load(absmax + block)
    first, second = tl.load(levels + (byte >> 4)), tl.load(levels + (byte & 15))
    tl.store(y + 2 * offsets, first * scale)
    tl.store(y + 2 * offsets + 1, second * scale)


def launch(packed, absmax, levels, y):
    decode[(len(absmax),)](packed, absmax, levels, y, BYTES=32)
