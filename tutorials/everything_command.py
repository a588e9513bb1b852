"""`python -m tutorials everything`: every method side by side. `make demo` is its short form."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import transformers
from rich.console import Console
from rich.markdown import Markdown

from loralib.files.save_and_load import write_atomic
from tutorials.everything import METHODS, measure, step_times
from training.reports.records import save_figure
from tutorials.everything_page import chart, page, table

ROUNDS = 20


def everything(tasks: list[str], seeds: int, out: Path) -> int:
    """Measure, print a table for each task as soon as it is there, write report, chart and numbers, and say where they are."""
    console, started = Console(soft_wrap=True, highlight=False), time.perf_counter()
    runs, times = [], {}
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    out.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        runs += measure(task, list(METHODS), seeds, out / "runs", console.print)
        times[task] = step_times(task, list(METHODS), out / "runs", ROUNDS)
        console.print(Markdown(table([m for m in runs if m.task == task], times[task])))
    picture = save_figure(chart(runs), out / "everything.png")
    command = f"python -m tutorials everything --tasks {' '.join(tasks)} --seeds {seeds}"
    write_atomic(out / "report.md", page(runs, times, picture.name, command).encode())
    write_atomic(out / "results.json", (json.dumps({"runs": [asdict(m) for m in runs], "step_seconds": times}) + "\n").encode())
    seconds = time.perf_counter() - started
    console.print(f"\nDone in {seconds:.0f} s. Report: {out / 'report.md'}   Chart: {picture}   Numbers: {out / 'results.json'}")
    return 0
