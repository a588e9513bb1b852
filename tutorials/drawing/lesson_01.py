"""Diagrams of lesson 01: the frozen weight beside the two thin matrices, and which of them gets a gradient when."""

from tutorials.drawing.svg import Drawing


def layer() -> Drawing:
    d = Drawing(
        "x goes through the frozen weight W0 and, beside it, through the thin matrices A and B; both results are added to y.", 330
    )
    x = d.box(12, 150, 62, 44, "data", "x", "(T, d_in)")
    d.matrix(170, 26, 110, 110, "frozen", "W₀", "d_out × d_in, frozen")
    d.matrix(130, 232, 110, 22, "trained", "A", "r × d_in")
    d.matrix(284, 190, 24, 104, "trained", "B", "d_out × r")
    y = d.box(406, 150, 62, 44, "data", "y", "(T, d_out)")
    d.arrow(x.right, (170, 84))
    d.arrow(x.right, (130, 242))
    d.arrow((240, 242), (284, 242))
    d.arrow((280, 84), (372, 160))
    d.arrow((308, 242), (372, 184), "× s", above=-26)
    plus = d.box(372, 160, 24, 24, "plain", "+", round_by=12)
    d.line(plus.right, y.left)
    d.text(380, 40, "y = xW₀ᵀ + s(xAᵀ)Bᵀ", "small middle mono")
    d.legend(322, ("frozen", "frozen"), ("trained", "trained"))
    return d


def gradients() -> Drawing:
    d = Drawing(
        "At step 1 the gradient reaches B only, because B is zero. At step 2 B is no longer zero, so A gets a gradient too.", 238
    )
    for x, step, b_value, to_a in ((14, "step 1", "B = 0", False), (252, "step 2", "B ≠ 0", True)):
        d.text(x + 107, 24, step, "bold middle")
        loss = d.box(x + 47, 40, 120, 34, "gradient", "gradient of y")
        b = d.box(x + 62, 108, 90, 34, "trained", b_value)
        a = d.box(x + 62, 176, 90, 34, "trained", "A")
        d.arrow(loss.bottom, b.top, kind="gradient")
        d.arrow(b.bottom, a.top, kind="gradient" if to_a else "plain", dashed=not to_a)
        d.text(x + 120, 96, "B moves", "small word gradient")
        d.text(x + 120, 164, "A moves" if to_a else "zero: A waits", "small word gradient" if to_a else "small soft")
    d.line((240, 30), (240, 220), dashed=True)
    return d


def merge() -> Drawing:
    d = Drawing("One way: a frozen base, and a small file with A, B and the head. The other way: one merged weight.", 214)
    d.text(120, 26, "save the adapter", "bold middle")
    d.text(362, 26, "merge", "bold middle")
    d.line((240, 20), (240, 200), dashed=True)
    d.matrix(20, 48, 90, 90, "frozen", "W₀", "everybody has it")
    d.box(134, 48, 90, 90, "plain", "")
    d.box(144, 58, 70, 22, "trained", "A")
    d.box(144, 84, 70, 22, "trained", "B")
    d.box(144, 110, 70, 20, "trained", "head")
    d.text(179, 156, "a small file", "small soft middle")
    d.matrix(300, 48, 124, 90, "trained", "W₀ + s B A", "one ordinary model")
    d.legend(200, ("frozen", "frozen"), ("trained", "trained"))
    return d


DIAGRAMS = {"01_layer": layer, "01_gradients": gradients, "01_merge": merge}
