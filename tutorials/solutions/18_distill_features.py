"""Our answers to lesson 18."""

import torch
from torch import Tensor
from torch.nn import functional as F


def patient_loss(h_s: Tensor, h_t: Tensor, mask: Tensor) -> Tensor:
    """★ ‖h_S/‖h_S‖ - h_T/‖h_T‖‖² of the first real token of each text: (B,). Hidden states (B, T, D), mask (B, T)."""
    rows, first = torch.arange(len(mask)), mask.argmax(1)  # argmax of 0s and 1s: the first 1
    s, t = (F.normalize(h[rows, first], dim=-1) for h in (h_s, h_t))
    return (s - t).square().sum(-1)


def transfer_loss(h_s: Tensor, h_t: Tensor, mask: Tensor) -> Tensor:
    """★★ ‖q_S/‖q_S‖ - q_T/‖q_T‖‖² of each text: (B,). q_t = Σ_d h_td² for each token, (T,), and 0 at padding."""
    s, t = (F.normalize(h.square().sum(-1) * mask, dim=-1) for h in (h_s, h_t))
    return (s - t).square().sum(-1)


def best_projection(h_s: Tensor, h_t: Tensor, mask: Tensor) -> Tensor:
    """★★ The W (D', D) for which the sum over real tokens of ‖W h_S - h_T‖² is smallest. h_s (B, T, D), h_t (B, T, D')."""
    real = mask != 0
    return torch.linalg.lstsq(h_s[real], h_t[real]).solution.T  # h_S Wᵀ ≈ h_T
