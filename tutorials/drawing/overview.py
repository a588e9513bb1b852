"""The map of all methods: where in a Transformer layer each of them acts."""

from tutorials.drawing.svg import Drawing


def methods() -> Drawing:
    d = Drawing("Where each method acts: at the input, in attention, next to weights, after a part, or as a head.", 452)
    left, width = 30, 190
    prompt = d.box(left, 404, width, 34, "frozen", "embeddings")
    attention = d.box(left, 300, width, 62, "frozen", "attention", "W_q, W_k, W_v, W_o")
    feed = d.box(left, 170, width, 62, "frozen", "feed-forward", "W_up, W_down")
    adapter = d.box(left + 45, 108, 100, 32, "trained", "bottleneck")
    head = d.box(left, 34, width, 36, "trained", "head of the task")
    for start, end in ((prompt, attention), (attention, feed), (feed, adapter), (adapter, head)):
        d.arrow(start.top, end.bottom)
    notes = (
        (421, "prompt tuning", "virtual tokens at the input"),
        (345, "prefix tuning", "virtual keys and values"),
        (293, "LoRA, DoRA, PiSSA, VeRA", "an update next to a weight"),
        (241, "QLoRA", "the same, the weight in 4 bits"),
        (189, "(IA)³", "a factor for each output"),
        (124, "adapters, AdapterFusion", "a small network after a part"),
        (52, "multitask", "one body, a head per task"),
    )
    places = (prompt, attention, attention, feed, feed, adapter, head)
    for (y, name, what), place in zip(notes, places, strict=True):
        d.text(266, y, name, "bold word trained")
        d.text(266, y + 17, what, "small soft")
        d.line((260, y - 4), (place.right[0] + 4, place.right[1]), dashed=True)
    d.legend(20, ("frozen", "frozen"), ("trained", "trained"))
    return d


DIAGRAMS = {"overview_methods": methods}
