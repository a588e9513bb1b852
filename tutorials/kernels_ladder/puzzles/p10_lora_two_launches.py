"""Puzzle 10: a LoRA layer in two launches, so that x Aᵀ is computed once."""

import torch

from tutorials.kernels_ladder.puzzle import Puzzle


def inputs():
    generator = torch.Generator().manual_seed(10)
    shapes = {"x": (64, 64), "w": (96, 64), "a": (16, 64), "b": (96, 16)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} | {"scaling": 0.5}


def fewest(values):
    rows, columns = 64 // 32, 96 // 32  # tiles of 32
    shrink = values["x"].nbytes + rows * values["a"].nbytes
    base = columns * values["x"].nbytes + rows * values["w"].nbytes
    return shrink + base + columns * 64 * 16 * 4 + rows * values["b"].nbytes


PUZZLE = Puzzle(
    title="LoRA in two launches",
    new="two kernels that share a tensor in memory",
    task=(
        "Kernel one, shrink, writes S = s x Aᵀ, of shape (64, 16). Kernel two, expand, computes x Wᵀ and then"
        " adds S Bᵀ with one more tl.dot after its loop; this is what the formula [x | S] [W | B]ᵀ means."
    ),
    formula=r"S = s\, x A^\top, \qquad y = [\,x \mid S\,]\,[\,W \mid B\,]^\top",
    programs=(
        "A program of shrink stores 32 rows of S. A program of expand loads its 32 rows of S and its 32 rows of B after the loop."
    ),
    hints=(
        "`shrink` is puzzle 06 with one column of tiles: 32 rows of x, all rows of A. Masks are not needed.",
        "Multiply by the scale in `shrink`: S has far fewer numbers than y.",
        "In `expand`, after the loop: `acc = tl.dot(s_tile, b_tile, acc)`. No second accumulator is needed.",
    ),
    inputs=inputs,
    outputs=lambda inputs: {"S": torch.empty(64, 16), "y": torch.empty(64, 96)},
    definition=lambda x, w, a, b, scaling: {"S": scaling * x @ a.T, "y": x @ w.T + scaling * (x @ a.T) @ b.T},
    fewest_bytes=fewest,
    depth=64 + 16,
)
