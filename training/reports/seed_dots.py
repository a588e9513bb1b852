"""Scores of several methods, one dot for each seed: what lessons draw when they compare methods."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from training.reports.records import COLOURS


def dots_by_seed(panel: Axes, scores: dict[str, list[float]], colours: Sequence[str]) -> None:
    """A column of dots for each name in `scores` (its values by seed), a marker for each seed, and a line for each mean."""
    for place, (values, colour) in enumerate(zip(scores.values(), colours, strict=True)):
        for seed, value in enumerate(values):
            panel.plot(place + 0.08 * (seed - 1), value, "os^D"[seed], color=COLOURS[colour], markersize=8)
        panel.plot([place - 0.25, place + 0.25], [sum(values) / len(values)] * 2, color="black", linewidth=1.5)
    for seed in range(len(values)):
        panel.plot([], [], "os^D"[seed], color="grey", markersize=8, label=f"seed {seed}")
    panel.set_xticks(range(len(scores)), list(scores))
