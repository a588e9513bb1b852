"""One step of training, and what it changes: the model, the optimizer, the schedule.

The loss of a step is the sum over all micro-batches of all processes, divided by the number of scored tokens (or answers) in
them. So accumulation and the number of processes change memory and speed, and nothing else.

`Trainer.step` is the whole step, in order. Trainers with other losses (several tasks, distillation) replace single parts of it:
`counts`, `losses`, `backward`, `loss_row`, `sum_gradients`.
"""

import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from loralib.files.save_and_load import refuse_meta
from training.data.batching import Batch
from training.loop import processes
from training.loop.adamw8bit import AdamW8bit
from training.loop.checkpoint import TrainableWeights, save_checkpoint
from training.loop.checks import assert_all_got_gradients, assert_finite, trainable_parameters
from training.loop.costs import Costs
from training.loop.parameter_groups import parameter_groups
from training.loop.progress import Progress
from training.loop.schedules import make_schedule

OPTIMIZERS = {
    "adamw": torch.optim.AdamW,
    "adamw_fused": partial(torch.optim.AdamW, fused=True),
    "adamw8bit": AdamW8bit,
    "paged_adamw8bit": partial(AdamW8bit, paged=True),
}


@dataclass(frozen=True)
class Objective:
    """What is learnt: a summed loss, and how many answers the sum runs over."""

    loss_sum: Callable[[nn.Module, Batch], Tensor]
    count: Callable[[Batch], int]


@dataclass(frozen=True)
class LoopSettings:
    """How to step; what to learn comes in as data and a loss."""

    steps: int = 300
    learning_rate: float = 5e-4
    schedule: str = "linear"
    warmup_share: float = 0.06
    weight_decay: float = 0.0
    """of matrices; biases, norms and other vectors have none, as in BERT's recipe"""
    max_grad_norm: float = 1.0
    eval_every: int = 100
    save_every: int = 100
    watch: str = "eval_loss"
    """the evaluation's number that decides which weights are best"""
    higher_is_better: bool = False
    patience: int | None = None
    """stop after so many evaluations in a row without a better one; None never"""
    keep: Literal["last", "best"] = "last"
    """the weights that the model has in the end"""
    lora_plus_ratio: float | None = None
    """LoRA+: the learning rate of B divided by that of the other parameters"""
    optimizer: str = "adamw"
    needed: tuple[str, ...] | None = None
    """modules that must get gradients; None: all that is trainable (`checks.assert_all_got_gradients`)"""


