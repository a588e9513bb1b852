"""Diagrams of the page on comparing two runs: paired seeds, and what their spread means."""

import json
from pathlib import Path

from tutorials.drawing.svg import Drawing

REPORT = Path(__file__).parents[2] / "training/results/sst2/results.json"


def paired() -> Drawing:
    """With the scores of the committed report on SST-2."""
    d = Drawing(
        "Two methods with the same seeds: the same examples in the same order. What is compared is the difference of each seed.",
        236,
    )
    rows = json.loads(REPORT.read_text())["rows"]
    full, lora = ([row["metric"] for row in rows[name]] for name in ("full", "LoRA r=8"))
    d.text(130, 26, "full", "bold middle")
    d.text(215, 26, "same data", "small soft middle")
    d.text(300, 26, "LoRA, r = 8", "bold middle")
    d.text(424, 26, "difference", "bold middle")
    for i, (a, b) in enumerate(zip(full, lora, strict=True)):
        y = 44 + 50 * i
        d.text(12, y + 24, f"seed {i}", "small soft")
        left, right = d.box(75, y, 110, 38, "trained", f"{a:.4f}"), d.box(245, y, 110, 38, "trained", f"{b:.4f}")
        d.line(left.right, right.left)
        d.box(384, y, 80, 38, "data", f"{b - a:+.4f}".replace("-", "−"))
    d.text(240, 216, "Compare the three differences, not only the two means.", "small middle")
    return d


DIAGRAMS = {"compare_paired": paired}
