"""Puzzle 13: two gradients of LoRA from one read of dy."""

import torch

from tutorials.kernels_ladder.puzzle import Puzzle

ROWS = 32
"""rows of dy that one program reads"""


def definition(dy, b, S, scaling):
    """dS = s dy B; and for each block of rows its part of dB = dyᵀ S."""
    blocks = zip(dy.split(ROWS), S.split(ROWS), strict=True)
    return {"dS": scaling * dy @ b, "parts": torch.stack([dy_block.T @ S_block for dy_block, S_block in blocks])}


def inputs():
    generator = torch.Generator().manual_seed(13)
    shapes = {"dy": (64, 96), "b": (96, 16), "S": (64, 16)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} | {"scaling": 0.5}


PUZZLE = Puzzle(
    title="Two gradients from one read of dy",
    new="two results from one loop; a sum over programs",
    task=(
        "This is the first kernel of LoRA's backward pass: both dS and dB need all of dy, so load each tile of dy once and use "
        "it twice. dB is a sum over all rows. Here each program stores the part of its own 32 rows, and `parts.sum(0)` is dB "
        "(dy is (64, 96), B (96, 16), parts (2, 96, 16); S is (64, 16) and was multiplied by s, so scale only dS)."
    ),
    formula=r"dS = s\, dy\, B, \qquad \text{parts}_p = dy_p^\top S_p, \qquad dB = \sum_p \text{parts}_p",
    programs=(
        "p is the number of a program; dy_p and S_p are its 32 rows. "
        "Program 1 loads its 32 rows of S, then 32 columns of dy and 32 rows of B in each step. "
        "It stores a part of dB in each step, and dS after the loop."
    ),
    hints=(
        "Load the rows of S once, before the loop. dS needs an accumulator of shape (BLOCK, R); the parts need none.",
        (
            "In each step: `columns = n + tl.arange(0, BLOCK)`, then a tile of dy with shape (BLOCK rows, BLOCK columns) and a "
            "tile of B with shape (BLOCK columns, R)."
        ),
        (
            "`acc = tl.dot(dy_tile, b_tile, acc)` for dS; `tl.dot(tl.trans(dy_tile), s_tile)` is the part of dB for these "
            "columns. (A tile of dy is square here, so the shapes fit without `tl.trans`, too. The values do not.)"
        ),
        "The address of parts[p, n, k] is `parts + p * N * R + n * R + k`, where p is the number of the program.",
    ),
    inputs=inputs,
    outputs=lambda inputs: {"dS": torch.empty(64, 16), "parts": torch.empty(2, 96, 16)},
    definition=definition,
    fewest_bytes=lambda inputs: inputs["dy"].nbytes + inputs["S"].nbytes + 64 // ROWS * inputs["b"].nbytes,
    depth=96,
)
