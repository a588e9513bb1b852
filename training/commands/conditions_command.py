"""`python -m training conditions`: the table behind "pretraining matters, methods differ" (about 20 minutes on one core)."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from training.runs.setting_checks import at_least


@dataclass(frozen=True)
class ConditionsSettings:
    """Train six tasks with four methods over paired seeds, and judge the differences."""

    seeds: int = 3
    """paired seeds of each row"""
    out: Path = Path("runs/conditions")
    """folder for the runs and the report"""

    def __post_init__(self):
        at_least({"seeds": 2}, self)  # one seed has no spread, and that would show after all its runs


def run(settings: ConditionsSettings) -> None:
    from loralib.files.save_and_load import write_atomic
    from training.studies.conditions import measure, report

    console = Console(soft_wrap=True)
    results = measure(settings.out, range(settings.seeds), console.print)
    page = report(results, range(settings.seeds))
    write_atomic(settings.out / "report.md", page.encode())
    write_atomic(settings.out / "results.json", (json.dumps([asdict(m) for m in results], indent=1) + "\n").encode())
    console.print(page, markup=False)
