"""`--check`: the whole way of a run in small, so that what would fail after hours fails in seconds.

All data is read and encoded. Then one step, an evaluation of a few rows, a text of two tokens, saving into a temporary folder,
loading from there, and a comparison: the model that was loaded must answer as the one that was trained, bit for bit.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.data.batching import batches
from training.data.encoding import encode
from training.evaluation.evaluation import answering, model_inputs
from training.models.trained import load_trained
from training.runs.run import train_model
from training.runs.run_folder import TRAINED
from training.runs.settings import TrainSettings

ROWS, TOKENS = 2, 2
"""rows that are evaluated, and tokens that are written"""


def check_training(settings: TrainSettings, say: Callable[[str], None]) -> None:
    """Tries a run out. Raises what the run would raise; RuntimeError where the saved model answers differently."""
    refuse_unwritable(Path(settings.out or "runs"))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        texts = settings.score_texts if settings.score_texts == 0 else 1
        few = {"eval_rows": min(settings.eval_rows or ROWS, ROWS), "samples": min(settings.samples, 1), "score_texts": texts}
        short = {"steps": 1, "epochs": None, "eval_every": 1, "save_every": 1, "patience": None, "max_new_tokens": TOKENS}
        short |= {"trackers": "", "out": str(Path(folder) / "run"), "restart": False}
        result = train_model(settings.task, replace(settings, **few, **short))
        again = load_trained(result.folder / TRAINED)
        ids = _rows(settings, again, result)
        compare(answers(result.model, result.tokenizer, ids), answers(again.base.model, again.base.tokenizer, ids))
    say(
        f"checked in {time.perf_counter() - started:.1f} s: {result.data['train']['examples']:,} train examples were read; "
        f"one step (loss {result.rows[-1]['loss']:.3f}, {result.seconds_per_step:.2f} s), evaluation, saving and loading work"
    )


def _rows(settings: TrainSettings, trained: Any, result: Any) -> list[dict]:
    from training.data.data import evaluation_split, first_rows, load_task

    data = load_task(trained.spec, settings.data_dir, settings.seed, settings.train_rows)
    rows = first_rows(data[evaluation_split(data, trained.spec, settings.data_dir)], ROWS)
    return encode(rows[:], trained.spec, result.tokenizer, trained.max_length).features[:ROWS]


def answers(model: Any, tokenizer: Any, features: list[dict]) -> list[Tensor]:
    """All outputs of a model on some rows, on the CPU."""
    device, outputs = next(model.parameters()).device, []
    with answering(model):
        for batch in batches(features, tokenizer, ROWS):
            out = model(**model_inputs({name: value.to(device) for name, value in batch.items()}))
            outputs += [value.cpu() for value in out.values() if isinstance(value, Tensor)]
    return outputs


def compare(trained: list[Tensor], loaded: list[Tensor]) -> None:
    """RuntimeError where they differ in a bit."""
    if len(trained) != len(loaded) or not all(map(torch.equal, trained, loaded)):
        worst = max((float((a.float() - b.float()).abs().max()) for a, b in zip(trained, loaded, strict=False)), default=0.0)
        raise RuntimeError(f"the model that was saved and loaded again answers differently, by up to {worst:.2g}")


def refuse_unwritable(folder: Path) -> None:
    """PermissionError or NotADirectoryError where a run could not write its results."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise NotADirectoryError(f"{place} is a file, and the results should go into {folder}: choose another --out")
    if not os.access(place, os.W_OK):
        raise PermissionError(f"{place} cannot be written, and the results should go into {folder}: choose another --out")
