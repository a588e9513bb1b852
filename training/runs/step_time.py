"""Step times that can be compared: one process, one batch, every method in turn, round after round.

A machine that slows down slows all methods of that round; so the ratio within a round says more than any time alone.
"""

import statistics
import time
from collections.abc import Callable, Iterable

from training.data.batching import Steps
from training.data.data import load_task
from training.data.encoding import encode
from training.data.tasks import find_task
from training.evaluation.evaluation import objective_of
from training.loop.loop import LoopSettings, Trainer
from training.loop.processes import make_accelerator
from training.models.base_models import load_base, window
from training.models.methods import apply_method
from training.runs.method_configs import adapter_config, source_of
from training.runs.settings import TrainSettings

WARM_UP = 2


def step_times(
    rows: dict[str, TrainSettings], rounds: int, progress: Callable[[Iterable[int]], Iterable[int]] = iter
) -> dict[str, list[float]]:
    """Seconds of one training step, `rounds` times for each row, taken in turn. All rows see the same batches."""
    return times_in_turn({label: trainer_of(settings) for label, settings in rows.items()}, rounds, progress)


def times_in_turn(
    trainers: dict[str, Trainer], rounds: int, progress: Callable[[Iterable[int]], Iterable[int]] = iter
) -> dict[str, list[float]]:
    """The same of trainers that stand ready."""
    times: dict[str, list[float]] = {label: [] for label in trainers}
    for number in progress(range(WARM_UP + rounds)):
        for label, trainer in trainers.items():
            row = trainer.step(number + 2, next(trainer.data))  # 2: step 1 checks gradients, which costs time of its own
            if number >= WARM_UP:
                times[label].append(row["seconds"])
    return times


def ratios(times: dict[str, list[float]], to: str) -> dict[str, tuple[float, float, float]]:
    """(20 %, 50 %, 80 % quantile) of the time of `to` over each row's own, round by round: 2 means twice as fast."""
    return {label: ratio(times[to], own_times) for label, own_times in times.items()}


def ratio(over: list[float], under: list[float]) -> tuple[float, float, float]:
    """(20 %, 50 %, 80 % quantile) of over / under, round by round."""
    of_rounds = [a / b for a, b in zip(over, under, strict=True)]
    low, *_, high = statistics.quantiles(of_rounds, n=5)
    return low, statistics.median(of_rounds), high


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def trainer_of(settings: TrainSettings) -> Trainer:
    """What a run with these settings trains with, before its first step; the learning rate is not its own."""
    spec = find_task(settings.task)
    base = load_base(spec, source_of(settings, spec))
    apply_method(settings.method, base, spec, adapter_config(settings), settings.seed)
    if settings.gradient_checkpointing:
        base.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    rows = load_task(spec, settings.data_dir, settings.seed, settings.train_rows)["train"]
    limit = min(settings.max_length, window(base.model, base.tokenizer))
    features = encode(rows[:], spec, base.tokenizer, limit).answerable().features
    accelerator = make_accelerator(settings.mixed_precision)
    options = settings.batch_size, settings.seed, settings.accumulation, 0, 1, settings.group_by_length
    steps = Steps(features, base.tokenizer, *options)
    base.model.train()
    loop_settings = LoopSettings(steps=10**6, warmup_share=0.0, optimizer=settings.optimizer)
    return Trainer(base.model, steps, objective_of(spec.kind), loop_settings, accelerator)
