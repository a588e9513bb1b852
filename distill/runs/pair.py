"""Teacher and student of one run: loaded, made, and checked to belong together."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from adapters.virtual.prefix_hooks import has_causal_attention
from distill.runs.settings import DistillSettings
from distill.student.copy_spec import PREFIX, read_copy
from distill.student.student import copy_student
from distill.student.student_files import CARD
from distill.teacher.teacher import Teacher
from training.data.tasks import TaskSpec, find_task
from training.models.base_models import Base, Source, load_base
from training.models.methods import apply_method
from training.models.trained import Trained, load_trained


@dataclass(frozen=True)
class Pair:
    """Teacher and student, ready."""

    spec: TaskSpec
    trained: Trained
    teacher: Teacher
    student: Base
    causal: bool


def build_pair(settings: DistillSettings) -> Pair:
    """Load the teachers, and make or load the student. ValueError for models that do not go together."""
    if not settings.teacher.strip(",") or not settings.student:
        raise ValueError("a distillation needs --teacher FOLDER, and --student copy:LAYERS, a folder or a name")
    teachers = [_load_teacher(where) for where in settings.teacher.split(",") if where]
    first = teachers[0]
    spec = find_task(settings.task or first.spec.name)
    for trained in teachers:
        if (trained.spec.kind, trained.spec.labels) != (spec.kind, spec.labels):
            raise ValueError(
                f"a teacher for {trained.spec.name} ({trained.spec.kind}, {len(trained.spec.labels)} labels) cannot teach "
                f"{spec.name} ({spec.kind}, {len(spec.labels)} labels)"
            )
        if trained.base.tokenizer.get_vocab() != first.base.tokenizer.get_vocab():
            raise ValueError("the teachers have different tokenizers: they cannot answer about the same tokens")
    if spec.kind != "generation" and (settings.targets == "teacher" or settings.on_policy or settings.score_texts):
        raise ValueError(
            f"targets, on_policy and score_texts are for tasks that write texts, and {spec.name} is a task of {spec.kind}"
        )
    student = build_student(settings, spec, first)
    teacher = Teacher([trained.base.model for trained in teachers], spec.kind, settings.teacher_dropout)
    return Pair(spec, first, teacher, student, any(has_causal_attention(base.model) for base in (first.base, student)))


def _load_teacher(where: str) -> Trained:
    if (Path(where) / CARD).exists():
        raise ValueError(f"teacher {where!r} is a compressed student ({CARD}): teach with the run before it was compressed")
    return load_trained(where)


def build_student(settings: DistillSettings, spec: TaskSpec, first: Trained) -> Base:
    """A copy of parts of the first teacher, or a model from a folder or the Hub with the task's head."""
    if settings.student.startswith(PREFIX):
        if first.method not in ("full", "untouched"):
            raise ValueError(
                f"student {settings.student!r}: the teacher is a base with {first.method}; copy needs a model whose weights are "
                "its own (method full, or an adapter merged with `python -m loralib merge`)"
            )
        model: Any = copy_student(first.base.model, read_copy(settings.student))
        if settings.random_weights:
            with torch.random.fork_rng([]):
                torch.manual_seed(settings.seed)
                model = type(model)(model.config)
        return Base(model.requires_grad_(True), first.base.tokenizer, (), replace(first.base.source, four_bit=False))
    if (Path(settings.student) / CARD).exists():  # transformers would read int8 numbers as they are, without their scales
        raise ValueError(f"student {settings.student!r} is compressed ({CARD}), so it cannot be trained: take the run before it")
    base = load_base(spec, Source(settings.student, settings.seed, settings.random_weights))
    apply_method(settings.method, base, spec, None, settings.seed)
    return base
