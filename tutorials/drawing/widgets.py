"""What the widgets of the book show at first, as pictures for pages without JavaScript. The data are those of the widgets."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from multitask.balancing.gradients import cagrad, equal, mgda, nash_mtl, pcgrad
from tutorials.drawing.svg import Drawing

DATA = Path(__file__).parents[1] / "book" / "scripts" / "widget_data.js"


def data(name: str):
    """A value of widget_data.js."""
    [line] = [line for line in DATA.read_text().splitlines() if line.startswith(f"window.{name} = ")]
    return json.loads(line.partition(" = ")[2].rstrip(";"))


def rank() -> Drawing:
    values = np.linalg.svd(np.array(data("WIDGET_UPDATE")), compute_uv=False)
    error = (values[4:] ** 2).sum() / (values**2).sum()
    d = Drawing("The singular values of a learned update. The best matrix of rank 4 keeps the first four.", 190)
    d.text(240, 24, "singular values of a learned update ΔW (64 × 64)", "small middle")
    for i, value in enumerate(values):
        height = 100 * value / values[0]
        d.box(16 + 7 * i, 140 - height, 6, height, "trained" if i < 4 else "frozen", "", round_by=0)
    d.text(240, 170, f"rank 4 leaves {error:.0%} of the squared update out", "small middle")
    return d


def bars(title: str, caption: str, rows: list[tuple[str, float, str, str]]) -> Drawing:
    d = Drawing(title, 66 + 34 * len(rows))
    d.text(240, 24, caption, "small middle")
    largest = max(value for _, value, _, _ in rows)
    for i, (name, value, words, kind) in enumerate(rows):
        y = 38 + 34 * i
        d.text(100, y + 18, name, "small end")
        d.box(110, y, max(2, 270 * value / largest), 26, kind, "", round_by=2)
        d.text(468, y + 18, words, "small end")
    return d


def memory() -> Drawing:
    """The small encoder, LoRA with r = 8, 16 examples."""
    model = next(iter(data("WIDGET_MODELS").values()))
    trained = model["layers"] * sum(8 * (out + width) for out, width in model["shapes"])
    sizes = {
        "weights": (4 * (model["base"] + trained), "frozen"),
        "gradients": (4 * trained, "gradient"),
        "optimizer": (8 * trained, "trained"),
        "activations": (16 * model["tokens"] * model["activations_lora"], "data"),
    }
    rows = [(name, size, f"{size / 1e6:.1f} MB", kind) for name, (size, kind) in sizes.items()]
    title = "Memory of a LoRA step of the small encoder: the activations are most of it."
    return bars(title, "the small encoder, LoRA with r = 8, 16 examples of 64 tokens", rows)


def temperature() -> Drawing:
    weights = {word: math.exp(logit) for word, logit in (("warm", 3), ("calm", 2), ("bright", 1.5), ("cold", 0), ("loud", -1))}
    rows = [(word, w / sum(weights.values()), f"{w / sum(weights.values()):.3f}", "trained") for word, w in weights.items()]
    return bars("Probabilities of five tokens at temperature 1.", "five possible next tokens, T = 1", rows)


def nf4() -> Drawing:
    """64 numbers with an outlier of 12, and their decoded values, in one block."""
    values = np.array(data("WIDGET_NORMAL")[:64])
    values[20] = 12
    levels = np.array(data("WIDGET_NF4_LEVELS")) * 12
    decoded = levels[np.abs(values[:, None] - levels).argmin(1)]
    zeros = int((decoded == 0).sum())
    d = Drawing("One outlier in a block of 64 weights: many of the others are decoded as zero.", 200)
    d.text(240, 22, "16 of the 64 weights of a block with one outlier", "small middle")
    for i, (value, back) in list(enumerate(zip(values, decoded, strict=True)))[::4]:
        x = 24 + 7 * i
        d.line((x, 120 - 7 * value), (x, 120 - 7 * back), kind="wrong")
        d.box(x - 3, 117 - 7 * value, 6, 6, "wrong" if i == 20 else "frozen", "", round_by=3)
        d.box(x - 3, 119 - 7 * back, 6, 2, "trained", "", round_by=0)
    d.text(240, 168, f"{zeros} of 64 weights are decoded as zero", "small middle")
    d.legend(190, ("frozen", "weight"), ("trained", "decoded"), ("wrong", "outlier, error"))
    return d


def tiles() -> Drawing:
    """The first step of the plain matrix multiplication."""
    d = Drawing(
        "A matrix multiplication in tiles: program (0, 0) loads the first tile of x and of W, and will store one tile of y.", 220
    )
    for x, name, (rows, columns), now in ((20, "x", (2, 3), "data"), (160, "W", (4, 3), "data"), (300, "y", (2, 4), "trained")):
        d.text(x, 34, name, "small")
        for i in range(rows):
            for j in range(columns):
                d.box(x + 34 * j, 42 + 34 * i, 34, 34, now if i == j == 0 else "plain", "", round_by=1)
    d.legend(206, ("data", "loaded in this step"), ("trained", "stored by this program"))
    return d


def prefix() -> Drawing:
    """A decoder with 2 virtual tokens as a prefix and 4 words."""
    d = Drawing("A decoder with a prefix of two: each word reads both virtual tokens, itself and the words before it.", 190)
    for j in range(6):
        d.text(117 + 34 * j, 26, f"p{j + 1}" if j < 2 else f"w{j - 1}", "small middle")
    for i in range(4):
        d.text(88, 54 + 34 * i, f"w{i + 1}", "small end")
        for j in range(6):
            kind = "trained" if j < 2 else "data" if j - 2 <= i else "plain"
            d.box(100 + 34 * j, 34 + 34 * i, 32, 32, kind, "", round_by=1)
    d.legend(184, ("trained", "reads a virtual token"), ("data", "reads a word"))
    return d


def balancing() -> Drawing:
    """The walks of five methods with a loss 2 that is 20 times as steep; the start is that of the widget."""
    methods = {"PCGrad": pcgrad, "MGDA": mgda, "Nash-MTL": nash_mtl, "CAGrad": cagrad, "equal": equal}
    kinds = ("data", "wrong", "trained", "gradient", "plain")
    d = Drawing("Five methods walk from one start. Equal weights, PCGrad and CAGrad end near minimum 2, MGDA at minimum 1.", 330)
    to = lambda place: (round(240 + 75 * float(place[0]), 1), round(180 - 75 * float(place[1]), 1))  # noqa: E731
    shares = [1 - (1 - t / 60) ** 3 for t in range(61)]  # the Pareto-optimal points
    d.line(*[to(pareto_point(share)) for share in shares], kind="frozen")
    d.text(318, 214, "on this curve, no step lowers both", "small soft middle")
    for name, centre in (("minimum 1", (-1.0, 0.0)), ("minimum 2", (1.0, 1.0))):
        x, y = to(centre)
        d.box(x - 4, y - 4, 8, 8, "frozen", "", round_by=4)
        d.text(x + 10, y + 18, name, "small soft")
    x, y = to((-1.5, 2.0))
    d.box(x - 6, y - 6, 12, 12, "frozen", "", round_by=1)
    d.text(x + 14, y - 2, "start", "small soft")
    for i, ((name, method), kind) in enumerate(zip(methods.items(), kinds, strict=True)):
        places = [to(place) for place in walk(method, (-1.5, 2.0))]
        d.line(*places, kind=kind, dashed=name in ("equal", "CAGrad"))
        d.box(places[-1][0] - 5, places[-1][1] - 5, 10, 10, kind, "", round_by=5)
        d.text(16 + 94 * i, 312, name, f"small word {kind}")
    return d


def pareto_point(share: float, scale: float = 20.0) -> tuple[float, float]:
    """The minimum of share · loss 1 + (1 - share) · loss 2."""
    one, two = share, scale * (1 - share)
    return (4 * two - one) / (one + 4 * two), two / (4 * one + two)


def walk(method: Callable[[Tensor], Tensor], start: tuple[float, float], scale: float = 20.0) -> list[Tensor]:
    """The positions of the walk of lesson 16."""
    curvature = torch.tensor([[1.0, 4.0], [4.0 * scale, scale]], dtype=torch.float64)
    minima = torch.tensor([[-1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    positions = [torch.tensor(start, dtype=torch.float64)]
    for step in range(60):
        J = curvature * (positions[-1] - minima)
        d = J.T @ method(J @ J.T)
        positions.append(positions[-1] - 0.13 * (1 - step / 60) * d / d.norm().clamp(min=1e-9))
    return positions


def bump(middle: float, width: float) -> Tensor:
    """A distribution over 60 tokens with one bump, as in lesson 19."""
    return (-((torch.arange(60, dtype=torch.float64) - middle) ** 2) / (2 * width**2)).softmax(0)


def fit_bump(p: Tensor, direction: str, start: float) -> Tensor:
    """The fit of lesson 19: Adam on the middle and the log of the width. Returns q."""
    parameters = torch.tensor([start, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([parameters], lr=0.1)
    for _ in range(500):
        q = bump(parameters[0], parameters[1].exp())
        loss = (p * (p / q).log()).sum() if direction == "forward" else (q * (q / p).log()).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return bump(parameters[0], parameters[1].exp()).detach()


def kl() -> Drawing:
    """What the widget shows first: a teacher with 60 % at token 15 and 40 % at token 42, and a start at 22."""
    d = Drawing("A teacher with two bumps. Forward KL gives one wide bump over both, reverse KL one narrow bump.", 226)
    p = 0.6 * bump(15, 3) + 0.4 * bump(42, 3)
    to = lambda values: [(round(16 + 7.6 * x, 1), round(180 - 900 * min(float(v), 0.18), 1)) for x, v in enumerate(values)]  # noqa: E731
    for values, kind in ((p, "frozen"), (fit_bump(p, "forward", 22), "trained"), (fit_bump(p, "reverse", 22), "wrong")):
        d.line(*to(values), kind=kind)
    d.line((16, 180), (464, 180))
    d.legend(214, ("frozen", "teacher"), ("trained", "forward KL"), ("wrong", "reverse KL"))
    return d


DIAGRAMS = {
    "widget_rank": rank,
    "widget_memory": memory,
    "widget_temperature": temperature,
    "widget_nf4": nf4,
    "widget_tiles": tiles,
    "widget_prefix": prefix,
    "widget_balancing": balancing,
    "widget_kl": kl,
}
