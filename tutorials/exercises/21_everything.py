"""Exercises of lesson 21. Write the functions, then run `python -m tutorials check 21`."""


def normalized_score(scores: list[float], untouched: list[float], ceilings: list[float]) -> float:
    """★ The mean over seeds of (s - s0) / (s* - s0). The three lists have one number for each seed.

    One line.
    """
    raise NotImplementedError("normalized_score")


def pareto_front(score: dict[str, float], cost: dict[str, float]) -> set[str]:
    """★★ The methods that no other beats. A beats B: A's score is not lower, its cost not higher, and one is better.

    Four lines.
    """
    raise NotImplementedError("pareto_front")


def tasks_until_smaller(base: int, adapter: int, whole: int) -> int | None:
    """★ The least n for which base + n · adapter bytes are fewer than n · whole bytes; None if that never happens.

    Two or three lines, no loop.
    """
    raise NotImplementedError("tasks_until_smaller")
