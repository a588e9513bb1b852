"""The runs of a study, read from their folders, and their rows: untouched, head, the methods, and a method trained longer."""

import json
import statistics
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

COLLECTED = "runs.json"


@dataclass(frozen=True)
class Run:
    """What the checks need to know about one finished run of `python -m training`."""

    name: str
    """of its folder"""
    task: str
    method: str
    seed: int
    steps: int
    learning_rate: float
    batch_size: int
    max_length: int
    train_checksum: int
    evaluation_checksum: int
    metric: float
    metric_name: str
    trainable: int
    file_bytes: int
    seconds: float


@dataclass(frozen=True)
class Study:
    """The rows that are compared, and the runs that chose the learning rates."""

    rows: dict[tuple[str, int], list[Run]]
    """{(method, steps): runs, by seed}"""
    tuning: list[Run]
    """runs on seeds that no row uses"""

    @property
    def seeds(self) -> list[int]:
        """Those of the untouched row."""
        return sorted(run.seed for (method, _), runs in self.rows.items() if method == "untouched" for run in runs)

    def row(self, method: str) -> list[Run]:
        """The runs of a method with its usual (smallest) number of steps."""
        steps = sorted(steps for name, steps in self.rows if name == method)
        return self.rows[method, steps[0]] if steps else []


def read_runs(folder: Path) -> list[Run]:
    """All finished runs below a folder; or those of its `runs.json`. ValueError if there is none."""
    if (folder / COLLECTED).is_file():
        return [Run(**run) for run in json.loads((folder / COLLECTED).read_text())]
    runs = [_read(path.parent) for path in sorted(folder.rglob("result.json"))]
    if not runs:
        raise ValueError(f"{folder}: found no finished run (a folder with result.json). Train with --out {folder}/NAME")
    return runs


def collect(folder: Path) -> Path:
    """Write `runs.json`, which holds what the checks need, so that a report can be committed without its run folders."""
    path = folder / COLLECTED
    path.write_text(json.dumps([asdict(run) for run in read_runs(folder)], indent=1) + "\n")
    return path


def study_of(runs: list[Run]) -> Study:
    """Seeds with an untouched run are compared; all others are for tuning."""
    compared = {run.seed for run in runs if run.method == "untouched"}
    rows: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.seed):
        if run.seed in compared:
            rows[run.method, run.steps].append(run)
    return Study(dict(rows), [run for run in runs if run.seed not in compared])


def score(runs: list[Run]) -> str:
    """Mean ± standard deviation, as a report writes it."""
    values = [run.metric for run in runs]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


def _read(folder: Path) -> Run:
    result, config = (json.loads((folder / name).read_text()) for name in ("result.json", "config.json"))
    known = {name: {**config, **result}[name] for name in Run.__dataclass_fields__ if name != "name"}
    return Run(name=folder.name, **known)
