"""The tests of the kernels on this machine: pytest processes beside each other, within a time limit, counted from logs."""

import os
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
WITHOUT_GPU = ("builds", "bare_machine")
"""endings of test files that would find nothing new on a GPU, or start this again"""
QUICK = "three_versions or no_rows or augmented_form or floors"
LARGEST = 16
"""pytest processes; each holds a CUDA context of about 0.5 GB"""


@dataclass(frozen=True)
class Outcome:
    """What the tests said. `unfinished`: processes that were ended because the time was over, or that broke down."""

    counts: Counter[str]
    failing: list[str]
    unfinished: list[str]
    seconds: float

    @property
    def ok(self) -> bool:
        return not self.failing and not self.unfinished and self.counts["PASSED"] > 0

    def lines(self) -> list[str]:
        """For the report."""
        counts = ", ".join(f"{number} {word.lower()}" for word, number in sorted(self.counts.items())) or "no test ran"
        verdict = "" if self.ok else "**Not all tests passed.** "
        return [f"{verdict}{counts} in {self.seconds:.0f} s.", *(f"- {text}" for text in (*self.failing, *self.unfinished))]


def files() -> list[str]:
    """The test files of the kernels, and any other file with a test that is marked gpu."""
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    return [
        str(path)
        for path in tests
        if not path.stem.endswith(WITHOUT_GPU) and (path.stem.startswith("test_kernels_") or "mark.gpu" in path.read_text())
    ]


def run(logs: Path, seconds: float, quick: bool = False) -> Outcome:
    """Run them; `quick`: a few, in one process. The full output is in logs/tests-*.log."""
    start = time.monotonic()
    count = 1 if quick else min(LARGEST, os.cpu_count() or 1)
    logs.mkdir(parents=True, exist_ok=True)
    paths = [logs / f"tests-{i}.log" for i in range(count)]
    processes = [_start(path, i, count, quick) for i, path in enumerate(paths)]
    unfinished = []
    for path, process in zip(paths, processes, strict=True):
        try:
            status = process.wait(max(0.0, start + seconds - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = f"its time of {seconds:.0f} s was over"
        if status not in (0, 1, 5):  # 1: some test failed; 5: its part has no test
            reason = status if isinstance(status, str) else f"exit status {status}"
            unfinished.append(f"{path.name} is not complete: {reason}; its last line: {last_line(path)}")
    return read(paths, unfinished, time.monotonic() - start)


def _start(path: Path, part: int, count: int, quick: bool) -> subprocess.Popen:
    words = [sys.executable, "-m", "pytest", "-v", "--color=no", "-p", "no:cacheprovider", "-p", "kernels.bench.gpu.shard"]
    chosen = [*files(), *(["-k", QUICK] if quick else [])]
    threads = max(1, (os.cpu_count() or 1) // count)  # with all cores for each process they would wait for each other
    # unbuffered: a log is whole up to the moment when its process is ended
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(threads)}
    with path.open("w") as log:
        return subprocess.Popen(
            [*words, f"--shard={part}/{count}", *chosen], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment
        )


def last_line(path: Path) -> str:
    """Of a log: the test that was running."""
    return (path.read_text(errors="replace").strip().splitlines() or ["nothing was printed"])[-1]


def read(paths: list[Path], unfinished: list[str], seconds: float) -> Outcome:
    """Counts from pytest's lines `file::test PASSED [ 10%]`."""
    text = "".join(path.read_text(errors="replace") for path in paths)
    outcomes = re.findall(r"^(tests/\S+::.*?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b", text, re.MULTILINE)
    failing = [f"{name} {word.lower()}" for name, word in outcomes if word in ("FAILED", "ERROR")]
    failing += [f"{name}: cannot be collected" for name in sorted(set(re.findall(r"^ERROR (tests/\S+\.py)", text, re.MULTILINE)))]
    return Outcome(Counter(word for _, word in outcomes), failing, unfinished, seconds)
