"""Diagrams of lesson 08: the dtype on every arrow of QLoRA, and three ways to merge."""

from tutorials.drawing.svg import Drawing


def dtypes() -> Drawing:
    d = Drawing(
        "x goes through the decoded weight and through A and B. Only the stored weight has 4 bits; all results are floats.",
        300,
    )
    x = d.box(10, 128, 58, 44, "data", "x", "16 bit")
    stored = d.box(112, 18, 104, 52, "quantized", "W in NF4", "4.127 bit")
    decoded = d.box(276, 18, 96, 52, "frozen", "Ŵ", "not kept")
    a = d.box(118, 196, 96, 44, "trained", "A", "32 bit")
    b = d.box(276, 196, 96, 44, "trained", "B", "32 bit")
    y = d.box(412, 128, 58, 44, "data", "y", "16 bit")
    d.arrow(stored.right, decoded.left, "decode")
    d.arrow(x.right, (276, 62), "x Ŵᵀ", above=10)
    d.arrow(decoded.right, y.top, "")
    d.arrow(x.right, a.left)
    d.arrow(a.right, b.left, "x Aᵀ")
    d.arrow(b.right, y.bottom, "× s", above=-22)
    d.arrow((412, 160), (68, 160), "backward: dx = dy Ŵ + s (dy B) A", "gradient", dashed=True, above=-18)
    d.text(240, 262, "gradients and Adam: only for A and B, 32 bit", "small middle soft")
    d.legend(288, ("quantized", "4 bits"), ("frozen", "frozen"), ("trained", "trained"), ("gradient", "gradient"))
    return d


def merges() -> Drawing:
    d = Drawing("The adapter was trained next to the decoded weight. Only adding it to the decoded weight keeps the model.", 250)
    rows = (
        ("quantized", "Ŵ", "dequantize and merge", "frozen", "floats", "the same model", "data"),
        ("quantized", "Ŵ", "merge and requantize", "quantized", "4 bits", "update rounded", "plain"),
        ("frozen", "W", "into the original", "frozen", "floats", "another model!", "wrong"),
    )
    for i, (kind, base, name, merged_kind, merged, words, result) in enumerate(rows):
        y = 34 + 66 * i
        d.text(14, y - 6, name, "small bold")
        d.box(14, y, 60, 34, kind, base)
        d.text(84, y + 22, "+", "middle")
        d.box(96, y, 66, 34, "trained", "s B A")
        d.arrow((164, y + 17), (206, y + 17))
        d.box(206, y, 92, 34, merged_kind, merged)
        d.arrow((300, y + 17), (322, y + 17))
        d.box(322, y, 148, 34, result, words)
    d.legend(240, ("quantized", "4 bits"), ("frozen", "floats"), ("trained", "adapter"))
    return d


DIAGRAMS = {"08_dtypes": dtypes, "08_merges": merges}
