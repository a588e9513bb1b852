"""The page of a comparison of students: one table of quality, one of costs, and quality against size and speed."""

import statistics
from pathlib import Path

from matplotlib import pyplot as plt

from distill.student.cost import speed_up
from distill.studies.compare import Way, verdict
from training.reports.paired import spread
from training.reports.records import COLOURS, file_size, markdown_table, save_figure, use_style

SIGNS = {"better": " ▲", "worse": " ▼", "": ""}
COLUMNS = {
    "metric": "",
    "bleu": "BLEU",
    "chrf": "chrF",
    "kl_to_truth": "KL to truth",
    "kl_to_teacher": "KL to teacher",
    "agreement": "agreement",
    "ece": "calibration error",
    "rmse_to_teacher": "distance to teacher",
}


def page(ways: list[Way], costs: dict[str, dict], chart: str, command: str) -> str:
    """Everything that was measured, worse results as well."""
    first, seeds = ways[0].results[0], len(ways[0].results)
    rows, length = costs["teacher"]["tokens"]
    return (
        f"# Students for {first['task']}\n\n`{command}`\n\n{quality_table(ways)}\n\nMean ± standard deviation over {seeds} "
        f"seed{'s' * (seeds > 1)}. ▲ better and ▼ worse than the first row: the mean of the paired differences is\nmore than two "
        f"of its standard errors from zero. {first['labelled_rows']:,} rows with labels.\n\n![chart]({chart})\n\n"
        f"## What they cost\n\n{costs_table(ways, costs)}\n\nTime: teacher / student on one batch of {rows} × {length} tokens, "
        "in turn, median (20–80 %).\n"
    )


def quality_table(ways: list[Way]) -> str:
    """A row for each way, and one for the teacher."""
    first = ways[0].results[0]
    columns = [name for name in COLUMNS if ways[0].values(name)]
    titles = [COLUMNS[name] or first["metric_name"] for name in columns]
    teacher = [f"{first[f'teacher_{name}']:.3f}" if f"teacher_{name}" in first else "" for name in columns]
    lines = [["teacher", *teacher, ""]]
    for way in ways:
        cells = [spread(way.values(name) or []) + SIGNS[verdict(way, ways[0], name)] for name in columns]
        lines.append([way.text, *cells, f"{way.results[0]['transfer_rows']:,}"])
    if first["ceiling"] is not None:
        lines.append(["best possible", f"{first['ceiling']:.3f}", *[""] * len(columns)])
    return markdown_table(("", *titles, "rows without labels"), lines)


def costs_table(ways: list[Way], costs: dict[str, dict]) -> str:
    first = ways[0].results[0]
    times = {name: cost["seconds"] for name, cost in costs.items()}
    lines = [("teacher", f"{first['teacher_parameters']:,}", "", f"{costs['teacher']['operations'] / 1e9:.2f}", "1.00")]
    for way in ways:
        result = way.results[0]
        low, middle, high = speed_up(times, way.text, "teacher")
        size = file_size(result["file_bytes"])
        count = f"{costs[way.text]['operations'] / 1e9:.2f}"
        lines.append((way.text, f"{result['parameters']:,}", size, count, f"{middle:.2f} ({low:.2f}–{high:.2f})"))
    return markdown_table(("", "parameters", "on disk", "10⁹ operations a batch", "times as fast"), lines)


def draw(ways: list[Way], costs: dict[str, dict], path: Path) -> Path:
    """Quality against the number of parameters, and against speed; a point for each way, a line for the teacher."""
    use_style()
    first = ways[0].results[0]
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6 + 0.22 * len(ways)), sharey=True)
    times = {name: cost["seconds"] for name, cost in costs.items()}
    names = {1e6: "millions", 1e3: "thousands"}
    unit = 1e6 if first["teacher_parameters"] > 3e6 else 1e3
    for i, way in enumerate(ways):
        values = way.values("metric") or []
        error = statistics.stdev(values) if len(values) > 1 else 0.0
        options = {"marker": "o", "linestyle": "none", "capsize": 3, "color": f"C{i}", "label": way.text}
        panels[0].errorbar([way.results[0]["parameters"] / unit], [statistics.mean(values)], [error], **options)
        panels[1].errorbar([speed_up(times, way.text, "teacher")[1]], [statistics.mean(values)], [error], **options)
    for panel in panels:
        panel.axhline(first["teacher_metric"], color=COLOURS["full"], linestyle="--", linewidth=1)
        if first["ceiling"] is not None:
            panel.axhline(first["ceiling"], color=COLOURS["ceiling"], linestyle=":", linewidth=1)
    panels[0].set(xlabel=f"{names[unit]} of parameters", ylabel=first["metric_name"], title="against size (dashed: teacher)")
    panels[1].set(xlabel="times as fast as the teacher", title="against speed")
    for panel in panels:
        panel.set_xlim(0, 1.06 * max(bar.lines[0].get_xdata()[0] for bar in panel.containers))
    panels[0].legend(loc="upper left", bbox_to_anchor=(-0.1, -0.2), fontsize=8)
    return save_figure(figure, path)
