"""Diagrams of lesson 12: the bottleneck adapter as an hourglass, and its three placements in a layer."""

from tutorials.drawing.svg import Box, Drawing


def hourglass() -> Drawing:
    d = Drawing(
        "An adapter takes the d values of a token down to m neurons, applies relu, goes up to d values again, "
        "and adds the result to its input.",
        252,
    )
    x = d.box(14, 92, 46, 56, "data", "x", "d")
    down = _trapezium(d, 112, (62, 178), (98, 142), "down", "m × d")
    relu = d.box(212, 98, 44, 44, "plain", "relu", "m")
    up = _trapezium(d, 268, (98, 142), (62, 178), "up", "d × m")
    plus = d.box(380, 108, 24, 24, "plain", "+", round_by=12)
    y = d.box(424, 92, 46, 56, "data", "out", "d")
    for start, end in ((x, down), (down, relu), (relu, up), (up, plus), (plus, y)):
        d.arrow(start.right, end.left)
    d.line(x.top, (37, 34), (392, 34))
    d.arrow((392, 34), plus.top)
    d.text(214, 26, "residual: x itself", "small soft middle")
    d.text(234, 206, "A(x) is trained, and the head of the task", "small middle word trained")
    d.legend(238, ("trained", "trained"), ("data", "one token"))
    return d


def _trapezium(d: Drawing, x: float, left: tuple[float, float], right: tuple[float, float], name: str, shape: str) -> Box:
    """A trained matrix as a funnel, 88 wide; left and right are the heights of its sides."""
    corners = ((x, left[0]), (x + 88, right[0]), (x + 88, right[1]), (x, left[1]))
    points = " ".join(f"{px:g},{py:g}" for px, py in corners)
    d.parts.append(f'<polygon points="{points}" class="shape trained"/>')
    d.text(x + 44, 119, name, "middle bold")
    d.text(x + 44, 136, shape, "small soft middle")
    return Box(x, 92, 88, 56)


def placements() -> Drawing:
    d = Drawing(
        "One layer, read upwards, three times. houlsby: an adapter after attention and one after the feed-forward part. "
        "pfeiffer: one adapter after the second sum. parallel: one adapter beside the feed-forward part.",
        432,
    )
    for left, name in ((6, "houlsby"), (166, "pfeiffer"), (326, "parallel")):
        d.text(left + 74, 24, name, "bold middle")
        _layer(d, left, name)
    d.legend(424, ("frozen", "frozen (FFN: feed-forward)"), ("trained", "adapter"))
    return d


HEIGHTS = {"norm 2": 46, "+ 2": 128, "FFN": 198, "norm 1": 250, "+ 1": 290, "attention": 354}


def _layer(d: Drawing, left: float, name: str) -> None:
    """A post-norm layer from bottom to top: two sub-layers, each with its residual, sum and norm."""
    middle = left + 72
    d.arrow((middle, 402), (middle, 32))
    d.arrow((middle, 402), (middle, 382))
    for low, high in ((392, 300), (242, 138)):
        d.line((middle, low), (left + 8, low), (left + 8, high), (middle - 10, high))
    for part, y in HEIGHTS.items():
        if part.startswith("+"):
            circle = f'<circle cx="{middle:g}" cy="{y + 10:g}" r="11" class="shape plain" style="fill: var(--paper)"/>'
            d.parts.append(circle)
            d.text(middle, y + 15, "+", "middle bold")
        else:
            d.box(middle - 43, y, 86, 28, "frozen", part.rstrip(" 12"))
    if name == "pfeiffer":
        d.box(middle - 40, 86, 80, 28, "trained", "adapter")
    if name == "houlsby":
        d.box(middle - 40, 160, 80, 28, "trained", "adapter")
        d.box(middle - 40, 318, 80, 28, "trained", "adapter")
    if name == "parallel":
        d.line((middle, 234), (left + 136, 234), (left + 136, 172))
        d.arrow((left + 136, 172), (middle + 10, 172))
        d.parts.append(f'<circle cx="{middle:g}" cy="172" r="11" class="shape plain" style="fill: var(--paper)"/>')
        d.text(middle, 177, "+", "middle bold")
        d.box(left + 122, 190, 28, 36, "trained", "A")


DIAGRAMS = {"12_hourglass": hourglass, "12_placements": placements}
