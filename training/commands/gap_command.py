"""`python -m training gap`: how much of full fine-tuning's gain each method keeps. Stopped, the same command goes on."""

import json
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from training.data.world_tasks import WORLD_TASKS
from training.runs.setting_checks import at_least

METHODS = ("lora", "ia3", "bottleneck", "prefix", "prompt")


@dataclass(frozen=True)
class GapSettings:
    """Methods of the small world between two ends, the head alone and full fine-tuning (about an hour on two cores)."""

    methods: tuple[str, ...] = ("lora", "bottleneck", "prefix", "prompt")
    """of: lora, ia3, bottleneck, prefix, prompt"""
    tasks: tuple[str, ...] = ("sentiment", "nli", "tagging", "qa", "data2text")
    """tasks of the small world"""
    seeds: int = 3
    """runs of each method, with the same seeds for all methods"""
    out: Path = Path("runs/gap")
    """folder for the runs and the report"""

    def __post_init__(self):
        at_least({"seeds": 2}, self)
        for name, given, known in (
            ("methods", self.methods, list(METHODS)),
            ("tasks", self.tasks, list(WORLD_TASKS)),
        ):
            wrong = [x for x in given if x not in known]
            if wrong or not given:
                raise ValueError(f"{name} {wrong}: expected some of {', '.join(known)}")


def gap(settings: GapSettings) -> None:
    from loralib.files.save_and_load import write_atomic
    from training.runs.own_process import WORD
    from training.runs.run_folder import write_json
    from training.studies.gap import draw, measure_gap, page

    console, names = Console(soft_wrap=True, highlight=False), list(settings.methods)
    gaps = []
    for task in settings.tasks:
        gaps.append(measure_gap(task, names, settings.seeds, settings.out, console.print))
        write_json(settings.out / f"{task}.json", asdict(gaps[-1]))
    chart = draw(gaps, names, settings.out / "gap.png")
    text = page(gaps, names, shlex.join([*WORD.split(), *sys.argv[1:]]), chart.name)
    write_atomic(settings.out / "report.md", text.encode())
    write_atomic(settings.out / "results.json", (json.dumps([asdict(g) for g in gaps], indent=1) + "\n").encode())
    console.print(Markdown(text))
    print(f"report: {settings.out / 'report.md'}   chart: {chart}")
