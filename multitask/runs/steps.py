"""The step of multitask training on the one loop: the sum over tasks, or gradients of each task and a method that joins them."""

from collections.abc import Container
from typing import Any

from torch import Tensor, distributed, nn

from adapters.fusion.fusion import fusion_penalty
from multitask.balancing.balancing import Balancing
from multitask.balancing.task_gradients import add_gradients, gram, no_gradients, set_gradients
from multitask.data.mixed_batches import MixedBatch, tasks_in
from multitask.model.multitask_model import MultitaskModel
from multitask.model.task_heads import Answer
from training.data.batching import Batch
from training.evaluation import metrics
from training.loop import processes
from training.loop.checks import assert_finite
from training.loop.step import Objective, Trainer


class Learner(nn.Module):
    """A model and the method that weighs its tasks; what the loop trains."""

    model: MultitaskModel
    balancing: Balancing

    def __init__(self, model: MultitaskModel, balancing: Balancing):
        super().__init__()
        self.model, self.balancing = model, balancing
        self.step_losses: dict[int, float] = {}
        """of the present step: the sum of what each task's batches gave, which is its mean loss once all have run"""
        self.shares: dict[int, float] = {}
        """of the present step: each task's share of the rows"""

    def losses(self, batch: MixedBatch) -> dict[int, tuple[Tensor, float, float]]:
        """{task number: (its mean loss over the step, this batch's part of it; the part of its answers; its share of rows)}."""
        losses = {}
        for task, (answer, rows) in self.model.forward_mixed(batch).items():
            k, kind = self.model.number(task), self.model.tasks[task].kind
            count, share = max(int(batch[f"{k}.count"]), 1), float(batch[f"{k}.share"])
            loss = self.mean_loss(k, answer, rows, batch, count)
            self.step_losses[k], self.shares[k] = self.step_losses.get(k, 0.0) + float(loss.detach()), share
            losses[k] = loss, metrics.answer_count(kind, rows) / count, share
        return losses

    def mean_loss(self, k: int, answer: Answer, rows: dict[str, Tensor], batch: MixedBatch, count: int) -> Tensor:
        """This batch's part of the mean loss of task number `k` over the step's `count` answers.

        rows: its labels, ids and mask; batch: all that was read.
        """
        return metrics.loss_sum(self.model.tasks[self.model.names[k]].kind, answer, rows) / count

    def total(self, batch: MixedBatch) -> Tensor:
        """Σ share · static · term over the tasks of this batch; once a step also what pulls a fusion's values to the identity."""
        terms = [
            share * self.balancing.static[k] * self.balancing.term(k, loss, part)
            for k, (loss, part, share) in self.losses(batch).items()
        ]
        total = sum(terms[1:], terms[0])
        pull = fusion_penalty(self.model.backbone) if batch["leads"] else 0.0
        return total + pull if isinstance(pull, Tensor) else total

    def weight(self, k: int) -> float:
        return self.balancing.static[k] * self.balancing.weight(k)


def _total(learner: Any, batch: MixedBatch) -> Tensor:
    return learner.total(batch)


OBJECTIVE = Objective(_total, lambda batch: int(batch["leads"]))
"""The losses are means over the whole step already, so the step counts as one answer."""


