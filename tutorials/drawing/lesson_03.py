"""Diagrams of lesson 03: a classifier is a body and a head, and the file has to hold both."""

from tutorials.drawing.svg import Drawing


def body_and_head() -> Drawing:
    d = Drawing(
        "Tokens go through the frozen body with LoRA; the new head makes one score per label of the first hidden state.",
        232,
    )
    d.row(14, 96, [("[CLS]", "data"), ("the", "data"), ("day", "data")], width=48)
    body = d.box(196, 46, 122, 130, "frozen", "body", "pretrained")
    d.box(212, 132, 90, 32, "trained", "LoRA")
    head = d.box(356, 66, 108, 90, "trained", "head", "random at first")
    d.arrow((158, 111), body.left)
    d.arrow(body.right, head.left, "h", above=8)
    d.text(410, 178, "h Wᵀ + b: one", "small soft middle")
    d.text(410, 195, "score per label", "small soft middle")
    d.text(86, 150, "text", "small soft middle")
    d.legend(220, ("frozen", "frozen"), ("trained", "trained"), ("data", "data"))
    return d


def file() -> Drawing:
    d = Drawing(
        "The adapter file holds LoRA and the head. Without the head, a new random head makes all answers right, or swaps all.",
        224,
    )
    for x, title, with_head in ((14, "a complete file", True), (252, "only the LoRA tensors", False)):
        d.text(x + 107, 26, title, "bold middle")
        d.box(x, 40, 214, 92, "plain", "")
        d.box(x + 14, 54, 88, 64, "trained", "A, B")
        d.box(x + 112, 54, 88, 64, "trained" if with_head else "wrong", "head" if with_head else "no head")
        d.arrow((x + 107, 132), (x + 107, 160))
        d.text(x + 107, 182, "answers as trained" if with_head else "a new random head:", "small middle")
        d.text(x + 107, 200, "" if with_head else "nearly all right or swapped", "small middle word wrong")
    return d


DIAGRAMS = {"03_body_and_head": body_and_head, "03_file": file}
