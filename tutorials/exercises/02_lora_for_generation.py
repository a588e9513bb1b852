"""Exercises of lesson 02. Write the functions, then run `python -m tutorials check 02`."""

from collections.abc import Callable

from torch import Tensor


def scored_share(prompt_tokens: int, answer_tokens: int) -> float:
    """★ The share of a row's tokens that carry a label. `answer_tokens` does not count the end of text, the row has one.

    One line.
    """
    raise NotImplementedError("scored_share")


def joint_mean(means: list[float], counts: list[int]) -> float:
    """★★ The loss of a step made of several batches: their mean losses, and their numbers of labelled tokens.

    One line.
    """
    raise NotImplementedError("joint_mean")


def floor_of(choices: list[list[float]], tokens: float) -> float:
    """★★ The floor, in nats per token, of a grammar that makes these independent choices in every text of `tokens` tokens.

    Each choice is the list of its probabilities, e.g. [0.6, 0.4] (one may be 0, which costs nothing). Two lines.
    """
    raise NotImplementedError("floor_of")


def beam_search(log_probs: Callable[[list[int]], Tensor], start: list[int], end: int, width: int, most: int) -> list[int]:
    """★★★ The likeliest continuation of `start` that beam search finds; without `start`, and without `end`.

    `log_probs(tokens)` gives log p of each next token, a tensor (V,). Keep the `width` likeliest texts, finished ones among
    them; stop when all are finished or have `most` new tokens. Score: the sum of the log-probabilities, the end included.
    About twelve lines.
    """
    raise NotImplementedError("beam_search")
