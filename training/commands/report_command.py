"""`python -m training report RUN ...`: what several runs measured, in one table and one chart."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console


@dataclass(frozen=True)
class ReportSettings:
    """Put runs side by side; runs that differ in the seed alone are also averaged."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """run folders, or folders that hold some"""
    out: Path | None = None
    """folder for report.md and losses.png; None only prints"""


def report(settings: ReportSettings) -> None:
    from loralib.files.save_and_load import write_atomic
    from training.runs.report import draw_losses, find_runs, report_page

    runs = find_runs(settings.runs)
    page = report_page(runs)
    Console(soft_wrap=True, highlight=False).print(page, markup=False)
    if settings.out is not None:
        settings.out.mkdir(parents=True, exist_ok=True)
        chart = draw_losses(runs, settings.out / "losses.png")
        write_atomic(settings.out / "report.md", (f"{page}\n![training losses]({chart.name})\n").encode())
        print(f"report: {settings.out / 'report.md'}   chart: {chart}")
