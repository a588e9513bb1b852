"""Our answers to lesson 16."""

import torch
from torch import Tensor


def dwa_weights(before: Tensor, now: Tensor, temperature: float = 2.0) -> Tensor:
    """★ DWA's weights (K,), which sum to K, from the mean losses of the last period and of this one."""
    return len(now) * (now / before / temperature).softmax(0)


def mgda_of_two(G: Tensor) -> Tensor:
    """★★ Weights (2,) of at least 0, with the sum 1, of the shortest weighted average of two gradients. G is (2, 2)."""
    first = ((G[1, 1] - G[0, 1]) / (G[0, 0] - 2 * G[0, 1] + G[1, 1])).clamp(0, 1)
    return torch.stack([first, 1 - first])


def affinity_to_first_order(G: Tensor, losses: Tensor, learning_rate: float) -> Tensor:
    """★★ Z (K, K) ≈ 1 - L_j(θ - learning_rate · g_i) / L_j(θ) for a small learning rate, from G (K, K) and the losses (K,)."""
    return learning_rate * G / losses[None, :]
