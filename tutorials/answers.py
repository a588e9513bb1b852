"""Which option of a question is the true one, as the page's own numbers say."""

import os
from pathlib import Path

os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # the pages run on the CPU, also where there is a GPU
RECORD = "RECORD_OF_ANSWERS"
"""the process environment's name for a file that gets each letter; `python -m tutorials render` compares it with the source"""


def true_option(*statements: object) -> None:
    """Record the letter of the only true statement; the statements stand in the order of the question's options.

    AssertionError unless exactly one is true.
    """
    true = [chr(ord("a") + i) for i, statement in enumerate(statements) if statement]
    assert len(true) == 1, f"true options: {true or 'none'}, expected exactly one"
    if RECORD in os.environ:
        with Path(os.environ[RECORD]).open("a") as file:
            file.write(true[0])
