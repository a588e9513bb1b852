"""Diagram of lesson 10: from a byte to two weights through the table of 256 pairs."""

from tutorials.drawing.svg import Drawing


def decode() -> Drawing:
    d = Drawing("A byte is the place in a table of 256 pairs. The pair has two levels; both are multiplied by the scale.", 230)
    d.text(60, 36, "one byte", "small middle soft")
    d.row(12, 46, [("15", "quantized"), ("7", "quantized")], width=48)
    d.text(60, 96, "= 247", "small middle")
    for i, (place, pair) in enumerate(
        (("0", "-1.00  -1.00"), ("...", "..."), ("247", "1.00  0.00"), ("...", "..."), ("255", "1.00  1.00"))
    ):
        y = 30 + 26 * i
        d.text(176, y + 18, place, "small end soft")
        d.box(186, y, 108, 26, "data" if place == "247" else "plain", "", round_by=1)
        d.text(240, y + 18, pair, "small middle")
    d.text(240, 20, "table of 256 pairs", "small middle soft")
    d.arrow((108, 62), (146, 90))
    d.text(330, 74, "× absmax", "small middle")
    d.arrow((294, 96), (356, 96))
    d.box(362, 80, 104, 32, "data", "w₁ and w₂")
    d.text(414, 130, "two weights", "small middle soft")
    d.text(240, 190, "one look-up gives two weights", "small middle soft")
    d.legend(220, ("quantized", "two indices of 4 bits"), ("data", "floats"))
    return d


DIAGRAMS = {"10_decode": decode}
