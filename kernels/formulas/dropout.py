"""Inverted dropout (Srivastava et al. 2014, section 10) in the parts that a LoRA matrix multiplication needs one by one.

    dropout(x) = x ⊙ m / P(m = 1)          m (same shape as x): 1 where an element is kept, 0 where it is dropped

The mask compares random 16-bit words with a threshold. Four words come from one 64-bit random number, so that the generator
runs a quarter as often as in `bernoulli_`. The rate becomes a multiple of 2^-16. The division is by the exact probability of
such a mask, so the expected value of dropout(x) is x.
"""

import torch
from jaxtyping import UInt8
from torch import Tensor

WORDS = 2**16  # values of a 16-bit word


def plain_dropout(x: Tensor, keep: Tensor, p: float) -> Tensor:
    """The definition. LoRA multiplies by the mask alone, and has the division in its scale."""
    return x * keep / keep_probability(p)


def keep_mask(shape: torch.Size, p: float, device: torch.device | str = "cpu") -> UInt8[Tensor, "..."]:
    """A random mask of ones and zeros for the dropout rate 0 < p < 1, from the global generator of the device."""
    count = shape.numel()
    numbers = torch.empty(-(-count // 4), dtype=torch.int64, device=device).random_(-(2**63), None)
    words = numbers.view(torch.int16)[:count]  # from -2^15 to 2^15 - 1
    return (words >= dropped_words(p) - WORDS // 2).view(torch.uint8).view(shape)


def keep_probability(p: float) -> float:
    """The exact probability that an element is kept."""
    return 1 - dropped_words(p) / WORDS


def dropped_words(p: float) -> int:
    """How many of the 2^16 words drop their element: at least one and not all. ValueError for a rate outside of (0, 1)."""
    if not 0 < p < 1:
        raise ValueError(f"dropout rate {p}: expected 0 < p < 1")
    return min(max(round(p * WORDS), 1), WORDS - 1)
