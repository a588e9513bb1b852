"""The trainer of students: the one loop, with a step whose loss is a sum of terms (`terms.py`), each over its own count."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from distill.compression.compress import Compressor
from distill.losses.states import ForwardStates, forward_with_states
from distill.losses.terms import BatchView, LossTerm
from distill.teacher.teacher import Teacher
from training.data.batching import Batch
from training.loop.step import LoopSettings, Objective, Trainer


class Answers(Protocol):
    """A teacher, or a cache of its answers."""

    def answers(self, batch: Batch, first: ForwardStates | None = None) -> Tensor: ...


class Distiller(nn.Module):
    """A student with what only the run needs: projections to the teacher's width. The teacher's weights are no part of it.

    projections: holds each projection that a term uses, or ValueError: outside, it would stay where the draw put it.
    teacher: asked for states. answers: asked for logits; the teacher too, or a cache of its answers. `hidden`, `attention`: what
    both passes must show.
    """

    teacher: Teacher | None
    answers: Answers | None

    def __init__(
        self,
        student: Any,
        projections: nn.ModuleDict,
        terms: Sequence[LossTerm],
        teacher: Teacher | None,
        answers: Answers | None,
        hidden: bool = False,
        attention: bool = False,
    ):
        super().__init__()
        self.student, self.projections, self.terms = student, projections, list(terms)
        self.teacher, self.answers = teacher, answers  # neither is a Module, so nothing of them is trained or saved
        self.asks = any(term.asks for term in self.terms)
        self.teacher_seconds = 0.0
        """spent on the teacher since the start; on a GPU only what it takes to ask"""
        known = set(projections.children())
        lost = [key for term in self.terms for key, layer in term.learned.items() if layer not in known]
        if lost:
            raise ValueError(f"projections lack {lost}, which a term uses and which would not learn: hand in what made the terms")
        self.shows = {"hidden": hidden, "attention": attention}
        if (hidden or attention) and teacher is None:
            raise ValueError("losses on hidden states need the teacher itself: its cache holds answers only")
        if self.asks and answers is None:
            raise ValueError("a loss on logits needs a teacher, or a cache of its answers")

    def sums(self, batch: Batch, progress: float) -> dict[str, Tensor]:
        """The summed values of every term on one micro-batch."""
        student_pass, teacher_pass, soft = forward_with_states(self.student, batch, **self.shows), None, None
        started = time.perf_counter()
        if any(self.shows.values()) and self.teacher is not None:
            teacher_pass = self.teacher.see(batch, **self.shows)
        if self.answers is not None and self.asks:
            soft = self.answers.answers(batch, teacher_pass)
        self.teacher_seconds += time.perf_counter() - started
        view = BatchView(batch, student_pass, teacher_pass, soft, progress)
        return {term.name: term.total(view) for term in self.terms}


class DistillSteps(Trainer):
    """The loop's trainer for a Distiller. A row also has `loss/TERM` and `weight/TERM` of every term.

    compressor: what makes the student smaller between the steps.
    """

    nothing_to_learn = "nothing to learn from in the batch of step {step}: no term has an answer in it"

    def __init__(
        self,
        distiller: Distiller,
        data: Iterator[list[Batch]],
        settings: LoopSettings,
        compressor: Compressor | None = None,
        **options: Any,
    ):
        self.distiller, self.compressor = distiller, compressor
        if compressor is not None:
            options["after_step"] = compressor.after
        objective = Objective(_no_sum, lambda batch: len(batch["input_ids"]))
        super().__init__(distiller, data, objective, settings, **options)

    def parts(self) -> dict[str, Any]:
        first = {} if self.compressor is None else {"compressor": self.compressor}  # it brings the weights to their shape
        return first | super().parts()

    def counts(self, batches: list[Batch]) -> list[float]:
        self.asked = self.distiller.teacher_seconds
        return [sum(map(term.count, batches)) for term in self.distiller.terms]

    def loss_names(self) -> list[str]:
        return [term.name for term in self.distiller.terms]

    def term_weights(self, step: int) -> list[float]:
        """The weight of each term at this step."""
        return [term.weight(self.progress_at(step)) for term in self.distiller.terms]

    def progress_at(self, step: int) -> float:
        """0 at the first step, 1 at the last."""
        return (step - 1) / max(self.settings.steps - 1, 1)

    def losses(self, batch: Batch, counts: list[float], step: int) -> tuple[Tensor, dict[str, float]]:
        """The weighted sum of the terms, each divided by its own count.

        In the first step the terms without a weight take part too, with zeros. So it finds what none of them will ever reach,
        and a step whose rows have nothing to give (a weight at the end of its way, labels in no row) changes nothing.
        """
        weighted = zip(self.distiller.terms, self.term_weights(step), counts, strict=True)
        scales = {term.name: weight / count if count else 0.0 for term, weight, count in weighted}
        sums = self.distiller.sums(batch, self.progress_at(step))
        whole = step == 1 or not any(scales.values())
        parts = [scales[name] * value for name, value in sums.items() if whole or scales[name]]
        return sum(parts[1:], parts[0]), {name: float(value.detach()) for name, value in sums.items()}

    def loss_row(self, totals: dict[str, float], counts: list[float], step: int) -> dict[str, Any]:
        weights = dict(zip(self.loss_names(), self.term_weights(step), strict=True))
        losses = {name: totals[name] / n for name, n in zip(self.loss_names(), counts, strict=True) if n}
        row = {"loss": float(sum(weights[name] * loss for name, loss in losses.items()))}
        row["teacher_seconds"] = self.distiller.teacher_seconds - self.asked
        row |= {f"loss/{name}": value for name, value in losses.items()}
        return row | {f"weight/{name}": weight for name, weight in weights.items()}


def total_loss(distiller: Distiller, batch: Batch) -> Tensor:
    """The weighted sum of all terms on one batch, summed over its rows: what a cut must not raise."""
    sums = distiller.sums(batch, 0.5)
    scales = {term.name: term.weight(0.5) * len(batch["input_ids"]) / max(term.count(batch), 1) for term in distiller.terms}
    return torch.stack([scales[name] * value for name, value in sums.items()]).sum()


def unreached(distiller: Distiller, batch: Batch) -> list[str]:
    """Names of the student's parameters that no term's gradient reaches: those above the hidden states that are compared.

    The gradients, the mode and the random generator are left as they were.
    """
    distiller.zero_grad()
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        values = distiller.sums(batch, 0.5)
        sum(values.values()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    names = [name for name, p in distiller.named_parameters() if p.requires_grad and p.grad is None]
    distiller.zero_grad()
    return names


def _no_sum(model: nn.Module, batch: Batch) -> Tensor:
    raise RuntimeError("a distilling step has sums of its own")
