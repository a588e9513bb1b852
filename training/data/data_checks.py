"""Does the data fit the task? Every column, type, label and answer is looked at before any work is done.

Errors name the file (or Hub name), the split, the row (counted from 0), what was found and what was expected.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from datasets import Dataset

from training.data.tasks import TaskSpec

EVALUATED = ("validation", "validation_matched", "test")


def check_splits(data: Mapping[str, Dataset], spec: TaskSpec, where: str) -> None:
    """ValueError for the first thing that does not fit `spec`. Splits that are never used may hold what they like."""
    if "train" not in data:
        raise ValueError(f"{where}: only {sorted(data)}; there must be a split named train")
    used = ["train", *(name for name in EVALUATED if name in data)][:2]
    if len(used) < 2:
        raise ValueError(f"{where}: only {sorted(data)}; there must be a split to evaluate on, one of {', '.join(EVALUATED)}")
    for split in used:
        check_rows(data[split], spec, f"{where} {split}")


def check_rows(rows: Dataset, spec: TaskSpec, where: str) -> None:
    """ValueError for the first thing in these rows that does not fit `spec`."""
    absent = [c for c in spec.columns if c not in rows.column_names]
    if absent:
        raise ValueError(f"{where}: columns {absent} are missing, found {rows.column_names} (task {spec.name})")
    if len(rows) == 0:
        raise ValueError(f"{where}: no rows")
    columns = {name: rows[name][:] for name in spec.columns}
    for name, values in columns.items():
        empty = [i for i, value in enumerate(values) if value is None or value != value]
        if empty:
            raise ValueError(f"{where}: {len(empty)} of {len(rows)} rows have no {name}, the first is row {empty[0]}")
    for name in spec.inputs:
        _each(columns[name], INPUTS.get(spec.kind, _text), f"{where}: {name}")
    check = ANSWERS[spec.kind]
    _each(zip(*(columns[c] for c in spec.columns), strict=True), lambda row: check(spec, *row), f"{where}: {spec.target}")


def _each(values: Iterable[Any], problem: Callable[[Any], str | None], where: str) -> None:
    for i, value in enumerate(values):
        message = problem(value)
        if message:
            raise ValueError(f"{where} of row {i} {message}")


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) else f"is {_shown(value)}, expected a text"


def _words(value: Any) -> str | None:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        return f"is {_shown(value)}, expected a list of words"
    return None if value else "is an empty list, expected at least one word"


def _text_or_chat(value: Any) -> str | None:
    if isinstance(value, str):
        return None
    if (
        isinstance(value, list)
        and value
        and all(isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value)
    ):
        return None
    return f"is {_shown(value)}, expected a text, or a list of messages {{role, content}} with texts in them"


def _label(spec: TaskSpec, *row: Any) -> str | None:
    value, last = row[-1], len(spec.labels) - 1
    if not _is_whole(value):
        return f"is {_shown(value)}, expected a whole number from 0 to {last} ({', '.join(spec.labels)})"
    return None if 0 <= value <= last else f"is {value}, expected 0 to {last} ({', '.join(spec.labels)})"


def _number(spec: TaskSpec, *row: Any) -> str | None:
    value = row[-1]
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return None if good else f"is {_shown(value)}, expected a finite number"


def _labels(spec: TaskSpec, *row: Any) -> str | None:
    value = row[-1]
    good = isinstance(value, list) and len(value) == len(spec.labels) and all(v in (0, 1) for v in value)
    return None if good else f"is {_shown(value)}, expected {len(spec.labels)} numbers, 1 for each label that holds and 0 else"


def _tags(spec: TaskSpec, tokens: list, tags: Any) -> str | None:
    if not isinstance(tags, list) or not all(map(_is_whole, tags)):
        return f"is {_shown(tags)}, expected a list of whole numbers"
    if len(tags) != len(tokens):
        return f"has {len(tags)} tags for {len(tokens)} words"
    wrong = [t for t in tags if not 0 <= t < len(spec.labels)]
    return f"has the tag {wrong[0]}, expected 0 to {len(spec.labels) - 1} ({', '.join(spec.labels)})" if wrong else None


def _answers(spec: TaskSpec, *row: Any) -> str | None:
    answers, context = row[-1], row[spec.inputs.index("context")]
    if not isinstance(answers, dict) or not {"text", "answer_start"} <= set(answers):
        return f"is {_shown(answers)}, expected {{'text': [...], 'answer_start': [...]}}"
    texts, starts = answers["text"], answers["answer_start"]
    if not isinstance(texts, list) or not isinstance(starts, list) or not texts or len(texts) != len(starts):
        return f"is {_shown(answers)}, expected lists of as many texts as starts, and at least one"
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not _is_whole(start) or start < 0:
            return f"is {_shown(answers)}, expected texts, and whole numbers from 0 where they start"
        if not text or context[start : start + len(text)] != text:
            return f"says {text!r} stands at character {start} of the context, where there is {context[start : start + 20]!r}"
    return None


def _completion(spec: TaskSpec, prompt: Any, completion: Any) -> str | None:
    problem = _text_or_chat(completion)
    if problem:
        return problem
    if isinstance(prompt, str) != isinstance(completion, str):
        return "is a text where the prompt is a list of messages, or the other way round: expected two of a kind"
    return None if completion else "is empty: nothing to learn"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


INPUTS = {"tagging": _words, "generation": _text_or_chat}
ANSWERS: dict[str, Callable[..., str | None]] = {
    "classification": _label,
    "regression": _number,
    "multilabel": _labels,
    "tagging": _tags,
    "qa": _answers,
    "generation": _completion,
    "text": lambda spec, text: None,
}
