"""The one training loop: steps, evaluations, checkpoints, and when to stop. One step is `Trainer.step` (`step.py`)."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm

from training.data.batching import Batch
from training.loop import processes
from training.loop.checkpoint import load_checkpoint
from training.loop.interrupt import Interrupted, StopRequest, stop_requests
from training.loop.progress import Progress
from training.loop.step import LoopSettings, Objective, Trainer

__all__ = ["LoopSettings", "Objective", "Trainer", "run", "train"]


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
    with stop_requests() if checkpoint is not None else nullcontext(StopRequest()) as request:
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
            trainer.costs.start()
            batches = next(trainer.data, None)
            trainer.costs.mark("data")
            if batches is None:
                raise ValueError(f"the data ran out at step {step} of {settings.steps}")
            row = trainer.step(step, batches)
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
