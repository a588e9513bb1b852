"""Timing on a GPU: each contender is captured in a CUDA graph, and the graphs are replayed in turn.

A graph takes Python and the launches out of the time: at a few tokens they would be most of it. One graph holds several runs,
each with weights of its own, so that the weights do not stay in the L2 cache (a 4-bit weight of 8 MB would, and would seem
faster than memory allows). On a CPU, where these times mean nothing, the runs are timed one by one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice

import torch

from kernels.bench.timing import Timing, interleaved, summary

Run = Callable[[], object]


def time_contenders(contenders: Mapping[str, Run | Sequence[Run]], rounds: int, device: str) -> dict[str, Timing]:
    """Seconds of one run. A contender is one call, or several that do the same on other copies of the data."""
    several = {name: [runs] if callable(runs) else list(runs) for name, runs in contenders.items()}
    if device != "cuda":
        return interleaved({name: runs[0] for name, runs in several.items()}, rounds, device, warmup=0)
    graphs = {name: _replay(runs) for name, runs in several.items()}
    seconds: dict[str, list[float]] = {name: [] for name in graphs}
    names = list(graphs)
    for index in range(3 + rounds):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            replay, count, _ = graphs[name]
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            replay()
            end.record()
            torch.cuda.synchronize()
            if index >= 3:
                seconds[name].append(start.elapsed_time(end) / 1e3 / count)
    return {name: replace(summary(values), captured=graphs[name][2]) for name, values in seconds.items()}


def _replay(runs: list[Run], least: int = 8) -> tuple[Run, int, bool]:
    """At least `least` runs as one call: a graph, or one by one where a library does something that cannot be captured.

    Also how many, and whether it is a graph: the report marks those that are not.
    """
    several = list(islice(cycle(runs), max(least, len(runs))))
    try:
        return _capture(several).replay, len(several), True
    except RuntimeError:
        torch.cuda.synchronize()
        return lambda: [run() for run in several], len(several), False


def _capture(several: list[Run]) -> torch.cuda.CUDAGraph:
    """After a warm-up on a side stream, as capturing asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for run in several[:3]:
            run()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for run in several:
            run()
    return graph
