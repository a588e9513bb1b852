"""Teachers on disk, quick settings, and runs that stop in the middle."""

import contextlib
import functools
import json
import os
import signal
from pathlib import Path

import torch

from distill.runs import run as distill_run
from distill.runs.settings import DistillSettings
from training.data import world_tasks
from training.data.tasks import find_task
from training.models.base_models import Source, load_base
from training.models.trained import save_trained

BUILD = functools.cache(world_tasks.build)
QUICK = {
    "student": "copy:1",
    "losses": ("kd:T=2,a=0.9",),
    "train_rows": 24,
    "eval_rows": 12,
    "steps": 8,
    "eval_every": 4,
    "save_every": 3,
    "batch_size": 5,
}


def hurry(monkeypatch) -> None:
    """The same rows without drawing them again in every run, and no pictures: two thirds of a run as short as these."""
    monkeypatch.setattr(world_tasks, "build", BUILD)
    monkeypatch.setattr(distill_run, "write_report", lambda *parts: None)


def make_teacher(folder: Path, task: str = "sentiment", model: str | None = None, seed: int = 0, dropout: float = 0.0) -> str:
    """A base with a head of large random weights, as a run leaves it; nothing is trained."""
    spec = find_task(task)
    base = load_base(spec, Source(model or ("decoder" if spec.is_language_modelling else "encoder"), seed))
    base.model.config.hidden_dropout_prob = dropout
    generator = torch.Generator().manual_seed(seed)
    for name in base.new_modules:
        for p in base.model.get_submodule(name).parameters():
            p.data.copy_(0.3 * torch.randn(p.shape, generator=generator))
    save_trained(folder, "full", base, spec)
    return str(folder)


def quick(out: Path, teacher: str, **changes) -> DistillSettings:
    return DistillSettings(**{**QUICK, "teacher": teacher, "out": str(out), **changes})


def stopped_after(step: int, settings: DistillSettings, kill: bool = False) -> None:
    """The run, interrupted (or this process killed) as soon as the row of `step` is written."""
    original = distill_run.RunFolder.keep

    def dies(folder, row):
        original(folder, row)
        if row["step"] == step:
            if kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt

    distill_run.RunFolder.keep = dies
    try:
        with contextlib.suppress(KeyboardInterrupt):
            distill_run.run_distillation(settings)
    finally:
        distill_run.RunFolder.keep = original


def killed_after(step: int, settings: DistillSettings) -> None:
    """For a process of its own."""
    torch.set_num_threads(1)
    stopped_after(step, settings, kill=True)


def trace(out: Path) -> tuple[bytes, list[dict], dict]:
    """What two equal runs have in common: weights' bytes, rows and result without times and memory."""
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    result = json.loads((out / "result.json").read_text())
    drop = ("seconds", "teacher_seconds", "train_seconds", "seconds_by_part", "peak_bytes")
    plain = lambda row: {k: v for k, v in row.items() if k not in drop}  # noqa: E731
    [weights] = (out / "adapter").glob("*.safetensors")
    return weights.read_bytes(), [plain(row) for row in rows], plain(result)
