"""Many students of one teacher in one table: quality, similarity, calibration, size, operations and time, over paired seeds.

A way to make a student is written as its losses, and what else differs from the settings that all share:

    hard transfer=0                     the labels alone
    kd:T=2,a=0.9 transfer=0             the same rows, with the teacher's answers
    kd:T=2,a=1 student=copy:1           further rows without labels, another student

Seeds are paired: seed i draws the same rows, the same order and the same new weights for every way. The first way is the one that
the others are judged against, by the rule of `training.reports.paired`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from distill.runs.pair import build_pair
from distill.runs.run import check_pair, run_distillation
from distill.runs.settings import DistillSettings
from distill.student.cost import answering_seconds, operations
from distill.student.student_files import load_student
from training.data.batching import Batch
from training.data.tasks import find_task
from training.models.base_models import window
from training.models.trained import load_trained
from training.reports.paired import clearly_better
from training.runs.run_folder import TRAINED

ROWS, LENGTH = 64, 64
LOWER_IS_BETTER = ("loss", "kl_to_truth", "kl_to_teacher", "ece", "rmse_to_teacher")
OPTIONS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "student": ("student", str),
    "transfer": ("transfer_rows", int),
    "targets": ("targets", str),
    "on_policy": ("on_policy", float),
    "heads": ("keep_heads", float),
    "units": ("keep_units", float),
    "zeros": ("zeros", float),
    "bits": ("bits", str),
    "steps": ("steps", int),
    "rate": ("learning_rate", float),
}
"""what may differ between ways: its short name, the setting, and how to read it"""


@dataclass(frozen=True)
class Way:
    """One row of the table: its results, seed by seed, and what its first student costs."""

    text: str
    results: list[dict]
    folders: list[Path]

    def values(self, name: str) -> list[float] | None:
        """A number of every seed; None where this task has none of that name."""
        return [r[name] for r in self.results] if name in self.results[0] else None


def settings_of(way: str, base: DistillSettings) -> DistillSettings:
    """The settings of one way. ValueError for a word that is neither a loss nor NAME=VALUE of those that may differ."""
    changes, losses = {}, []
    for word in way.split():
        name, equals, value = word.partition("=")
        if equals and ":" not in name:
            if name not in OPTIONS:
                raise ValueError(f"way {way!r}: {name!r}; expected losses, and {', '.join(f'{n}=' for n in OPTIONS)}")
            setting, read = OPTIONS[name]
            try:
                changes[setting] = read(value)
            except ValueError:
                raise ValueError(f"way {way!r}: {word!r}, expected a number") from None
        else:
            losses.append(word)
    if not losses:
        raise ValueError(f"way {way!r} has no loss, such as hard or kd:T=2,a=0.9")
    return replace(base, losses=tuple(losses), **changes)


def compare(ways: Sequence[str], base: DistillSettings, seeds: int, out: Path, say: Callable[[str], None]) -> list[Way]:
    """Run every way with every seed; finished runs are read from disk unless base.restart. Wrong settings are reported first."""
    for way in ways:
        settings = settings_of(way, base)
        check_pair(settings, build_pair(settings))
    ways_run = [Way(way, [], []) for way in ways]
    for seed in range(base.seed, base.seed + seeds):
        for way in ways_run:
            where = out / f"seed-{seed}" / folder_name(way.text)
            settings = replace(settings_of(way.text, base), seed=seed, out=str(where))
            way.results.append(run_distillation(settings))
            way.folders.append(where)
            result = way.results[-1]
            say(f"seed {seed}: {way.text}: {result['metric_name']} {result['metric']:.4f}")
    return ways_run


def folder_name(way: str) -> str:
    """The way as the name of a folder."""
    return "".join(c if c.isalnum() or c in "=.-" else "_" for c in way.replace("->", "-"))


def verdict(way: Way, first: Way, name: str) -> str:
    """`better`, `worse` or "" against the first way; one seed decides nothing."""
    values, reference = way.values(name), first.values(name)
    if way is first or values is None or reference is None or len(values) < 2:
        return ""
    up = find_task(way.results[0]["task"]).higher_is_better if name == "metric" else name not in LOWER_IS_BETTER
    return "better" if clearly_better(values, reference, up) else "worse" if clearly_better(reference, values, up) else ""


def costs(ways: Sequence[Way], teacher: str, batch_size: int = ROWS, length: int = LENGTH) -> dict[str, dict]:
    """{label: {operations, seconds of every round}} of the teacher and of each way's first student, in turn on one batch.

    teacher: as in the settings; of several the first. The batch's texts are shorter where a model reads fewer tokens.
    """
    bases = {"teacher": load_trained(next(where for where in teacher.split(",") if where)).base}
    bases |= {way.text: load_student(way.folders[0] / TRAINED).base for way in ways}
    models = {name: base.model.eval() for name, base in bases.items()}
    length = min(length, *(window(base.model, base.tokenizer) for base in bases.values()))
    batch = batch_of(batch_size, length, min(model.config.vocab_size for model in models.values()))
    times = answering_seconds(models, batch)
    return {
        name: {"operations": operations(model, batch), "seconds": times[name], "tokens": [batch_size, length]}
        for name, model in models.items()
    }


def batch_of(rows: int, length: int, words: int) -> Batch:
    """A full batch without padding."""
    ids = torch.arange(rows * length).view(rows, length) % (words - 1) + 1
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
