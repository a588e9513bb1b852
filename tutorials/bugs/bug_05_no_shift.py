"""The loss is 0, and the texts are useless

Symptom: The loss reaches 0 within a few steps. The generated texts are useless.

Question: Which token does position t predict?

Cause: The logits at position t are compared with token t, which the model can see. They must be
compared with token t + 1.

Lesson: 02
"""

import torch
from torch import nn


def wrong() -> float:
    """The loss of a model that only copies its input."""
    torch.manual_seed(0)
    ids = torch.randint(50, (8, 20))
    logits = 20.0 * nn.functional.one_hot(ids, 50)  # copies the token that it reads
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())
    return float(loss)


def fixed() -> float:
    """The loss of a model that only copies its input."""
    torch.manual_seed(0)
    ids = torch.randint(50, (8, 20))
    logits = 20.0 * nn.functional.one_hot(ids, 50)  # copies the token that it reads
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    return float(loss)


def is_right(value: float) -> bool:
    return value > 1
