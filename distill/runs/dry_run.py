"""`--check` of a distillation: one step, an evaluation of a few rows, saving, loading, and the same answers to the last bit."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill.compression.compress import ROUNDS
from distill.runs.run import run_distillation
from distill.runs.settings import DistillSettings
from training.runs.dry_run import ROWS, TOKENS, refuse_unwritable


def check_distillation(settings: DistillSettings, say: Callable[[str], None]) -> None:
    """Tries a run out. Raises what the run would raise; the run itself compares what it saved with what it trained."""
    refuse_unwritable(settings.folder())
    started = time.perf_counter()
    steps = min(settings.steps, 2 * ROUNDS) if settings.compress() else 1
    short: dict[str, Any] = {
        "steps": steps,
        "eval_every": steps,
        "save_every": steps,
        "eval_rows": min(settings.eval_rows or ROWS, ROWS),
    }
    if settings.targets == "teacher" or settings.cache is not None:  # the teacher answers about few rows, not about all
        short |= {"train_rows": min(settings.train_rows or ROWS, ROWS), "transfer_rows": min(settings.transfer_rows, ROWS)}
    with tempfile.TemporaryDirectory() as folder:
        if settings.cache is not None:
            short["cache"] = str(Path(folder) / "cache")
        if settings.score_texts:
            short["score_texts"] = 1
        tokens = settings.max_new_tokens if settings.targets == "teacher" else min(settings.max_new_tokens, TOKENS)
        few = replace(settings, **short, max_new_tokens=tokens, trackers="", out=str(Path(folder) / "run"), restart=False)
        run_distillation(few, say)
    say(f"checked in {time.perf_counter() - started:.1f} s: {steps} steps, evaluation, saving and loading work")
