"""`--check` of a multitask run: one step, an evaluation of a few rows, saving, loading, and the same answers."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from multitask.balancing.weightings import DWA_PERIOD
from multitask.model.files import load_multitask
from multitask.runs.run import TRAINED, load_rows, run_multitask
from multitask.runs.settings import MultitaskSettings
from training.evaluation.evaluation import HeldOut
from training.models.base_models import window
from training.runs.dry_run import ROWS, refuse_unwritable


def check_multitask(settings: MultitaskSettings, say: Callable[[str], None]) -> None:
    """Tries a run out. Raises what the run would raise; RuntimeError where the saved model scores differently."""
    refuse_unwritable(settings.folder())
    started, steps = time.perf_counter(), 2 * DWA_PERIOD + 1 if settings.loss_weighting == "dwa" else 1
    with tempfile.TemporaryDirectory() as folder:
        short = {"steps": steps, "eval_every": steps, "save_every": steps, "eval_rows": min(settings.eval_rows or ROWS, ROWS)}
        few = replace(settings, **short, trackers="", out=str(Path(folder) / "run"), restart=False)
        result = run_multitask(few, say)
        model, tokenizer, limit = load_multitask(Path(folder) / "run" / TRAINED)
        rows = load_rows(few, tokenizer, min(limit, window(model.backbone, tokenizer)))
        held_out: dict[str, HeldOut] = {name: part.held_out for name, part in rows.items()}
        scores = model.evaluate_all_tasks(held_out, tokenizer)
    for task, task_scores in scores.items():
        if abs(task_scores["eval_loss"] - result["tasks"][task]["loss"]) > 1e-5 * (1 + abs(task_scores["eval_loss"])):
            raise RuntimeError(
                f"{task}: the model that was saved and loaded again has loss {task_scores['eval_loss']}, the trained one "
                f"{result['tasks'][task]['loss']}"
            )
    say(f"checked in {time.perf_counter() - started:.1f} s: {steps} steps, evaluation, saving and loading work")
