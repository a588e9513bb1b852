"""Diagrams of lesson 13: what a prompt and a prefix put where, and which tokens may read which."""

from tutorials.drawing.svg import Drawing

WORDS = ("Ann", "has", "tea")


def two_methods() -> Drawing:
    d = Drawing(
        "Two layers, read upwards. Prompt tuning trains two vectors before the embeddings of the text. "
        "Prefix tuning trains two keys and two values before those of the text, in each layer.",
        330,
    )
    for left, title in ((8, "prompt tuning"), (248, "prefix tuning")):
        d.text(left + 108, 24, title, "bold middle")
        is_prompt = left == 8
        for y, name in ((40, "layer 2"), (136, "layer 1")):
            d.box(left, y, 224, 76, "plain", "", round_by=8)
            d.text(left + 8, y + 18, name, "small soft")
            d.text(left + 216, y + 18, "keys and values", "small soft end")
            kind = "frozen" if is_prompt else "trained"
            cells = [("", kind), ("", kind), *(("", "frozen") for _ in WORDS)]
            d.row(left + 8, y + 30, cells, width=41, height=28)
        d.arrow((left + 150, 136), (left + 150, 116))
        d.arrow((left + 150, 246), (left + 150, 212))
        cells = [("", "trained"), ("", "trained")] if is_prompt else []
        cells += [(word, "data") for word in WORDS]
        d.row(left + 8 + (0 if is_prompt else 82), 248, cells, width=41, height=28)
    d.text(16, 294, "input: 2 vectors and 3 words", "small soft")
    d.text(256, 294, "input: 3 words", "small soft")
    d.legend(320, ("trained", "trained"), ("frozen", "computed by frozen weights"), ("data", "text"))
    return d


def mask() -> Drawing:
    d = Drawing(
        "Who reads whom, with two virtual tokens as a prefix. In a decoder each word reads both, itself and earlier words. "
        "In an encoder each word reads everything.",
        250,
    )
    for left, title, causal in ((70, "decoder", True), (312, "encoder", False)):
        d.text(left + 75, 24, title, "bold middle")
        for j, key in enumerate(("p1", "p2", *WORDS)):
            d.text(left + 30 * j + 15, 52, key if j < 2 else key[:3], "small middle" + (" word trained" if j < 2 else ""))
        for i, query in enumerate(WORDS):
            d.text(left - 8, 84 + 32 * i, query, "small end")
            for j in range(5):
                reads = j < 2 or not causal or j - 2 <= i
                d.box(left + 30 * j, 62 + 32 * i, 28, 30, ("trained" if j < 2 else "data") if reads else "plain", "", round_by=2)
    d.text(240, 188, "row: the token that reads; column: the key that is read", "small soft middle")
    d.text(240, 208, "virtual tokens have no row: a prefix adds no token to the text", "small soft middle")
    d.legend(236, ("trained", "reads a virtual token"), ("data", "reads a word"), ("plain", "must not read"))
    return d


DIAGRAMS = {"13_two_methods": two_methods, "13_mask": mask}
