"""`python -m distill sweep`: a recorded grid of students. Stopped, the same command goes on."""

import shlex
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.markdown import Markdown

from distill.runs.settings import DistillSettings
from training.runs.setting_checks import at_least

if TYPE_CHECKING:
    from distill.studies.compare import Way


@dataclass(frozen=True)
class SweepSettings:
    """A grid of students: over temperature and the teacher's share of the loss `kd`, matched layers, and sizes of the student."""

    run: DistillSettings = field(default_factory=DistillSettings)
    temperatures: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    """the rows of the grid"""
    shares: tuple[float, ...] = (0.5, 0.9, 1.0)
    """the columns of the grid: the share of the teacher in the loss"""
    features: tuple[str, ...] = ()
    """the rows are losses on matched layers instead, such as hidden:1->2 relations:1->2; one temperature is given"""
    students: tuple[str, ...] = ()
    """the columns are sizes of the student instead, such as copy:1 copy:1,hidden=32; one share is given"""
    seeds: int = 2
    """runs of each cell"""

    def __post_init__(self):
        at_least({"seeds": 1}, self)
        if not self.temperatures or not self.shares:
            raise ValueError("temperatures and shares: expected at least one of each")
        if self.run.losses != DistillSettings.losses:
            raise ValueError("losses: a sweep has --temperatures, --shares and --features")
        if self.students and self.run.student != DistillSettings.student:
            raise ValueError("student: a sweep has --students")
        for grid, single in (("features", "temperatures"), ("students", "shares")):
            if getattr(self, grid) and len(getattr(self, single)) > 1:
                raise ValueError(
                    f"{single}={getattr(self, single)}: with {grid} give one of them, such as --{single} {FIXED[single]:g}"
                )
        for name in ("temperatures", "shares", "features", "students"):
            values = [f"{value:g}" if isinstance(value, float) else value for value in getattr(self, name)]
            if len(set(values)) < len(values):
                raise ValueError(f"{name}={getattr(self, name)}: expected different ones")

    def grid(self) -> "Grid":
        """The titles of rows and columns, and what each cell trains, as `python -m distill compare` takes it."""
        rows = list(self.features) or [f"T = {T:g}" for T in self.temperatures]
        columns = list(self.students) or [f"a = {a:g}" for a in self.shares]
        cells = []
        for i in range(len(rows)):
            T, more = (self.temperatures[0], f" {rows[i]}") if self.features else (self.temperatures[i], "")
            cells.append([])
            for j in range(len(columns)):
                a, student = (self.shares[0], f" student={columns[j]}") if self.students else (self.shares[j], "")
                cells[-1].append(f"kd:T={T:g},a={a:g}{more}{student}")
        return Grid(rows, columns, cells)


FIXED = {"temperatures": 2.0, "shares": 0.9}


class Grid(NamedTuple):
    """A table of students that are trained."""

    rows: list[str]
    """titles"""
    columns: list[str]
    """titles"""
    cells: list[list[str]]
    """what each student is trained by, in the words of `python -m distill compare`"""


def sweep(settings: SweepSettings) -> "list[Way]":
    from accelerate import PartialState

    from distill.studies.compare import compare
    from loralib.files.save_and_load import write_atomic
    from training.reports.paired import spread
    from training.reports.records import markdown_table
    from training.runs.run_folder import write_json

    console = Console(soft_wrap=True, highlight=False)
    out = Path(settings.run.out or "runs/distill-sweep")
    grid, main = settings.grid(), PartialState().is_main_process
    words = [cell for row in grid.cells for cell in row]
    ways = compare(words, settings.run, settings.seeds, out, console.print if main else lambda text: None)
    if not main:
        return ways
    values = dict(zip(words, [way.values("metric") or [] for way in ways], strict=True))
    axes = _axes(settings)
    chart = draw_grid([[statistics.mean(values[cell]) for cell in row] for row in grid.cells], grid, axes, out / "sweep.png")
    lines = [[row, *(spread(values[cell]) for cell in cells)] for row, cells in zip(grid.rows, grid.cells, strict=True)]
    name = ways[0].results[0]["metric_name"]
    command = shlex.join(["python", "-m", "distill", *sys.argv[1:]])
    text = (
        f"# {name} of {ways[0].results[0]['task']} by {axes[0]} and {axes[1]}\n\n`{command}`\n\n"
        f"{markdown_table(('', *grid.columns), lines)}\n\nMean ± standard deviation over "
        f"{settings.seeds} seed{'s' * (settings.seeds > 1)}. The best of {len(ways)} cells is a choice made on these\nexamples: "
        f"it will do worse on others.\n\n![grid]({chart.name})\n"
    )
    write_atomic(out / "report.md", text.encode())
    write_json(out / "results.json", {way.text: way.results for way in ways})
    Console().print(Markdown(text))
    print(f"report: {out / 'report.md'}   numbers: {out / 'results.json'}")
    return ways


def _axes(settings: SweepSettings) -> tuple[str, str]:
    rows = "matched layers" if settings.features else "temperature"
    return rows, "size of the student" if settings.students else "share of the teacher"


def draw_grid(means: list[list[float]], grid: Grid, axes: tuple[str, str], path: Path) -> Path:
    import numpy as np
    from matplotlib import pyplot as plt

    from training.reports.records import save_figure, use_style

    use_style()
    figure, panel = plt.subplots(figsize=(1.8 + 1.3 * len(grid.columns), 1.4 + 0.6 * len(grid.rows)))
    panel.imshow(means, cmap="Blues", aspect="auto")
    middle = (np.min(means) + np.max(means)) / 2
    for (i, j), value in np.ndenumerate(means):
        panel.text(j, i, f"{value:.3f}", ha="center", va="center", color="white" if value > middle else "black", fontsize=9)
    panel.set_xticks(range(len(grid.columns)), grid.columns)
    panel.set_yticks(range(len(grid.rows)), grid.rows)
    panel.grid(visible=False)
    panel.set(title="student, mean over seeds", ylabel=axes[0], xlabel=axes[1])
    return save_figure(figure, path)
