"""Puzzle 11: dropout without a stored mask."""

import triton
import triton.language as tl


@triton.jit
def dropout(x, y, n, seed, threshold, p, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < n
    words = tl.randint(seed, offsets, 7).to(tl.uint32, bitcast=True)
    keep = words >= threshold.to(tl.uint32)
    values = tl.load(x + offsets, mask=inside)
    tl.store(y + offsets, tl.where(keep, values / (1 - p), 0.0), mask=inside)


def launch(x, dy, seed, p, y, dx):
    n, threshold = x.numel(), round(p * 2**32)  # a word of at least `threshold` keeps its place
    grid = (triton.cdiv(n, 16),)
    dropout[grid](x, y, n, seed, threshold, p, BLOCK=16)
    dropout[grid](dy, dx, n, seed, threshold, p, BLOCK=16)
