"""Our answers to lesson 04."""

import itertools
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


def forgotten_at(points: list[tuple[float, float]], task_loss: float) -> float:
    """★★★ The loss on stories of a method at `task_loss`, from its runs: points (task loss, loss on stories), in any order."""
    ordered = sorted(points)
    for (left, low), (right, high) in itertools.pairwise(ordered):
        if left <= task_loss <= right:
            return low + (high - low) * (task_loss - left) / (right - left)
    raise ValueError(f"no run on both sides of {task_loss}: train one before you compare")
