"""The prefix has no effect

Symptom: Prefix tuning trains, but the outputs are the same as without the prefix.

Question: Which keys may a query attend to?

Cause: The attention mask of the virtual tokens is 0, so no query attends to them. It must be 1
in front of the mask of the text.

Lesson: 13
"""

import torch


def wrong() -> float:
    """How much the prefix changes the output of attention."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 6, 8)
    prefix_k, prefix_v, mask = torch.randn(1, 2, 8), torch.randn(1, 2, 8), torch.ones(1, 6)
    without = (q @ k.mT / 8**0.5).softmax(-1) @ v
    mask = torch.cat([torch.zeros(1, 2), mask], dim=1)
    scores = q @ torch.cat([prefix_k, k], 1).mT / 8**0.5
    scores = scores.masked_fill(mask[:, None] == 0, -torch.inf)
    return float((scores.softmax(-1) @ torch.cat([prefix_v, v], 1) - without).abs().max())


def fixed() -> float:
    """How much the prefix changes the output of attention."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 6, 8)
    prefix_k, prefix_v, mask = torch.randn(1, 2, 8), torch.randn(1, 2, 8), torch.ones(1, 6)
    without = (q @ k.mT / 8**0.5).softmax(-1) @ v
    mask = torch.cat([torch.ones(1, 2), mask], dim=1)
    scores = q @ torch.cat([prefix_k, k], 1).mT / 8**0.5
    scores = scores.masked_fill(mask[:, None] == 0, -torch.inf)
    return float((scores.softmax(-1) @ torch.cat([prefix_v, v], 1) - without).abs().max())


def is_right(value: float) -> bool:
    return value > 0.01
