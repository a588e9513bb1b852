"""Exercises of lesson 20. Write the functions, then run `python -m tutorials check 20`."""

from torch import Tensor


def to_int8(w: Tensor) -> tuple[Tensor, Tensor]:
    """★ Integers (N, K) of dtype int8 and one scale per row (N, 1), so that w ≈ q · scale. The error is half a scale at most.

    A row of zeros stays a row of zeros, with any scale above 0. Three lines.
    """
    raise NotImplementedError("to_int8")


def smallest_storage(numbers: int, zeros: int, bits: int) -> tuple[str, float]:
    """★ ("plain" | "bitmap" | "index", bytes): the smallest storage for this many values of this many bits.

    plain: every value. bitmap: one bit for each position, and the values that are not zero. index: each value that is not zero,
    with 32 bits for its position. On a tie the first of the three. Three lines.
    """
    raise NotImplementedError("smallest_storage")


def head_scores(x: Tensor, slope: Tensor, heads: int) -> Tensor:
    """★★ Importance I_h (H) of the heads, without gates: mean over texts of |∂L/∂g_h| at g = 1.

    x (B, T, D): the outputs of the heads, side by side. slope (B, T, D): ∂L/∂x of a loss that is a sum over texts. Two lines.
    """
    raise NotImplementedError("head_scores")


def straight_through(v: Tensor, bits: int, top: float) -> Tensor:
    """★★ v, rounded to steps of top / L with L = 2^(bits-1) - 1. Values beyond ±top become ±top.

    The gradient is that of the identity where |v| <= top, and zero elsewhere. Three lines.
    """
    raise NotImplementedError("straight_through")
