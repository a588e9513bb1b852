"""The runs of a study, read from their folders: the rows that are compared, and the runs that chose the learning rates."""

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from training.reports.paired import spread

COLLECTED = "runs.json"
TUNING = "tune"
"""Names of folders with runs for tuning start with this."""
OPTIONS = ("r", "lora_alpha", "target_modules", "use_dora", "use_rslora", "placement", "reduction_factor", "num_virtual_tokens")
"""Two runs of one method with other values of these are two rows."""
SHARED = ("model", "random_weights", "accumulation", "optimizer", "schedule", "warmup_share", "weight_decay", "keep")
"""Settings that must be the same for all rows, beside those in the fields of `Run`."""


@dataclass(frozen=True)
class Run:
    """What the checks need to know about one finished run of `python -m training`."""

    name: str
    """of its folder"""
    task: str
    method: str
    options: str
    """of the method, where they differ from run to run: `r=8, placement=parallel`"""
    shared: dict[str, str | float | bool | None]
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
    """of all training steps, without the evaluations"""


class Row(NamedTuple):
    """What the runs of one row have in common."""

    method: str
    options: str
    steps: int

    def __str__(self) -> str:
        details = [self.options] if self.options else []
        details += [] if self.method == "untouched" else [f"{self.steps} steps"]
        return f"{self.method} ({', '.join(details)})" if details else self.method


@dataclass(frozen=True)
class Study:
    """The rows that are compared, each with its runs by seed; and the runs that chose the learning rates."""

    rows: dict[Row, list[Run]]
    tuning: list[Run]

    @property
    def seeds(self) -> list[int]:
        return sorted({run.seed for runs in self.rows.values() for run in runs})

    def of(self, method: str) -> dict[Row, list[Run]]:
        return {row: runs for row, runs in self.rows.items() if row.method == method}

    def trained(self) -> dict[Row, list[Run]]:
        return {row: runs for row, runs in self.rows.items() if row.method != "untouched"}


def read_runs(folder: Path) -> list[Run]:
    """The finished runs in the folders of `folder`; if there are none, those of its `runs.json`. ValueError without any."""
    runs = [_read(path.parent) for path in sorted(folder.glob("*/result.json"))]
    if not runs and (folder / COLLECTED).is_file():
        return [Run(**run) for run in json.loads((folder / COLLECTED).read_text())]
    if not runs:
        raise ValueError(f"{folder}: no finished run (a folder with result.json) in it. Train with --out {folder}/NAME")
    return runs


def collect(folder: Path) -> Path:
    """Write `runs.json`, which holds what the checks need, so that a report can be committed without its run folders."""
    path = folder / COLLECTED
    path.write_text(json.dumps([asdict(run) for run in read_runs(folder)], indent=1) + "\n")
    return path


def study_of(runs: list[Run]) -> Study:
    rows: dict[Row, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.seed, run.name)):
        if not run.name.startswith(TUNING):
            rows[Row(run.method, run.options, run.steps)].append(run)
    return Study(dict(rows), [run for run in runs if run.name.startswith(TUNING)])


def score(runs: list[Run]) -> str:
    """Mean ± standard deviation, as `python -m training report` writes it."""
    return spread([run.metric for run in runs])


def _read(folder: Path) -> Run:
    result, config = (json.loads((folder / name).read_text()) for name in ("result.json", "config.json"))
    known = {**config, **result, "name": folder.name, "steps": result["steps"] if config["epochs"] else config["steps"]}
    known["options"] = ", ".join(f"{name}={config[name]}" for name in _changed(config))
    known["shared"] = {name: config[name] for name in SHARED}
    return Run(**{name: known[name] for name in Run.__dataclass_fields__})


def _changed(config: dict) -> list[str]:
    """The options of the run's method that are not the defaults."""
    from training.runs.settings import TrainSettings

    default = TrainSettings()
    return [name for name in OPTIONS if config[name] != getattr(default, name)]
