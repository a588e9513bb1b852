"""One run, one folder: claimed by one process at a time, readable at every moment, continued where its checkpoint is.

config.json             what was asked for; another run with other settings is refused
rows.jsonl              one line per step
checkpoint.safetensors  all that the run needs to go on
result.json, adapter/   written at the end; with them the run is finished
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from filelock import FileLock, Timeout

from loralib.files.read_adapter import read_json
from loralib.files.save_and_load import write_atomic
from training.loop.checkpoint import FILE, saved_step
from training.loop.processes import on_main

CONFIG, ROWS, RESULT, LOCK, MODULES, TRAINED = "config.json", "rows.jsonl", "result.json", ".lock", "modules.txt", "adapter"
OURS = (RESULT, ROWS, MODULES, FILE, TRAINED, "tensorboard", "wandb", "curves.png", "report.md", CONFIG)
"""what `clear` removes, in this order: a kill in between leaves an unfinished run, never a result without its settings"""
WRITTEN = (*OURS, "losses.png", "interference.png", "terms.png", "targets.jsonl")
"""files of which a kill may leave a part beside"""
MAY_CHANGE = ("out", "restart", "trackers", "samples")
"""settings that a run may change when it goes on"""


class RunError(ValueError):
    """A run folder that is in use, or holds another run; the message says what to do."""


class RunFolder:
    """Claims a folder for one run; every process makes one, and the main process alone writes.

    `rows` are those of an earlier start up to its checkpoint (empty for a new run); `finished` says that nothing is left to do.
    """

    def __init__(self, folder: Path, settings: dict, modules: str, restart: bool, accelerator: Accelerator):
        self.folder, self.checkpoint = folder, folder / FILE
        self.main = accelerator.is_main_process
        self.lock: FileLock | None = None
        self.listeners: list[Callable[[dict], None]] = []
        self.rows: list[dict] = on_main(lambda: self._claim(settings, modules, restart), accelerator)
        self.finished = (folder / RESULT).exists()

    def _claim(self, settings: dict, modules: str, restart: bool) -> list[dict]:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.folder / LOCK)  # the system gives it back however the process ends
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            self.lock = None
            raise RunError(f"{self.folder} is in use by another process: wait for it, or choose another --out") from None
        try:
            for left in (p for name in WRITTEN for p in self.folder.glob(f".{name}.*") if p.is_file()):
                left.unlink()  # a kill in the middle of a write leaves its part
            if restart:
                clear(self.folder)
            elif (self.folder / CONFIG).exists():
                self._refuse_other_settings(settings)
            elif leftovers := [name for name in OURS if (self.folder / name).exists()]:
                raise RunError(
                    f"{self.folder} holds {leftovers} and no {CONFIG}: a run that was damaged (--restart starts over), or files "
                    "of somebody else's (choose another --out)"
                )
            write_json(self.folder / CONFIG, settings)
            write_atomic(self.folder / MODULES, (modules + "\n").encode())
            return self._rows_until(saved_step(self.checkpoint) if self.checkpoint.exists() else None)
        except BaseException:
            self.close()
            raise

    def _refuse_other_settings(self, settings: dict) -> None:
        before = read_config(self.folder)
        now = json.loads(json.dumps(settings, default=str))
        names = [k for k in sorted({*before, *now}) if before.get(k) != now.get(k) and k not in MAY_CHANGE]
        if names:
            changes = ", ".join(f"{k} was {before.get(k)!r} and is {now.get(k)!r}" for k in names[:4])
            raise RunError(
                f"{self.folder} holds a run with other settings: {changes}. --restart starts over there, "
                "--out NAME keeps both, the old settings go on with the old run"
            )

    def _rows_until(self, step: int | None) -> list[dict]:
        """The rows up to the checkpoint's step; those behind it were lost with the kill and come again."""
        path = self.folder / ROWS
        if (self.folder / RESULT).exists():
            return read_rows(path)
        rows = [] if step is None or not path.exists() else [r for r in read_rows(path) if r["step"] <= step]
        if step is not None and (not rows or rows[-1]["step"] != step):
            raise RunError(f"{path} ends before the checkpoint's step {step}: it was changed. Start again (--restart)")
        write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        return rows

    @property
    def last_step(self) -> int:
        """The step of the last row; 0 before there is one."""
        return self.rows[-1]["step"] if self.rows else 0

    def keep(self, row: dict) -> None:
        """Add a row: in memory, in the file (one write, so that a kill cannot leave half a line), to the trackers."""
        self.rows.append(row)
        if self.main:
            append_line(self.folder / ROWS, row)
            for listener in self.listeners:
                listener(row)

    def sync(self) -> None:
        """Rows to the disk, before a checkpoint that counts on them."""
        if self.main:
            path = self.folder / ROWS
            try:
                with path.open("ab") as file:
                    os.fsync(file.fileno())
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(path)) from error

    def close(self) -> None:
        """Give the folder back."""
        if self.lock is not None:
            self.lock.release()
            self.lock = None


def clear(folder: Path) -> None:
    """Remove what a run has left, and nothing else. RunError for a folder that is no run's."""
    if any((folder / name).exists() for name in OURS) and not {"task", "method", "steps"} <= set(_settings_or_none(folder)):
        raise RunError(f"{folder} holds files of these names that no run wrote: choose another --out, or move them away")
    for name in OURS:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _settings_or_none(folder: Path) -> dict:
    """The settings in a folder; of a damaged run (a result, an unreadable or no config) enough to clear it."""
    if (folder / RESULT).exists() or (folder / ROWS).exists():
        return dict.fromkeys(("task", "method", "steps"))
    try:
        content = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def append_line(path: Path, row: dict) -> None:
    """One line more, or the file as it was: a full disk takes a part of a line without a word."""
    line = (json.dumps(row) + "\n").encode()
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            while line:  # one write, but on a full disk, where the second one says so
                line = line[file.write(line) :]
        except OSError as error:
            file.truncate(before)
            raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: Path, content: object) -> None:
    write_atomic(path, (json.dumps(content, indent=2, sort_keys=True, default=str) + "\n").encode())


def read_config(folder: Path) -> dict:
    """A run's settings. RunError where there is no readable config.json."""
    return read_settings(folder / CONFIG)


def read_result(folder: Path) -> dict | None:
    """A finished run's result, None for one that is not finished."""
    return read_settings(folder / RESULT) if (folder / RESULT).exists() else None


def read_rows(path: Path) -> list[dict]:
    """All rows. A last line without its end, which a crashed machine may leave, is no row yet.

    RunError for what is no row, and for a finished run without its last one.
    """
    try:
        rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: not readable as JSON lines ({error}); --restart starts the run over") from error
    if not all(isinstance(row, dict) and isinstance(row.get("step"), int) for row in rows):
        raise RunError(f"{path}: holds lines that are no rows {{step: ...}}: it was changed. --restart starts the run over")
    steps, last = (read_result(path.parent) or {}).get("steps"), rows[-1]["step"] if rows else None
    if steps is not None and steps != last:
        raise RunError(f"{path}: ends at step {last}, and the run was finished at {steps}: rows are lost. See --restart")
    return rows


def read_settings(path: Path) -> dict:
    """One of a run's JSON files. RunError where it is absent or damaged."""
    try:
        return read_json(path)
    except ValueError as error:
        raise RunError(f"{error}; --restart starts the run over") from error
