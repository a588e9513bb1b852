"""What a run read: the examples of each split, how many were cut or left out, and how many have each label.

A wrong file, a split that holds one class, or texts that are longer than the model's window show here at a glance.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from training.data.encoding import Encoded
from training.data.ignored import IGNORE
from training.data.labels import are_names
from training.data.tasks import TaskSpec
from training.reports.records import markdown_table

MOST_LABELS = 20
"""a confusion matrix of more labels is no help to a reader"""


def counts_of(spec: TaskSpec, rows: int, encoded: Encoded, skipped: int = 0) -> dict[str, Any]:
    """{examples, truncated, skipped, labels} of one split. `rows`: in the file; `skipped`: without an answer that is left."""
    return {"examples": rows, "truncated": encoded.truncated, "skipped": skipped, "labels": labels_in(spec, encoded.features)}


def labels_in(spec: TaskSpec, features: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many answers have each label, in the task's order; {} where answers have no labels."""
    if spec.kind == "classification":
        numbers = Counter(feature["labels"] for feature in features)
    elif spec.kind == "tagging":
        numbers = Counter(label for feature in features for label in feature["labels"] if label != IGNORE)
    elif spec.kind == "multilabel":
        numbers = Counter(i for feature in features for i, holds in enumerate(feature["labels"]) if holds)
    else:
        return {}
    return {name: numbers.get(i, 0) for i, name in enumerate(spec.labels)}


def counts_table(splits: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each split, Markdown."""
    header = ("split", "examples", "cut to the window", "left out", "labels")
    lines = []
    for name, counts in splits.items():
        numbers = (f"{counts[key]:,}" for key in ("examples", "truncated", "skipped"))
        lines.append((name, *numbers, _labels(counts["labels"])))
    return markdown_table(header, lines)


def _labels(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def confusion(spec: TaskSpec, guesses: Sequence[int], features: Sequence[Mapping[str, Any]]) -> list[list[int]] | None:
    """[truth][guess] counts of a classification; None for other tasks and for more than MOST_LABELS labels."""
    count = len(spec.labels)
    if spec.kind != "classification" or count > MOST_LABELS:
        return None
    pairs = Counter(zip((feature["labels"] for feature in features), guesses, strict=True))
    return [[pairs.get((truth, guess), 0) for guess in range(count)] for truth in range(count)]


def confusion_table(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Rows: the true label; columns: what the model said. Markdown."""
    names = [name if are_names([name]) else f"label {name}" for name in labels]
    lines = [(f"is {name}", *(f"{count:,}" for count in row)) for name, row in zip(names, counts, strict=True)]
    return markdown_table(("", *(f"said {name}" for name in names)), lines)
