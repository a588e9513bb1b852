"""One visual language for all diagrams, written as SVG that a phone and a dark screen can show.

Grey is frozen, blue is trained, hatched is quantized, orange is a gradient, green is data. A drawing is 480 units wide. It has
its own background, light or dark as the reader's system asks, so its text is readable on any page.
"""

from dataclasses import dataclass, field
from html import escape

WIDTH = 480
KINDS = ("frozen", "trained", "quantized", "gradient", "data", "plain", "wrong")
LIGHT = {
    "paper": "#ffffff",
    "ink": "#1c1e21",
    "soft": "#5f6670",
    "frozen": "#e3e5e8",
    "frozen-line": "#8a9099",
    "trained": "#cfe3f7",
    "trained-line": "#1a6fb5",
    "gradient": "#fde3c4",
    "gradient-line": "#d1720a",
    "data": "#d8efdc",
    "data-line": "#2f8a4a",
    "wrong": "#f9d9d6",
    "wrong-line": "#c0392b",
}
DARK = {
    "paper": "#1d2127",
    "ink": "#e8eaed",
    "soft": "#aab1bb",
    "frozen": "#3a4048",
    "frozen-line": "#9aa2ad",
    "trained": "#1d4468",
    "trained-line": "#6db3f2",
    "gradient": "#5a3a12",
    "gradient-line": "#f2a65a",
    "data": "#1f4a2c",
    "data-line": "#77cf92",
    "wrong": "#5c2722",
    "wrong-line": "#f0857a",
}


def _colours(colours: dict[str, str]) -> str:
    return "svg { " + " ".join(f"--{name}: {colour};" for name, colour in colours.items()) + " }"


