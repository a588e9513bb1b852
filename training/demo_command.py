"""`make demo`: LoRA learns, beside full fine-tuning and the head alone, on three tasks of the small world."""

import time
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from training.demo import HEADER, draw_comparison, report, table_rows
from training.result import TrainResult
from training.run import train_model

PLAN = {"sentiment": 200, "nli": 600, "data2text": 400}


@dataclass(frozen=True)
class DemoSettings:
    """Nine short trainings: three tasks with all weights, the head alone, and LoRA."""

    out: Path = Path("runs/demo")


def demo(settings: DemoSettings) -> list[TrainResult]:
    """Run all nine trainings, print the table, write the report and the chart, and say where they are."""
    console, started, out = Console(soft_wrap=True), time.perf_counter(), settings.out
    results = []
    for task, steps in PLAN.items():
        for method in ("full", "head", "lora"):
            console.print(f"[bold]{task}[/bold]: training [bold]{method}[/bold], {steps} steps ...")
            results.append(train_model(task, method=method, steps=steps, out=str(out / f"{task}-{method}"), restart=True))
    seconds = time.perf_counter() - started
    console.print(_table(results))
    chart = draw_comparison(results, out / "quality.png")
    page = out / "report.md"
    page.write_text(report(results, chart, "make demo", seconds))
    console.print(f"\nDone in {seconds:.0f} s. Report: {page}   Chart: {chart}   Each run: {out}/TASK-METHOD/")
    return results


def _table(results: list[TrainResult]) -> Table:
    title = "full, head and LoRA side by side (for a loss, lower is better)"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 0), pad_edge=False)
    for i, name in enumerate(HEADER):
        table.add_column(name, justify="left" if i < 3 else "right", no_wrap=True)
    last = results[0].task
    for result, row in zip(results, table_rows(results), strict=True):
        if result.task != last:
            table.add_section()
            last = result.task
        table.add_row(*row)
    return table
