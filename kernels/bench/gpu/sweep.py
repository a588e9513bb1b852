"""All cases of some operations, the most important first, until the time is over.

A case that fails is a line of the report with its reason; the others are still measured. After every case its rows, the report
without plots, and (if wanted) the dispatcher's table are on disk, so that a killed run loses the cases that remain and no other.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kernels.bench.gpu.contest import GpuCase, Line
from kernels.bench.gpu.measure import OPERATIONS
from kernels.bench.gpu.targets import importance
from kernels.bench.gpu.worker import WorkerFailed
from kernels.bench.machine import first_line
from kernels.roofline import Ceilings

Planned = tuple[str, GpuCase]
"""an operation of OPERATIONS, and one of its cases"""


@dataclass
class Sweep:
    """All that one run measured; it grows case by case."""

    device: str
    ceilings: Ceilings | None = None
    lines: list[Line] = field(default_factory=list)
    failed: list[tuple[GpuCase, str]] = field(default_factory=list)
    left_out: list[GpuCase] = field(default_factory=list)


def plan(operations: list[str], full: bool) -> list[Planned]:
    """Every case, the most important first; equal ones stay in the order of their operation."""
    cases = [(name, case) for name in operations for case in OPERATIONS[name].cases(full)]
    return sorted(cases, key=lambda planned: importance(planned[1]))


def sweep(
    measured: Sweep,
    cases: Iterable[Planned],
    measure: Callable[[str, GpuCase], Line],
    after: Callable[[Line | None], None] = lambda line: None,
    deadline: float = math.inf,
) -> None:
    """Fills `found`. `after` gets each new line, None for a case that failed. `deadline`: a time of `time.monotonic`.

    A case starts only if the longest one so far would still end in time.
    """
    longest = 0.0
    for name, case in cases:
        start, line = time.monotonic(), None
        if start + longest > deadline:
            measured.left_out.append(case)
            continue
        try:
            line = measure(name, case)
            measured.lines.append(line)
        except WorkerFailed as error:
            measured.failed.append((case, str(error)))
        except Exception as error:  # any failure of a kernel is a result, and must not cost the other results
            measured.failed.append((case, f"{type(error).__name__}: {first_line(error)}"))
        longest = max(longest, time.monotonic() - start)
        after(line)
