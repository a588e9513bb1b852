"""Diagram of lesson 07: block, absmax, level, half a byte, byte; and the first view of the NF4 widget."""

from tutorials.drawing.svg import Drawing


def steps() -> Drawing:
    d = Drawing(
        "A block of weights is divided by its largest value; each becomes the index of a level; two indices make a byte.", 330
    )
    rows = (
        ("four of the 64 weights of a block", ("0.20", "-0.05", "0.09", "-0.16"), "frozen"),
        ("divided by the absmax, 0.20", ("1.00", "-0.25", "0.45", "-0.80"), "data"),
        ("nearest of 16 levels", ("1.00", "-0.28", "0.44", "-0.70"), "quantized"),
        ("its index, 4 bits", ("15", "4", "12", "1"), "quantized"),
    )
    for i, (words, values, kind) in enumerate(rows):
        y = 30 + 66 * i
        d.text(14, y - 8, words, "small soft")
        cells = d.row(14, y, [(value, kind) for value in values], width=62)
        if i:
            d.arrow((cells[3].top[0], y - 34), (cells[3].top[0], y - 1))
    d.text(290, 20, "stored once for a block:", "small soft")
    d.box(290, 30, 180, 30, "data", "absmax, 32 bits")
    d.text(290, 152, "two weights in one byte:", "small soft")
    d.row(290, 162, [("15", "quantized"), ("4", "quantized")], width=62)
    d.text(420, 182, "1 byte", "small")
    d.text(321, 210, "high half", "small middle soft")
    d.text(383, 210, "low half", "small middle soft")
    d.text(290, 250, "decode: level × absmax", "small bold")
    d.legend(316, ("quantized", "4 bits"), ("data", "float"))
    return d


DIAGRAMS = {"07_steps": steps}
