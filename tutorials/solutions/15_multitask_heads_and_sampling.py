"""Our answers to lesson 15."""

import torch
from torch import Tensor


def task_chances(sizes: dict[str, int], temperature: float, cap: float) -> dict[str, float]:
    """★ The probability of each task: min(n, cap)^(1/T), over their sum."""
    powers = {task: min(size, cap) ** (1 / temperature) for task, size in sizes.items()}
    return {task: power / sum(powers.values()) for task, power in powers.items()}


def last_real(states: Tensor, mask: Tensor) -> Tensor:
    """★★ The hidden state (B × D) of the last real token of each example. mask is 1 there and 0 at padding, on either side."""
    places = (torch.arange(mask.shape[1]) * mask).argmax(1)
    return states[torch.arange(len(states)), places]


def weights_for(chances: dict[str, float], wanted: dict[str, float]) -> dict[str, float]:
    """★★ Weights with which the expected update is `wanted` (it sums to 1), so that p · w is what was wanted for each task."""
    return {task: wanted[task] / chance for task, chance in chances.items()}