STYLE = f"{_colours(LIGHT)}\n@media (prefers-color-scheme: dark) {{ {_colours(DARK)} }}\n"
STYLE += """.paper { fill: var(--paper); }
text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; font-size: 14px; fill: var(--ink); }
.small { font-size: 13px; } .soft { fill: var(--soft); } .bold { font-weight: 600; }
.mono { font-family: ui-monospace, monospace; }
.middle { text-anchor: middle; } .end { text-anchor: end; }
.shape { stroke-width: 1.5; } .line { fill: none; stroke-width: 1.8; } .dashed { stroke-dasharray: 5 4; }
""" + "\n".join(
    f".{kind} {{ fill: var(--{kind}); stroke: var(--{kind}-line); }} .line.{kind} {{ fill: none; }} "
    f".head.{kind} {{ fill: var(--{kind}-line); }} .word.{kind} {{ fill: var(--{kind}-line); stroke: none; }}"
    for kind in ("frozen", "trained", "gradient", "data", "wrong")
)
STYLE += """
.plain { fill: none; stroke: var(--soft); } .head.plain { fill: var(--soft); stroke: none; }
.word.plain { fill: var(--soft); stroke: none; }
.quantized { fill: url(#hatch); stroke: var(--frozen-line); } .head { stroke: none; }
"""
HATCH = (
    '<defs><pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="7" height="7" style="fill: var(--frozen)"/><line x1="0" y1="0" x2="0" y2="7" '
    'style="stroke: var(--frozen-line); stroke-width: 2"/></pattern></defs>'
)
Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """A rectangle that was drawn; arrows start and end at the middles of its sides."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> Point:
        return self.x, self.y + self.height / 2

    @property
    def right(self) -> Point:
        return self.x + self.width, self.y + self.height / 2

    @property
    def top(self) -> Point:
        return self.x + self.width / 2, self.y

    @property
    def bottom(self) -> Point:
        return self.x + self.width / 2, self.y + self.height


@dataclass
class Drawing:
    """Shapes in the order in which they were added. `title` is the text for those who cannot see the picture."""

    title: str
    height: float
    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, style: str = "") -> None:
        """`style`: small, soft, bold, mono, middle, end, or the word of a kind: `word trained`."""
        self.parts.append(f'<text x="{x:g}" y="{y:g}" class="{style}">{escape(words)}</text>')

    def box(self, x: float, y: float, width: float, height: float, kind: str, *lines: str, round_by: float = 6) -> Box:
        """A rectangle with lines of text in its middle; the second and later lines are small."""
        shape = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{round_by:g}" class="shape {kind}"/>'
        self.parts.append(shape)
        start = y + height / 2 + 5 - 9 * (len(lines) - 1)
        for i, words in enumerate(lines):
            self.text(x + width / 2, start + 18 * i, words, "middle" + (" small soft" if i else " bold"))
        return Box(x, y, width, height)

    def arrow(
        self, start: Point, end: Point, words: str = "", kind: str = "plain", dashed: bool = False, above: float = 7
    ) -> None:
        """A straight arrow; its words stand above the middle of it."""
        (x1, y1), (x2, y2) = start, end
        length = max(((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5, 1e-9)
        dx, dy = (x2 - x1) / length, (y2 - y1) / length
        stop = (x2 - 8 * dx, y2 - 8 * dy)
        style = f"line {kind}{' dashed' if dashed else ''}"
        self.parts.append(f'<path d="M {x1:g} {y1:g} L {stop[0]:.1f} {stop[1]:.1f}" class="{style}"/>')
        corners = [(x2, y2), (x2 - 9 * dx - 5 * dy, y2 - 9 * dy + 5 * dx), (x2 - 9 * dx + 5 * dy, y2 - 9 * dy - 5 * dx)]
        self.parts.append(f'<polygon points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in corners)}" class="head {kind}"/>')
        if words:
            self.text((x1 + x2) / 2, (y1 + y2) / 2 - above, words, f"small middle word {kind}")

    def line(self, *points: Point, kind: str = "plain", dashed: bool = False) -> None:
        path = " L ".join(f"{x:g} {y:g}" for x, y in points)
        self.parts.append(f'<path d="M {path}" class="line {kind}{" dashed" if dashed else ""}"/>')

    def bracket(self, x1: float, x2: float, y: float, words: str, kind: str = "plain") -> None:
        """A bracket below a row of things, with its words below it."""
        self.line((x1, y), (x1, y + 7), (x2, y + 7), (x2, y), kind=kind)
        self.text((x1 + x2) / 2, y + 24, words, f"small middle word {kind}")

    def matrix(self, x: float, y: float, width: float, height: float, kind: str, name: str, shape: str) -> Box:
        """A matrix as a rectangle in the proportion of its shape: the name inside, the shape below."""
        matrix = self.box(x, y, width, height, kind, name if width > 22 else "", round_by=2)
        self.text(x + width / 2, y + height + 18, shape, "small soft middle")
        return matrix

    def row(self, x: float, y: float, cells: list[tuple[str, str]], width: float = 44, height: float = 30) -> list[Box]:
        """A row of tokens or numbers: (text, kind) each."""
        boxes = []
        for i, (words, kind) in enumerate(cells):
            left = x + i * width
            boxes.append(Box(left, y, width, height))
            shape = f'<rect x="{left:g}" y="{y:g}" width="{width:g}" height="{height:g}" class="shape {kind}"/>'
            self.parts.append(shape)
            self.text(left + width / 2, y + height / 2 + 5, words, "small middle")
        return boxes

    def legend(self, y: float, *entries: tuple[str, str]) -> None:
        """What the colours mean: (kind, words), from left to right."""
        x = 16.0
        for kind, words in entries:
            self.parts.append(f'<rect x="{x:g}" y="{y - 11:g}" width="16" height="13" rx="2" class="shape {kind}"/>')
            self.text(x + 22, y, words, "small soft")
            x += 38 + 7.2 * len(words)

    def svg(self) -> str:
        body, title = "\n".join(self.parts), escape(self.title, quote=True)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height:g}" width="640" role="img" '
            f'aria-label="{title}">\n<title>{title}</title>\n<style>{STYLE}</style>\n{HATCH}\n'
            f'<rect width="{WIDTH}" height="{self.height:g}" rx="8" class="paper"/>\n{body}\n</svg>\n'
        )
