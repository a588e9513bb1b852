"""Exercises of lesson 15. Write the functions, then run `python -m tutorials check 15`."""

from torch import Tensor


def task_chances(sizes: dict[str, int], temperature: float, cap: float) -> dict[str, float]:
    """★ The probability of each task: min(n, cap)^(1/T), over their sum.

    Two lines.
    """
    raise NotImplementedError("task_chances")


def last_real(states: Tensor, mask: Tensor) -> Tensor:
    """★★ The hidden state (B × D) of the last real token of each example. mask is 1 there and 0 at padding, on either side.

    Two lines.
    """
    raise NotImplementedError("last_real")


def weights_for(chances: dict[str, float], wanted: dict[str, float]) -> dict[str, float]:
    """★★ Weights with which the expected update is `wanted` (it sums to 1), so that p · w is what was wanted for each task.

    One line. The check also asks that an average step has the weight Σ p · w = 1.
    """
    raise NotImplementedError("weights_for")
