"""Exercises of lesson 01. Write the functions, then run `python -m tutorials check 01`."""

from torch import Tensor


def largest_rank(shapes: list[tuple[int, int]], budget: int) -> int:
    """★ The largest r for which LoRA on layers of these shapes (d_out, d_in) has at most `budget` parameters; 0 if none.

    One line.
    """
    raise NotImplementedError("largest_rank")


def gradients(x: Tensor, G: Tensor, A: Tensor, B: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """★ (dL/dA, dL/dB) of y = x W0ᵀ + scaling · (x Aᵀ) Bᵀ, without autograd.

    x is (tokens, d_in), G = dL/dy is (tokens, d_out). Two lines.
    """
    raise NotImplementedError("gradients")


def best_factors(change: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """★★ (A, B) of rank r with B A as close to `change` as possible, both factors of equal norm.

    `change` is (d_out, d_in). About three lines.
    """
    raise NotImplementedError("best_factors")


def join(adapters: list[tuple[Tensor, Tensor, float]], r: int) -> tuple[Tensor, Tensor]:
    """★★★ One adapter (A, B) of rank r, scale 1, that does what the given adapters (A, B, scaling) do together.

    Exact where r is large enough, as close as possible otherwise. About three lines, then try it on trained adapters.
    """
    raise NotImplementedError("join")
