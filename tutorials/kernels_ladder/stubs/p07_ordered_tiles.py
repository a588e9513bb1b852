"""Puzzle 07: the order of the tiles decides what the cache can keep. Check it with  python -m tutorials ladder 07"""

import triton
import triton.language as tl


@triton.jit
def tile_of(program, tiles_m, tiles_n, GROUP: tl.constexpr):
    """(row of tiles, column of tiles) of a program."""
    # your code: this goes along the rows of tiles. Go down GROUP rows first, then one column to the right.
    return program // tiles_n, program % tiles_n


@triton.jit
def matmul(x, w, y, N, tiles_m, tiles_n, K: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr):
    tile_m, tile_n = tile_of(tl.program_id(0), tiles_m, tiles_n, GROUP)
    rows = tile_m * BLOCK + tl.arange(0, BLOCK)
    columns = tile_n * BLOCK + tl.arange(0, BLOCK)
    depth = tl.arange(0, K)
    x_tile = tl.load(x + rows[:, None] * K + depth[None, :])
    w_tile = tl.load(w + columns[None, :] * K + depth[:, None])
    tl.store(y + rows[:, None] * N + columns[None, :], tl.dot(x_tile, w_tile))


def launch(x, w, y):
    matmul[(64,)](x, w, y, 128, 8, 8, K=16, BLOCK=16, GROUP=4)
