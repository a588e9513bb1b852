"""Which adapter each row of a batch asks for, as the layers need it: groups of rows by adapter."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """One adapter's name, or None for the base, for each row; each stands for `repeats` rows in turn (beams).

    The encoder of an encoder-decoder runs before its beams are made: there each name stands for one row.
    """

    names: tuple[str | None, ...]
    repeats: int = 1
    tokens: int = 1
    """of each row of the batch: a layer may get rows and tokens flattened into one dimension (OPT, experts that rows share)"""

    def groups(self, batch: Tensor, where: str) -> Iterable[tuple[str, Tensor]]:
        """(adapter, indices of its rows) for every adapter in the batch; rows of the base alone are left out."""
        return row_numbers(self.fitted(batch, where), batch.device).items()

    def fitted(self, batch: Tensor, where: str) -> "Rows":
        """With the repeats of this batch. ValueError where its first dimension does not count the rows."""
        count, expected = batch.shape[0], len(self.names) * self.repeats
        fitting = [expected, len(self.names)]
        if batch.ndim == 2:
            fitting += [expected * self.tokens, len(self.names) * self.tokens]
        if count in fitting:
            return Rows(self.names, count // len(self.names))
        raise ValueError(
            f"{where} got an input of shape {tuple(batch.shape)}, and the batch names adapters for {expected} rows: its "
            "first dimension must count them (with beams, give repeats=number of beams)"
        )


@lru_cache(maxsize=64)
def row_numbers(rows: Rows, device: torch.device) -> dict[str, Tensor]:
    """The rows of each adapter, made once for a batch: every layer asks for them."""
    places: dict[str, list[int]] = {}
    for i, name in enumerate(name for name in rows.names for _ in range(rows.repeats)):
        if name is not None:
            places.setdefault(name, []).append(i)
    with torch.inference_mode(False):  # the next batch may train with them
        return {name: torch.tensor(numbers, device=device) for name, numbers in places.items()}