class Trainer:
    """One run: what changes from step to step, so that it can be saved and put back.

    after_step: called after each update with the step and the optimizer, for what changes the model between steps.
    """

    nothing_to_learn = "no answer to learn from in the batch of step {step}: all its labels are -100"

    def __init__(
        self,
        model: nn.Module,
        data: Iterator[list[Batch]],
        objective: Objective,
        settings: LoopSettings,
        accelerator: Accelerator | None = None,
        checkpoint: Path | None = None,
        before_save: Callable[[], None] = lambda: None,
        after_step: Callable[[int, torch.optim.Optimizer], None] = lambda step, optimizer: None,
    ):
        self.accelerator = accelerator or processes.make_accelerator()
        self.model, self.data, self.objective, self.settings = model, data, objective, settings
        self.checkpoint, self.before_save, self.after_step = checkpoint, before_save, after_step
        refuse_meta(model)
        model.to(self.accelerator.device)
        self.parameters = trainable_parameters(model)
        processes.same_start([p.detach() for p in self.parameters], self.accelerator)
        if settings.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer={settings.optimizer!r} is unknown; there are {', '.join(OPTIMIZERS)}")
        optimizer = OPTIMIZERS[settings.optimizer](self.groups(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        warmup = round(settings.warmup_share * settings.steps)
        self.schedule = make_schedule(settings.schedule, optimizer, warmup, settings.steps)
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        self.weights = TrainableWeights(model)
        self.costs = Costs(self.accelerator.device)
        self.progress = Progress(settings.higher_is_better, settings.keep == "best", costs=self.costs)

    def step(self, step: int, batches: list[Batch], update: bool = True) -> dict[str, Any]:
        """One update from this process's micro-batches; returns its row {step, loss, grad_norm, tokens, lr, seconds}.

        update=False stops before the optimizer: the gradients stay in the parameters.
        """
        started, own_counts = time.perf_counter(), self.counts(batches)
        own_counts += [sum(map(_real_tokens, batches)), sum(batch["input_ids"].numel() for batch in batches)]
        *counts, tokens, all_tokens = processes.total(own_counts, self.accelerator)  # of all batches of all processes
        if not any(counts):
            raise ValueError(self.nothing_to_learn.format(step=step))
        sums: dict[str, Any] = dict.fromkeys(self.loss_names(), 0.0)
        for batch in batches:
            batch = {name: value.to(self.accelerator.device) for name, value in batch.items()}
            with self.accelerator.autocast():
                loss, parts = self.losses(batch, counts, step)  # divided by the counts
            self.costs.mark("forward")
            self.backward(loss)
            self.costs.mark("backward")
            sums = {name: sums[name] + parts[name] for name in sums}
        totals = processes.total(map(float, sums.values()), self.accelerator)
        row = self.loss_row(dict(zip(sums, totals, strict=True)), counts, step)
        assert_finite(row["loss"], step)
        if step == 1 and batches:
            assert_all_got_gradients(self.model, self.without_gradient(batches), self.settings.needed, tqdm.write)
        self.sum_gradients()
        norm = float(self.accelerator.clip_grad_norm_(self.parameters, self.settings.max_grad_norm))  # pyright: ignore
        if self.accelerator.scaler is None:  # a scaler skips such a step and lowers its scale
            assert_finite(norm, step, "gradient norm")
        row = {"step": step, "grad_norm": norm, "tokens": int(tokens), "lr": self.schedule.get_last_lr()[0]} | row
        if update:
            self.optimizer.step()
            self.optimizer.zero_grad()
            if not self.optimizer.step_was_skipped:  # pyright: ignore[reportAttributeAccessIssue]
                self.schedule.step()
            self.after_step(step, self.optimizer.optimizer)  # pyright: ignore[reportAttributeAccessIssue]
        self.costs.mark("optimizer")
        self.costs.finish(int(tokens), int(all_tokens))
        return row | {"seconds": time.perf_counter() - started}

    # -- the parts of a step that other trainers replace

    def counts(self, batches: list[Batch]) -> list[float]:
        """How many answers this process's batches hold, for each loss that is divided by a count of its own."""
        return [sum(map(self.objective.count, batches))]

    def loss_names(self) -> list[str]:
        """Names of the losses that `losses` reports."""
        return ["loss"]

    def losses(self, batch: Batch, counts: list[float], step: int) -> tuple[Any, dict[str, Any]]:
        """(the batch's part of the step's loss, for `backward`; the values to report, which add up over batches)."""
        mean = self.objective.loss_sum(self.model, batch) / counts[0]
        return mean, {"loss": mean.detach()}

    def backward(self, loss: Any) -> None:
        self.accelerator.backward(loss)

    def loss_row(self, totals: dict[str, float], counts: list[float], step: int) -> dict[str, Any]:
        """The losses of the row, from the reported values of all processes."""
        return totals

    def sum_gradients(self) -> None:
        """Add up the gradients of all processes."""
        processes.sum_gradients(self.parameters, self.accelerator)

    def groups(self) -> list[dict[str, Any]]:
        """What trains, in groups for the optimizer."""
        s = self.settings
        return parameter_groups(self.model, s.learning_rate, s.weight_decay, s.lora_plus_ratio)

    def without_gradient(self, batches: list[Batch]) -> Container[str]:
        """Names of parameters that a step on these batches leaves without a gradient."""
        return ()

    # -- checkpoints

    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds. The data stream takes part when it can (`state_dict`)."""
        parts: dict[str, Any] = {
            "weights": self.weights,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "progress": self.progress,
        }
        if hasattr(self.data, "state_dict"):
            parts["data"] = self.data
        if self.accelerator.scaler is not None:
            parts["scaler"] = self.accelerator.scaler
        return parts

    def save(self) -> None:
        if self.checkpoint is not None:
            self.before_save()
            save_checkpoint(self.checkpoint, self.parts(), self.accelerator)

    def optimizer_bytes(self) -> int:
        """Bytes of the optimizer's state: with Adam two values for each trained parameter."""
        values = [value for state in self.optimizer.state.values() for value in state.values()]
        return sum(value.nbytes for value in values if isinstance(value, Tensor))


def _real_tokens(batch: Batch) -> int:
    mask = batch.get("attention_mask")
    return batch["input_ids"].numel() if mask is None else int(mask.sum())
