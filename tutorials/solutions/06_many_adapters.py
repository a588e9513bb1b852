"""Our answers to lesson 06."""

import torch
from torch import Tensor


def storage(base: int, adapter: int, tasks: int) -> tuple[int, int]:
    """★ Bytes for so many tasks: (a whole model each, one base and an adapter each)."""
    return tasks * base, base + tasks * adapter


def stack(factors: list[tuple[Tensor, Tensor]], weights: list[float]) -> tuple[Tensor, Tensor]:
    """★★ (A, B) with B A = Σ wᵢ Bᵢ Aᵢ, exactly."""
    A = torch.cat([A for A, _ in factors])
    return A, torch.cat([w * B for w, (_, B) in zip(weights, factors, strict=True)], 1)


def group_rows(names: list[str | None]) -> dict[str, list[int]]:
    """★★ For each adapter of a batch the numbers of its rows, in order."""
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        if name is not None:
            groups.setdefault(name, []).append(i)
    return groups
