"""Diagrams of lesson 16: two gradients in conflict, PCGrad's projection, and a model that knows which task is asked."""

from tutorials.drawing.svg import Drawing

Vector = tuple[float, float]
FIRST: Vector = (-72.0, -32.0)
SECOND: Vector = (85.0, -47.0)
"""the two gradients, in units of the drawing (y points down)"""


def project(g: Vector, other: Vector) -> Vector:
    """g without its part along `other`: what PCGrad does where the two conflict."""
    factor = (g[0] * other[0] + g[1] * other[1]) / (other[0] ** 2 + other[1] ** 2)
    return g[0] - factor * other[0], g[1] - factor * other[1]


def conflict() -> Drawing:
    d = Drawing(
        "Left: two gradients with an angle of more than 90 degrees between them conflict. Right: PCGrad removes from each "
        "gradient its part along the other one. The two results are added.",
        226,
    )

    def arrows(x: float, vectors: list[tuple[Vector, str, str, bool]]) -> None:
        for (dx, dy), name, kind, dashed in vectors:
            d.arrow((x, 172), (x + dx, 172 + dy), kind=kind, dashed=dashed)
            if name:
                d.text(x + 1.02 * dx + (-8 if dx < 0 else 6), 168 + dy, name, f"word {kind}" + (" end" if dx < 0 else ""))

    d.text(122, 20, "a conflict: g₁ · g₂ < 0", "bold middle")
    arrows(115, [(FIRST, "g₁", "gradient", False), (SECOND, "g₂", "data", False)])
    d.text(360, 20, "PCGrad: project, then add", "bold middle")
    one, two = project(FIRST, SECOND), project(SECOND, FIRST)
    both = one[0] + two[0], one[1] + two[1]
    arrows(350, [(FIRST, "", "gradient", True), (SECOND, "", "data", True)])
    arrows(350, [(one, "g₁′", "gradient", False), (two, "g₂′", "data", False), (both, "", "trained", False)])
    d.text(350 + both[0] + 4, 172 + both[1] - 6, "g₁′ + g₂′", "word trained middle")
    d.text(122, 208, "a step for one harms the other", "small soft middle")
    d.text(360, 208, "dashed: before the projection", "small soft middle")
    return d


def task_embedding() -> Drawing:
    d = Drawing(
        "Two tasks ask opposite questions about the same text. A vector for the task, added to each token, "
        "says to the shared backbone and the shared head which task is asked.",
        206,
    )
    rows = (("sentiment", 30, "good"), ("sarcasm", 108, "bad"))
    backbone = d.box(196, 30, 110, 118, "trained", "backbone", "shared")
    head = d.box(336, 60, 74, 58, "trained", "head", "shared")
    d.arrow(backbone.right, head.left)
    for task, y, answer in rows:
        text = d.box(10, y, 78, 40, "data", "text", "the same")
        d.arrow(text.right, (backbone.left[0], y + 20))
        d.box(116, y + 4, 56, 32, "trained", f"+ t{'₁' if task == 'sentiment' else '₂'}", round_by=3)
        d.text(144, y + 54, task, "small soft middle")
        d.arrow((head.right[0], 89 + (y - 69) / 5), (424, y + 20))
        d.text(428, y + 18, answer, "small")
        d.text(428, y + 34, f"for t{'₁' if task == 'sentiment' else '₂'}", "small soft")
    d.legend(196, ("data", "input"), ("trained", "trained"))
    return d


DIAGRAMS = {"16_conflict": conflict, "16_task_embedding": task_embedding}
