"""Puzzle 01: multiply a vector by a number."""

import torch

from tutorials.kernels_ladder.puzzle import Puzzle

PUZZLE = Puzzle(
    title="Scale a vector",
    new="program numbers, offsets, load and store",
    task="Multiply each of 24 numbers by 2.5. Three programs run, and each one handles 8 numbers.",
    formula=r"y_i = 2.5\, x_i",
    programs="Program 1 loads the numbers 8 to 15 of x and stores the numbers 8 to 15 of y.",
    hints=(
        "`tl.program_id(0)` is 0, 1 or 2.",
        "`tl.arange(0, BLOCK)` is the vector 0, 1, ..., BLOCK - 1. Which number has to be added to it?",
        (
            "`x + offsets` are the addresses of the numbers: `values = tl.load(x + offsets)`. To write: "
            "`tl.store(y + offsets, 2.5 * values)`."
        ),
    ),
    inputs=lambda: {"x": torch.randn(24, generator=torch.Generator().manual_seed(1))},
    outputs=lambda inputs: {"y": torch.empty(24)},
    definition=lambda x: {"y": 2.5 * x},
    fewest_bytes=lambda inputs: 24 * 4,
)
