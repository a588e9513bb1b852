"""Diagrams of lesson 21: a decision tree for choosing a method."""

from tutorials.drawing.svg import Drawing

QUESTIONS = (
    ("Must the model itself become", "smaller or faster?", "distillation, then pruning", "and quantization (17, 20)"),
    ("Is the untouched base with", "a trained head enough?", "head alone, or prompt", "tuning (03, 13)"),
    ("Is the base too large for", "your memory?", "QLoRA: a 4-bit base", "and LoRA (08)"),
    ("Do many tasks share", "one base?", "LoRA or bottleneck", "adapters (01, 06, 12)"),
)


def decision() -> Drawing:
    d = Drawing(
        "A decision tree. Must the model become smaller or faster: distillation, then pruning and quantization. Is the "
        "untouched base with a trained head enough: head alone or prompt tuning. Is the base too large for the memory: "
        "QLoRA. Do many tasks share one base: LoRA or bottleneck adapters. Otherwise: LoRA first, and full fine-tuning if "
        "it is clearly better.",
        462,
    )
    for i, (first, second, answer, more) in enumerate(QUESTIONS):
        y = 12 + 84 * i
        question = d.box(12, y, 214, 52, "plain", "", round_by=10)
        d.text(119, y + 22, first, "small middle")
        d.text(119, y + 40, second, "small middle")
        result = d.box(290, y, 180, 52, "trained", "", round_by=4)
        d.text(380, y + 22, answer, "small middle")
        d.text(380, y + 40, more, "small middle")
        d.arrow(question.right, result.left, "yes")
        d.arrow(question.bottom, (119, y + 84))
        d.text(127, y + 72, "no", "small soft")
    d.box(12, 348, 458, 52, "trained", "", round_by=4)
    d.text(241, 370, "LoRA first. Then full fine-tuning, if the memory allows it:", "small middle")
    d.text(241, 388, "is it clearly better, with three seeds? (04)", "small middle")
    d.text(240, 424, "in brackets: the lessons", "small soft middle")
    d.legend(450, ("plain", "question"), ("trained", "method"))
    return d


DIAGRAMS = {"21_decision": decision}
