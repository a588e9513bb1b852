"""What `make demo` shows: several runs side by side, as a table, a chart and a page of Markdown."""

from pathlib import Path

from matplotlib import pyplot as plt

from training.records import COLOURS, file_size, markdown_table, save_figure, use_style
from training.result import TrainResult

HEADER = ("task", "method", "metric", "before", "after", "best", "trained", "file", "saved", "ms/step")
CLOSE = 0.02  # two points of accuracy, about two standard errors of a test set of 1,000 rows; for a loss, 2 %


def table_rows(results: list[TrainResult]) -> list[tuple[str, ...]]:
    """One row of text per run, as HEADER names it. `best` is the computed ceiling; for a loss, lower is better."""
    return [
        (
            r.task,
            r.method,
            r.metric_name,
            f"{r.start_metric:.3f}",
            f"{r.metric:.3f}",
            "" if r.ceiling is None else f"{r.ceiling:.3f}",
            f"{r.trainable:,}",
            file_size(r.file_bytes),
            file_size(r.saved_bytes),
            f"{1000 * r.seconds_per_step:.1f}",
        )
        for r in results
    ]


def draw_comparison(results: list[TrainResult], path: Path) -> Path:
    """One panel per task: quality reached by each method, with the best possible as a line."""
    use_style()
    tasks = list(dict.fromkeys(r.task for r in results))
    figure, panels = plt.subplots(1, len(tasks), figsize=(3.2 * len(tasks), 3.4), squeeze=False)
    for panel, task in zip(panels[0], tasks, strict=True):
        runs = [r for r in results if r.task == task]
        bars = panel.bar([r.method for r in runs], [r.metric for r in runs], color=[COLOURS[r.method] for r in runs], width=0.6)
        panel.bar_label(bars, fmt="%.3f", padding=2)
        if runs[0].ceiling is not None:
            panel.axhline(runs[0].ceiling, color=COLOURS["ceiling"], linestyle="--", label="best possible")
        better = "lower is better" if runs[0].metric_name == "loss" else "higher is better"
        top = max([r.metric for r in runs] + [runs[0].ceiling or 0])
        panel.set(title=f"{task}\n{finding(runs)}", ylabel=f"{runs[0].metric_name} ({better})", ylim=(0, 1.25 * top))
        panel.grid(axis="x", visible=False)
    panels[0][0].legend(loc="upper left")
    return save_figure(figure, path)


def finding(runs: list[TrainResult]) -> str:
    """The panel's title in words: does training the head alone reach the best of the other methods?"""
    head = next((r.metric for r in runs if r.method == "head"), None)
    others = [r.metric for r in runs if r.method != "head"]
    if head is None or not others:
        return f"{runs[0].method}: {runs[0].metric:.3f}"
    lower = runs[0].metric_name == "loss"
    behind = head / min(others) - 1 if lower else max(others) - head
    return "the head alone falls behind" if behind > CLOSE else "the head alone is enough"


def report(results: list[TrainResult], chart: Path, command: str, seconds: float) -> str:
    """The page that `make demo` leaves behind."""
    return f"""# Full fine-tuning, the head alone, and LoRA, side by side

Measured by `{command}` in {seconds:.0f} s on this machine, one seed. All runs of a task share the base, the data,
the order of the batches and the number of steps; each method has its own default learning rate.

{markdown_table(HEADER, table_rows(results))}

![quality by method]({chart.name})

How to read it

- **before**, **after**: the metric on the test set before and after training. **best** is computed, not guessed: the small
  world is generated, so the exact Bayes accuracy (for `data2text` the grammar's entropy per token) is known.
- A bar far from the dashed line says that the text holds more than this method found with these labels and steps.
- **trained**: parameters that train. **file**: the weights file of what was trained.
- **saved**: activations, the bytes that autograd keeps for backward on one batch. LoRA saves gradient and optimizer memory;
  it does *not* save activations by much, since the input of every adapted layer is still needed.
- **ms/step** on a model this small mostly measures Python. Do not read it as LoRA's speed on a large model.
- One seed shows that it works. For a comparison of methods, look at the README's table over three seeds.
"""
