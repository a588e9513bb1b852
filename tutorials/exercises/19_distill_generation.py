"""Exercises of lesson 19. Write the functions, then run `python -m tutorials check 19`."""

from torch import Tensor


def reverse_by_hand(z: Tensor, v: Tensor) -> Tensor:
    """★ KL(q ‖ p) of each token (N,): q is the student's softmax of z (N, V), p the teacher's of v (N, V).

    The teacher's logits get no gradient. Two lines.
    """
    raise NotImplementedError("reverse_by_hand")


def texts_of(choices: list[dict[str, float]]) -> dict[str, float]:
    """★★ {text: probability} of a grammar: one part from each choice, in order, joined by one space; "" adds nothing.

    Choices are independent. Two ways to the same text are one text. Six lines.
    """
    raise NotImplementedError("texts_of")


def coverage(samples: list[str], truth: dict[str, float]) -> tuple[float, float]:
    """★★ (part of the samples that are correct, part of the grammar's probability that occurred at least once).

    truth: {correct text: its probability}. Two lines.
    """
    raise NotImplementedError("coverage")
