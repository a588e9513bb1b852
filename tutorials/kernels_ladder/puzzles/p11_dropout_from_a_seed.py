"""Puzzle 11: dropout without a stored mask."""

import torch

from kernels.triton_kernels.philox import philox
from tutorials.kernels_ladder.puzzle import Puzzle

SEED, P = 2026, 0.25


def definition(x, dy, seed, p):
    """Word 0 of Philox with 7 rounds, of (seed, place), decides about a place: at least p · 2³² keeps it."""
    words, *_ = philox(torch.tensor([seed]), torch.arange(len(x)))
    keep = (words >= round(p * 2**32)).to(x.dtype)
    return {"y": keep * x / (1 - p), "dx": keep * dy / (1 - p)}


def inputs():
    generator = torch.Generator().manual_seed(11)
    return {"x": torch.randn(40, generator=generator), "dy": torch.randn(40, generator=generator), "seed": SEED, "p": P}


PUZZLE = Puzzle(
    title="Dropout from a seed",
    new="random numbers from (seed, place), the same in forward and backward",
    task=(
        "Write dropout for 40 numbers, with blocks of 16; `launch` uses the same kernel for forward and "
        "backward. No dropout mask is stored: `tl.randint(seed, offsets, 7)` gives a random word, an integer "
        "from 0 to 2³² − 1, for each place (7 is the number of rounds of the random function Philox)."
    ),
    formula=(
        r"y_i = \frac{k_i}{1 - p}\, x_i, \qquad dx_i = \frac{k_i}{1 - p}\, dy_i, \qquad k_i = "
        r"[\,\text{word}(\text{seed}, i) \ge p \cdot 2^{32}\,]"
    ),
    programs="A program of forward loads 16 numbers of x. A program of backward loads 16 numbers of dy. Neither loads a mask.",
    hints=(
        (
            "Compare as numbers without a sign: `words = tl.randint(seed, offsets, 7).to(tl.uint32, "
            "bitcast=True)`. On some versions of Triton, randint has a sign."
        ),
        "`keep = words >= threshold.to(tl.uint32)`; `launch` has computed the threshold.",
        "`tl.where(keep, values / (1 - p), 0.0)`.",
    ),
    inputs=inputs,
    outputs=lambda inputs: {"y": torch.empty(40), "dx": torch.empty(40)},
    definition=definition,
    fewest_bytes=lambda inputs: 2 * 40 * 4,
    depth=2,
)
