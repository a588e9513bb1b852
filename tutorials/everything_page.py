"""What `tutorials/everything.py` measured, as a table, a chart and a page."""

import statistics

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from training.reports.paired import spread
from training.reports.records import COLOURS, file_size, markdown_table, use_style
from training.runs.step_time import ratios
from tutorials.everything import COLOUR, MEMBERS, TRANSFER, Measured, share

HEADER = ("", "score", "share of the way", "trained numbers", "file", "kept for backward", "time of a step")
Times = dict[str, list[float]]
PANELS = {"trained numbers": "trained", "file, kB": "file_bytes", "kept for backward, MB": "saved_bytes"}
UNIT = {"trained": 1, "file_bytes": 1e3, "saved_bytes": 1e6}


def table(found: list[Measured], times: Times) -> str:
    """One row a way; `found` is of one task."""
    slower, rows = _slower(times), []
    for way in dict.fromkeys(m.way for m in found):
        mine = [m for m in found if m.way == way]
        cells = [
            way,
            spread([m.metric for m in mine]),
            f"{100 * statistics.mean(share(found, way)):.0f} %",
            f"{mine[0].trained:,}",
        ]
        cells += [file_size(mine[0].file_bytes), file_size(mine[0].saved_bytes)] if mine[0].trained else ["", ""]
        rows.append([*cells, f"{slower[way]:.2f}" if way in slower else ""])
    return markdown_table(HEADER, rows)


def _slower(times: Times) -> dict[str, float]:
    """The time of a step over that of `full`: the median over rounds."""
    return {way: 1 / middle for way, (_, middle, _) in ratios(times, "full").items()}


def chart(found: list[Measured], times: Times) -> Figure:
    """A line for each way: how far it gets on each task, and what it costs. `times` and costs are of the last task."""
    use_style()
    ways, tasks = list(dict.fromkeys(m.way for m in found)), list(dict.fromkeys(m.task for m in found))
    figure, panels = plt.subplots(1, 2 + len(PANELS), figsize=(11.5, 0.31 * len(ways) + 1.5), sharey=True, dpi=82)
    for task, marker in zip(tasks, "osD^v", strict=False):
        of_task = [m for m in found if m.task == task]
        for place, way in enumerate(ways):
            values = share(of_task, way)
            panels[0].plot(values, [place] * len(values), marker, color=COLOUR[way], alpha=0.75, markersize=5)
        panels[0].plot([], [], marker, color="grey", label=task)
    panels[0].axvline(1, color=COLOURS["ceiling"], linestyle="--")
    panels[0].set_xlabel("share of the way to the ceiling")
    panels[0].set_title(_as_far_as_full(found), fontsize=9.5)
    panels[0].set_yticks(range(len(ways)), ways)
    panels[0].invert_yaxis()
    panels[0].legend(fontsize=8, loc="lower left")
    first = {m.way: m for m in reversed([m for m in found if m.task == tasks[-1]])}
    bars = {name: [getattr(first[way], key) / UNIT[key] for way in ways] for name, key in PANELS.items()}
    bars["time of a step, full = 1"] = [_slower(times).get(way, 0) for way in ways]
    for panel, (name, values) in zip(panels[1:], bars.items(), strict=True):
        _bars(panel, name, values, [COLOUR[way] for way in ways])
    panels[1].set_title(f"what it costs ({tasks[-1]})")
    return figure


def _as_far_as_full(found: list[Measured]) -> str:
    """The finding of the first panel: how many ways that learn come within 5 points of full's share of the way."""
    counts = []
    for task in dict.fromkeys(m.task for m in found):
        of_task = [m for m in found if m.task == task]
        ways = [way for way in dict.fromkeys(m.way for m in of_task) if way not in ("untouched", "full")]
        near = [way for way in ways if statistics.mean(share(of_task, way)) > statistics.mean(share(of_task, "full")) - 0.05]
        counts.append(f"{task} {len(near)} of {len(ways)}")
    return "\n".join(["as far as full:", *counts])


def _bars(panel, name: str, values: list[float], colours: list[str]) -> None:
    drawn = panel.barh(range(len(values)), values, color=colours, height=0.6)
    panel.bar_label(drawn, [_short(v) if v else "" for v in values], padding=2, fontsize=7)
    panel.set_xlabel(name)
    if max(values) > 100 * min(v for v in values if v):
        panel.set_xscale("log")
        panel.set_xlim(0.5 * min(v for v in values if v), 8 * max(values))
    else:
        panel.set_xlim(0, 1.25 * max(values))
    panel.grid(axis="y", visible=False)


def _short(value: float) -> str:
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}" if value >= 20 else f"{value:.2g}"


def page(found: list[Measured], times: dict[str, Times], picture: str, command: str) -> str:
    """The report as Markdown."""
    seeds, parts = len({m.seed for m in found}), []
    for task in dict.fromkeys(m.task for m in found):
        of_task = [m for m in found if m.task == task]
        start = statistics.mean(m.metric for m in of_task if m.way == "untouched")
        best = statistics.mean(m.ceiling for m in of_task)
        parts.append(f"## {task}\n\nUntouched {start:.3f}, best possible {best:.3f}.\n\n{table(of_task, times[task])}")
    spreads = "`±` is the standard deviation over the seeds" if seeds > 1 else "one seed shows that it works, not which is better"
    return f"""# Every method on one chart

Made by `{command}`: {seeds} paired seed{"s" * (seeds > 1)}; {spreads}.

![how far each method gets, and what it costs]({picture})

{(chr(10) * 2).join(parts)}

## How to read it

- **share of the way**: (score - untouched) / (best possible - untouched). The best possible is computed, since the small world is
  generated.
- **trained numbers**: what has a gradient. **file**: what must be stored for this task; all but `full` and `distilled` need the
  base beside it. **kept for backward**: activations that autograd holds for one batch.
- **time of a step**: over that of `full`, all ways in turn, median of the rounds. On a model this small a step mostly measures
  Python: do not read it as the speed on a large model.
- `fusion` starts from bottleneck adapters of {", ".join(MEMBERS)} and of the task itself, which had their own steps before; its
  file holds all of them.
- `distilled` is one of the two layers, taught by `full`, which answers {TRANSFER:,} further texts without
  labels.
- Every method has its default learning rate; none was tuned for this page.
"""
