"""Dropout without a stored mask: Philox 4x32-7, a random function of (seed, place). The definition, in plain PyTorch.

A counter goes in, four random 32-bit words come out (Salmon et al. 2011, section 3.3; 7 rounds pass every test of BigCrush).
Word 0..3 of counter c decides the elements 4c..4c+3 of a row. So forward and backward make the same mask from one seed, in
any tile shape, and nothing is kept in memory. `kernels/triton_kernels/tiles_triton.py` has the same function inside the kernels.
"""

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

ROUNDS = 7
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # added to the key after each round
WORD = 0xFFFFFFFF


def keep_mask(seed: Int64[Tensor, "1"], rows: int, columns: int, p: float) -> Bool[Tensor, "rows columns"]:
    """What dropout with probability p keeps of a (rows, columns) matrix: the word of an element is at least p · 2^32."""
    quads = -(-columns // 4)
    counter = torch.arange(rows * quads, device=seed.device)
    words = torch.stack(philox(seed, counter), 1)  # (rows · quads, 4)
    return (words >= threshold(p)).view(rows, 4 * quads)[:, :columns]


def threshold(p: float) -> int:
    """The smallest word that keeps its element."""
    if not 0 <= p < 1:
        raise ValueError(f"dropout rate {p}: expected 0 ≤ p < 1")
    return min(round(p * 2**32), WORD)


def philox(seed: Int64[Tensor, "1"], counter: Int64[Tensor, " n"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four random 32-bit words for each 64-bit counter, as int64 in [0, 2^32)."""
    c0, c1 = counter & WORD, counter >> 32
    c2, c3 = torch.zeros_like(counter), torch.zeros_like(counter)
    k0, k1 = seed & WORD, seed >> 32 & WORD
    for _ in range(ROUNDS):
        high_a, low_a = _product(c0, MULTIPLIERS[0])
        high_b, low_b = _product(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high_b ^ c1 ^ k0, low_b, high_a ^ c3 ^ k1, low_a
        k0, k1 = k0 + WEYL[0] & WORD, k1 + WEYL[1] & WORD
    return c0, c1, c2, c3


def _product(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """High and low word of a 32 × 32 bit multiplication. Half of `a` at a time: 48 bits fit into an int64, 64 do not."""
    low = (a & 0xFFFF) * b
    high = (a >> 16) * b + (low >> 16)
    return high >> 16, high << 16 & WORD | low & 0xFFFF
