"""Tiny teachers and students of every kind of task, with encoded rows of unequal lengths, and the Distiller of both."""

import random

import multi
import tiny
import torch
from transformers import BertForQuestionAnswering, BertForSequenceClassification, BertForTokenClassification

from distill.losses.loss_specs import needs_teacher, read_losses
from distill.losses.losses import LOSSES
from distill.losses.terms import LABELLED, make_projections, make_terms, needs
from distill.runs.trainer import Distiller, DistillSteps
from distill.teacher.teacher import Teacher
from distill.teacher.teacher_cache import with_keys
from training.data.batching import batches
from training.loop import loop

TOKENIZER = multi.TOKENIZER
SPECS = {spec.kind: spec for spec in multi.TASKS.values()}
HEADS = {"tagging": BertForTokenClassification, "qa": BertForQuestionAnswering}
KINDS = (*SPECS, "generation")
BETWEEN = {name: f"{name}:0->0,1->2" for name in ("hidden", "cosine", "patient", "transfer")}
BETWEEN |= {name: f"{name}:1->2,2->1" for name in ("scores", "attention", "values")} | {"relations": "relations:1->2,heads=2"}
SOFT = {name: f"{name}:a=1" if name == "mse" else f"{name}:T=2,a=1" for name in LOSSES}
WORDS = SOFT | BETWEEN | {"hard": "hard"}


def fits(name: str, kind: str) -> bool:
    """Whether a loss has a meaning for a kind of task."""
    return name not in LOSSES or name in {"regression": ("mse",), "multilabel": ("kd", "mse")}.get(kind, tuple(LOSSES))


def model(kind: str, seed: int = 0, dtype=torch.float64, dropout: float = 0.0, **changes):
    """A tiny BERT with the kind's head, or GPT-2; weights large enough for a test to see."""
    if kind == "generation":
        made = tiny.gpt2(seed)
    else:
        config = tiny.bert(seed, labels=len(SPECS[kind].labels) or 2).config
        config.hidden_dropout_prob = dropout
        for name, value in changes.items():
            setattr(config, name, value)
        torch.manual_seed(seed)
        made = HEADS.get(kind, BertForSequenceClassification)(config)
    generator = torch.Generator().manual_seed(seed)
    for p in made.parameters():
        p.data.add_(0.1 * torch.randn(p.shape, generator=generator))
    return made.to(dtype).eval()


def features(kind: str, count: int = 16, labelled: int | None = None, seed: int = 0) -> list[dict]:
    """Rows of 3 to 12 tokens with keys; the first `labelled` have their labels."""
    if kind == "generation":
        rng, rows = random.Random(seed), []
        for _ in range(count):
            n = rng.randint(3, 12)
            ids = [rng.randrange(1, 40) for _ in range(n)]
            start = rng.randrange(1, n)
            rows.append({"input_ids": ids, "attention_mask": [1] * n, "labels": [-100] * start + ids[start:]})
    else:
        spec = SPECS[kind]
        rows = multi.features({spec.name: spec}, count, seed)[spec.name]
    known = count if labelled is None else labelled
    return with_keys([row | {LABELLED: int(i < known)} for i, row in enumerate(rows)])


def window(rows: list[dict], batch_size: int) -> list[dict]:
    """All rows as one step's micro-batches."""
    return list(batches(rows, TOKENIZER, batch_size))


def distiller(words, kind: str, student, teacher, answers=None, causal: bool | None = None) -> Distiller:
    read = read_losses([words] if isinstance(words, str) else words)
    models = teacher if isinstance(teacher, list) else [teacher]
    projections = make_projections(read, student.config.hidden_size, models[0].config.hidden_size, 0).double()
    terms = make_terms(read, kind, projections, kind == "generation" if causal is None else causal)
    asked = Teacher(models, kind)
    answers = answers or asked if needs_teacher(read) else None
    return Distiller(student, projections, terms, asked, answers, **needs(read))


def freeze_unreached(one: Distiller, rows: list[dict]) -> None:
    """What the command does for losses on hidden states alone."""
    from distill.runs.trainer import unreached

    for name in unreached(one, window(rows, 4)[0]):
        one.get_parameter(name).requires_grad_(False)


def backward(one: Distiller, rows: list[dict], batch_size: int, step: int = 1, steps: int = 10) -> tuple[dict, dict]:
    """A step's row, and its gradients, not clipped."""
    one.zero_grad()
    settings = loop.LoopSettings(steps=steps, max_grad_norm=1e9)
    row = DistillSteps(one, iter([]), settings).step(step, window(rows, batch_size), update=False)
    return row, {n: p.grad.clone() for n, p in one.named_parameters() if p.grad is not None}
