"""Which lessons `make test` executes: four, chosen by the hash of the commit. `make test-lessons` executes all of them."""

import random
import subprocess
from collections.abc import Sequence
from pathlib import Path

COUNT = 4


def current_commit() -> str:
    """The hash of the commit that is checked out; "" in a folder without git."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def lessons_of_commit(numbers: Sequence[str], commit: str) -> set[str]:
    """The numbers of COUNT lessons: the same for the same commit, on every machine."""
    return set(random.Random(commit).sample(sorted(numbers), COUNT))
