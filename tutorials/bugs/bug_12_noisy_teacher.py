"""The soft labels change from epoch to epoch

Symptom: The soft labels of the same text differ from epoch to epoch.

Question: In which mode is the teacher?

Cause: The teacher is in training mode, so its dropout is active. Call `teacher.eval()` before
the first step.

Lesson: 17
"""

import torch
from torch import nn


def wrong() -> float:
    """The largest difference between two predictions for the same text."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4))
    teacher.requires_grad_(False)
    x = torch.randn(16, 8)
    first, second = teacher(x).softmax(-1), teacher(x).softmax(-1)
    return float((first - second).abs().max())


def fixed() -> float:
    """The largest difference between two predictions for the same text."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4))
    teacher.requires_grad_(False).eval()
    x = torch.randn(16, 8)
    first, second = teacher(x).softmax(-1), teacher(x).softmax(-1)
    return float((first - second).abs().max())


def is_right(value: float) -> bool:
    return value == 0
