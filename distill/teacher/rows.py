"""The rows of a distillation: some with labels, some for the teacher alone; encoded for the student, and for the teacher if it
reads other tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from distill.losses.terms import LABELLED
from distill.teacher.teacher import PREFIX
from distill.teacher.teacher_cache import with_keys
from training.data.data import evaluation_split, load_task, some_rows
from training.data.encoding import encode, has_answer
from training.data.tasks import TaskSpec, is_world
from training.data.world_tasks import WORLD_TASKS
from training.evaluation.evaluation import HeldOut
from training.reports.read_counts import counts_of, labels_in

PROBE = "The café's 3 dogs didn't bark -- Why not?"
BY_ROW = ("classification", "regression", "multilabel")


@dataclass(frozen=True)
class Rows:
    """`train`: features with `labelled` 0 or 1 and a key; `held_out`: as the student reads it."""

    train: list[dict]
    held_out: HeldOut
    teachers: list[dict]
    """the features of the held-out examples, as the teacher reads them"""
    labelled: int
    unlabelled: int
    truncated: int


def load_rows(
    spec: TaskSpec,
    data_dir: str | None,
    seed: int,
    sizes: tuple[int | None, int],
    eval_rows: int | None,
    student: tuple[Any, int],
    teacher: tuple[Any, int],
    rewrite: Callable[[Dataset], Dataset] = lambda rows: rows,
    asks_teacher: bool = True,
) -> Rows:
    """sizes: (rows with labels or None for all, further ones without); student, teacher: (tokenizer, most tokens).

    rewrite: gives training examples other answers, such as the teacher's texts. asks_teacher: whether a loss compares with it.

    ValueError for data that does not fit the task, and where the two tokenizers differ and a loss compares token by token.
    """
    if sizes[1] and spec.kind == "text":
        raise ValueError("transfer_rows: plain text has no labels to leave out; give all of it as train_rows")
    same = same_tokens(student[0], teacher[0])
    by_token = spec.kind not in BY_ROW
    if not same and by_token and asks_teacher:
        raise ValueError(
            f"teacher and student have different tokenizers, and {spec.name} has an answer for every token: expected one "
            f"tokenizer, or a task of {', '.join(BY_ROW)}, or no other loss than hard (with targets=teacher the student learns "
            "texts that the teacher wrote)"
        )
    train, rows, labelled = _splits(spec, data_dir, seed, sizes, eval_rows)
    train = rewrite(train)
    limit = min(student[1], teacher[1]) if same else student[1]  # one batch for both must fit into both
    features, encoded, truncated = _features(train, rows, spec, student[0], limit)
    counts = {"examples": len(train), "truncated": truncated, "skipped": 0, "labels": labels_in(spec, features)}
    features = [f | {LABELLED: int(i < labelled or not sizes[1])} for i, f in enumerate(features)]
    teachers = encoded.features
    if not same:
        teacher_tokenizer_features, encoded_theirs, _ = _features(train, rows, spec, *teacher)
        if asks_teacher:
            own = [{PREFIX + k: v for k, v in f.items() if k != "labels"} for f in teacher_tokenizer_features]
            features = [
                student_features | teacher_features for student_features, teacher_features in zip(features, own, strict=True)
            ]
        teachers = encoded_theirs.features
    features = [f for f in features if f[LABELLED] == 0 or has_answer(f)]
    if not features:
        raise ValueError(f"task {spec.name!r}: no row has an answer within {limit} tokens: raise max_length")
    known = sum(f[LABELLED] for f in features)
    read = {"train": counts | {"skipped": max(0, len(train) - len(features))}, "evaluated": counts_of(spec, len(rows), encoded)}
    return Rows(with_keys(features), HeldOut(spec, rows, encoded, read), teachers, known, len(features) - known, truncated)


def same_tokens(a: Any, b: Any) -> bool:
    """Whether two tokenizers give the same ids: the same vocabulary, and one probe."""
    return a is b or (a.get_vocab() == b.get_vocab() and a(PROBE)["input_ids"] == b(PROBE)["input_ids"])


def _splits(spec: TaskSpec, data_dir: str | None, seed: int, sizes, eval_rows: int | None) -> tuple[Dataset, Dataset, int]:
    """Training examples, those with labels first; held-out examples; how many have labels."""
    labelled, more = sizes
    if labelled is None and more:
        if not is_world(spec.name) or data_dir is not None:
            raise ValueError("transfer_rows are those behind the labelled ones: give train_rows too")
        labelled = WORLD_TASKS[spec.name].train_rows
    data = load_task(spec, data_dir, seed, None if labelled is None else labelled + more)
    train = data["train"]
    if labelled is not None and more and len(train) <= labelled:
        raise ValueError(
            f"train_rows={labelled}, transfer_rows={more}: the task has {len(train)} training examples: none is left"
        )
    held_out = some_rows(data[evaluation_split(data, spec, data_dir)], eval_rows, spec, data_dir)
    return train, held_out, len(train) if labelled is None else labelled


def _features(train: Dataset, rows: Dataset, spec: TaskSpec, tokenizer: Any, limit: int):
    encoded, held_out = encode(train[:], spec, tokenizer, limit), encode(rows[:], spec, tokenizer, limit)
    return encoded.features, held_out, encoded.truncated
