"""The three trainers, each with settings that take half a second, and what two equal runs have in common."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from distilling import BUILD, make_teacher, quick

from distill.runs.run import run_distillation
from multitask.model.files import CARD as MANY
from multitask.runs.run import run_multitask
from multitask.runs.settings import MultitaskSettings
from training import train_model
from training.data import world_tasks
from training.loop.checkpoint import FILE, saved_step
from training.models.sealed import read_sealed
from training.models.trained import CARD
from training.runs.run_folder import RESULT, RunFolder, read_config, read_rows

# dropout everywhere (random states), and a checkpoint that is not of the last row
QUICK = {"steps": 6, "eval_every": 3, "save_every": 2, "eval_rows": 12, "batch_size": 6}
TRAINING = {"train_rows": 24, "lora_dropout": 0.1, "trackers": "", "samples": 0}
MULTITASK = {"tasks": "topic,nli", "train_rows": "24"}
NAMES = ("training", "multitask", "distill")
TIMES = ("second", "peak_bytes")


def prepare(folder: Path) -> None:
    """What runs in this folder need: a teacher."""
    make_teacher(folder / "teacher", dropout=0.1)


def run(name: str, out: Path, **changes) -> None:
    """Train, or go on. The small world is drawn once in a process."""
    with mock.patch.object(world_tasks, "build", BUILD):
        if name == "training":
            train_model("sentiment", out=str(out), **QUICK | TRAINING | changes)
        elif name == "multitask":
            run_multitask(MultitaskSettings(out=str(out), **QUICK | MULTITASK | changes))
        else:
            cache = str(out.with_name(f"{out.name}-cache"))
            run_distillation(quick(out, str(out.parent / "teacher"), **QUICK | {"cache": cache} | changes))


def trace(out: Path) -> tuple:
    """The trained weights' bytes, rows and result without times."""
    trained = {
        p.relative_to(out).as_posix(): p.read_bytes() for n in ("adapter", "model") for p in (out / n).rglob("*.safetensors")
    }
    plain = lambda row: {k: v for k, v in row.items() if not any(t in k for t in TIMES)}  # noqa: E731
    return trained, [plain(row) for row in read_rows(out / "rows.jsonl")], plain(json.loads((out / RESULT).read_text()))


def leftovers(out: Path) -> list[str]:
    """Parts of files, beside the lock."""
    return [p.name for p in out.parent.rglob(".*") if p.name != ".lock"]


def readable(out: Path) -> str:
    """Raises when anything in the folder of a stopped run is there and cannot be read; says how far the run was."""
    if (out / "config.json").exists():
        read_config(out)
    steps = [row["step"] for row in read_rows(out / "rows.jsonl")] if (out / "rows.jsonl").exists() else []
    if steps != list(range(len(steps))):
        raise ValueError(f"{out}: rows of steps {steps}")
    saved = saved_step(out / FILE) if (out / FILE).exists() else None
    for card in (out / "adapter" / CARD, out / "model" / MANY):
        if card.parent.exists():
            read_sealed(card)
    return f"at step {steps[-1] if steps else 'none'}, checkpoint {'none' if saved is None else f'of step {saved}'}"


# ---------------------------------------------------------------- in a process of its own


def child(name: str, out: Path, pause_at: int | None = None) -> None:
    """The run, for a process of its own; with `pause_at` it stops itself (SIGSTOP) behind the row of that step."""
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"
    keep = RunFolder.keep

    def pausing(folder, row):
        keep(folder, row)
        if row["step"] == pause_at:
            os.kill(os.getpid(), signal.SIGSTOP)

    with mock.patch.object(RunFolder, "keep", pausing):
        run(name, out)


def cpu_seconds(pid: int) -> float:
    """Time that a process has computed: what a loaded machine does not change. Its clock's number is a rule of Linux."""
    return time.clock_gettime((~pid << 3) | 2)


def state(pid: int) -> str:
    """R runs, S waits, T is stopped, Z has ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def kill_after(seconds: float, process, done: Callable[[], bool]) -> bool:
    """SIGKILL as soon as the process has computed so long; whether that was before `done`."""
    try:
        while cpu_seconds(process.pid) < seconds and not done() and process.is_alive():
            time.sleep(0.001)
    except OSError:  # it has ended in between
        return False
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL and not done()


def go_on(pid: int) -> None:
    """After a SIGSTOP."""
    os.kill(pid, signal.SIGCONT)


def clear_run(out: Path) -> None:
    """An empty place again, for a run that was faster than its kill."""
    shutil.rmtree(out)
    shutil.rmtree(out.with_name(f"{out.name}-cache"), ignore_errors=True)
