"""Our answers to lesson 05."""

import torch
from torch import Tensor


def alpha_for(r: int, other_r: int, other_alpha: float) -> float:
    """★ The alpha that gives LoRA at rank `r` the scale that `other_alpha` gives at rank `other_r`."""
    return other_alpha * r / other_r


def dora_weight(W: Tensor, A: Tensor, B: Tensor, m: Tensor, scaling: float) -> Tensor:
    """★★ The weight that DoRA computes with: rows of W + scaling · B A, with the lengths m. Shapes as in the lesson."""
    updated = W + scaling * B @ A
    return m[:, None] * updated / updated.norm(dim=1, keepdim=True)


def principal_part(W: Tensor, r: int) -> tuple[Tensor, float]:
    """★★ (the best rank-r part of W, its distance from W in the Frobenius norm)."""
    U, S, Vh = torch.linalg.svd(W, full_matrices=False)
    return U[:, :r] * S[:r] @ Vh[:r], float(S[r:].norm())


def plain_lora(A: Tensor, B: Tensor, A_start: Tensor, B_start: Tensor) -> tuple[Tensor, Tensor]:
    """★★★ Factors of a plain LoRA, same scaling, for the unchanged base: their product is B A - B_start A_start."""
    return torch.cat([A, A_start]), torch.cat([B, -B_start], dim=1)
