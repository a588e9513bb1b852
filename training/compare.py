"""Several runs side by side: a table in the terminal, a chart and a page of Markdown."""

from pathlib import Path

from matplotlib import pyplot as plt

from training.records import COLOURS, file_size, markdown_table, save_figure, use_style
from training.run import TrainResult

HEADER = ("task", "method", "quality", "best possible", "trainable", "file", "saved activations", "s / step")


def table_rows(results: list[TrainResult]) -> list[tuple[str, ...]]:
    """One row of text per run. Quality is `start → end`; for loss, lower is better."""
    return [
        (
            r.task,
            r.method,
            f"{r.metric_name} {r.start_metric:.3f} → {r.metric:.3f}",
            "" if r.ceiling is None else f"{r.ceiling:.3f}",
            f"{r.trainable:,}",
            file_size(r.file_bytes),
            file_size(r.saved_bytes),
            f"{r.seconds_per_step:.4f}",
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
    """The chart's title in words: which method came out ahead here, and how far the head alone was behind."""
    sign = -1 if runs[0].metric_name == "loss" else 1
    ranked = sorted(runs, key=lambda r: -sign * r.metric)
    return f"{ranked[0].method} first, {ranked[-1].method} last"


def report(results: list[TrainResult], chart: Path, command: str, seconds: float) -> str:
    """The page that `make demo` leaves behind."""
    return f"""# Full fine-tuning, the head alone, and LoRA, side by side

Measured by `{command}` in {seconds:.0f} s on this machine, one seed. All runs of a task share the base, the data,
the order of the batches and the number of steps; each method has its own default learning rate.

{markdown_table(HEADER, table_rows(results))}

![quality by method]({chart.name})

How to read it

- **best possible** is computed, not guessed: the small world is generated, so the exact Bayes accuracy (for `data2text` the
  grammar's entropy per token) is known.
- **saved activations**: bytes that autograd keeps for backward on one batch. LoRA saves gradient and optimizer memory; it does
  *not* save activations by much, since the input of every adapted layer is still needed.
- **s / step** on a model this small mostly measures Python. Do not read it as LoRA's speed on a large model.
- One seed shows that it works. For a comparison of methods, look at the README's table over three seeds.
"""
