"""Diagrams of lesson 19: two directions of KL as bumps, and the choices of the grammar."""

from math import exp

from tutorials.drawing.svg import Drawing


def _curve(d: Drawing, left: float, floor: float, bumps: tuple[tuple[float, float, float], ...], kind: str) -> None:
    """A line over 200 units of width: the sum of bumps (middle, width, height)."""
    points = []
    for x in range(0, 201, 4):
        y = sum(height * exp(-((x - middle) ** 2) / (2 * width**2)) for middle, width, height in bumps)
        points.append((left + x, round(floor - y, 1)))
    d.line(*points, kind=kind)


def two_bumps() -> Drawing:
    d = Drawing(
        "The teacher's distribution has two bumps. The student has only one bump. With forward KL it is wide and covers both "
        "bumps and the gap between them. With reverse KL it is narrow and covers only the larger bump.",
        224,
    )
    teacher = ((52, 13, 92), (142, 13, 62))
    panels = (
        (20, "forward KL: KL(p ‖ q)", ((88, 48, 42),), "wide: some probability", "in the gap, on wrong tokens"),
        (260, "reverse KL: KL(q ‖ p)", ((52, 13, 124),), "narrow: no wrong tokens,", "but the other bump is lost"),
    )
    for left, title, student, first, second in panels:
        d.text(left + 100, 24, title, "middle bold")
        _curve(d, left, 158, teacher, "frozen")
        _curve(d, left, 158, student, "trained")
        d.line((left, 158), (left + 200, 158))
        d.text(left + 100, 178, first, "small soft middle")
        d.text(left + 100, 195, second, "small soft middle")
    d.legend(216, ("frozen", "teacher p"), ("trained", "student q, one bump"))
    return d


def choices() -> Drawing:
    d = Drawing(
        "Five independent choices of the grammar: the place last or first, two sentences about the friend, eight adjectives, two "
        "sentences about the day, and the order of the last two sentences.",
        206,
    )
    columns = (
        ("place", ("last", "first"), (0.6, 0.4)),
        ("friend", ("X was there too", "then N met X"), (0.7, 0.3)),
        ("adjective", ("bad", "gloomy", "... 8 words"), (0.125, 0.125, 0.125)),
        ("day", ("it was a W day", "the day was W"), (0.7, 0.3)),
        ("order", ("friend, day", "day, friend"), (0.5, 0.5)),
    )
    widths, left = (56, 116, 84, 104, 84), 8
    for (name, options, chances), width in zip(columns, widths, strict=True):
        d.text(left + width / 2, 24, name, "small middle soft")
        for i, (words, chance) in enumerate(zip(options, chances, strict=True)):
            y = 38 + 44 * i + (0 if len(options) == 3 else 22)
            d.box(left, y, width, 34, "data", "", round_by=4)
            d.text(left + width / 2, y + 15, words, "small middle")
            d.text(left + width / 2, y + 29, f"{chance:g}" if "..." not in words else "0.125 each", "small middle soft")
        left += width + 5
    d.text(240, 194, "the five choices are independent: multiply their probabilities", "small middle")
    return d


DIAGRAMS = {"19_two_bumps": two_bumps, "19_choices": choices}
