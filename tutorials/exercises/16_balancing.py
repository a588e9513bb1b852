"""Exercises of lesson 16. Write the functions, then run `python -m tutorials check 16`."""

from torch import Tensor


def dwa_weights(before: Tensor, now: Tensor, temperature: float = 2.0) -> Tensor:
    """★ DWA's weights (K,), which sum to K, from the mean losses of the last period and of this one.

    One line. A task whose loss falls slowly gets more.
    """
    raise NotImplementedError("dwa_weights")


def mgda_of_two(G: Tensor) -> Tensor:
    """★★ Weights (2,) of at least 0, with the sum 1, of the shortest weighted average of two gradients. G is (2, 2).

    Two lines.
    """
    raise NotImplementedError("mgda_of_two")


def affinity_to_first_order(G: Tensor, losses: Tensor, learning_rate: float) -> Tensor:
    """★★ Z (K, K) ≈ 1 - L_j(θ - learning_rate · g_i) / L_j(θ) for a small learning rate, from G (K, K) and the losses (K,).

    One line: how much does a loss change along a direction?
    """
    raise NotImplementedError("affinity_to_first_order")
