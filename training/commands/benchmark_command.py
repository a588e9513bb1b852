"""`python -m training benchmark`: the eight tasks of GLUE, one after the other, in one table that can be gone on with."""

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from training.runs.setting_checks import at_least
from training.runs.settings import TrainSettings

if TYPE_CHECKING:
    from training.studies.benchmark import Entry


@dataclass(frozen=True)
class BenchmarkSettings:
    """Train and score every task with the same settings. --task and --data-dir of a single run have no place here."""

    run: TrainSettings = field(default_factory=TrainSettings)
    tasks: tuple[str, ...] = ("all",)
    """`all`, or some of cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte"""
    data_root: Path | None = None
    """folder with a folder of files for each task; None is the Hub"""
    stand_in: tuple[str, ...] = ()
    """TASK=OTHER: run OTHER where TASK's data is not there, such as mnli=sick; the table says so"""
    seeds: int = 1
    """runs of each task"""

    def __post_init__(self):
        at_least({"seeds": 1}, self)
        if self.run.epochs is not None:
            raise ValueError("epochs: a benchmark has --steps, the same for every task")
        if self.run.data_dir is not None or self.run.task != TrainSettings.task:
            raise ValueError("a benchmark has --tasks and --data-root in place of --task and --data-dir")


def benchmark(settings: BenchmarkSettings) -> "list[Entry]":
    from loralib.files.save_and_load import write_atomic
    from training.runs.own_process import WORD
    from training.studies.benchmark import benchmark_page, plan_tasks, run_benchmark

    console, base = Console(soft_wrap=True, highlight=False), settings.run
    tasks = plan_tasks(settings.tasks, settings.stand_in)
    out = Path(base.out or "runs/benchmark")
    entries = run_benchmark(tasks, base, settings.data_root, settings.seeds, out, console.print)
    text = benchmark_page(entries, base, shlex.join([*WORD.split(), *sys.argv[1:]]))
    write_atomic(out / "report.md", text.encode())
    console.print(text, markup=False)
    print(f"report: {out / 'report.md'}")
    return entries
