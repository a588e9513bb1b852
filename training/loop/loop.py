"""The one training loop: batches in, rows out. Trainers of other folders vary the loss they hand in, not the loop.

The loss of a step is the sum over all its micro-batches of all processes, divided by the number of scored tokens (or answers)
in them. So accumulation and the number of processes change memory and speed, and nothing else.
"""

import time
from collections.abc import Callable, Container, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from adapters.fusion.fusion import no_decay
from loralib import lora_plus_groups
from loralib.files.checkpoint import refuse_meta
from training.data.batching import Batch
from training.loop import processes
from training.loop.adamw8bit import AdamW8bit
from training.loop.checkpoint import TrainableWeights, load_checkpoint, save_checkpoint
from training.loop.checks import assert_all_got_gradients, assert_finite, trainable_parameters
from training.loop.interrupt import Interrupted, StopRequest, listening
from training.loop.progress import Progress
from training.loop.schedules import make_schedule

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adamw8bit": AdamW8bit, "paged_adamw8bit": partial(AdamW8bit, paged=True)}


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
    """LoRA+: B learns so many times as fast as all else"""
    optimizer: str = "adamw"
    needed: tuple[str, ...] | None = None
    """modules that must get gradients; None: all that is trainable (`checks.assert_all_got_gradients`)"""


