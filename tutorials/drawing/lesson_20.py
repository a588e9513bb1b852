"""Diagrams of lesson 20: removing one head from the matrices Q, K, V and O."""

from tutorials.drawing.svg import Drawing


def remove_head() -> Drawing:
    d = Drawing(
        "The matrices Q, K and V have 64 rows, 16 for each of four heads. The matrix O, which reads the output of the "
        "heads, has 64 columns, 16 for each head. Removing head 3 removes 16 rows of Q, K and V and 16 columns of O. The "
        "sizes become 48 by 64 and 64 by 48.",
        236,
    )
    for i, name in enumerate("QKV"):
        left = 14 + 96 * i
        d.text(left + 40, 24, name, "middle bold")
        for head in range(4):
            kind = "wrong" if head == 2 else "trained"
            words = f"head {head + 1}" if head != 2 else "removed"
            d.box(left, 34 + 26 * head, 80, 26, kind, "", round_by=0)
            d.text(left + 40, 52 + 26 * head, words, "small middle" + (" word wrong" if head == 2 else ""))
        d.text(left + 40, 158, "64 × 64", "small soft middle")
        d.text(left + 40, 176, "→ 48 × 64", "small middle")
    d.arrow((296, 86), (346, 86), "heads")
    d.text(406, 24, "O", "middle bold")
    for head in range(4):
        d.box(354 + 26 * head, 34, 26, 104, "wrong" if head == 2 else "trained", "", round_by=0)
        d.text(367 + 26 * head, 90, str(head + 1), "small middle" + (" word wrong" if head == 2 else ""))
    d.text(406, 158, "64 × 64", "small soft middle")
    d.text(406, 176, "→ 64 × 48", "small middle")
    d.text(240, 202, "16 rows (and biases) of Q, K, V; 16 columns of O", "small soft middle")
    d.legend(226, ("trained", "remains"), ("wrong", "removed with head 3"))
    return d


DIAGRAMS = {"20_remove_head": remove_head}
