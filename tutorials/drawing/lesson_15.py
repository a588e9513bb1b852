"""Diagrams of lesson 15: a mixed batch through one backbone, and how often tasks are sampled."""

from tutorials.drawing.svg import Drawing


def mixed_batch() -> Drawing:
    d = Drawing(
        "A batch with examples of three tasks goes through one shared backbone once. "
        "Each example then goes to the head of its own task.",
        262,
    )
    tasks = ("topic", "qa", "qa", "tagging", "topic")
    for i, task in enumerate(tasks):
        d.box(14, 24 + 40 * i, 88, 30, "data", task, round_by=3)
        d.arrow((102, 39 + 40 * i), (138, 39 + 40 * i))
    backbone = d.box(138, 24, 118, 190, "trained", "backbone", "shared, one pass")
    heads = {}
    for i, task in enumerate(("topic", "qa", "tagging")):
        heads[task] = d.box(334, 34 + 64 * i, 132, 42, "trained", f"head of {task}")
    for i, task in enumerate(tasks):
        d.arrow((backbone.right[0], 39 + 40 * i), heads[task].left)
    d.legend(250, ("data", "one example"), ("trained", "trained"))
    return d


def sampling() -> Drawing:
    d = Drawing(
        "Three tasks with 50, 100 and 200 examples. Proportional sampling gives them 1/7, 2/7 and 4/7 of a batch, "
        "temperature 2 makes this more even, equal sampling gives each one third.",
        206,
    )
    sizes = (50, 100, 200)
    for i, (name, power) in enumerate((("proportional, T = 1", 1), ("temperature, T = 2", 0.5), ("equal", 0))):
        y, x = 24 + 52 * i, 160.0
        d.text(150, y + 22, name, "small end")
        total = sum(size**power for size in sizes)
        for size, kind in zip(sizes, ("plain", "data", "quantized"), strict=True):
            share = size**power / total
            d.box(x, y, 300 * share, 34, kind, f"{share:.2f}", round_by=2)
            x += 300 * share
    d.legend(194, ("plain", "50 examples"), ("data", "100 examples"), ("quantized", "200 examples"))
    return d


DIAGRAMS = {"15_mixed_batch": mixed_batch, "15_sampling": sampling}
