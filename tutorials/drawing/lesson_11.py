"""Diagram of lesson 11: examples, their numbers sorted by adapter, tiles, and the table."""

from tutorials.drawing.svg import Drawing


def table() -> Drawing:
    d = Drawing(
        "Six examples with ids; their numbers are sorted by adapter and cut into tiles; each tile is a line of a table.", 270
    )
    ids, kinds = (1, 0, 1, -1, 1, 0), {0: "trained", 1: "data", -1: "frozen"}
    d.text(14, 24, "examples 0 to 5, with the adapter that each one asks for", "small soft")
    d.row(14, 32, [(str(i), kinds[i]) for i in ids], width=48)
    d.text(14, 92, "their numbers, sorted by adapter", "small soft")
    order = sorted(range(6), key=lambda i: ids[i])
    d.row(14, 100, [(str(i), kinds[ids[i]]) for i in order], width=48)
    for left, right in ((62, 158), (158, 254), (254, 302)):
        d.line((left + 3, 136), (left + 3, 142), (right - 3, 142), (right - 3, 136))
    d.text(110, 160, "tile", "small middle soft")
    d.text(206, 160, "tile", "small middle soft")
    d.text(278, 160, "tile", "small middle soft")
    d.text(320, 92, "adapter, first, number", "small soft")
    for i, line in enumerate(((0, 1, 2), (1, 3, 2), (1, 5, 1))):
        d.row(326, 100 + 34 * i, [(str(value), kinds[line[0]]) for value in line], width=44)
    d.text(14, 200, "The examples stay where they are.", "small")
    d.text(14, 220, "Each program reads one line of the table.", "small")
    d.legend(258, ("trained", "adapter 0"), ("data", "adapter 1"), ("frozen", "base alone"))
    return d


DIAGRAMS = {"11_table": table}
