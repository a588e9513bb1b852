"""`python -m distill sweep`: a recorded grid over temperature and share of the teacher. Stopped, the same command goes on."""

import shlex
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markdown import Markdown

from distill.runs.settings import DistillSettings
from training.runs.setting_checks import at_least

if TYPE_CHECKING:
    from distill.studies.compare import Way


@dataclass(frozen=True)
class SweepSettings:
    """A grid over the temperature and the teacher's share of the loss `kd`."""

    run: DistillSettings = field(default_factory=DistillSettings)
    temperatures: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    """the rows of the grid"""
    shares: tuple[float, ...] = (0.5, 0.9, 1.0)
    """the columns of the grid: the share of the teacher in the loss"""
    seeds: int = 2
    """runs of each cell"""

    def __post_init__(self):
        at_least({"seeds": 1}, self)
        if not self.temperatures or not self.shares:
            raise ValueError("temperatures and shares: expected at least one of each")
        if self.run.losses != DistillSettings.losses:
            raise ValueError("losses: a sweep has --temperatures and --shares of the loss kd")
        for name in ("temperatures", "shares"):
            values = getattr(self, name)
            if len({f"{value:g}" for value in values}) < len(values):
                raise ValueError(f"{name}={values}: expected different numbers")


def sweep(settings: SweepSettings) -> "list[Way]":
    from accelerate import PartialState

    from distill.studies.compare import compare
    from loralib.files.save_and_load import write_atomic
    from training.reports.paired import spread
    from training.reports.records import markdown_table
    from training.runs.run_folder import write_json

    console = Console(soft_wrap=True, highlight=False)
    out = Path(settings.run.out or "runs/distill-sweep")
    cells = [[f"kd:T={T:g},a={a:g}" for a in settings.shares] for T in settings.temperatures]
    main = PartialState().is_main_process
    words = [cell for row in cells for cell in row]
    ways = compare(words, settings.run, settings.seeds, out, console.print if main else lambda text: None)
    if not main:
        return ways
    table = {way.text: way for way in ways}
    means = [[statistics.mean(table[cell].values("metric") or []) for cell in row] for row in cells]
    chart = draw_grid(means, settings, out / "sweep.png")
    lines = [
        [f"T = {T:g}", *(spread(table[cell].values("metric") or []) for cell in row)]
        for T, row in zip(settings.temperatures, cells, strict=True)
    ]
    name = ways[0].results[0]["metric_name"]
    command = shlex.join(["python", "-m", "distill", *sys.argv[1:]])
    text = (
        f"# {name} of {ways[0].results[0]['task']} by temperature and share of the teacher\n\n`{command}`\n\n"
        f"{markdown_table(('', *(f'a = {a:g}' for a in settings.shares)), lines)}\n\nMean ± standard deviation over "
        f"{settings.seeds} seed{'s' * (settings.seeds > 1)}. The best of {len(ways)} cells is a choice made on these very\nrows: "
        f"it will do worse on others.\n\n![grid]({chart.name})\n"
    )
    write_atomic(out / "report.md", text.encode())
    write_json(out / "results.json", {way.text: way.results for way in ways})
    Console().print(Markdown(text))
    print(f"report: {out / 'report.md'}   numbers: {out / 'results.json'}")
    return ways


def draw_grid(means: list[list[float]], settings: SweepSettings, path: Path) -> Path:
    import numpy as np
    from matplotlib import pyplot as plt

    from training.reports.records import save_figure, use_style

    use_style()
    figure, panel = plt.subplots(figsize=(1.8 + 1.1 * len(settings.shares), 1.4 + 0.6 * len(settings.temperatures)))
    panel.imshow(means, cmap="Blues", aspect="auto")
    middle = (np.min(means) + np.max(means)) / 2
    for (i, j), value in np.ndenumerate(means):
        panel.text(j, i, f"{value:.3f}", ha="center", va="center", color="white" if value > middle else "black", fontsize=9)
    panel.set_xticks(range(len(settings.shares)), [f"a = {a:g}" for a in settings.shares])
    panel.set_yticks(range(len(settings.temperatures)), [f"T = {T:g}" for T in settings.temperatures])
    panel.grid(visible=False)
    panel.set(title="student, mean over seeds", xlabel="share of the teacher")
    return save_figure(figure, path)
