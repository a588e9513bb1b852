"""Diagrams of lesson 18: hidden states of two widths give relation matrices of the same size."""

from tutorials.drawing.svg import Drawing

TEACHER = ((0.9, 0.3, 0.1, 0.1), (0.3, 0.9, 0.1, 0.1), (0.1, 0.1, 0.9, 0.6), (0.1, 0.1, 0.6, 0.9))
STUDENT = ((0.9, 0.1, 0.4, 0.1), (0.1, 0.9, 0.2, 0.3), (0.4, 0.2, 0.9, 0.1), (0.1, 0.3, 0.1, 0.9))


def _relation_matrix(d: Drawing, x: float, y: float, kind: str, values: tuple[tuple[float, ...], ...], name: str) -> None:
    """Four by four squares: the larger a square, the more similar are the two tokens."""
    d.box(x, y, 80, 80, "plain", "", round_by=2)
    for i, line in enumerate(values):
        for j, value in enumerate(line):
            side = 18 * value
            d.box(x + 20 * j + 10 - side / 2, y + 20 * i + 10 - side / 2, side, side, kind, "", round_by=1)
    d.text(x + 40, y + 98, name, "small middle")


def relations() -> Drawing:
    d = Drawing(
        "Hidden states of the teacher are T times 64, those of the student T times 32. The hidden loss needs a trained "
        "projection W. The relation matrices of both are T times T and can be compared without a projection. Only the "
        "student and W receive gradients.",
        352,
    )
    teacher = d.matrix(12, 26, 144, 76, "frozen", "teacher", "T × 64")
    student = d.matrix(12, 208, 72, 72, "trained", "student", "")
    d.arrow(teacher.right, (252, 64), "X Xᵀ, softmax")
    d.arrow(student.right, (252, 244))
    d.text(168, 264, "X Xᵀ, softmax", "small middle soft")
    _relation_matrix(d, 254, 24, "frozen", TEACHER, "R: T × T")
    _relation_matrix(d, 254, 206, "trained", STUDENT, "R: T × T")
    hidden = d.box(12, 138, 96, 32, "plain", "hidden loss")
    d.arrow((48, 122), (48, 138))
    d.arrow((48, 208), (48, 170))
    d.text(56, 196, "W: 64 × 32", "small word trained")
    d.box(376, 134, 92, 50, "plain", "relations", "KL")
    d.arrow((334, 64), (412, 134))
    d.arrow((334, 246), (412, 184))
    d.line((446, 184), (446, 314), (48, 314), kind="gradient", dashed=True)
    d.arrow((48, 314), (48, 281), kind="gradient", dashed=True)
    d.text(390, 308, "gradient", "small middle word gradient")
    d.line(hidden.right, (148, 154), (148, 224), kind="gradient", dashed=True)
    d.arrow((148, 224), (84, 224), kind="gradient", dashed=True)
    d.text(90, 240, "T × 32", "small soft")
    d.text(154, 178, "gradient", "small word gradient")
    d.legend(344, ("frozen", "teacher, frozen"), ("trained", "student and W, trained"))
    return d


DIAGRAMS = {"18_relations": relations}
