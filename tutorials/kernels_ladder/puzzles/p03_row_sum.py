"""Puzzle 03: the sum of each row of a matrix."""

import torch

from tutorials.kernels_ladder.puzzle import Puzzle

PUZZLE = Puzzle(
    title="Sum each row",
    new="a loop with an accumulator, and a reduction",
    task=(
        "Compute the sum of each row of a matrix with 6 rows and 40 columns. One program handles one row, 16 columns at a time."
    ),
    formula=r"y_i = \sum_{j=0}^{K-1} x_{ij}",
    programs="Program i goes along row i of x in steps of 16 numbers, and stores one number of y.",
    hints=(
        "Row i starts at `x + i * K`, because the rows lie in memory one after the other.",
        "With `other=0.0`, the places that the mask leaves out count as zero. Without it, they can be anything.",
        "In the loop: `total += tl.load(..., mask=columns < K, other=0.0)`.",
        "After the loop `tl.sum(total, 0)` is one number. It is stored at `y + row`.",
    ),
    inputs=lambda: {"x": torch.randn(6, 40, generator=torch.Generator().manual_seed(3))},
    outputs=lambda inputs: {"y": torch.empty(6)},
    definition=lambda x: {"y": x.sum(1)},
    fewest_bytes=lambda inputs: inputs["x"].nbytes,
    depth=40,
)
