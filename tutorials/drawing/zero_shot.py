"""Diagram of the page on zero-shot classification: one sentence for each label, and an NLI head that judges them."""

from tutorials.drawing.svg import Drawing


def through_nli() -> Drawing:
    d = Drawing(
        "The text is paired with one sentence for each label. The NLI head judges each pair of text and sentence. "
        "The label with the highest probability of entailment is the prediction.",
        226,
    )
    d.text(14, 24, "text", "small soft")
    d.box(14, 32, 150, 36, "data", "a text about a day", round_by=3)
    d.box(246, 64, 96, 96, "frozen", "NLI", "each pair")
    for i, (words, value) in enumerate((("it was a good day .", 0.8), ("it was a bad day .", 0.3))):
        y = 92 + 52 * i
        d.box(14, y, 190, 36, "plain", words, round_by=3)
        d.arrow((204, y + 18), (246, 104 + 22 * i))
        d.arrow((342, 100 + 26 * i), (376, y + 4))
        d.box(378, y - 12, 60 * value + 4, 28, "data", "", round_by=2)
        d.text(386 + 60 * value + 2, y + 7, f"{value:.1f}", "small")
    d.arrow((164, 50), (246, 84))
    d.text(366, 60, "p(entailment)", "small soft")
    d.text(14, 84, "one sentence for each label", "small soft")
    d.legend(214, ("data", "text, p(entailment)"), ("frozen", "trained before, on NLI only"))
    return d


DIAGRAMS = {"zero_shot_nli": through_nli}
