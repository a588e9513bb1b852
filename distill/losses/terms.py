"""A run's losses as terms: each a weight that may move, a count of answers or tokens, and a sum over them.

    step's loss = Σ_term weight(progress) · Σ values / count        both sums over all micro-batches of all processes

So a token counts as much as any other, wherever it stands, and padding not at all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from distill.losses import features, relations
from distill.losses.loss_specs import ATTENTION, HARD, OPTIONS, STATES, LossSpec
from distill.losses.losses import LOSSES, binary_soft_targets
from distill.losses.states import VECTORS, ForwardStates, answer_logits, answers_in
from training.data.batching import Batch
from training.data.ignored import IGNORE
from training.evaluation import metrics

LABELLED = "labelled"
"""of a row in a batch: 1 where its label may be learnt, 0 where only the teacher's answer is"""


@dataclass(frozen=True)
class BatchView:
    """Both models' passes over one batch, and how far the run is. `soft`: the teacher's answers (N, C)."""

    batch: Batch
    student: ForwardStates
    teacher: ForwardStates | None
    soft: Tensor | None
    progress: float


@dataclass(frozen=True)
class LossTerm:
    name: str
    weight: Callable[[float], float]
    count: Callable[[Batch], int]
    total: Callable[[BatchView], Tensor]
    asks: bool = False
    """whether it needs the teacher's answers"""
    learned: Mapping[str, nn.Module] = field(default_factory=dict)
    """the projections that it passes the student's hidden states through, by key: they must learn with the student"""


def make_terms(specs: Sequence[LossSpec], kind: str, projections: nn.ModuleDict, causal: bool) -> list[LossTerm]:
    """The terms of a run on one kind of task. `projections` holds what `make_projections` made."""
    terms = []
    for spec in specs:
        if spec.name == HARD:
            terms.append(_hard(kind, lambda progress, w=spec: w.number("w", progress)))
        elif spec.name in LOSSES:
            terms.append(_soft(spec, kind))
            if spec.numbers.get("a", (0.0, 0.0)) != (1.0, 1.0):
                terms.append(_hard(kind, lambda progress, w=spec: 1 - w.number("a", progress)))
        else:
            terms.append(_between_layers(spec, projections, causal))
    return terms


def needs(specs: Sequence[LossSpec]) -> dict[str, bool]:
    """What the passes must show: {hidden, attention}."""
    return {name: any(spec.name in kinds for spec in specs) for name, kinds in (("hidden", STATES), ("attention", ATTENTION))}


def labelled_only(kind: str, batch: Batch) -> Batch:
    """The batch with the labels of unlabelled examples taken away."""
    if LABELLED not in batch:
        return batch
    hidden = batch[LABELLED] == 0
    names = ("start_positions", "end_positions") if kind == "qa" else ("labels",)
    if kind in ("regression", "multilabel"):  # their labels are numbers: no number means none
        return {name: value[~hidden] if len(value) == len(hidden) else value for name, value in batch.items()}
    blank = lambda v: v.masked_fill(hidden.view(-1, *[1] * (v.ndim - 1)), IGNORE)  # noqa: E731
    return batch | {name: blank(batch[name]) for name in names}


def _hard(kind: str, weight: Callable[[float], float]) -> LossTerm:
    def count(batch: Batch) -> int:
        batch = labelled_only(kind, batch)
        if kind == "classification":
            return int((batch["labels"] != IGNORE).sum())
        return metrics.answer_count(kind, batch)

    def total(view: BatchView) -> Tensor:
        out, batch = view.student.out, labelled_only(kind, view.batch)
        if kind in ("regression", "multilabel") and LABELLED in view.batch:
            out = type(out)(logits=out.logits[view.batch[LABELLED] != 0])
        return metrics.loss_sum(kind, out, batch)

    return LossTerm(HARD, weight, count, total)


def _soft(spec: LossSpec, kind: str) -> LossTerm:
    extra = [name for name in OPTIONS[spec.name] if name not in ("T", "a") and name in spec.numbers]

    def total(view: BatchView) -> Tensor:
        assert view.soft is not None
        student, soft = common_vocabulary(kind, answer_logits(kind, view.student.out, view.batch), view.soft)
        options = {name: spec.number(name, view.progress) for name in extra}
        temperature = spec.number("T", view.progress)
        return soft_sum(kind, spec.name, student, soft, temperature, **options)

    def count(batch: Batch) -> int:
        return sum(answers_in(kind, batch))

    fits = {"regression": ("mse",), "multilabel": ("kd", "mse")}.get(kind)
    if fits and spec.name not in fits:
        wanted = " or ".join(fits)
        raise ValueError(f"loss {spec.text!r}: a task of {kind} has no distribution over classes; take {wanted}")
    return LossTerm(spec.name, lambda progress: spec.number("a", progress), count, total, asks=True)


