"""Puzzle 06: a matrix multiplication of any size, in tiles."""

import torch

from tutorials.kernels_ladder.puzzle import Puzzle


def inputs():
    generator = torch.Generator().manual_seed(6)
    return {"x": torch.randn(40, 36, generator=generator), "w": torch.randn(24, 36, generator=generator)}


PUZZLE = Puzzle(
    title="Multiply matrices of any size",
    new="many tiles, a loop over K, masks in both directions",
    task=(
        "Compute y = x Wᵀ for x of shape (40, 36) and W of shape (24, 36) with tiles of 16. One program computes one tile of y."
    ),
    formula=r"y_{mn} = \sum_{k} x_{mk} W_{nk}",
    programs="Program (1, 0) goes along K: it loads the rows 16 to 31 of x and the rows 0 to 15 of W, 16 columns at a time.",
    hints=(
        (
            "A mask of a tile joins two conditions. Write `&`, not `and`, and put each condition into "
            "parentheses: `(rows[:, None] < M) & (depth[None, :] < K)`."
        ),
        "In the loop `acc = tl.dot(x_tile, w_tile, acc)` adds to acc. Use `other=0.0`, so that masked places add nothing.",
        "The mask of a tile of Wᵀ is `(depth[:, None] < K) & (columns[None, :] < N)`.",
    ),
    inputs=inputs,
    outputs=lambda inputs: {"y": torch.empty(40, 24)},
    definition=lambda x, w: {"y": x @ w.T},
    fewest_bytes=lambda inputs: 2 * inputs["x"].nbytes + 3 * inputs["w"].nbytes,  # 2 columns and 3 rows of tiles
    depth=36,
)
