"""Interleaved timing: every contender runs once per round, so that a slow moment of the machine hits all of them."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Seconds: median with the 20 % and 80 % quantiles over the rounds, and the single rounds."""

    median: float
    low: float
    high: float
    rounds: tuple[float, ...]
    captured: bool = True
    """False on a GPU where the runs could not be put into a CUDA graph: Python's time is in it"""


def interleaved(contenders: Mapping[str, Callable[[], object]], rounds: int, device: str, warmup: int = 3) -> dict[str, Timing]:
    """Time each contender once per round, in an order that rotates; the first `warmup` rounds are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    gc.disable()
    try:
        for index in range(warmup + rounds):
            for name in names[index % len(names) :] + names[: index % len(names)]:
                took = _once(contenders[name], device)
                if index >= warmup:
                    seconds[name].append(took)
    finally:
        gc.enable()
    return {name: summary(values) for name, values in seconds.items()}


def ratio(over: Timing, under: Timing) -> float:
    """Median over the rounds of over / under: each round compares two runs that stood next to each other."""
    return statistics.median(a / b for a, b in zip(over.rounds, under.rounds, strict=True))


def _once(run: Callable[[], object], device: str) -> float:
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def summary(values: list[float]) -> Timing:
    ordered = sorted(values)
    quantile = lambda q: ordered[min(len(ordered) - 1, int(q * len(ordered)))]  # noqa: E731
    return Timing(statistics.median(values), quantile(0.2), quantile(0.8), tuple(values))
