"""The loss does not move

Symptom: The training runs for 50 steps. The loss stays exactly the same.

Question: Which gradients are zero, and why?

Cause: Both factors start at zero. The gradient of A contains B as a factor, and the gradient of
B contains A. So both are zero, forever. One factor must be random.

Lesson: 01
"""

import torch
from torch import nn


def wrong() -> float:
    """How much the loss falls in 50 steps."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 8), torch.randn(64, 4)
    A, B = nn.Parameter(torch.zeros(2, 8)), nn.Parameter(torch.zeros(4, 2))
    optimizer, losses = torch.optim.Adam([A, B], lr=0.05), []
    for _ in range(50):
        loss = ((x @ A.T @ B.T - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses[0] - losses[-1]


def fixed() -> float:
    """How much the loss falls in 50 steps."""
    torch.manual_seed(0)
    x, y = torch.randn(64, 8), torch.randn(64, 4)
    A, B = nn.Parameter(torch.randn(2, 8) / 8**0.5), nn.Parameter(torch.zeros(4, 2))
    optimizer, losses = torch.optim.Adam([A, B], lr=0.05), []
    for _ in range(50):
        loss = ((x @ A.T @ B.T - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses[0] - losses[-1]


def is_right(value: float) -> bool:
    return value > 0.01
