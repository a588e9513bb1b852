"""Diagrams of lesson 04: the three matrix multiplications of a step, and memory as blocks."""

from tutorials.drawing.svg import Drawing


def matmuls() -> Drawing:
    d = Drawing(
        "A training step has three matrix multiplications per layer. LoRA needs the forward one and dx, and saves only dW.", 236
    )
    names = (("forward", "y = x Wᵀ"), ("backward: input", "dx = dy W"), ("backward: weight", "dW = dyᵀ x"))
    for row, (title, lora) in enumerate((("full fine-tuning", False), ("LoRA", True))):
        y = 40 + 92 * row
        d.text(14, y - 8, title, "bold")
        for i, (name, formula) in enumerate(names):
            skipped = lora and i == 2
            kind = "plain" if skipped else ("data" if i == 0 else "gradient")
            d.box(14 + 154 * i, y, 144, 52, kind, "not needed" if skipped else formula, name)
    d.text(14, 224, "W is frozen, so its gradient is not needed.", "small soft")
    return d


def memory() -> Drawing:
    d = Drawing(
        "Memory of full fine-tuning and of LoRA: LoRA needs almost no gradients and optimizer state; activations stay.", 236
    )
    blocks = (
        ("weights", "4 B", "frozen", 78),
        ("gradients", "4 B", "gradient", 78),
        ("Adam", "8 B", "trained", 156),
        ("activations", "", "data", 104),
    )
    x = 56.0
    d.text(240, 24, "LoRA: almost no gradients, almost no Adam", "bold middle")
    d.text(8, 66, "full", "small bold")
    for name, size, kind, width in blocks:
        d.box(x, 40, width, 46, kind if kind != "frozen" else "trained", *((name, size) if size else (name,)))
        x += width
    d.text(8, 146, "LoRA", "small bold")
    d.box(56, 120, 78, 46, "frozen", "weights", "4 B")
    d.box(134, 120, 6, 46, "trained", "", round_by=1)
    d.box(140, 120, 6, 46, "gradient", "", round_by=1)
    d.box(146, 120, 10, 46, "trained", "", round_by=1)
    d.box(156, 120, 104, 46, "data", "activations")
    d.text(270, 140, "A and B, their gradients,", "small soft")
    d.text(270, 156, "and their Adam: very little", "small soft")
    d.text(240, 190, "bytes per parameter of the model;", "small soft middle")
    d.text(240, 207, "the activations depend on the batch", "small soft middle")
    d.legend(228, ("trained", "trained"), ("frozen", "frozen"), ("gradient", "gradients"), ("data", "activations"))
    return d


DIAGRAMS = {"04_matmuls": matmuls, "04_memory": memory}
