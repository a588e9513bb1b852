"""The report of a fusion study: quality, who is used where, and what it costs, as Markdown and charts."""

import statistics
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from multitask.studies.fusion_study import TaskResult
from training.data.tasks import TASKS
from training.reports.paired import clearly_better, spread
from training.reports.records import COLOURS, file_size, markdown_table, save_figure, use_style

LABELS = {
    "single": "own adapter",
    "longer": "own adapter, as long as the fusion",
    "average": "average, untrained",
    "fusion": "fusion",
    "mix": "one fusion, trained on the mix",
    "full": "full fine-tuning",
    "heads": "one full model, a head for each task",
}
TOGETHER = ("mix", "heads")
"""one model for all tasks"""
BARS = {
    "single": COLOURS["bottleneck"],
    "longer": "#C2A5CF",
    "average": COLOURS["untouched"],
    "fusion": COLOURS["fusion"],
    "mix": "#A6DBA0",
    "full": COLOURS["full"],
    "heads": "#777777",
}
COST = ("task", "row", "trained", "file", "ms a step", "learning rate")


def page(results: list[TaskResult], command: str, chart: str, weights: str) -> str:
    """Everything that was measured, as Markdown."""
    rows = shown(results)
    trained = [row for row in rows if row != "average"]
    quality = [[f"{r.task} ({r.single[0]['metric_name']})", *(spread(r.values(row)) for row in rows)] for r in results]
    overall = ["mean of the tasks", *(f"{statistics.mean(statistics.mean(r.values(row)) for r in results):.3f}" for row in rows)]
    losses = [[r.task, *(f"{_mean(r, row, 'loss'):.3f}" for row in trained)] for r in results]
    losses.append(["mean of the tasks", *(f"{statistics.mean(_mean(r, row, 'loss') for r in results):.3f}" for row in trained)])
    steps = ", ".join(f"{LABELS[row]} {getattr(results[0], row)[0]['steps']}" for row in trained)
    return (
        f"# Fusion of adapters for {', '.join(r.task for r in results)}\n\n"
        f"Made by `{command}`, {_seeds(results, rows)}. Every adapter is trained alone on its own "
        f"task; a fusion starts from its task's adapter and head. Steps: {steps}.\n\n![quality]({chart})\n\n## Quality\n\n"
        f"{markdown_table(('task', *(LABELS[row] for row in rows)), [*quality, overall])}\n\n{verdicts(results)}\n\n"
        f"## Loss on the evaluation examples\n\n{markdown_table(('task', *(LABELS[row] for row in trained)), losses)}\n\n"
        f"## Who is used where\n\n![attention]({weights})\n\n{_others(results)}"
        f"## Cost\n\n{markdown_table(COST, _costs(results, trained))}\n\n"
        + "Rows for all tasks: one model, new heads, mixed batches; of each task as many examples as the single models had.\n"
        * any(row in TOGETHER for row in rows)
    )


def _seeds(results: list[TaskResult], rows: list[str]) -> str:
    """How many seeds each row has, if a run was stopped before its last seed."""
    counts = {(r.task, row): len(r.values(row)) for r in results for row in rows}
    most = max(counts.values())
    fewer = [f"{task}, {LABELS[row]}: {count}" for (task, row), count in counts.items() if count < most]
    return f"{most} seed{'s' * (most > 1)}" + (f" (fewer: {'; '.join(fewer)})" if fewer else "")


def shown(results: list[TaskResult]) -> list[str]:
    """The rows that every task has."""
    return [row for row in LABELS if all(r.values(row) for r in results)]


def _others(results: list[TaskResult]) -> str:
    if not results[0].probes[0]["others"]:
        return ""
    names = [r.task for r in results]
    rows = [[r.task, *(f"{statistics.mean(p['others'][n] for p in r.probes):.3f}" for n in names)] for r in results]
    return f"## Each adapter alone, with the head of the task's own\n\n{markdown_table(('task', *names), rows)}\n\n"


