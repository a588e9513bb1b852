"""A run's losses as terms: each a weight that may move, a count of answers or tokens, and a sum over them.

    step's loss = Σ_term weight(progress) · Σ values / count        both sums over all micro-batches of all processes

So a token counts as much as any other, wherever it stands, and padding not at all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from distill.losses import features, relations
from distill.losses.loss_words import ATTENTION, HARD, STATES, LossWord
from distill.losses.losses import LOSSES, binary_soft_targets
from distill.losses.states import VECTORS, Seen, answer_logits, answers_in
from training.data.batching import Batch
from training.data.ignored import IGNORE
from training.evaluation import metrics

LABELLED = "labelled"
"""of a row in a batch: 1 where its label may be learnt, 0 where only the teacher's answer is"""


@dataclass(frozen=True)
class Sight:
    """Both models' passes over one batch, and how far the run is. `soft`: the teacher's answers (N, C)."""

    batch: Batch
    student: Seen
    teacher: Seen | None
    soft: Tensor | None
    progress: float


@dataclass(frozen=True)
class Term:
    name: str
    weight: Callable[[float], float]
    count: Callable[[Batch], int]
    total: Callable[[Sight], Tensor]
    asks: bool = False
    """whether it needs the teacher's answers"""
    learned: Mapping[str, nn.Module] = field(default_factory=dict)
    """the projections that it passes the student's states through, by key: they must learn with the student"""


def make_terms(words: Sequence[LossWord], kind: str, projections: nn.ModuleDict, causal: bool) -> list[Term]:
    """The terms of a run on one kind of task. `projections` holds what `make_projections` made."""
    terms = []
    for word in words:
        if word.name == HARD:
            terms.append(_hard(kind, lambda progress, w=word: w.number("w", progress)))
        elif word.name in LOSSES:
            terms.append(_soft(word, kind))
            if word.numbers.get("a", (0.0, 0.0)) != (1.0, 1.0):
                terms.append(_hard(kind, lambda progress, w=word: 1 - w.number("a", progress)))
        else:
            terms.append(_between_layers(word, projections, causal))
    return terms


def needs(words: Sequence[LossWord]) -> dict[str, bool]:
    """What the passes must show: {hidden, attention}."""
    return {name: any(word.name in kinds for word in words) for name, kinds in (("hidden", STATES), ("attention", ATTENTION))}


def labelled_only(kind: str, batch: Batch) -> Batch:
    """The batch with the labels of unlabelled rows taken away."""
    if LABELLED not in batch:
        return batch
    hidden = batch[LABELLED] == 0
    names = ("start_positions", "end_positions") if kind == "qa" else ("labels",)
    if kind in ("regression", "multilabel"):  # their labels are numbers: no number means none
        return {name: value[~hidden] if len(value) == len(hidden) else value for name, value in batch.items()}
    blank = lambda v: v.masked_fill(hidden.view(-1, *[1] * (v.ndim - 1)), IGNORE)  # noqa: E731
    return batch | {name: blank(batch[name]) for name in names}


def _hard(kind: str, weight: Callable[[float], float]) -> Term:
    def count(batch: Batch) -> int:
        batch = labelled_only(kind, batch)
        if kind == "classification":
            return int((batch["labels"] != IGNORE).sum())
        return metrics.answer_count(kind, batch)

    def total(sight: Sight) -> Tensor:
        out, batch = sight.student.out, labelled_only(kind, sight.batch)
        if kind in ("regression", "multilabel") and LABELLED in sight.batch:
            out = type(out)(logits=out.logits[sight.batch[LABELLED] != 0])
        return metrics.loss_sum(kind, out, batch)

    return Term(HARD, weight, count, total)


def _soft(word: LossWord, kind: str) -> Term:
    extra = [name for name in ("beta", "alpha") if name in word.numbers]

    def total(sight: Sight) -> Tensor:
        assert sight.soft is not None
        student, soft = common_words(kind, answer_logits(kind, sight.student.out, sight.batch), sight.soft)
        options = {name: word.number(name, sight.progress) for name in extra}
        temperature = word.number("T", sight.progress)
        return soft_sum(kind, word.name, student, soft, temperature, **options)

    def count(batch: Batch) -> int:
        return sum(answers_in(kind, batch))

    fits = {"regression": ("mse",), "multilabel": ("kd", "mse")}.get(kind)
    if fits and word.name not in fits:
        wanted = " or ".join(fits)
        raise ValueError(f"loss {word.text!r}: a task of {kind} has no distribution over classes; take {wanted}")
    return Term(word.name, lambda progress: word.number("a", progress), count, total, asks=True)