class Trainer:
    """One run of the loop: what moves from step to step, so that it can be saved and put back."""

    def __init__(
        self,
        model: nn.Module,
        data: Iterator[list[Batch]],
        objective: Objective,
        settings: LoopSettings,
        accelerator: Accelerator | None = None,
        checkpoint: Path | None = None,
        before_save: Callable[[], None] = lambda: None,
    ):
        self.accelerator = accelerator or processes.make_accelerator()
        self.model, self.data, self.objective, self.settings = model, data, objective, settings
        self.checkpoint, self.before_save = checkpoint, before_save
        refuse_meta(model)
        model.to(self.accelerator.device)
        self.parameters = trainable_parameters(model)
        processes.same_start([p.detach() for p in self.parameters], self.accelerator)
        optimizer = OPTIMIZERS[settings.optimizer](self.groups(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        warmup = round(settings.warmup_share * settings.steps)
        self.schedule = make_schedule(settings.schedule, optimizer, warmup, settings.steps)
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        self.weights = TrainableWeights(model)
        self.progress = Progress(settings.higher_is_better, settings.keep == "best")

    def groups(self) -> list[dict[str, Any]]:
        """What trains, in groups for the optimizer."""
        return _groups(self.model, self.settings)

    def resting(self, window: list[Batch]) -> Container[str]:
        """Names of parameters that a step on these batches leaves without a gradient."""
        return ()

    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds. The data stream takes part when it can (`state_dict`)."""
        found: dict[str, Any] = {
            "weights": self.weights,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "progress": self.progress,
        }
        if hasattr(self.data, "state_dict"):
            found["data"] = self.data
        if self.accelerator.scaler is not None:
            found["scaler"] = self.accelerator.scaler
        return found

    def save(self) -> None:
        if self.checkpoint is not None:
            self.before_save()
            save_checkpoint(self.checkpoint, self.parts(), self.accelerator)

    def optimizer_bytes(self) -> int:
        """What the optimizer keeps for each trained number: two more numbers with Adam."""
        kept = [value for state in self.optimizer.state.values() for value in state.values()]
        return sum(value.nbytes for value in kept if isinstance(value, Tensor))

    def step(self, step: int, window: list[Batch]) -> dict:
        """One update from this rank's micro-batches; returns its row."""
        started = time.perf_counter()
        row = self.backward(step, window) | {"lr": self.schedule.get_last_lr()[0]}
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not self.optimizer.step_was_skipped:  # pyright: ignore[reportAttributeAccessIssue]
            self.schedule.step()
        return row | {"seconds": time.perf_counter() - started}

    def backward(self, step: int, window: list[Batch]) -> dict:
        """The gradients of the mean loss over all micro-batches of all ranks, clipped: {step, loss, grad_norm, tokens}."""
        mine = sum(map(self.objective.count, window)), sum(map(_real_tokens, window))
        count, tokens = processes.total(mine, self.accelerator)
        if not count:
            raise ValueError(f"no answer to learn from in the batch of step {step}: all its labels are -100")
        [loss] = processes.total([float(self._sum_losses(window, count))], self.accelerator)
        assert_finite(loss, step)
        if step == 1 and window:
            assert_all_got_gradients(self.model, self.resting(window), self.settings.needed, tqdm.write)
        processes.sum_gradients(self.parameters, self.accelerator)
        norm = float(self.accelerator.clip_grad_norm_(self.parameters, self.settings.max_grad_norm))  # pyright: ignore
        if self.accelerator.scaler is None:  # a scaler skips such a step and lowers its scale
            assert_finite(norm, step, "gradient norm")
        return {"step": step, "loss": loss, "grad_norm": norm, "tokens": int(tokens)}

    def _sum_losses(self, window: list[Batch], count: float) -> Tensor:
        losses = [torch.zeros((), device=self.accelerator.device)]
        for batch in window:
            batch = {k: v.to(self.accelerator.device) for k, v in batch.items()}
            with self.accelerator.autocast():
                mean = self.objective.loss_sum(self.model, batch) / count
            self.accelerator.backward(mean)
            losses.append(mean.detach())
        return sum(losses[1:], losses[0])


def train(
    model: nn.Module,
    data: Iterator[list[Batch]],
    objective: Objective,
    settings: LoopSettings,
    evaluate: Callable[[], dict[str, float]] = dict,
    on_row: Callable[[dict], None] = lambda row: None,
    accelerator: Accelerator | None = None,
    checkpoint: Path | None = None,
    before_save: Callable[[], None] = lambda: None,
) -> Progress:
    """Train in place. `data` gives the micro-batches of one step at a time, as `batching.Steps` does.

    Every step makes a row {step, loss, lr, grad_norm, tokens, seconds}, and some carry an evaluation. With a `checkpoint`
    path the state is saved there, an existing one is continued, and Ctrl-C saves and raises Interrupted.

    Raises when nothing is trainable, when a trainable parameter gets no gradient, when a loss or a gradient is not finite,
    or when the data runs out.
    """
    return run(Trainer(model, data, objective, settings, accelerator, checkpoint, before_save), evaluate, on_row)


def run(
    trainer: Trainer, evaluate: Callable[[], dict[str, float]] = dict, on_row: Callable[[dict], None] = lambda row: None
) -> Progress:
    """All steps of a trainer, or those that its checkpoint has left: see `train`."""
    checkpoint = trainer.checkpoint
    if checkpoint is not None and checkpoint.exists():
        load_checkpoint(checkpoint, trainer.parts(), trainer.accelerator)
    with listening() if checkpoint is not None else nullcontext(StopRequest()) as request:
        _run(trainer, evaluate, on_row, request)
    if trainer.settings.keep == "best":
        trainer.weights.load_state_dict(trainer.progress.best_weights)
    trainer.model.eval()
    trainer.progress.optimizer_bytes = trainer.optimizer_bytes()
    return trainer.progress


def _run(trainer: Trainer, evaluate, on_row, request) -> None:
    settings, progress, accelerator = trainer.settings, trainer.progress, trainer.accelerator
    quiet = None if accelerator.is_local_main_process else True  # None: silent where the output is not a terminal
    bar = tqdm(total=settings.steps, initial=progress.step, disable=quiet, leave=False, mininterval=0.5)
    trainer.model.train()
    with bar:
        while progress.step < settings.steps and not progress.stopped:
            _stop_if_asked(trainer, request)
            step = progress.step + 1
            window = next(trainer.data, None)
            if window is None:
                raise ValueError(f"the data ran out at step {step} of {settings.steps}")
            row = trainer.step(step, window)
            progress.step = step
            if step % settings.eval_every == 0 or step == settings.steps:
                row |= evaluate()
                progress.judge(row.get(settings.watch), settings.patience, trainer.weights)
                trainer.model.train()
            on_row(row)
            bar.update()
            bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
            if step % settings.save_every == 0 or step == settings.steps or progress.stopped:
                trainer.save()


def _stop_if_asked(trainer: Trainer, request: StopRequest) -> None:
    if trainer.checkpoint is None:
        return
    if any(processes.total([request.wanted], trainer.accelerator)):  # ranks get their signals at different steps
        trainer.save()
        step, steps = trainer.progress.step, trainer.settings.steps
        raise Interrupted(
            f"stopped after step {step} of {steps}, all saved: the same command goes on from there (without --restart)"
        )


def _groups(model: nn.Module, settings: LoopSettings) -> list[dict[str, Any]]:
    """What trains, in groups of one rate and one decay. A fusion's values are matrices without decay: the loss pulls them to
    the identity, and decay would pull them to zero."""
    if settings.lora_plus_ratio is None:
        groups = [{"params": trainable_parameters(model)}]
    else:
        groups = lora_plus_groups(model, settings.learning_rate, settings.lora_plus_ratio)
    if not settings.weight_decay:
        return groups
    free = {id(model.get_parameter(name)) for name in no_decay(model)} | {id(p) for p in model.parameters() if p.ndim < 2}
    split = []
    for group in groups:
        for exempt in (False, True):
            part = [p for p in group["params"] if (id(p) in free) == exempt]
            split += [{**group, "params": part, **({"weight_decay": 0.0} if exempt else {})}] if part else []
    return split


def _real_tokens(batch: Batch) -> int:
    mask = batch.get("attention_mask")
    return batch["input_ids"].numel() if mask is None else int(mask.sum())
