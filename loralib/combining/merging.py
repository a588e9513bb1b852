"""Merging task vectors: several tensors of one shape, with weights, made into one. The rules of the papers, tensor by tensor."""

from typing import TypeAlias

import torch
from torch import Tensor

Tensors: TypeAlias = list[Tensor]
Weights: TypeAlias = list[float]


def weighted_sum(tensors: Tensors, weights: Weights) -> Tensor:
    """Σ wᵢ tᵢ (Ilharco et al. 2023, task arithmetic)."""
    total = torch.zeros_like(tensors[0])
    for tensor, weight in zip(tensors, weights, strict=True):
        total += weight * tensor
    return total


def keep_largest(tensor: Tensor, density: float) -> Tensor:
    """The `density` share of the entries with the largest magnitude; the others become zero."""
    count = int(density * tensor.numel())
    if not count:
        raise ValueError(f"density={density} keeps none of {tensor.numel()} entries: nothing would be left")
    mask = torch.zeros(tensor.numel(), dtype=torch.bool, device=tensor.device)
    mask[tensor.abs().flatten().topk(count).indices] = True
    return tensor * mask.view_as(tensor)


def drop_and_rescale(tensor: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """DARE (Yu et al. 2024, section 3.1): keep each entry with probability `density`, and divide it by that."""
    mask = torch.bernoulli(torch.full(tensor.shape, density), generator=generator).to(tensor.device)
    return tensor * mask.to(tensor.dtype) / density


def agreeing_mean(tensors: Tensors, weights: Weights) -> Tensor:
    """TIES, steps 2 and 3 (Yadav et al. 2023, section 4): entry by entry, the mean over those with the sign of the sum."""
    stacked = torch.stack(tensors)
    elected = torch.where(stacked.sum(0) >= 0, 1, -1)
    agrees = stacked.sign() == elected
    scale = torch.tensor(weights, dtype=stacked.dtype, device=stacked.device).view(-1, *[1] * tensors[0].dim())
    return (stacked * scale * agrees).sum(0) / agrees.sum(0).clamp(min=1)


def magnitude_prune(tensors: Tensors, weights: Weights, density: float) -> Tensor:
    return weighted_sum([keep_largest(t, density) for t in tensors], weights)


def ties(tensors: Tensors, weights: Weights, density: float) -> Tensor:
    return agreeing_mean([keep_largest(t, density) for t in tensors], weights)


def dare_linear(tensors: Tensors, weights: Weights, density: float, generator: torch.Generator) -> Tensor:
    return weighted_sum([drop_and_rescale(t, density, generator) for t in tensors], weights)


def dare_ties(tensors: Tensors, weights: Weights, density: float, generator: torch.Generator) -> Tensor:
    return agreeing_mean([drop_and_rescale(t, density, generator) for t in tensors], weights)
