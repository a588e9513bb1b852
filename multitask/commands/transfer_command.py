"""`python -m multitask transfer`: which task is a good start for which, by training every pair. Stopped, it goes on."""

import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markdown import Markdown

from multitask.runs.settings import MultitaskSettings
from training.runs.setting_checks import at_least

if TYPE_CHECKING:
    from multitask.studies.transfer import Transfer


@dataclass(frozen=True)
class TransferSettings:
    """Train every task alone, and after every other: K + K² runs for each seed, all with the options of a single run."""

    run: MultitaskSettings = field(default_factory=MultitaskSettings)
    seeds: int = 3
    """runs of each pair of tasks"""

    def __post_init__(self):
        at_least({"seeds": 1}, self)
        if len(self.run.specs()) < 2:
            raise ValueError(f"tasks={self.run.tasks!r}: transfer needs at least two")
        if self.run.task_adapters != "none" or self.run.members:
            raise ValueError("transfer hands on the backbone, which task_adapters and members freeze")


def run(settings: TransferSettings) -> "Transfer":
    from loralib.files.save_and_load import write_atomic
    from multitask.runs.report import draw_gains
    from multitask.studies.transfer import measure_transfer
    from training.runs.run_folder import write_json

    console = Console(soft_wrap=True, highlight=False)
    tasks = list(settings.run.specs())
    out = Path(settings.run.out or f"runs/multitask-transfer-{'-'.join(tasks)}")
    transfer = measure_transfer(settings.run, settings.seeds, out, console.print)
    chart = draw_gains(transfer.gains(), tasks, out / "transfer.png")
    text = page(transfer, tasks, settings, chart.name)
    write_atomic(out / "report.md", text.encode())
    cells = {f"{source}>{target}": scores for (source, target), scores in transfer.after.items()}
    write_json(out / "results.json", {"alone": transfer.alone, "after": cells})
    Console().print(Markdown(text))
    print(f"report: {out / 'report.md'}   chart: {chart}")
    return transfer


def page(transfer: "Transfer", tasks: list[str], settings: TransferSettings, chart: str) -> str:
    """Scores of every target after every source, and the picture of the gains."""
    from training.reports.paired import spread
    from training.reports.records import markdown_table

    signs = {"helps": " ▲", "hurts": " ▼", "": ""}
    lines = [["alone", *(spread(transfer.alone[target]) for target in tasks)]]
    for source in tasks:
        cells = (spread(transfer.after[source, target]) + signs[transfer.verdict(source, target)] for target in tasks)
        lines.append([f"after {source}", *cells])
    return (
        f"# Transfer between {len(tasks)} tasks\n\n`{shlex.join(['python', '-m', 'multitask', *sys.argv[1:]])}`\n\n"
        f"{markdown_table(('', *tasks), lines)}\n\n{settings.run.steps} steps a stage, mean ± standard deviation over "
        f"{settings.seeds} seed{'s' * (settings.seeds > 1)}. The diagonal is the same task twice.\n▲ helps and ▼ hurts more than "
        f"that: the paired difference is more than two of its standard errors from zero.\n\n![gains]({chart})\n"
    )
