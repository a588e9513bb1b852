"""Puzzle 02: add two vectors whose length is not a multiple of the block."""

import torch

from tutorials.kernels_ladder.puzzle import Puzzle


def inputs():
    generator = torch.Generator().manual_seed(2)
    return {"x": torch.randn(20, generator=generator), "z": torch.randn(20, generator=generator)}


PUZZLE = Puzzle(
    title="Add two vectors of any length",
    new="a mask",
    task=(
        "Add two vectors of 20 numbers, with blocks of 8. The last program may touch only 4 numbers: give "
        "both loads and the store a mask."
    ),
    formula=r"y_i = x_i + z_i",
    programs="Program 2 loads the numbers 16 to 19 of x and z. Its mask leaves out the places 20 to 23.",
    hints=(
        "A mask is a vector of true and false: `inside = offsets < n`.",
        "`tl.load(x + offsets, mask=inside)` and `tl.store(y + offsets, values, mask=inside)`.",
    ),
    inputs=inputs,
    outputs=lambda inputs: {"y": torch.empty(20)},
    definition=lambda x, z: {"y": x + z},
    fewest_bytes=lambda inputs: 2 * 20 * 4,
)
