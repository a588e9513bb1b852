"""Our answers to lesson 16."""

import torch
from torch import Tensor


def dwa_weights(before: Tensor, now: Tensor, temperature: float = 2.0) -> Tensor:
    """★ DWA's weights (K,), which sum to K, from the mean losses of the last period and of this one."""
    return len(now) * (now / before / temperature).softmax(0)


def mgda_of_two(G: Tensor) -> Tensor:
    """★★ Weights (2,) of at least 0, of sum 1, that make the mix of two gradients shortest. G (2, 2) holds their products."""
    first = ((G[1, 1] - G[0, 1]) / (G[0, 0] - 2 * G[0, 1] + G[1, 1])).clamp(0, 1)
    return torch.stack([first, 1 - first])


def affinity_to_first_order(G: Tensor, losses: Tensor, rate: float) -> Tensor:
    """★★ Z (K, K) ≈ 1 - L_j(θ - rate · g_i) / L_j(θ) for a small rate, from the products G (K, K) and the losses (K,)."""
    return rate * G / losses[None, :]
