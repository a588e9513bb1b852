"""How many threads torch takes for a run: on a small model a second one only waits for the first."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from training.models.methods import SMALL_MODEL


def use_threads(wanted: int | None, model: nn.Module) -> None:
    """As many as wanted; without a wish one for a small model, and what torch has for others."""
    small = sum(p.numel() for p in model.parameters()) < SMALL_MODEL
    torch.set_num_threads(wanted or (1 if small else torch.get_num_threads()))


@contextmanager
def threads_restored() -> Iterator[None]:
    """Around a run, as `with` or as a decorator: the next one in this process finds what this one found."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)
