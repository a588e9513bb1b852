"""The one training loop: batches in, rows out. Trainers of other folders vary the loss they hand in, not the loop.

The loss of a step is the sum over all its micro-batches divided by the number of scored tokens (or answers) in them, so
accumulation changes memory and nothing else.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import get_scheduler

from training.checks import assert_all_got_gradients, assert_finite, trainable_parameters

Batch = dict[str, Tensor]


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
    accumulation: int = 1
    """micro-batches per step"""
    max_grad_norm: float = 1.0
    eval_every: int = 100
    mixed_precision: str = "no"
    """no, fp16 or bf16"""


def train(
    model: nn.Module,
    batches: Iterator[Batch],
    objective: Objective,
    settings: LoopSettings,
    evaluate: Callable[[], dict[str, float]],
    on_row: Callable[[dict], None],
    accelerator: Accelerator | None = None,
) -> dict:
    """Train in place; every step makes a row {step, loss, lr, grad_norm, seconds}, and some carry an evaluation.

    Returns the last row. Raises when nothing is trainable, when a trainable parameter gets no gradient, or when the loss
    is not finite.
    """
    if accelerator is None:
        AcceleratorState._reset_state()  # a process may train several times, with different precisions
        accelerator = Accelerator(mixed_precision=settings.mixed_precision)
    parameters = trainable_parameters(model)
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    warmup = round(settings.warmup_share * settings.steps)
    schedule = get_scheduler(settings.schedule, optimizer, warmup, settings.steps)
    model, optimizer = accelerator.prepare(model, optimizer)
    model.train()
    row: dict = {}
    quiet = None if accelerator.is_local_main_process else True  # None: silent where the output is not a terminal
    steps = tqdm(range(1, settings.steps + 1), disable=quiet, leave=False, mininterval=0.5)
    for step in steps:
        started = time.perf_counter()
        window = [next(batches) for _ in range(settings.accumulation)]
        loss = _accumulate(model, window, objective, accelerator)
        assert_finite(loss, step)
        if step == 1:
            assert_all_got_gradients(model)
        norm = accelerator.clip_grad_norm_(parameters, settings.max_grad_norm)
        row = {"step": step, "loss": loss.item(), "lr": schedule.get_last_lr()[0], "grad_norm": float(norm)}  # pyright: ignore[reportArgumentType]
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        row["seconds"] = time.perf_counter() - started
        steps.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
        if step % settings.eval_every == 0 or step == settings.steps:
            row |= evaluate()
            model.train()
        on_row(row)
    accelerator.unwrap_model(model, keep_fp32_wrapper=False).eval()
    return row


def _accumulate(model: nn.Module, window: list[Batch], objective: Objective, accelerator: Accelerator) -> Tensor:
    total = sum(map(objective.count, window))
    losses = []
    for batch in window:
        batch = {k: v.to(accelerator.device) for k, v in batch.items()}
        with accelerator.autocast():
            mean = objective.loss_sum(model, batch) / total
        accelerator.backward(mean)
        losses.append(mean.detach())
    return torch.stack(losses).sum()
