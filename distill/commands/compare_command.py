"""`python -m distill compare`: many students of one teacher in one table. Stopped, the same command goes on."""

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markdown import Markdown

from distill.runs.settings import DistillSettings
from training.runs.setting_checks import at_least

WAYS = ("hard transfer=0", "kd:T=2,a=0.9 transfer=0", "kd:T=2,a=0.9")

if TYPE_CHECKING:
    from distill.studies.compare import Way


@dataclass(frozen=True)
class CompareSettings:
    """Students of one teacher, each made in another way, over paired seeds. The options of a single run hold for all of them."""

    run: DistillSettings = field(default_factory=DistillSettings)
    ways: tuple[str, ...] = WAYS
    """losses, and what else differs, such as student=copy:1 transfer=0 steps=900 heads=0.5 bits=int8 rate=1e-3;
    the first is what the others are judged against"""
    seeds: int = 5
    """runs of each student, with the same seeds for all students"""

    def __post_init__(self):
        at_least({"seeds": 1}, self)
        if len(set(self.ways)) < len(self.ways) or not self.ways:
            raise ValueError(f"ways={self.ways}: expected different ways, at least one")
        if self.run.losses != DistillSettings.losses:
            raise ValueError("losses: a comparison has --ways")


def run(settings: CompareSettings) -> "list[Way]":
    import torch
    from accelerate import PartialState

    from distill.studies.compare import compare, costs
    from distill.studies.compare_page import draw, page
    from loralib.files.save_and_load import write_atomic
    from training.runs.run_folder import write_json

    console = Console(soft_wrap=True, highlight=False)
    out = Path(settings.run.out or "runs/distill-compare")
    main = PartialState().is_main_process
    ways = compare(settings.ways, settings.run, settings.seeds, out, console.print if main else lambda text: None)
    if not main:
        return ways
    console.print("answering times, in turn ...")
    torch.set_num_threads(settings.run.threads or 1)
    costs_of = costs(ways, settings.run.teacher)
    chart = draw(ways, costs_of, out / "compare.png")
    text = page(ways, costs_of, chart.name, shlex.join(["python", "-m", "distill", *sys.argv[1:]]))
    write_atomic(out / "report.md", text.encode())
    write_json(out / "results.json", {"ways": {way.text: way.results for way in ways}, "costs": costs_of})
    Console().print(Markdown(text))
    print(f"report: {out / 'report.md'}   chart: {chart}   numbers: {out / 'results.json'}")
    return ways
