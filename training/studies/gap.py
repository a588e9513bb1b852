"""How much of the gap from the head alone to full fine-tuning does a method close, on each task of the small world?

    closed = (method - head) / (full - head)      of the means over paired seeds; signs changed where lower is better

Every row chooses its learning rate on a seed of its own, which is not one of the compared; all that was tried is kept. A gap
counts only where full fine-tuning is clearly better than the head alone (`paired.py`).
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from training.data.tasks import TASKS
from training.reports.paired import clearly_better, spread
from training.reports.records import COLOURS, markdown_table, save_figure, use_style
from training.runs.run import train_model
from training.studies.compare import TUNING_SEED
from training.studies.conditions import STEPS


@dataclass(frozen=True)
class Row:
    """A method with its settings, and the learning rates to choose from."""

    method: str
    rates: tuple[float, ...]
    options: dict[str, Any] = field(default_factory=dict)


ROWS = {
    "head": Row("head", (3e-3, 1e-2, 3e-2)),
    "full": Row("full", (5e-4, 1e-3, 2e-3)),
    "lora": Row("lora", (2e-3, 5e-3, 1e-2)),
    "ia3": Row("ia3", (1e-2, 3e-2, 1e-1)),
    "bottleneck": Row("bottleneck", (5e-3, 1e-2, 2e-2), {"placement": "parallel", "reduction_factor": 4.0}),
    "prefix": Row("prefix", (1e-2, 3e-2, 1e-1)),
    "prompt": Row("prompt", (1e-2, 3e-2, 1e-1)),
}
ENDS = ("head", "full")


@dataclass(frozen=True)
class Gap:
    """One task: each row's metric over the seeds, its learning rate, what else was tried, and what it trains."""

    task: str
    values: dict[str, list[float]]
    rates: dict[str, float]
    tried: dict[str, dict[str, float]]
    trained: dict[str, int]

    @property
    def counts(self) -> bool:
        return clearly_better(self.values["full"], self.values["head"], TASKS[self.task].higher_is_better)

    def closed(self, row: str) -> float:
        head, full, row_mean = (statistics.mean(self.values[name]) for name in ("head", "full", row))
        return (row_mean - head) / (full - head)


def measure_gap(task: str, names: list[str], seeds: int, folder: Path, say: Callable[[str], None]) -> Gap:
    """Tune and train all rows on one task. Runs that are finished are read from `folder`."""
    gap = Gap(task, {}, {}, {}, {})
    better = max if TASKS[task].higher_is_better else min
    for name in dict.fromkeys((*ENDS, *names)):
        tried = {rate: _run(task, name, rate, TUNING_SEED, folder) for rate in ROWS[name].rates}
        scores = {rate: run.metric for rate, run in tried.items()}
        rate = better(scores, key=scores.__getitem__)
        runs = [_run(task, name, rate, seed, folder) for seed in range(seeds)]
        gap.values[name], gap.rates[name] = [run.metric for run in runs], rate
        gap.tried[name], gap.trained[name] = {f"{r:g}": s for r, s in scores.items()}, runs[0].trainable
        say(f"{task}: {name} at {rate:g}: {spread(gap.values[name])}")
    return gap


def _run(task: str, name: str, rate: float, seed: int, folder: Path):
    row = ROWS[name]
    settings = {"steps": STEPS.get(task, 300), "eval_every": 10**6, "trackers": "", "samples": 0, **row.options}
    out = str(folder / f"{task}-{name}-{rate:g}-{seed}")
    return train_model(task, method=row.method, learning_rate=rate, seed=seed, out=out, **settings)


def page(gaps: list[Gap], names: list[str], command: str, chart: str) -> str:
    """The tables as Markdown: quality, share of the gap, and every learning rate that was tried."""
    rows = list(dict.fromkeys(("head", *names, "full")))
    seeds = len(gaps[0].values["head"])
    quality = [[f"{g.task} ({TASKS[g.task].metric})", *(spread(g.values[r]) for r in rows)] for g in gaps]
    share = [[g.task, *(f"{100 * g.closed(r):.0f} %" for r in names), "yes" if g.counts else "no"] for g in gaps]
    tried = [
        [g.task, r, ", ".join(f"{rate}: {score:.3f}" for rate, score in g.tried[r].items()), f"{g.trained[r]:,}"]
        for g in gaps
        for r in rows
    ]
    settings = "\n".join(f"- {r}: {', '.join(f'{k} {v}' for k, v in ROWS[r].options.items()) or 'defaults'}" for r in rows)
    return (
        f"# From the head alone to full fine-tuning\n\nMade by `{command}`. Mean ± standard deviation over {seeds} paired seeds; "
        f"{', '.join(f'{g.task} {STEPS.get(g.task, 300)}' for g in gaps)} steps of 16 rows. data2text is a loss: lower is "
        f"better.\n\n![chart]({chart})\n\n{markdown_table(('task', *rows), quality)}\n\n"
        f"## Share of the gap that is closed\n\n{markdown_table(('task', *names, 'is the gap clear?'), share)}\n\n"
        f"A gap is clear where full is better than the head by more than two standard errors of the paired differences. Where it "
        f"is not, the share is a ratio of small numbers: read the table above.\n\n"
        f"## Settings\n\n{settings}\n\n## The learning rates that were tried\n\n"
        f"On seed {TUNING_SEED}, which is not one of the compared; the best was taken.\n\n"
        f"{markdown_table(('task', 'method', 'learning rate: metric', 'trained parameters'), tried)}\n"
    )


def draw(gaps: list[Gap], names: list[str], path: Path) -> Path:
    """A group of bars for each task: the share of the gap that each method closes, cut at 150 %."""
    use_style()
    figure, axes = plt.subplots(figsize=(3 + 1.3 * len(gaps), 3.6))
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        places = [x + (i - (len(names) - 1) / 2) * width for x in range(len(gaps))]
        shares = [100 * g.closed(name) for g in gaps]
        bars = axes.bar(places, [min(max(s, -50), 150) for s in shares], width, color=COLOURS[name], label=name)
        axes.bar_label(bars, [f"{s:.0f}" for s in shares], padding=1, fontsize=7)
    axes.axhline(100, color=COLOURS["full"], linestyle="--", linewidth=1, label="full fine-tuning")
    axes.axhline(60, color=COLOURS["untouched"], linestyle=":", linewidth=1)
    axes.set_xticks(range(len(gaps)), [g.task if g.counts else f"{g.task}\n(gap not clear)" for g in gaps])
    axes.set(ylabel="gap closed (%)", ylim=(None, 170), title=finding(gaps, names))
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return save_figure(figure, path)


def finding(gaps: list[Gap], names: list[str]) -> str:
    """The chart's title: on how many tasks each method closes 60 % of the gap."""
    counts = ", ".join(f"{name} on {sum(g.closed(name) >= 0.6 for g in gaps)}" for name in names)
    return f"60 % of the gap from the head to full fine-tuning: {counts} of {len(gaps)} tasks"
