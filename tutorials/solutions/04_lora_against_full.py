"""Our answers to lesson 04."""

import statistics

import torch
from torch import Tensor


def speed_up(products: float) -> float:
    """★ How many times as fast a step of LoRA is, when `products` is the share of its products in full's time."""
    return 1 / (1 - products + products * 2 / 3)


def rank_for(change: Tensor, share: float) -> int:
    """★★ The smallest rank whose best part holds at least `share` of the energy of `change`: of its sum of squares."""
    energy = torch.linalg.svdvals(change.double()).square().cumsum(0)
    enough = energy >= share * energy[-1] * (1 - 1e-12)  # rounding must not ask for one more
    return int(enough.nonzero()[0]) + 1


def verdict(a: list[float], b: list[float]) -> str:
    """★★ "a", "b" or "no difference that counts": higher is better, the scores are paired, the limit is two standard errors."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    mean, error = statistics.mean(differences), statistics.stdev(differences) / len(differences) ** 0.5
    if abs(mean) <= 2 * error:
        return "no difference that counts"
    return "a" if mean > 0 else "b"
