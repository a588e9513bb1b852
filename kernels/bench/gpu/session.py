"""The steps on a GPU, each with its results on disk before the next begins: tests, hardware limits, cases, report, plots."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from kernels.bench.gpu import kernel_tests
from kernels.bench.gpu.contest import GpuCase, Line
from kernels.bench.gpu.measure import Setup, limits, measure
from kernels.bench.gpu.records import RowFile, remember
from kernels.bench.gpu.report import report
from kernels.bench.gpu.summary import write as write_summary
from kernels.bench.gpu.sweep import Planned, Sweep, plan, sweep
from kernels.bench.gpu.worker import Worker
from kernels.bench.machine import device_name
from loralib.files.save_and_load import write_atomic

PLOTTING = 12.0
"""seconds kept for the plots at the end"""
SILENCE = 120.0
"""seconds after which a case is given up: a kernel that hangs"""
SHARE_OF_TESTS = 0.42
"""of the time budget; tests that need longer are ended and the report says so"""


@dataclass
class Session:
    """One run on this machine. `measured`: the dispatcher's table, or None to leave it alone."""

    setup: Setup
    out: Path
    measured: Path | None
    deadline: float = math.inf
    """a time of `time.monotonic`"""
    results: Sweep = field(init=False)
    tests: kernel_tests.Outcome | None = None

    def __post_init__(self) -> None:
        self.results = Sweep(device_name(self.setup.device))
        self.out.mkdir(parents=True, exist_ok=True)

    def run_tests(self, logs: Path) -> kernel_tests.Outcome:
        """They take at most their share of the time; failures are for the report and stop nothing."""
        seconds = min(1800.0, SHARE_OF_TESTS * (self.deadline - time.monotonic()))
        self.tests = kernel_tests.run(logs, seconds, quick=not self.setup.full)
        self.write(plots=False)
        return self.tests

    def run_cases(self, operations: list[str], track: Callable[[list[Planned]], Iterable[Planned]]) -> None:
        """The hardware limits, then every case, in a process of their own."""
        worker = Worker(self.setup.device)
        try:
            self.results.ceilings = worker.call(limits, self.setup, seconds=self._patience())
            rows = RowFile(self.out / "rows.csv", self.results.device, self.setup.dtype)
            cases = track(plan(operations, self.setup.full))
            sweep(self.results, cases, partial(self._measure, worker), partial(self._after, rows), self.deadline - PLOTTING)
        finally:
            worker.close()
            self.write(plots=True)
            if self.results.lines:
                write_summary([self.out])

    def _measure(self, worker: Worker, name: str, case: GpuCase) -> Line:
        return worker.call(measure, self.setup, self.results.ceilings, name, case, seconds=self._patience())

    def _patience(self) -> float:
        return max(1.0, min(SILENCE, self.deadline - time.monotonic()))

    def _after(self, rows: RowFile, line: Line | None) -> None:
        if line is not None:
            rows.append(line)
            if self.measured:
                remember(line, self.results.device, self.setup.dtype, self.measured)
        self.write(plots=False)

    def write(self, plots: bool) -> str:
        """report.md as far as the run has come."""
        test_lines = self.tests.lines() if self.tests else ()
        text = report(self.results, self.out, test_lines, plots)
        write_atomic(self.out / "report.md", text.encode())
        return text

    def problems(self) -> list[str]:
        """What makes the command's exit status an error. Cases left out for time are none: the budget was given."""
        failed = f"{len(self.results.failed)} cases failed" if self.results.failed else ""
        nothing = "" if self.results.lines else "no case was measured"
        tests = "tests of the kernels failed or did not finish" if self.tests and not self.tests.ok else ""
        return [text for text in (tests, failed, nothing) if text]
