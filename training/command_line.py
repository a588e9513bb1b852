"""What `python -m PACKAGE` does with its words: a command by its name, or without one what the package is for."""

import sys
from collections.abc import Callable
from typing import Any

import datasets
import transformers
import tyro

from training.interrupt import plain_errors

Command = tuple[type, Callable[[Any], Any]]
"""its settings, and what to do with them"""


def run_command(package: str, doc: str, default: Command, without: str, commands: dict[str, Command]) -> None:
    """Read `sys.argv` and run. doc: the package's help; without: what no command means, for the error about an unknown one.

    Errors of people are told in one line, without a traceback.
    """
    transformers.utils.logging.set_verbosity_error()  # its notices about new heads are told by our own tables
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    with plain_errors():
        if name in commands:
            settings, command = commands[name]
            command(tyro.cli(settings, prog=f"python -m {package} {name}", args=sys.argv[2:]))
        elif name and not name.startswith("-"):
            sys.exit(f"error: no command {name!r}; there are {', '.join(commands)}, and without a command: {without}")
        else:
            settings, command = default
            command(tyro.cli(settings, prog=f"python -m {package}", description=f"{doc}\n\n{settings.__doc__}"))
