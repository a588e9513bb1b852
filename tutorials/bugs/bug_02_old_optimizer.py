"""The adapter is unchanged after the training

Symptom: The training runs. The adapter is unchanged afterwards.

Question: Which parameters does the optimizer have?

Cause: The optimizer was created before the LoRA factors existed. It holds the parameters of the
base only, and these are frozen. Create the optimizer after the adapters.

Lesson: 01
"""

import torch
from torch import nn


def wrong() -> float:
    """How far the factor B moves in 20 steps."""
    torch.manual_seed(0)
    layer, x = nn.Linear(8, 4), torch.randn(64, 8)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    layer.requires_grad_(False)
    A, B = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.zeros(4, 2))
    for _ in range(20):
        loss = (layer(x) + x @ A.T @ B.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(B.detach().norm())


def fixed() -> float:
    """How far the factor B moves in 20 steps."""
    torch.manual_seed(0)
    layer, x = nn.Linear(8, 4), torch.randn(64, 8)
    layer.requires_grad_(False)
    A, B = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.zeros(4, 2))
    optimizer = torch.optim.Adam([A, B], lr=0.05)
    for _ in range(20):
        loss = (layer(x) + x @ A.T @ B.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(B.detach().norm())


def is_right(value: float) -> bool:
    return value > 0
