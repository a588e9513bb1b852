"""How results look: one style for every plot, tables in Markdown, sizes for people."""

import io
from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from loralib.files.save_and_load import write_atomic

# one colour per method, in every plot and lesson (Okabe and Ito's colour-blind safe set)
COLOURS = {
    "untouched": "#BBBBBB",
    "full": "#000000",
    "head": "#E69F00",
    "lora": "#0072B2",
    "rslora": "#5DA5DA",
    "dora": "#08306B",
    "pissa": "#17A2A2",
    "qlora": "#D4A017",
    "ia3": "#56B4E9",
    "bottleneck": "#7B3294",
    "prefix": "#B35806",
    "prompt": "#E08214",
    "fusion": "#1B7837",
    "distilled": "#CC6677",
    "peft": "#CC79A7",
    "random": "#999999",
    "ceiling": "#009E73",
    "broken": "#D55E00",
    # ways to weigh several tasks (Tol's muted set)
    "equal": "#332288",
    "pcgrad": "#44AA99",
    "cagrad": "#882255",
    "gradnorm": "#EE3377",
    "mgda": "#999933",
    "nash_mtl": "#AA4499",
}
STYLE = {
    "figure.figsize": (7, 3.6),
    "figure.dpi": 110,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "font.size": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


def use_style() -> None:
    plt.rcParams.update(STYLE)  # pyright: ignore


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a PNG without a time stamp, so that the same picture is the same file."""
    figure.tight_layout()
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content, metadata={"Software": None})  # savefig draws everything twice
    plt.close(figure)
    write_atomic(path, content.getvalue())
    return path


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A GitHub table; the first column left, the others right."""
    header = list(header)
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join([":--", *["--:"] * (len(header) - 1)]) + "|"]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def draw_curves(rows: list[dict], metric: str, title: str, path: Path, goal: float | None = None) -> Path:
    """Training loss and the evaluated metric over steps, side by side."""
    use_style()
    figure, (left, right) = plt.subplots(1, 2)
    losses = [(r["step"], r["loss"]) for r in rows if "loss" in r]
    scores = [(r["step"], r[metric]) for r in rows if metric in r and "eval_loss" in r]
    left.plot(*zip(*losses, strict=True), color=COLOURS["lora"])
    left.set(xlabel="step", ylabel="training loss", title=title)
    if scores:
        right.plot(*zip(*scores, strict=True), marker="o", color=COLOURS["lora"])
    if goal is not None:
        right.axhline(goal, color=COLOURS["ceiling"], linestyle="--", label="best possible")
        right.legend()
    right.set(xlabel="step", ylabel=metric)
    return save_figure(figure, path)


def file_size(size: float) -> str:
    """Bytes as a person reads them, powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return ""
