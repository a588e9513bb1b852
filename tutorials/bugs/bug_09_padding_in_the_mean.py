"""The prediction of a text depends on its batch

Symptom: The same text gets another prediction in another batch.

Question: What is in the mean?

Cause: The mean over tokens includes the padding, so it depends on the longest text of the
batch. Multiply by the mask, and divide by the number of real tokens.

Lesson: 15
"""

import torch


def wrong() -> float:
    """How much the vector of a text changes when its batch has a longer text."""
    torch.manual_seed(0)
    hidden_states = torch.randn(1, 30, 8)
    mask = torch.zeros(1, 30)
    mask[:, :10] = 1
    vectors = []
    for length in (10, 30):  # the length of the batch
        h = hidden_states[:, :length]
        vectors.append(h.mean(1))
    return float((vectors[0] - vectors[1]).norm())


def fixed() -> float:
    """How much the vector of a text changes when its batch has a longer text."""
    torch.manual_seed(0)
    hidden_states = torch.randn(1, 30, 8)
    mask = torch.zeros(1, 30)
    mask[:, :10] = 1
    vectors = []
    for length in (10, 30):  # the length of the batch
        h, m = hidden_states[:, :length], mask[:, :length]
        vectors.append((h * m[..., None]).sum(1) / m.sum())
    return float((vectors[0] - vectors[1]).norm())


def is_right(value: float) -> bool:
    return value < 1e-5
