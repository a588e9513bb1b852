"""Which adapter each row of a batch asks for, as the layers need it: groups of rows by adapter."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """One adapter's name, or None for the base, for each row; each stands for `repeats` rows in turn (beams)."""

    names: tuple[str | None, ...]
    repeats: int = 1

    def groups(self, batch: Tensor, where: str) -> Iterator[tuple[str, Tensor]]:
        """(adapter, indices of its rows) for every adapter in the batch; rows of the base alone are left out."""
        names = [name for name in self.names for _ in range(self.repeats)]
        self.check(batch, where)
        for adapter in dict.fromkeys(name for name in names if name is not None):
            yield adapter, torch.tensor([i for i, name in enumerate(names) if name == adapter], device=batch.device)

    def check(self, batch: Tensor, where: str) -> None:
        """ValueError where the first dimension does not count the rows: there no row knows its adapter."""
        expected = len(self.names) * self.repeats
        if batch.shape[0] != expected:
            raise ValueError(
                f"{where} got an input of shape {tuple(batch.shape)}, and the batch names adapters for {expected} rows: its "
                "first dimension must count them (with beams, give repeats=number of beams)"
            )
