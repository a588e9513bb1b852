"""Our answers to lesson 21."""

import statistics


def normalized_score(scores: list[float], untouched: list[float], ceilings: list[float]) -> float:
    """★ The mean over seeds of (s - s0) / (s* - s0). The three lists have one number for each seed."""
    return statistics.mean((s - s0) / (best - s0) for s, s0, best in zip(scores, untouched, ceilings, strict=True))


def pareto_front(score: dict[str, float], cost: dict[str, float]) -> set[str]:
    """★★ The methods that no other beats. A beats B: A's score is not lower, its cost not higher, and one is better."""

    def beats(a: str, b: str) -> bool:
        no_worse = score[a] >= score[b] and cost[a] <= cost[b]
        return no_worse and (score[a] > score[b] or cost[a] < cost[b])

    return {name for name in score if not any(beats(other, name) for other in score)}


def tasks_until_smaller(base: int, adapter: int, whole: int) -> int | None:
    """★ The least n for which base + n · adapter bytes are fewer than n · whole bytes; None if that never happens."""
    return base // (whole - adapter) + 1 if whole > adapter else None
