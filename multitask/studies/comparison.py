"""One number for many tasks, each with a scale of its own: against single-task models, or against what is known to be best."""


def delta_m(scores: dict[str, float], single: dict[str, float], lower_is_better: frozenset[str] = frozenset()) -> float:
    """Δm: the mean relative gain over single-task models (Maninis et al. 2019, section 4).

    KeyError where a task is missing, ValueError where a single model scores 0.
    """
    if set(scores) != set(single):
        raise KeyError(f"scores of {sorted(scores)} against {sorted(single)}: expected the same tasks")
    none = [task for task, score in single.items() if score == 0]
    if none:
        raise ValueError(f"tasks {none} alone score 0: no gain is relative to that")
    gains = [(-1) ** (t in lower_is_better) * (scores[t] - single[t]) / single[t] for t in scores]
    return sum(gains) / len(gains)


def gap_closed(score: float, start: float, ceiling: float) -> float:
    """The normalized score: 0 is `start` (chance, or another model), 1 the known ceiling."""
    if ceiling == start:
        raise ValueError(f"start and ceiling are both {start}: there is no gap to close")
    return (score - start) / (ceiling - start)
