"""Our answers to lesson 19."""

import itertools
import math

from torch import Tensor


def reverse_by_hand(z: Tensor, v: Tensor) -> Tensor:
    """★ KL(q ‖ p) of each token (N,): q is the student's softmax of z (N, V), p the teacher's of v (N, V)."""
    log_q, log_p = z.log_softmax(-1), v.detach().log_softmax(-1)
    return (log_q.exp() * (log_q - log_p)).sum(-1)


def texts_of(choices: list[dict[str, float]]) -> dict[str, float]:
    """★★ {text: probability} of a grammar: one part from each choice, in order, joined by one space; "" adds nothing."""
    found: dict[str, float] = {}
    for pieces in itertools.product(*choices):
        text = " ".join(piece for piece in pieces if piece)
        chance = math.prod(choice[piece] for choice, piece in zip(choices, pieces, strict=True))
        found[text] = found.get(text, 0.0) + chance
    return found


def coverage(samples: list[str], truth: dict[str, float]) -> tuple[float, float]:
    """★★ (part of the samples that are correct, part of the grammar's probability that occurred at least once)."""
    right = [text for text in samples if text in truth]
    return len(right) / len(samples), sum(truth[text] for text in set(right))
