"""What `make test` leaves to chance: the hash of the commit chooses four lessons, and a quarter of the long runs of commands.

`make test-lessons` executes all lessons, `make test-slow` all long runs, and `make test-all` everything.
"""

import random
import subprocess
from collections.abc import Sequence
from pathlib import Path


def current_commit() -> str:
    """The hash of the commit that is checked out; "" in a folder without git."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def chosen_within(seconds: dict[str, float], count: int, limit: float, commit: str) -> set[str]:
    """So many of the names that together take at most `limit` seconds; each name is in some choice."""
    draw, choice = random.Random(commit), sorted(seconds)
    while len(choice) != count or sum(seconds[name] for name in choice) > limit:
        choice = draw.sample(sorted(seconds), count)
    return set(choice)


def one_in_four(names: Sequence[str], commit: str) -> set[str]:
    """Every fourth of the sorted names, from one of the first four on."""
    return set(sorted(names)[random.Random(commit).randrange(4) :: 4])
