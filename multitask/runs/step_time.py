"""What a mixed batch costs: the same rows in one pass of the backbone, or in a pass for each task, with one optimizer step."""

import time

from multitask.data.mixed_batches import split_by_task
from multitask.runs.run import build_model, load_rows
from multitask.runs.settings import MultitaskSettings
from multitask.runs.steps import OBJECTIVE, Learner, MultitaskSteps
from multitask.runs.trainer import MultitaskTrainer
from training.loop.loop import LoopSettings
from training.models.base_models import window

WARM_UP = 3
WAYS = ("mixed", "task by task")


def batch_times(settings: MultitaskSettings, rounds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """(seconds of a step, each way in turn on the same rows; tokens that each way has computed, padding included)."""
    steps: dict[str, MultitaskSteps] = {}
    tokens: dict[str, int] = dict.fromkeys(WAYS, 0)
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for way in WAYS:
        model, tokenizer, _ = build_model(settings)
        rows = load_rows(settings, tokenizer, min(settings.max_length, window(model.backbone, tokenizer)))
        trainer = MultitaskTrainer(model, tokenizer, settings)
        data = trainer.manager({task: part.train for task, part in rows.items()})
        model.train()
        steps[way] = MultitaskSteps(
            Learner(model, trainer.balancing), data, OBJECTIVE, LoopSettings(steps=10**6, warmup_share=0.0)
        )
    for number in range(WARM_UP + rounds):
        for way in WAYS if number % 2 else reversed(WAYS):
            batches = next(steps[way].data)
            if way != "mixed":
                batches = [part for batch in batches for part in split_by_task(batch)]
            started = time.perf_counter()
            steps[way].step(number + 2, batches)  # 2: step 1 checks gradients, which costs time of its own
            if number >= WARM_UP:
                times[way].append(time.perf_counter() - started)
                tokens[way] += sum(batch["input_ids"].numel() for batch in batches)
    return times, tokens
