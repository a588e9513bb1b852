"""Diagrams of lesson 00: how a story of the small world is made, and where its ceiling comes from."""

from tutorials.drawing.svg import Drawing


def story() -> Drawing:
    d = Drawing(
        "A hidden topic shows in three events, a hidden polarity in five clauses; some of them mislead. All become one story.",
        322,
    )
    topic = d.box(40, 40, 150, 46, "trained", "topic: food")
    mood = d.box(290, 40, 150, 46, "trained", "polarity: good")
    d.text(240, 24, "hidden: the model has to guess these", "small soft middle")
    events = d.row(20, 130, [("food", "data"), ("sport", "wrong"), ("food", "data")], width=62, height=34)
    clauses = d.row(255, 130, [("good", "data"), ("bad", "wrong")] + [("good", "data")] * 3, width=42, height=34)
    for box in events:
        d.arrow(topic.bottom, box.top)
    for box in clauses:
        d.arrow(mood.bottom, box.top)
    d.bracket(20, 206, 170, "3 events, right with RHO")
    d.bracket(255, 465, 170, "5 clauses, right with Q")
    text = d.box(60, 230, 360, 44, "plain", "all sentences, shuffled: the story")
    d.arrow((113, 202), (160, text.y))
    d.arrow((360, 202), (320, text.y))
    d.legend(304, ("trained", "hidden cause"), ("data", "shows it"), ("wrong", "misleads"))
    return d


def ceiling() -> Drawing:
    d = Drawing(
        "A score lies between chance and the ceiling. Below the ceiling a model can learn more. Far above it there is a bug.",
        150,
    )
    y = 62
    d.line((30, y), (450, y))
    for x, words in ((30, "0"), (115, "chance"), (390, "ceiling"), (450, "1")):
        d.line((x, y - 7), (x, y + 7))
        d.text(x, y + 26, words, "small middle")
    d.box(115, y - 34, 275, 22, "data", "", round_by=3)
    d.text(252, y - 18, "a model can learn this part", "small middle")
    d.box(390, y - 34, 60, 22, "wrong", "", round_by=3)
    d.text(420, y - 18, "a bug", "small middle")
    d.text(240, y + 58, "Far above it is a bug. On real data nobody knows the ceiling.", "small soft middle")
    return d


DIAGRAMS = {"00_story": story, "00_ceiling": ceiling}
