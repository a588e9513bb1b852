"""Puzzle 05: a matrix multiplication that fits into one tile."""

import torch

from tutorials.kernels_ladder.puzzle import Puzzle


def inputs():
    generator = torch.Generator().manual_seed(5)
    return {"x": torch.randn(16, 32, generator=generator), "w": torch.randn(16, 32, generator=generator)}


PUZZLE = Puzzle(
    title="Multiply two matrices, one tile",
    new="addresses of a matrix, and tl.dot",
    task="Compute y = x Wᵀ for x of shape (16, 32) and W of shape (16, 32). One program does it all.",
    formula=r"y = x W^\top",
    programs="The only program loads all of x and all of W, and stores all of y.",
    hints=(
        "The address of x[i, j] is `x + i * K + j`. With `rows[:, None]` and `depth[None, :]` you get all addresses at once.",
        (
            "`tl.dot(a, b)` needs a of shape (M, K) and b of shape (K, N). So load W as its transpose, with "
            "`depth[:, None]` and `columns[None, :]`."
        ),
        "The address of Wᵀ[k, n] is that of W[n, k]: `w + n * K + k`.",
    ),
    inputs=inputs,
    outputs=lambda inputs: {"y": torch.empty(16, 16)},
    definition=lambda x, w: {"y": x @ w.T},
    fewest_bytes=lambda inputs: inputs["x"].nbytes + inputs["w"].nbytes,
    depth=32,
)
