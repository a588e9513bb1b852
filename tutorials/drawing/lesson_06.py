"""Diagrams of lesson 06: a mixed batch on one base, and adding factors compared with keeping them apart."""

from tutorials.drawing.svg import Drawing


def mixed_batch() -> Drawing:
    d = Drawing(
        "Five texts go through one frozen weight together, and next to it each through the adapter that it asked for.", 300
    )
    names = ("mood", "topic", "mood", "base", "topic")
    texts = [d.box(12, 22 + 48 * i, 72, 36, "data", name) for i, name in enumerate(names)]
    W = d.box(176, 96, 96, 66, "frozen", "W", "all texts, once")
    mood = d.box(176, 20, 96, 46, "trained", "A₁, B₁", "mood")
    topic = d.box(176, 206, 96, 46, "trained", "A₂, B₂", "topic")
    plus = d.box(346, 117, 24, 24, "plain", "+", round_by=12)
    y = d.box(404, 107, 62, 44, "data", "y")
    for text, name in zip(texts, names, strict=True):
        d.arrow(text.right, W.left)
        if name != "base":
            d.arrow(text.right, (mood if name == "mood" else topic).left, kind="trained")
    for box, kind in ((mood, "trained"), (W, "plain"), (topic, "trained")):
        d.arrow(box.right, plus.left, kind=kind)
    d.line(plus.right, y.left)
    d.text(48, 16, "batch", "small soft middle")
    d.legend(290, ("frozen", "frozen"), ("trained", "one small file each"), ("data", "texts"))
    return d


def factors() -> Drawing:
    d = Drawing(
        "Left: the factors are added, and cross terms appear. Right: the factors stand next to each other, and the sum is exact.",
        250,
    )
    d.text(116, 24, "factors added", "bold middle")
    d.text(364, 24, "factors kept apart", "bold middle")
    d.line((240, 16), (240, 216), dashed=True)
    d.matrix(24, 60, 30, 96, "wrong", "", "B₁+B₂")
    d.matrix(74, 60, 96, 26, "wrong", "A₁+A₂", "")
    d.text(116, 196, "+ B₁A₂ + B₂A₁: not trained", "small middle word wrong")
    d.matrix(270, 60, 26, 96, "trained", "B₁", "")
    d.matrix(296, 60, 26, 96, "data", "B₂", "")
    d.matrix(342, 60, 110, 24, "trained", "A₁", "")
    d.matrix(342, 84, 110, 24, "data", "A₂", "")
    d.text(364, 196, "= B₁A₁ + B₂A₂: exact, rank 2r", "small middle")
    d.legend(240, ("trained", "adapter 1"), ("data", "adapter 2"), ("wrong", "mixed up"))
    return d


DIAGRAMS = {"06_mixed_batch": mixed_batch, "06_factors": factors}
