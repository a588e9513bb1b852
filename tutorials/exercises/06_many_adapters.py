"""Exercises of lesson 06. Write the functions, then run `python -m tutorials check 06`."""

from torch import Tensor


def storage(base: int, adapter: int, tasks: int) -> tuple[int, int]:
    """★ Bytes for so many tasks: (a whole model each, one base and an adapter each).

    One line.
    """
    raise NotImplementedError("storage")


def stack(factors: list[tuple[Tensor, Tensor]], weights: list[float]) -> tuple[Tensor, Tensor]:
    """★★ (A, B) with B A = Σ wᵢ Bᵢ Aᵢ, exactly. Each pair is (Aᵢ, Bᵢ) with shapes (rᵢ, d_in) and (d_out, rᵢ).

    Two lines. Ranks may differ, and weights may be negative.
    """
    raise NotImplementedError("stack")


def group_rows(names: list[str | None]) -> dict[str, list[int]]:
    """★★ For each adapter of a batch the numbers of its rows, in order. Rows with None use the base alone.

    Four lines.
    """
    raise NotImplementedError("group_rows")
