"""The model is worse after it was saved

Symptom: After merging and saving, the predictions differ from those during training.

Question: How often is the update in the weight?

Cause: `merge` was called twice: once before the evaluation, and once before saving. The weight
then contains 2 · s · B A. A model must record that its adapter is merged.

Lesson: 06
"""

import torch


def wrong() -> float:
    """The largest difference of the outputs before and after saving."""
    torch.manual_seed(0)
    W, x = torch.randn(4, 8), torch.randn(16, 8)
    A, B, s = torch.randn(2, 8), torch.randn(4, 2), 0.5
    expected = x @ W.T + s * x @ A.T @ B.T

    def merge(weight):
        return weight + s * B @ A

    W = merge(W)  # for a fast evaluation
    saved = merge(W)  # before saving
    return float((x @ saved.T - expected).abs().max())


def fixed() -> float:
    """The largest difference of the outputs before and after saving."""
    torch.manual_seed(0)
    W, x = torch.randn(4, 8), torch.randn(16, 8)
    A, B, s = torch.randn(2, 8), torch.randn(4, 2), 0.5
    expected = x @ W.T + s * x @ A.T @ B.T

    def merge(weight):
        return weight + s * B @ A

    W = merge(W)  # for a fast evaluation
    saved = W  # merged already
    return float((x @ saved.T - expected).abs().max())


def is_right(value: float) -> bool:
    return value < 1e-4