def _costs(results: list[TaskResult], rows: list[str]) -> list[tuple]:
    first = {(r.task, row): getattr(r, row)[0] for r in results for row in rows if row not in TOGETHER}
    first |= {("all", row): getattr(results[0], row)[0] for row in rows if row in TOGETHER}
    return [
        (
            task,
            LABELS[row],
            f"{run['trainable']:,}",
            file_size(run["file_bytes"]),
            f"{1000 * run['seconds_per_step']:.0f}",
            f"{run['learning_rate']:g}",
        )
        for (task, row), run in first.items()
    ]


def verdicts(results: list[TaskResult]) -> str:
    """Where the fusion wins and where it loses, by the rule of `paired.py`; with one seed only the signs."""
    pairs = [("fusion", "single"), ("fusion", "longer"), ("mix", "fusion"), ("heads", "full")]
    pairs = [pair for pair in pairs if set(pair) <= set(shown(results))]
    return "\n".join(f"- {r.task}: {'; '.join(_verdict(r, row, rival) for row, rival in pairs)}." for r in results)


def _verdict(result: TaskResult, row: str, rival: str) -> str:
    better, values, other = TASKS[result.task].higher_is_better, result.values(row), result.values(rival)
    pairs = min(len(values), len(other))  # seeds that both have
    values, other = values[:pairs], other[:pairs]
    gain = (statistics.mean(values) - statistics.mean(other)) * (1 if better else -1)
    word = "gains" if gain > 0 else "loses" if gain < 0 else "changes"
    sure = "one seed: nothing is sure"
    if len(values) > 1:
        clear = clearly_better(values, other, better) or clearly_better(other, values, better)
        sure = "more than two standard errors" if clear else "within the noise of the seeds"
    return f"{LABELS[row]} {word} {abs(gain):.3f} against {LABELS[rival]} ({sure})"


def _mean(result: TaskResult, row: str, key: str) -> float:
    return statistics.mean(r[key] for r in getattr(result, row))


def draw_quality(results: list[TaskResult], path: Path) -> Path:
    """Bars by task: own adapter, average, fusion, full."""
    use_style()
    rows = shown(results)
    figure, axes = plt.subplots(figsize=(2.2 + 0.4 * len(rows) * len(results), 4))
    width = 0.8 / len(rows)
    for i, row in enumerate(rows):
        places = [x + (i - (len(rows) - 1) / 2) * width for x in range(len(results))]
        bars = axes.bar(places, [statistics.mean(r.values(row)) for r in results], width, color=BARS[row], label=LABELS[row])
        axes.bar_label(bars, fmt="%.2f", padding=1, fontsize=7)
    gains = [statistics.mean(r.values("fusion")) - statistics.mean(r.values("single")) for r in results]
    axes.set_xticks(range(len(results)), [f"{r.task}\n{r.single[0]['metric_name']}" for r in results])
    axes.set(ylabel="quality", title=f"Fusion minus the task's own adapter: {min(gains):+.3f} to {max(gains):+.3f}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, fontsize=8)
    axes.grid(axis="x", visible=False)
    return save_figure(figure, path)


def draw_weights(results: list[TaskResult], path: Path) -> Path:
    """A heat map for each task: layers down, adapters across, the mean attention of all seeds."""
    use_style()
    figure, panels = plt.subplots(1, len(results), figsize=(1.2 + 2.3 * len(results), 3.6), squeeze=False)
    for panel, result in zip(panels[0], results, strict=True):
        names = result.probes[0]["names"]
        shares = np.mean([p["weights"] for p in result.probes], axis=0)
        panel.imshow(shares, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        for (y, x), value in np.ndenumerate(shares):
            panel.text(x, y, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else "black", fontsize=8)
        panel.set_xticks(range(len(names)), names, rotation=20)
        panel.set_yticks(range(len(shares)), [str(i) for i in range(len(shares))])
        panel.grid(visible=False)
        panel.set(title=f"fused for {result.task}")
    panels[0][0].set_ylabel("place, from the input up")
    return save_figure(figure, path)
