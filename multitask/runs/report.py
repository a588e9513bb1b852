"""A multitask run as a page: scores before and after, losses over steps, and what the tasks did to each other."""

import statistics
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from torch import Tensor

from loralib.files.save_and_load import write_atomic
from multitask.runs.interference import mean_matrices
from training.loop.costs import costs_line
from training.reports.read_counts import counts_table
from training.reports.records import file_size, markdown_table, save_figure, use_style

SMOOTH = 20
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999999")
"""one colour per task, in the order of the tasks (Okabe and Ito)"""


def write_report(folder: Path, result: dict, rows: list[dict]) -> Path:
    """report.md and its pictures; returns the page's path."""
    pictures = [draw_losses(rows, list(result["tasks"]), folder / "losses.png").name]
    matrices = mean_matrices(rows, list(result["tasks"]))
    if matrices is not None:
        pictures.append(draw_interference(*matrices, list(result["tasks"]), folder / "interference.png").name)
    text = page(result) + "".join(f"\n![{name}]({name})\n" for name in pictures)
    write_atomic(folder / "report.md", text.encode())
    return folder / "report.md"


def page(result: dict) -> str:
    """The table, and what the run cost."""
    never = [task for task, r in result["tasks"].items() if not r.get("steps", 1)]
    remark = f"**{', '.join(never)} was in no step**: its score is that of a head which was not trained.\n\n" if never else ""
    return (
        f"# {len(result['tasks'])} tasks, one model\n\n{scores_table(result)}\n\n{remark}"
        f"{result['steps']} steps at learning rate {result['learning_rate']:g}, seed {result['seed']}; "
        f"{result['train_seconds']:.0f} s in steps. {result['parameters']:,} parameters, {result['head_parameters']:,} of them\n"
        f"in heads; {result['trained']:,} trained, {file_size(result['file_bytes'])} on disk.\n"
        + costs_line(result)
        + (f"\n## What was read\n\n{counts_table(result['data'])}\n" if result.get("data") else "")
    )


def scores_table(result: dict) -> str:
    """A row for each task, and one for all. `update` is a task's part of an average step: chance of being sampled times weight.

    The last row has the mean loss; scores of different kinds have a mean only where all tasks have the same metric.
    """
    header = ("task", "examples", "update", "metric", "before", "after", "best possible", "loss")
    lines = [
        (
            task,
            f"{r['train_rows']:,}",
            f"{r['expected_update']:.3f}",
            r["metric_name"],
            f"{r['start_metric']:.3f}",
            f"{r['metric']:.3f}",
            "" if r["ceiling"] is None else f"{r['ceiling']:.3f}",
            f"{r['loss']:.3f}",
        )
        for task, r in result["tasks"].items()
    ]
    return markdown_table(header, [*lines, _all_tasks(list(result["tasks"].values()))])


def _all_tasks(results: list[dict]) -> tuple[str, ...]:
    names = {r["metric_name"] for r in results}
    mean = lambda key: f"{statistics.mean(r[key] for r in results):.3f}"  # noqa: E731
    scores = (mean("start_metric"), mean("metric")) if len(names) == 1 else ("", "")
    name = f"mean {names.pop()}" if len(names) == 1 else "no common metric"
    update = sum(r["expected_update"] for r in results)
    return "all tasks", f"{sum(r['train_rows'] for r in results):,}", f"{update:.3f}", name, *scores, "", mean("loss")


def draw_losses(rows: list[dict], tasks: list[str], path: Path) -> Path:
    """Each task's training loss over the steps that it took part in, smoothed."""
    use_style()
    figure, panel = plt.subplots()
    for task, colour in zip(tasks, PALETTE * len(tasks), strict=False):
        losses = [(r["step"], r[f"loss/{task}"]) for r in rows if f"loss/{task}" in r]
        smooth = [sum(v for _, v in losses[max(0, i - SMOOTH + 1) : i + 1]) / min(i + 1, SMOOTH) for i in range(len(losses))]
        panel.plot([step for step, _ in losses], smooth, color=colour, label=task)
    panel.set(title=f"training loss of each task, mean of its last {SMOOTH} steps", xlabel="step", ylabel="loss")
    panel.set_ylim(bottom=0)
    panel.legend()
    return save_figure(figure, path)


def draw_interference(cosines: Tensor, affinity: Tensor, names: list[str], path: Path) -> Path:
    """Two heat maps: the cosines of the tasks' gradients, and the lookahead affinity in percent."""
    use_style()
    affinity = affinity * 100
    figure, panels = plt.subplots(1, 2, figsize=(5.0 + 0.9 * len(names), 2.2 + 0.4 * len(names)))
    largest = float(affinity.abs().max()) or 1.0
    _heat_map(panels[0], cosines, names, "cosine of the gradients", 1.0)
    _heat_map(panels[1], affinity, names, "by how much a step lowers\nthe loss of a task, in %", largest)
    panels[1].set(xlabel="whose loss", ylabel="whose step")
    return save_figure(figure, path)


def draw_gains(gains: dict[tuple[str, str], float], names: list[str], path: Path) -> Path:
    """One heat map: the relative gain, in percent, of the column's task after the row's."""
    use_style()
    matrix = 100 * torch.tensor([[gains[source, target] for target in names] for source in names], dtype=torch.float64)
    figure, panel = plt.subplots(figsize=(2.6 + 0.8 * len(names), 2.2 + 0.5 * len(names)))
    _heat_map(panel, matrix, names, "change of the score against\ntraining alone, in %", float(matrix.abs().max()) or 1.0, 1)
    panel.set(xlabel="target (trained second)", ylabel="source (trained first)")
    return save_figure(figure, path)


def _heat_map(panel, matrix: Tensor, names: list[str], title: str, limit: float, digits: int = 2) -> None:
    panel.imshow(matrix, cmap="RdBu", vmin=-limit, vmax=limit)
    panel.set(xticks=range(len(names)), yticks=range(len(names)), title=title)
    panel.set_xticklabels(names, rotation=45, ha="right")
    panel.set_yticklabels(names)
    panel.grid(False)
    for i in range(len(names)):
        for j in range(len(names)):
            colour = "white" if abs(float(matrix[i, j])) > 0.6 * limit else "black"
            panel.text(j, i, f"{float(matrix[i, j]):.{digits}f}", ha="center", va="center", color=colour, fontsize=8)
