"""`python -m training compare`: one task, every way to adapt, one report. Stopped, the same command goes on."""

import shlex
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markdown import Markdown

from training.runs.setting_checks import at_least
from training.runs.settings import TrainSettings

if TYPE_CHECKING:
    from training.studies.compare import Compared


@dataclass(frozen=True)
class CompareSettings:
    """Untouched, the head alone, LoRA at several ranks, and full fine-tuning: the same task, seeds and steps, a process each.

    The options of a single run hold for every row; --method, --r and --out are the comparison's own.
    """

    run: TrainSettings = field(default_factory=TrainSettings)
    ranks: tuple[int, ...] = (1, 4, 8, 16)
    """a row of LoRA for each of these ranks"""
    seeds: int = 3
    """runs of each row, with the same seeds for all rows"""
    learning_rates: tuple[float, ...] = (1.0,)
    """factors on each method's default learning rate; of several, each method takes its best on a seed of its own"""
    score_train_rows: int = 500
    """training examples to score afterwards, for the gap between train and test"""
    other_text: str | None = None
    """folder with other text (task `text`): its loss before and after training shows what was forgotten"""
    rounds: int = 20
    """rounds of the interleaved measurement of step times; 0 leaves it out"""

    def __post_init__(self):
        at_least({"seeds": 1, "score_train_rows": 1, "rounds": 0}, self)
        if not self.ranks or min(self.ranks) < 1 or len(set(self.ranks)) < len(self.ranks):
            raise ValueError(f"ranks={self.ranks}: expected different whole numbers of at least 1")
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ValueError(f"learning_rates={self.learning_rates}: expected factors above 0")
        if self.run.epochs is not None:
            raise ValueError("epochs: a comparison has --steps, the same for every row")
        if 0 < self.rounds < 5:
            raise ValueError(f"rounds={self.rounds}: expected 0, or at least 5 for quantiles")
        if self.run.restart:
            raise ValueError("restart: a comparison goes on with what it finds; remove its folder (--out) to start over")
        if self.run.method != TrainSettings.method:
            raise ValueError(f"method={self.run.method!r}: a comparison runs every method; leave --method out")


def compare(settings: CompareSettings) -> "list[Compared]":
    import torch
    from tqdm.auto import tqdm

    from loralib.files.save_and_load import write_atomic
    from training.runs.own_process import WORD
    from training.runs.run_folder import write_json
    from training.runs.step_time import step_times
    from training.studies.compare import check_plan, make_plan, run_plan, tune
    from training.studies.compare_page import Times, draw, page

    console = Console(soft_wrap=True, highlight=False)
    base = replace(settings.run, restart=False)
    out = Path(base.out or f"runs/compare-{base.task}")
    plan = make_plan(base, settings.ranks, settings.seeds, out)
    check_plan(plan, settings.other_text)
    out.mkdir(parents=True, exist_ok=True)
    if base.threads is not None:
        torch.set_num_threads(base.threads)
    plan, tried = tune(plan, base, settings.learning_rates, console.print)
    rows = run_plan(plan, settings.score_train_rows, settings.other_text, console.print)
    trained = {row.label: row.settings for row in rows if row.method != "untouched"}
    times: Times = {}
    if settings.rounds:
        console.print("step times: every method in turn ...")
        times = step_times(trained, settings.rounds, lambda numbers: tqdm(numbers, leave=False, disable=None))
    chart = draw(rows, out / "compare.png")
    text = page(rows, tried, times, chart.name, shlex.join([*WORD.split(), *sys.argv[1:]]))
    write_atomic(out / "report.md", text.encode())
    columns = ("metric", "start_metric", "loss", "texts", "trainable", "head_parameters", "file_bytes", "saved_bytes")
    columns += ("optimizer_bytes", "peak_bytes", "seconds_per_step", "learning_rate", "seed", "steps", "metric_name", "task")
    write_json(
        out / "results.json",
        {
            "rows": {r.label: [{k: x[k] for k in columns} | a for x, a in zip(r.results, r.after, strict=True)] for r in rows},
            "tuned": tried,
            "step_seconds": times,
        },
    )
    Console().print(Markdown(text))
    print(f"report: {out / 'report.md'}   chart: {chart}   numbers: {out / 'results.json'}")
    return rows
