"""Diagrams of lesson 02: which tokens of a row carry a label, and by how much the labels are shifted."""

from tutorials.drawing.svg import Drawing


def tokens() -> Drawing:
    d = Drawing(
        "The prompt has the label -100, the answer has its own tokens as labels. Each position predicts the next token.",
        290,
    )
    words = ["name", ":", "anna", "=>", "anna", "sang", "<end>"]
    d.row(70, 40, [(w, "frozen" if i < 4 else "data") for i, w in enumerate(words)], width=57)
    d.text(8, 60, "input", "small soft")
    d.bracket(70, 298, 74, "prompt: the model reads it")
    d.bracket(302, 469, 74, "answer: it writes this")
    labels = [("-100", "frozen")] * 4 + [("anna", "data"), ("sang", "data"), ("<end>", "data")]
    d.row(70, 130, labels, width=57)
    d.text(8, 150, "labels", "small soft")
    d.text(8, 216, "loss", "small soft")
    target = d.row(
        70, 196, [("", "plain")] * 3 + [("anna", "data"), ("sang", "data"), ("<end>", "data"), ("", "plain")], width=57
    )
    for i in (4, 5, 6):
        d.arrow((70 + 57 * i + 28, 160), target[i - 1].top, kind="data")
    d.text(250, 250, "Shifted by one: the position of => has to predict anna.", "small soft middle")
    d.legend(278, ("frozen", "no loss"), ("data", "counts in the loss"))
    return d


def fluent_is_not_true() -> Drawing:
    d = Drawing("The same facts go in; a fluent text with a wrong name comes out. Most words are right.", 214)
    facts = d.box(14, 30, 240, 56, "data", "anna · in oslo · sang", "the facts: name, place, action")
    model = d.box(300, 30, 74, 56, "trained", "model")
    d.arrow(facts.right, model.left)
    d.arrow(model.bottom, (337, 116))
    cells = [("in", "data"), ("oslo", "data"), ("nina", "wrong"), ("sang", "data"), ("there", "data"), (".", "data")]
    d.row(90, 118, cells, width=62)
    d.text(276, 172, "5 of 6 words are right, and the sentence is false", "small middle")
    d.legend(202, ("data", "right word"), ("wrong", "wrong fact"))
    return d


DIAGRAMS = {"02_tokens": tokens, "02_fluent_is_not_true": fluent_is_not_true}
