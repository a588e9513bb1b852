"""The plot of scores by seed: every value is a dot of its method and seed, and the line is the mean."""

import pytest
from matplotlib import pyplot as plt

from training.reports.records import COLOURS
from training.reports.seed_dots import dots_by_seed


def test_every_seed_is_a_dot_and_the_line_is_the_mean():
    figure, panel = plt.subplots()
    dots_by_seed(panel, {"one": [0.1, 0.3], "two": [0.5, 0.9]}, ("lora", "full"))
    drawn = [(line.get_xdata(), line.get_ydata(), line.get_marker(), line.get_color()) for line in panel.lines]
    dots = [(round(float(x[0]), 2), y[0], marker, colour) for x, y, marker, colour in drawn if len(x) == 1]
    assert dots == [
        (-0.08, 0.1, "o", COLOURS["lora"]),
        (0.0, 0.3, "s", COLOURS["lora"]),
        (0.92, 0.5, "o", COLOURS["full"]),
        (1.0, 0.9, "s", COLOURS["full"]),
    ]
    means = [list(y) for x, y, *_ in drawn if len(x) == 2]
    assert means == [pytest.approx([0.2, 0.2]), pytest.approx([0.7, 0.7])]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["one", "two"]
    assert panel.get_legend_handles_labels()[1] == ["seed 0", "seed 1"]
    plt.close(figure)


def test_each_method_needs_a_colour():
    figure, panel = plt.subplots()
    with pytest.raises(ValueError, match="zip"):
        dots_by_seed(panel, {"one": [0.1], "two": [0.5]}, ("lora",))
    plt.close(figure)
