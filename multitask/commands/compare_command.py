"""`python -m multitask compare`: one model for all tasks against one for each. Stopped, the same command goes on."""

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.markdown import Markdown

from multitask.runs.settings import MultitaskSettings
from training.runs.setting_checks import at_least

if TYPE_CHECKING:
    from multitask.studies.compare import Way


@dataclass(frozen=True)
class CompareSettings:
    """Single-task models against one multitask model: scores over paired seeds, parameters, bytes, training and answering time.

    The options of a single run hold for every row; --task-sampling and --out are the comparison's own.
    """

    run: MultitaskSettings = field(default_factory=MultitaskSettings)
    samplings: tuple[Literal["proportional", "temperature", "equal", "annealed"], ...] = ("proportional", "equal")
    """a multitask row for each (temperature: T = 2); the single models have as many examples of each task as the first draws"""
    seeds: int = 3
    """runs of each row, with the same seeds for all rows"""
    longer: bool = True
    """also single models with as many steps each as the multitask model has in all"""

    def __post_init__(self):
        at_least({"seeds": 1}, self)
        if not self.samplings or len(set(self.samplings)) < len(self.samplings):
            raise ValueError(f"samplings={self.samplings}: expected different ways of sampling")
        if self.run.restart:
            raise ValueError("restart: a comparison goes on with what it finds; remove its folder (--out) to start over")
        if self.run.task_sampling != MultitaskSettings.task_sampling:
            raise ValueError("task_sampling: a comparison has --samplings")
        if len(self.run.specs()) < 2:
            raise ValueError(f"tasks={self.run.tasks!r}: a comparison needs at least two")


def run(settings: CompareSettings) -> "list[Way]":
    import torch

    from loralib.files.save_and_load import write_atomic
    from multitask.studies.compare import compare, inference_times
    from multitask.studies.compare_page import draw, draw_costs, page
    from training.runs.run_folder import write_json

    console = Console(soft_wrap=True, highlight=False)
    out = Path(settings.run.out or f"runs/multitask-compare-{'-'.join(settings.run.specs())}")
    ways = compare(settings.run, settings.seeds, settings.samplings, settings.longer, out, console.print)
    console.print("answering times, in turn ...")
    torch.set_num_threads(settings.run.threads or 1)
    times = inference_times(ways[0].folders[0], ways[-1].folders[0][0])
    chart = draw(ways, out / "compare.png")
    costs = draw_costs(ways, times, out / "costs.png")
    text = page(ways, times, (chart.name, costs.name), shlex.join(["python", "-m", "multitask", *sys.argv[1:]]))
    write_atomic(out / "report.md", text.encode())
    write_json(out / "results.json", {"ways": {way.label: way.results for way in ways}, "answer_seconds": times})
    Console().print(Markdown(text))
    print(f"report: {out / 'report.md'}   chart: {chart}   numbers: {out / 'results.json'}")
    return ways
