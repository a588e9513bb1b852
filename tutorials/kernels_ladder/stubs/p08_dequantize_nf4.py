"""Puzzle 08: decode 4-bit weights. Check it with  python -m tutorials ladder 08"""

import triton
import triton.language as tl


@triton.jit
def decode(packed, absmax, levels, y, BYTES: tl.constexpr):
    block = tl.program_id(0)  # a block has 32 bytes, 64 weights and one absmax
    offsets = block * BYTES + tl.arange(0, BYTES)
    byte = tl.load(packed + offsets).to(tl.int32)
    # your code: the index in the high half, the index in the low half, their levels, times absmax; two stores


def launch(packed, absmax, levels, y):
    decode[(len(absmax),)](packed, absmax, levels, y, BYTES=32)
