"""Our answers to the exercises of lesson 02."""

import math
from collections.abc import Callable

from torch import Tensor


def scored_share(prompt_tokens: int, answer_tokens: int) -> float:
    return (answer_tokens + 1) / (prompt_tokens + answer_tokens + 1)


def joint_mean(means: list[float], counts: list[int]) -> float:
    return sum(m * n for m, n in zip(means, counts, strict=True)) / sum(counts)


def floor_of(choices: list[list[float]], tokens: float) -> float:
    entropy = sum(-p * math.log(p) for choice in choices for p in choice if p > 0)
    return entropy / tokens


def beam_search(log_probs: Callable[[list[int]], Tensor], start: list[int], end: int, width: int, most: int) -> list[int]:
    beams: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(most):
        if all(new and new[-1] == end for _, new in beams):
            break
        grown = []
        for score, new in beams:
            if new and new[-1] == end:
                grown.append((score, new))
                continue
            best = log_probs(start + new).topk(width)
            grown += [(score + p, [*new, t]) for p, t in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
        beams = sorted(grown, key=lambda beam: -beam[0])[:width]
    return [t for t in beams[0][1] if t != end]
