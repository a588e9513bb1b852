"""Puzzle 12: many adapters in one launch."""

import triton
import triton.language as tl


@triton.jit
def shrink(x, a, S, order, tiles, K: tl.constexpr, R: tl.constexpr, HEIGHT: tl.constexpr):
    line = tiles + tl.program_id(0) * 3
    adapter, first, count = tl.load(line), tl.load(line + 1), tl.load(line + 2)
    if adapter < 0:  # this line only fills the table
        return
    places, ranks, depth = tl.arange(0, HEIGHT), tl.arange(0, R), tl.arange(0, K)
    inside = places < count
    rows = tl.load(order + first + places, mask=inside, other=0)
    x_tile = tl.load(x + rows[:, None] * K + depth[None, :], mask=inside[:, None], other=0.0)
    a_tile = tl.load(a + adapter * R * K + ranks[None, :] * K + depth[:, None])  # (K, R)
    tl.store(S + (first + places)[:, None] * R + ranks[None, :], tl.dot(x_tile, a_tile), mask=inside[:, None])


def launch(x, a, order, tiles, S):
    shrink[(len(tiles),)](x, a, S, order, tiles, K=32, R=16, HEIGHT=4)
