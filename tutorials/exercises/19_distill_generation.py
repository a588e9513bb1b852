"""Exercises of lesson 19. Write the functions, then run `python -m tutorials check 19`."""

from torch import Tensor


def reverse_by_hand(z: Tensor, v: Tensor) -> Tensor:
    """★ KL(q ‖ p) of each token (*rows), q the student's softmax of z, p the teacher's of v (*rows, V).

    The teacher's logits get no gradient. Two lines.
    """
    raise NotImplementedError("reverse_by_hand")


def texts_of(choices: list[dict[str, float]]) -> dict[str, float]:
    """★★ {text: probability} of a grammar: one piece of each choice, in order, joined by one space; "" adds nothing.

    Choices are independent. Two ways to the same text are one text. Six lines.
    """
    raise NotImplementedError("texts_of")


def coverage(samples: list[str], truth: dict[str, float]) -> tuple[float, float]:
    """★★ (share of the samples that are right, share of the grammar's probability that was seen at least once).

    truth: {right text: its probability}. Two lines.
    """
    raise NotImplementedError("coverage")
