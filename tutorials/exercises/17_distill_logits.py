"""Exercises of lesson 17. Write the functions, then run `python -m tutorials check 17`."""

from torch import Tensor


def soft_gradient(z: Tensor, v: Tensor, T: float) -> Tensor:
    """★ The gradient (N, C) of Σ_n T² KL(softmax(v / T) ‖ softmax(z / T)) for the student's logits z. No autograd.

    One line.
    """
    raise NotImplementedError("soft_gradient")


def mixed_loss(z: Tensor, v: Tensor, labels: Tensor, T: float, a: float) -> Tensor:
    """★★ (1 - a) · mean cross-entropy of the labelled examples + a · mean T² KL of all. No label (N): -100.

    A batch without any label has only the second part, a · mean T² KL. Three lines.
    """
    raise NotImplementedError("mixed_loss")


def in_order(answers: Tensor, stored_keys: Tensor, keys: Tensor) -> Tensor:
    """★★ The logits (B, C) of the examples with these keys (B). answers[k] (M, C) belongs to stored_keys[k] (M).

    KeyError for a key that is not stored. Two lines.
    """
    raise NotImplementedError("in_order")
