"""What `tutorials/everything.py` measured, as a table, a chart and a page."""

import statistics

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.reports.paired import spread
from training.reports.records import COLOURS, file_size, markdown_table, use_style
from training.runs.step_time import ratios
from tutorials.everything import COLOUR, MEMBERS, TRANSFER, Measured, normalized_scores

HEADER = ("", "score", "normalized score", "trained parameters", "file", "saved activations", "time of a step")
MARKERS = {"rsLoRA r=32": "s", "DoRA": "D", "QLoRA": "^", "(IA)³": "v", "head alone": "X"}  # similar colours, other shapes
LEADER = {"arrowstyle": "-", "color": "grey", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
Times = dict[str, list[float]]


def table(runs: list[Measured], times: Times) -> str:
    """One row a method; `runs` is of one task."""
    slower, rows = _slower(times), []
    for method in dict.fromkeys(m.method for m in runs):
        of_method = [m for m in runs if m.method == method]
        cells = [
            method,
            spread([m.metric for m in of_method]),
            f"{100 * statistics.mean(normalized_scores(runs, method)):.0f} %",
            f"{of_method[0].trained:,}",
        ]
        cells += [file_size(of_method[0].file_bytes), file_size(of_method[0].saved_bytes)] if of_method[0].trained else ["", ""]
        rows.append([*cells, f"{slower[method]:.2f}" if method in slower else ""])
    return markdown_table(HEADER, rows)


def _slower(times: Times) -> dict[str, float]:
    """The time of a step over that of `full`: the median over rounds."""
    return {method: 1 / middle for method, (_, middle, _) in ratios(times, "full").items()}


def chart(runs: list[Measured]) -> Figure:
    """A panel for each task: normalized score (mean, and a line from the worst to the best seed) against the file's size."""
    use_style()
    tasks = list(dict.fromkeys(m.task for m in runs))
    figure, panels = plt.subplots(1, len(tasks), figsize=(4.4 * len(tasks), 3.8), squeeze=False, dpi=96)
    for panel, task in zip(panels[0], tasks, strict=True):
        of_task = [m for m in runs if m.task == task]
        _points(panel, of_task)
        panel.axhline(1, color=COLOURS["ceiling"], linestyle="--", linewidth=1)
        panel.set(title=f"{task}: {_as_far_as_full(of_task)}", xscale="log", xlim=(300, 2e6))
        panel.set_xlabel("bytes in the file of one task")
        panel.minorticks_off()
    panels[0][0].set_ylabel("normalized score (line: seeds)")
    return figure


def _points(panel: Axes, of_task: list[Measured]) -> None:
    points = {}
    for method in dict.fromkeys(m.method for m in of_task if m.trained):
        size, scores = next(m.file_bytes for m in of_task if m.method == method), normalized_scores(of_task, method)
        points[method] = size, statistics.mean(scores)
        panel.plot([size, size], [min(scores), max(scores)], color=COLOUR[method], linewidth=1, alpha=0.6)
        panel.plot(*points[method], MARKERS.get(method, "o"), color=COLOUR[method], markersize=6)
    low, high = min(y for _, y in points.values()), max(y for _, y in points.values())
    panel.set_ylim(low - 0.35 * (1 - low), high + 0.6 * (1.02 - high) + 0.1 * (high - low))
    heights: list[tuple[float, float]] = []
    for method, (x, y) in sorted(points.items(), key=lambda item: item[1]):
        place = _free_height(panel, heights, x, y)
        heights.append((x, place))
        panel.annotate(method, (x, y), (x, place), ha="center", va="center", fontsize=8, arrowprops=LEADER)


def _free_height(panel: Axes, taken: list[tuple[float, float]], x: float, y: float) -> float:
    """A height near y for a label at x, away from the labels that are less than a factor of 4 to the left of it."""
    bottom, top = panel.get_ylim()
    step = (top - bottom) / 18
    near = [height for left, height in taken if x / left < 4]
    candidates = [y + sign * k * step for k in (1, 2, 3, 4, 5, 6, 7, 8) for sign in (1, -1)]
    inside = [c for c in candidates if bottom + step / 2 < c < top - step / 2]
    return next((c for c in inside if all(abs(c - height) > 0.9 * step for height in near)), inside[0])


def _as_far_as_full(of_task: list[Measured]) -> str:
    """How many methods come within 0.05 of full fine-tuning's normalized score, or above it."""
    means = {m.method: statistics.mean(normalized_scores(of_task, m.method)) for m in of_task if m.trained}
    others = [value for method, value in means.items() if method != "full"]
    return f"{sum(value > means['full'] - 0.05 for value in others)} of {len(others)} within 0.05 of full"


def page(runs: list[Measured], times: dict[str, Times], picture: str, command: str) -> str:
    """The report as Markdown."""
    seeds, parts = len({m.seed for m in runs}), []
    for task in dict.fromkeys(m.task for m in runs):
        of_task = [m for m in runs if m.task == task]
        start = statistics.mean(m.metric for m in of_task if m.method == "untouched")
        best = statistics.mean(m.ceiling for m in of_task)
        parts.append(f"## {task}\n\nUntouched {start:.3f}, best possible {best:.3f}.\n\n{table(of_task, times[task])}")
    spreads = (
        "`±` is the standard deviation over the seeds"
        if seeds > 1
        else "one seed shows that it works, not which method is better"
    )
    return f"""# Every method on one chart

Made by `{command}`: {seeds} paired seed{"s" * (seeds > 1)}; {spreads}.

![normalized score against the size of the file]({picture})

{(chr(10) * 2).join(parts)}

## How to read it

- **normalized score**: (score - untouched) / (best possible - untouched). The best possible is computed, since the small world is
  generated.
- **trained parameters**: those with a gradient. **file**: what must be stored for this task; all but `full` and `distilled` need
  the base as well. **saved activations**: what autograd holds for one batch.
- **time of a step**: over that of `full`, all methods in turn, median of the rounds. On a model this small a step mostly measures
  Python: do not read it as the speed on a large model.
- `fusion` starts from bottleneck adapters of {", ".join(MEMBERS)} and of the task itself, which had their own steps before; its
  file holds all of them.
- `distilled` is one of the two layers. Its teacher is `full`, which gives soft labels for {TRANSFER:,} further texts.
- Every method has its default learning rate; none was tuned for this page.
"""