class MultitaskSteps(Trainer):
    """The loop's trainer for a Learner. A row also has `loss/TASK` and `weight/TASK` of the tasks in the step."""

    def __init__(self, learner: Learner, *args: Any, **options: Any):
        self.learner = learner
        super().__init__(learner, *args, **options)
        model, self.shared = learner.model, list(learner.model.shared_parameters().values())
        self.joins_gradients = learner.balancing.looks_at_gradients
        if self.joins_gradients:
            if not self.shared:
                raise ValueError("the tasks share no parameter that trains: there are no gradients to join")
            if self.accelerator.scaler is not None:
                raise ValueError("methods that look at gradients cannot run in fp16, whose loss is scaled: use bf16 or no")
        ids = {id(p) for p in self.shared}
        self.own = [p for p in model.parameters() if p.requires_grad and id(p) not in ids]

    def groups(self) -> list[dict[str, Any]]:
        """The method's own parameters learn at their own rate, without decay."""
        groups, rate = super().groups(), self.learner.balancing.learning_rate
        if rate is None:
            return groups
        own_parameters = list(self.learner.balancing.parameters())
        other_groups = [{**g, "params": [p for p in g["params"] if all(p is not q for q in own_parameters)]} for g in groups]
        return [*(g for g in other_groups if g["params"]), {"params": own_parameters, "lr": rate, "weight_decay": 0.0}]

    def parts(self) -> dict[str, Any]:
        return super().parts() | {"balancing": self.learner.balancing}

    def without_gradient(self, batches: list[Batch]) -> Container[str]:
        present = {self.learner.model.names[k] for batch in batches for k in tasks_in(batch)}
        return {f"model.{name}" for name in self.learner.model.without_gradient(present)}

    def counts(self, batches: list[Batch]) -> list[float]:
        self.learner.step_losses, self.learner.shares = {}, {}
        if self.joins_gradients:
            self.J, self.reached = no_gradients(len(self.learner.model.names), self.shared), set()
            return [1.0]
        return super().counts(batches)

    def losses(self, batch: Batch, counts: list[float], step: int) -> tuple[Any, dict[str, Any]]:
        if not self.joins_gradients:
            return super().losses(batch, counts, step)
        static, losses = self.learner.balancing.static, self.learner.losses(batch)
        return {k: share * static[k] * loss for k, (loss, _, share) in losses.items()}, {"loss": 0.0}

    def backward(self, loss: Any) -> None:
        """Gradient methods: one gradient for each task in J, and the heads' own gradients."""
        if not self.joins_gradients:
            super().backward(loss)
            return
        weights = {k: self.learner.balancing.weight(k) for k in loss}
        self.reached |= add_gradients(self.J, loss, self.shared, self.own, weights)

    def loss_row(self, totals: dict[str, float], counts: list[float], step: int) -> dict[str, Any]:
        names, losses = self.learner.model.names, self._over_ranks(self.learner.step_losses)
        if self.joins_gradients:
            totals, weights = self._join_gradients(losses, step)
        else:
            weights = {k: self.learner.weight(k) for k in losses}
        row = totals | {f"loss/{names[k]}": loss for k, loss in losses.items()}
        row |= {f"weight/{names[k]}": weight for k, weight in weights.items()}
        self.learner.balancing.after(losses)
        return row

    def sum_gradients(self) -> None:
        """The joined gradient is the same in all processes already."""
        processes.sum_gradients(self.own if self.joins_gradients else self.parameters, self.accelerator)

    def _over_ranks(self, values: dict[int, float], mean: bool = False) -> dict[int, float]:
        """The sum (or mean) over the ranks that have a value, for each task of the step."""
        count = len(self.learner.model.names)
        sums = processes.total([values.get(k, 0.0) for k in range(count)], self.accelerator)
        ranks = processes.total([k in values for k in range(count)], self.accelerator)
        return {k: sums[k] / (ranks[k] if mean else 1) for k in range(count) if ranks[k]}

    def _join_gradients(self, losses: dict[int, float], step: int) -> tuple[dict[str, float], dict[int, float]]:
        """Put the joined gradient of all tasks into the shared parameters; ({loss}, the weight of each task)."""
        learner, names, J = self.learner, self.learner.model.names, self.J
        if self.accelerator.num_processes > 1:
            distributed.all_reduce(J)
        shares, tasks = self._over_ranks(learner.shares, mean=True), sorted(losses)
        for k in tasks:
            assert_finite(losses[k], step, f"loss of {names[k]}")
        last = J[tasks][:, self._last()]
        solved = learner.balancing.solve(gram(J[tasks]), gram(last), tasks, losses, step)
        set_gradients(solved.to(J) @ J[tasks], self.shared)
        if step == 1:
            for place in set(range(len(self.shared))) - self.reached:
                self.shared[place].grad = None
        weights = {k: float(w) * learner.balancing.static[k] for k, w in zip(tasks, solved, strict=True)}
        return {"loss": sum(weights[k] * losses[k] * share for k, share in shares.items())}, weights

    def _last(self) -> slice:
        """Where the last shared matrix lies in J."""
        start, last = 0, slice(0, 0)
        for p in self.shared:
            if p.ndim > 1:
                last = slice(start, start + p.numel())
            start += p.numel()
        return last
