"""Ctrl-C and SIGTERM ask for a stop; the loop answers at the end of its step, when everything can be saved."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from training.loop.checks import NoGradientError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A run that was asked to stop has saved its state; the message says how to go on."""


class StopRequest:
    """Whether somebody asked for a stop."""

    def __init__(self):
        self.wanted = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """While open, the first signal only sets `wanted`; a second one acts as always (Ctrl-C raises KeyboardInterrupt).

    Outside the main thread Python delivers no signals, and nothing is changed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {s: signal.getsignal(s) for s in SIGNALS}

    def ask(number, frame):
        request.wanted = True
        _restore(before)

    for s in SIGNALS:
        signal.signal(s, ask)
    try:
        yield request
    finally:
        _restore(before)


def _restore(handlers: dict) -> None:
    for s, handler in handlers.items():
        signal.signal(s, handler)


@contextmanager
def plain_errors() -> Iterator[None]:
    """For commands: what a person can put right is one line, without a traceback; a stop says how to go on."""
    try:
        yield
    except Interrupted as stop:
        sys.stderr.write(f"{stop}\n")
        sys.exit(130)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the last checkpoint is kept, the same command goes on from there\n")
        sys.exit(130)
    except (ValueError, OSError, FloatingPointError, NoGradientError) as error:
        sys.exit(f"error: {error}")
