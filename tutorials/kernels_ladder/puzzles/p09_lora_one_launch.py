"""Puzzle 09: a LoRA layer in one launch."""

import torch

from tutorials.kernels_ladder.puzzle import Puzzle


def inputs():
    generator = torch.Generator().manual_seed(9)
    shapes = {"x": (64, 64), "w": (96, 64), "a": (16, 64), "b": (96, 16)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} | {"scaling": 0.5}


def fewest(values):
    rows, columns = 64 // 32, 96 // 32  # tiles of 32
    base = columns * values["x"].nbytes + rows * values["w"].nbytes
    return base + rows * columns * values["a"].nbytes + rows * values["b"].nbytes


PUZZLE = Puzzle(
    title="LoRA in one launch",
    new="a second accumulator, and its use at the end",
    task=(
        "Compute a LoRA layer without a bias, with tiles of 32: x (64, 64), W (96, 64), A (16, 64), B (96, "
        "16). The program that computes a tile of y also computes x Aᵀ for its rows, in the same loop."
    ),
    formula=r"y = x W^\top + s\,(x A^\top) B^\top",
    programs=(
        "Program (0, 1) loads 32 rows of x, 32 rows of W and all 16 rows of A along K; after the loop it loads 32 rows of B."
    ),
    hints=(
        "Before the loop: a second accumulator, `low = tl.zeros((BLOCK, R), tl.float32)`.",
        "Load the tile of x once in each step, and use it twice: for acc and for low.",
        (
            "After the loop: `acc = tl.dot(low * scaling, b_tile, acc)`. The address of b_tile, a tile of Bᵀ, is "
            "`b + columns[None, :] * R + ranks[:, None]`."
        ),
    ),
    inputs=inputs,
    outputs=lambda inputs: {"y": torch.empty(64, 96)},
    definition=lambda x, w, a, b, scaling: {"y": x @ w.T + scaling * (x @ a.T) @ b.T},
    fewest_bytes=fewest,
    depth=64 + 16,
)
