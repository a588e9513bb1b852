"""Puzzle 11: dropout without a stored mask. Check it with  python -m tutorials ladder 11"""

import triton
import triton.language as tl


@triton.jit
def dropout(x, y, n, seed, threshold, p, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < n
    values = tl.load(x + offsets, mask=inside)
    # your code: keep a place if its random word is at least `threshold`; divide what is kept by 1 - p
    tl.store(y + offsets, values, mask=inside)


def launch(x, dy, seed, p, y, dx):
    n, threshold = x.numel(), round(p * 2**32)  # a word of at least `threshold` keeps its place
    grid = (triton.cdiv(n, 16),)
    dropout[grid](x, y, n, seed, threshold, p, BLOCK=16)
    dropout[grid](dy, dx, n, seed, threshold, p, BLOCK=16)