def common_words(kind: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Logits over words, both cut to the smaller table: one tokenizer, whose table was padded to two sizes."""
    words = min(student.shape[-1], teacher.shape[-1])
    return (student[..., :words], teacher[..., :words]) if kind in ("generation", "text") else (student, teacher)


def soft_sum(kind: str, name: str, student: Tensor, teacher: Tensor, temperature: float, **options: float) -> Tensor:
    """A loss on logits (N, C), summed over the answers. A row of yes-or-no questions has the mean, as its hard loss.

    mse has no temperature: the run's own is for its other losses.
    """
    if kind == "multilabel" and name == "kd":
        return binary_soft_targets(student, teacher, temperature).sum() / student.shape[-1]
    return LOSSES[name](student, teacher, 1.0 if name == "mse" else temperature, **options).sum()


def _between_layers(word: LossWord, projections: nn.ModuleDict, causal: bool) -> Term:
    def total(sight: Sight) -> Tensor:
        assert sight.teacher is not None
        return torch.stack([_one_pair(word, pair, sight, projections, causal) for pair in word.pairs]).sum()

    by_row = word.name in ("patient", "transfer")
    count = (lambda batch: len(batch["input_ids"])) if by_row else (lambda batch: int(batch["attention_mask"].sum()))
    keys = (projection_key(word.name, pair) for pair in word.pairs)
    learned = {key: projections[key] for key in keys if key in projections}
    return Term(word.text, lambda progress: word.number("w", progress), count, total, learned=learned)


def _one_pair(word: LossWord, pair: tuple[int, int], sight: Sight, projections: nn.ModuleDict, causal: bool) -> Tensor:
    """The summed loss between one layer of the student and one of the teacher."""
    teacher, mask = sight.teacher, sight.student.mask
    assert teacher is not None
    if word.name in STATES:
        mine, its = sight.student.hidden[pair[0]], teacher.hidden[pair[1]]
        if word.name == "transfer":
            return relations.attention_transfer(mine, its, mask).sum()
        key = projection_key(word.name, pair)
        mine = projections[key](mine) if key in projections else mine
        if word.name == "patient":
            last = mask.cumsum(1).argmax(1) if causal else None  # of a decoder the first token has seen nothing of the text
            return features.patient(mine, its, mask, last).sum()
        values = {"hidden": features.hidden_mse, "cosine": features.cosine}[word.name](mine, its)
        return values.masked_fill(mask == 0, 0).sum()
    mine, its = sight.student.heard[pair[0] - 1], teacher.heard[pair[1] - 1]
    if word.name == "relations":
        heads = int(word.number("heads", 0)) if "heads" in word.numbers else its.query.shape[1]
        parts = [relations.relations(mine.joined(v), its.joined(v), mask, heads, causal) for v in VECTORS]
        return torch.stack(parts).sum()
    if word.name == "values":
        return relations.value_relation(mine.value, its.value, mask, causal).sum()
    loss = {"scores": relations.attention_scores_mse, "attention": relations.attention_kl}[word.name]
    return loss(mine.scores(), its.scores(), mask, causal).sum()


def make_projections(words: Sequence[LossWord], student_width: int, teacher_width: int, seed: int) -> nn.ModuleDict:
    """A learned matrix without bias for each pair of hidden states whose widths differ (TinyBERT's W_h, one for each pair).

    It starts with orthonormal columns or rows, so that it keeps lengths; it belongs to the run, not to the student.
    """
    found = nn.ModuleDict()
    if student_width == teacher_width:
        return found
    generator = torch.Generator().manual_seed(seed)
    for word in words:
        for pair in word.pairs if word.name in ("hidden", "cosine", "patient") else ():
            layer = nn.Linear(student_width, teacher_width, bias=False)
            nn.init.orthogonal_(layer.weight, generator=generator)
            found[projection_key(word.name, pair)] = layer
    return found


def projection_key(name: str, pair: tuple[int, int]) -> str:
    return f"{name} {pair[0]} to {pair[1]}"
