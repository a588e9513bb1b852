"""A run in a process of its own, so that its peak memory is its own, and a crash takes no other run with it."""

import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from training.runs.run_folder import read_result
from training.runs.settings import TrainSettings

WORD = "python -m training"


def arguments(settings: TrainSettings) -> list[str]:
    """The command's options that give these settings; what has its default is left out."""
    words: list[str] = []
    for field in fields(settings):
        value, option = getattr(settings, field.name), field.name.replace("_", "-")
        if value == field.default:
            continue
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", str(value)]
    return words


def command_line(settings: TrainSettings) -> str:
    """What to type for the same run."""
    return shlex.join([*WORD.split(), *arguments(settings)])


def train_in_own_process(settings: TrainSettings) -> dict:
    """Run `python -m training` with these settings, or read what it left behind; returns the content of its result.json.

    A run that was stopped goes on. RuntimeError when the process fails: its own words stand above.
    """
    folder = Path(settings.out or f"runs/{settings.task}-{settings.method}")
    done = subprocess.run([sys.executable, "-m", "training", *arguments(settings)], stdout=subprocess.DEVNULL)
    result = read_result(folder)
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode or result is None:
        raise RuntimeError(f"this run failed with exit status {done.returncode}: {command_line(settings)}")
    return result
