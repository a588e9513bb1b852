"""The answers hardly improve

Symptom: The loss falls quickly, but the answers hardly improve.

Question: Which tokens are in the loss?

Cause: The labels are a copy of all token ids. So the prompt, here 12 of 15 tokens, gives most
of the gradient. Prompt tokens and padding need the label -100.

Lesson: 02
"""

import torch
from torch import nn


def wrong() -> float:
    """What share of the gradient comes from the answer."""
    torch.manual_seed(0)
    ids, prompt = torch.randint(50, (4, 15)), 12
    logits = torch.randn(4, 15, 50, requires_grad=True)
    labels = ids.clone()
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    loss.backward()
    size = logits.grad.norm(dim=-1)
    return float(size[:, prompt - 1 :].sum() / size.sum())


def fixed() -> float:
    """What share of the gradient comes from the answer."""
    torch.manual_seed(0)
    ids, prompt = torch.randint(50, (4, 15)), 12
    logits = torch.randn(4, 15, 50, requires_grad=True)
    labels = ids.clone()
    labels[:, :prompt] = -100
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    loss.backward()
    size = logits.grad.norm(dim=-1)
    return float(size[:, prompt - 1 :].sum() / size.sum())


def is_right(value: float) -> bool:
    return value > 0.999
