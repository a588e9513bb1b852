"""Diagrams of lesson 05: the points of W + s B A where each variant acts, and what DoRA does with a row of the weight."""

from tutorials.drawing.svg import Drawing


def variants() -> Drawing:
    d = Drawing(
        "LoRA's formula with five marked points: 1 the scale, 2 the start of A and B, 3 the learning rate of B, "
        "4 the length of each row, 5 vectors in place of trained matrices.",
        356,
    )
    x = d.box(12, 96, 54, 44, "data", "x")
    d.matrix(150, 22, 96, 96, "frozen", "W", "frozen")
    d.matrix(118, 180, 100, 24, "trained", "A", "r × d_in")
    d.matrix(262, 148, 26, 90, "trained", "B", "d_out × r")
    plus = d.box(352, 106, 24, 24, "plain", "+", round_by=12)
    y = d.box(414, 96, 54, 44, "data", "y")
    d.arrow(x.right, (150, 70))
    d.arrow(x.right, (118, 192))
    d.arrow((218, 192), (262, 192))
    d.arrow((246, 70), (352, 110))
    d.arrow((288, 192), (354, 130))
    d.arrow(plus.right, y.left)
    points = [(344, 160, "1"), (128, 164, "2"), (274, 132, "3"), (394, 92, "4"), (240, 214, "5"), (312, 194, "5")]
    points += [(442, 156, "5")]
    for x1, y1, number in points:
        d.box(x1 - 11, y1 - 11, 22, 22, "gradient", number, round_by=11)
    for i, words in enumerate(
        (
            "1  scale s: rsLoRA",
            "2  start of A and B: PiSSA",
            "3  learning rate of B: LoRA+",
            "4  length of each row: DoRA",
            "5  vectors only: (IA)³, VeRA",
        )
    ):
        d.text(14 + 240 * (i // 3), 286 + 20 * (i % 3), words, "small")
    d.legend(348, ("frozen", "frozen"), ("trained", "trained"), ("gradient", "point of a variant"))
    return d


def dora() -> Drawing:
    d = Drawing("A row of W is an arrow. LoRA adds sBA to it. DoRA keeps only the new direction and gives it the length m.", 236)
    for left, title in ((20, "LoRA"), (256, "DoRA")):
        d.text(left + 100, 24, title, "bold middle")
    d.line((240, 20), (240, 196), dashed=True)
    d.arrow((40, 190), (150, 120))
    d.text(104, 176, "row of W", "small soft")
    d.arrow((150, 120), (170, 56), kind="trained")
    d.text(176, 92, "s B A", "small word trained")
    d.arrow((40, 190), (168, 56), kind="trained")
    d.text(44, 110, "new row", "small word trained")
    d.arrow((276, 190), (386, 120))
    d.text(340, 176, "row of W", "small soft")
    d.arrow((386, 120), (404, 56), kind="trained")
    d.text(410, 96, "s B A", "small word trained")
    d.line((276, 190), (404, 56), dashed=True)
    d.text(410, 60, "direction", "small soft")
    d.arrow((276, 190), (354, 108), kind="trained")
    d.text(268, 128, "length m", "small word trained")
    d.text(16, 228, "grey arrow: frozen.  blue arrow: trained.", "small soft")
    return d


DIAGRAMS = {"05_variants": variants, "05_dora": dora}
