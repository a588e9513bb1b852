"""Exercises of lesson 03. Write the functions, then run `python -m tutorials check 03`."""

from torch import Tensor


def head_size(width: int, labels: int) -> int:
    """★ How many numbers a linear head with a bias has, on vectors of `width` numbers.

    One line.
    """
    raise NotImplementedError("head_size")


def floor_accuracy(train: list[int], test: list[int]) -> float:
    """★★ The accuracy on `test` of always answering the most frequent label of `train`.

    Two lines. It is not always the most frequent label of `test`.
    """
    raise NotImplementedError("floor_accuracy")


def f1_by_hand(guess: list[int], truth: list[int]) -> float:
    """★★ F1 of the label 1: how well its cases are found, false alarms counted too. 0.0 without any hit.

    Four lines.
    """
    raise NotImplementedError("f1_by_hand")


def head_from_means(h: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """★★★ (W, b) of a head that answers the label whose mean of `h` is nearest; labels are 0 ... C - 1, each occurs.

    h is (rows, D), labels (rows,); W is (C, D), b is (C,). The largest of W h + b wins. Two lines.
    """
    raise NotImplementedError("head_from_means")
