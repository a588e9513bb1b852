"""Diagrams of lesson 17: a teacher and a student, and who receives gradients."""

from tutorials.drawing.svg import Drawing


def distillation() -> Drawing:
    d = Drawing(
        "A text goes to the frozen teacher and to the student. The loss compares their probabilities. The gradient goes from "
        "the loss back to the student only.",
        252,
    )
    text = d.box(10, 96, 68, 46, "data", "text", "no label")
    teacher = d.box(116, 16, 120, 84, "frozen", "teacher", "large, frozen")
    student = d.box(116, 158, 120, 48, "trained", "student", "small")
    d.arrow((text.right[0], 112), (teacher.left[0], 70))
    d.arrow((text.right[0], 126), (student.left[0], 172))
    loss = d.box(398, 92, 74, 54, "plain", "loss", "T² KL")
    d.arrow(teacher.right, (266, 58))
    d.arrow(student.right, (266, 182))
    for y, heights, name in ((30, (40, 13, 3), "p: soft labels"), (154, (30, 18, 8), "q")):
        for i, height in enumerate(heights):
            d.box(272 + 24 * i, y + 44 - height, 20, height, "data", "", round_by=1)
        d.text(306, y + 62, name, "small soft middle")
    d.arrow((352, 62), (loss.left[0], 108))
    d.arrow((352, 178), (loss.left[0], 130))
    d.line((435, 146), (435, 226), (176, 226), kind="gradient", dashed=True)
    d.arrow((176, 226), student.bottom, kind="gradient", dashed=True)
    d.text(306, 242, "gradient: only to the student", "small middle word gradient")
    return d


DIAGRAMS = {"17_distillation": distillation}
