"""Puzzle 04: softmax of each row."""

import torch

from tutorials.kernels_ladder.puzzle import Puzzle


def inputs():
    """Rows of large numbers (exp overflows), of numbers far below 0 (0 would be the maximum), and of ordinary ones."""
    x = torch.randn(6, 40, generator=torch.Generator().manual_seed(4))
    return {"x": torch.cat([100 * x[:2] + 200, x[2:4] - 150, x[4:]])}


PUZZLE = Puzzle(
    title="Softmax of each row",
    new="two reductions, and a mask that must not change them",
    task=(
        "Compute the softmax of each row of a matrix with 6 rows and 40 columns; one program handles one "
        "whole row and loads it once. Do it with max, exp and sum: the masked places must change neither the "
        "maximum nor the sum."
    ),
    formula=r"y_{ij} = e^{x_{ij} - m_i} / \sum_k e^{x_{ik} - m_i}, \qquad m_i = \max_k x_{ik}",
    programs="Program i loads all of row i (64 places, 24 of them masked) and stores row i of y.",
    hints=(
        "BLOCK is 64, the next power of two. The mask is `columns < K`.",
        "Which value of `other` changes no maximum, and becomes 0 under exp?",
        (
            "`-float('inf')`. Then `tl.max(values, 0)`, `tl.exp(...)` and `tl.sum(..., 0)`. Without the maximum, "
            "exp of a large number is infinite."
        ),
    ),
    inputs=inputs,
    outputs=lambda inputs: {"y": torch.empty(6, 40)},
    definition=lambda x: {"y": x.softmax(1)},
    fewest_bytes=lambda inputs: inputs["x"].nbytes,
    depth=400,  # an error of 2⁻²⁴ · 300 in the exponent is an error of the same size in the result
)
