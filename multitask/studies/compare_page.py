"""The page of a comparison: scores with verdicts, costs, one chart."""

import statistics
from pathlib import Path

from matplotlib import pyplot as plt

from multitask.studies.compare import SINGLE, Way, mean_delta, verdict
from training.reports.paired import spread
from training.reports.records import file_size, markdown_table, save_figure, use_style
from training.runs.step_time import ratio

COLOURS = ("#999999", "#000000", "#0072B2", "#E69F00", "#009E73", "#CC79A7")
SIGNS = {"better": " ▲", "worse": " ▼"}


def page(ways: list[Way], times: dict[str, list[float]], charts: tuple[str, str], command: str) -> str:
    """Everything that was measured, worse results as well."""
    tasks = _tasks(ways)
    seeds = len(ways[0].results)
    return (
        f"# One model for {len(tasks)} tasks, or one for each\n\n`{command}`\n\n"
        f"{scores_table(ways)}\n\nMean ± standard deviation over {seeds} seed{'s' * (seeds > 1)}. ▲ better and ▼ worse than "
        f"`{SINGLE}`: the mean of the paired differences is\nmore than two of its standard errors from zero. "
        f"Δm: mean relative gain over `{SINGLE}`.\n\n![scores]({charts[0]})\n\n## What it costs\n\n{costs_table(ways)}\n\n"
        f"Seconds in training steps, evaluation not counted; all models of a row together.\n\n{times_table(times)}\n\n"
        f"![bytes and seconds]({charts[1]})\n"
    )


def scores_table(ways: list[Way]) -> str:
    tasks, single = _tasks(ways), ways[0]
    results = {task: next(r["tasks"][task] for r in single.results[0] if task in r["tasks"]) for task in tasks}
    header = ["", *(f"{task} ({results[task]['metric_name']})" for task in tasks), "Δm"]
    lines = [["rows", *(f"{results[task]['train_rows']:,}" for task in tasks), ""]]
    for way in ways:
        marks = [SIGNS.get(verdict(way, single, task), "") if way is not single else "" for task in tasks]
        delta = None if way is single else mean_delta(way, single, tasks)
        cells = (spread(way.scores(task)) + mark for task, mark in zip(tasks, marks, strict=True))
        lines.append([way.label, *cells, "" if delta is None else f"{100 * delta:+.1f} %"])
    best = [results[task]["ceiling"] for task in tasks]
    if any(value is not None for value in best):
        lines.append(["best possible", *("" if value is None else f"{value:.3f}" for value in best), ""])
    return markdown_table(header, lines)


def costs_table(ways: list[Way]) -> str:
    single = ways[0]
    lines = []
    for way in ways:
        count, seconds = len(way.results[0]), way.total("train_seconds")
        steps = way.total("steps")
        lines.append(
            (
                way.label,
                count,
                f"{way.total('parameters'):,.0f}",
                file_size(way.total("file_bytes")),
                f"{steps:.0f}",
                f"{seconds:.0f} s",
                f"{seconds / single.total('train_seconds'):.2f}",
            )
        )
    return markdown_table(("", "models", "parameters", "on disk", "steps", "training", f"over {SINGLE}"), lines)


def times_table(times: dict[str, list[float]]) -> str:
    """Each against the K models, round by round."""
    base = times["K models"]
    lines = []
    for name, seconds in times.items():
        low, middle, high = ratio(base, seconds)
        lines.append((name, f"{1000 * statistics.median(seconds):.1f} ms", f"{middle:.2f} ({low:.2f}–{high:.2f})"))
    return markdown_table(("all tasks about the same 64 texts", "time", "K models / this (20–80 %)"), lines)


def draw(ways: list[Way], path: Path) -> Path:
    """A group of bars for each task, a bar for each way; dots are seeds."""
    use_style()
    tasks = _tasks(ways)
    figure, panel = plt.subplots(figsize=(max(7.0, 1.6 + 1.5 * len(tasks)), 3.4))
    width = 0.8 / len(ways)
    for i, way in enumerate(ways):
        places = [x + (i - (len(ways) - 1) / 2) * width for x in range(len(tasks))]
        means = [statistics.mean(way.scores(task)) for task in tasks]
        panel.bar(places, means, width * 0.92, color=COLOURS[i % len(COLOURS)], label=way.label)
        for x, task in zip(places, tasks, strict=True):
            values = way.scores(task)
            panel.plot([x] * len(values), values, ".", color="white", markeredgecolor="black", markersize=6, markeredgewidth=0.5)
    best = [next(r["tasks"][t]["ceiling"] for r in ways[0].results[0] if t in r["tasks"]) for t in tasks]
    for x, value in enumerate(best):
        if value is not None:
            panel.plot([x - 0.42, x + 0.42], [value, value], "--", color="#009E73", linewidth=1.2)
    panel.set(xticks=range(len(tasks)), ylabel="score", title="each task's own score; white dots are seeds")
    panel.set_xticklabels(tasks)
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=min(len(ways), 4))
    return save_figure(figure, path)


def draw_costs(ways: list[Way], times: dict[str, list[float]], path: Path) -> Path:
    """K models against one shared backbone: bytes on disk, seconds of training, and the time to answer all tasks."""
    use_style()
    figure, panels = plt.subplots(1, 3, figsize=(9.5, 0.9 + 0.45 * max(len(ways), 2)))
    labels = [way.label for way in ways]
    names = ("K models", "one model, K heads")
    values = (
        ("on disk, MB", labels, [way.total("file_bytes") / 1e6 for way in ways]),
        ("training, s", labels, [way.total("train_seconds") for way in ways]),
        ("all answers, ms", list(names), [1000 * statistics.median(times[name]) for name in names]),
    )
    for panel, (title, row_labels, numbers) in zip(panels, values, strict=True):
        bars = panel.barh(row_labels, numbers, color=[COLOURS[i % len(COLOURS)] for i in range(len(numbers))])
        panel.bar_label(bars, fmt="%.3g", padding=3, fontsize=8)
        panel.set(title=title, xlim=(0, 1.2 * max(numbers)))
        panel.invert_yaxis()
        panel.grid(visible=False, axis="y")
    return save_figure(figure, path)


def _tasks(ways: list[Way]) -> list[str]:
    return [task for result in ways[0].results[0] for task in result["tasks"]]
