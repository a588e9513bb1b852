"""Diagrams of lesson 14: attention over adapters for one token, and the four rows of a fair comparison."""

from tutorials.drawing.svg import Drawing


def fusion() -> Drawing:
    d = Drawing(
        "One token, three frozen adapters. The query comes from the token, a key and a value from the output of each adapter. "
        "Softmax gives three shares, and the shares weight the values.",
        300,
    )
    x = d.box(12, 128, 52, 48, "data", "x", "token")
    for i, (share, name) in enumerate(((0.7, "own"), (0.2, "topic"), (0.1, "qa"))):
        y = 66 + 66 * i
        adapter = d.box(104, y, 92, 40, "frozen", f"A{'₁₂₃'[i]}", name)
        d.arrow(x.right, adapter.left)
        d.arrow(adapter.right, (236, y + 20), f"a{'₁₂₃'[i]}")
        d.box(238, y + 2, 54, 36, "trained", "K, V")
        d.arrow((292, y + 20), (324, y + 20), f"k{'₁₂₃'[i]}")
        d.line((265, y + 38), (265, y + 48), (418, y + 48), kind="data")
        d.arrow((418, y + 48), (438, 152 + 8 * i), kind="data")
        d.text(300, y + 45, f"v{'₁₂₃'[i]}", "small word data")
        d.text(372, y + 45, f"{share:.1f} · v{'₁₂₃'[i]}", "small word data")
        d.box(326, y + 8, 60 * share, 22, "data", "", round_by=2)
        d.text(332 + 60 * share, y + 24, f"{share:.1f}", "small")
    d.text(326, 60, "softmax(q · kᵢ)", "small")
    q = d.box(112, 12, 76, 34, "trained", "Q")
    d.line(x.top, (38, 29), (104, 29))
    d.arrow((104, 29), q.left)
    d.line(q.right, (376, 29))
    d.arrow((376, 29), (376, 46))
    d.text(260, 22, "query q", "small soft")
    d.box(438, 132, 36, 60, "data", "Σ", "out", round_by=4)
    d.text(240, 268, "one K and one V for all adapters; each token has its own shares", "small soft middle")
    d.legend(290, ("frozen", "frozen adapters"), ("trained", "trained"), ("data", "computed"))
    return d


def baselines() -> Drawing:
    d = Drawing(
        "Steps of training. The own adapter: 50. The fusion: 50 for its adapter and 50 for itself. "
        "The same adapter, trained twice as long: 100. The average: none for itself.",
        214,
    )
    rows = (
        ("own adapter", (("trained", "50 steps"),)),
        ("average", (("trained", "50 steps"), ("plain", "0"))),
        ("fusion", (("trained", "50 steps"), ("trained", "50: Q, K, V"))),
        ("twice as long", (("trained", "100 steps"),)),
    )
    for i, (name, parts) in enumerate(rows):
        y = 16 + 42 * i
        d.text(122, y + 20, name, "small end")
        for j, (kind, words) in enumerate(parts):
            width = {"0": 36, "100 steps": 300}.get(words, 148)
            d.box(134 + 152 * j, y, width, 30, kind, words, round_by=3)
    d.legend(204, ("trained", "steps of training"), ("plain", "no training"))
    return d


DIAGRAMS = {"14_fusion": fusion, "14_baselines": baselines}