def common_vocabulary(kind: str, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Logits over words, both cut to the smaller table: one tokenizer, whose table was padded to two sizes."""
    size = min(student.shape[-1], teacher.shape[-1])
    return (student[..., :size], teacher[..., :size]) if kind in ("generation", "text") else (student, teacher)


def soft_sum(kind: str, name: str, student: Tensor, teacher: Tensor, temperature: float, **options: float) -> Tensor:
    """A loss on logits (N, C), summed over the answers. A row of yes-or-no questions has the mean, as its hard loss.

    mse has no temperature: the run's own is for its other losses.
    """
    if kind == "multilabel" and name == "kd":
        return binary_soft_targets(student, teacher, temperature).sum() / student.shape[-1]
    return LOSSES[name](student, teacher, 1.0 if name == "mse" else temperature, **options).sum()


def _between_layers(spec: LossSpec, projections: nn.ModuleDict, causal: bool) -> LossTerm:
    def total(view: BatchView) -> Tensor:
        assert view.teacher is not None
        return torch.stack([_one_pair(spec, pair, view, projections, causal) for pair in spec.pairs]).sum()

    by_row = spec.name in ("patient", "transfer")
    count = (lambda batch: len(batch["input_ids"])) if by_row else (lambda batch: int(batch["attention_mask"].sum()))
    keys = (projection_key(spec.name, pair) for pair in spec.pairs)
    learned = {key: projections[key] for key in keys if key in projections}
    return LossTerm(spec.text, lambda progress: spec.number("w", progress), count, total, learned=learned)


def _one_pair(spec: LossSpec, pair: tuple[int, int], view: BatchView, projections: nn.ModuleDict, causal: bool) -> Tensor:
    """The summed loss between one layer of the student and one of the teacher."""
    teacher, mask = view.teacher, view.student.mask
    assert teacher is not None
    if spec.name in STATES:
        student_states, teacher_states = view.student.hidden[pair[0]], teacher.hidden[pair[1]]
        if spec.name == "transfer":
            return relations.attention_transfer(student_states, teacher_states, mask).sum()
        key = projection_key(spec.name, pair)
        student_states = projections[key](student_states) if key in projections else student_states
        if spec.name == "patient":
            last = mask.cumsum(1).argmax(1) if causal else None  # of a decoder the first token has seen nothing of the text
            return features.patient(student_states, teacher_states, mask, last).sum()
        values = {"hidden": features.hidden_mse, "cosine": features.cosine}[spec.name](student_states, teacher_states)
        return values.masked_fill(mask == 0, 0).sum()
    student_states, teacher_states = view.student.attentions[pair[0] - 1], teacher.attentions[pair[1] - 1]
    if spec.name == "relations":
        heads = int(spec.number("heads", 0)) if "heads" in spec.numbers else teacher_states.query.shape[1]
        parts = [relations.relations(student_states.joined(v), teacher_states.joined(v), mask, heads, causal) for v in VECTORS]
        return torch.stack(parts).sum()
    if spec.name == "values":
        return relations.value_relation(student_states.value, teacher_states.value, mask, causal).sum()
    loss = {"scores": relations.attention_scores_mse, "attention": relations.attention_kl}[spec.name]
    return loss(student_states.scores(), teacher_states.scores(), mask, causal).sum()


def make_projections(specs: Sequence[LossSpec], student_width: int, teacher_width: int, seed: int) -> nn.ModuleDict:
    """A learned matrix without bias for each pair of hidden states whose widths differ (TinyBERT's W_h, one for each pair).

    It starts with orthonormal columns or rows, so that it keeps lengths; it belongs to the run, not to the student.
    """
    projections = nn.ModuleDict()
    if student_width == teacher_width:
        return projections
    generator = torch.Generator().manual_seed(seed)
    for spec in specs:
        for pair in spec.pairs if spec.name in ("hidden", "cosine", "patient") else ():
            layer = nn.Linear(student_width, teacher_width, bias=False)
            nn.init.orthogonal_(layer.weight, generator=generator)
            projections[projection_key(spec.name, pair)] = layer
    return projections


def projection_key(name: str, pair: tuple[int, int]) -> str:
    return f"{name} {pair[0]} to {pair[1]}"
