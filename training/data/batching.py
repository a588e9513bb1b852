"""From encoded rows to padded batches: in order for an evaluation, shuffled and endless for training.

The stream is a function of (seed, step), so a run that goes on after a kill sees the very same rows, and several processes
split exactly the rows that one process would take.
"""

import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from training.data.ignored import IGNORE

Batch = dict[str, Tensor]


def batches(features: list[dict], tokenizer, batch_size: int) -> Iterator[Batch]:
    """Padded batches in the order of the rows, once."""
    pad_id = _pad_id(tokenizer)
    for start in range(0, len(features), batch_size):
        rows = features[start : start + batch_size]
        yield pad(rows, pad_id, pads_left(tokenizer, rows[0]))


class Steps:
    """The examples of training steps, forever: each `next` is one step's micro-batches (this rank's part of them).

    One epoch is one shuffled pass. A step takes batch_size × processes × accumulation rows, and the last step of an epoch
    takes what is left. A rank that is left without a row gets an empty list. `group_by_length` puts texts of similar length
    into one step (`grouped_by_length`).
    """

    def __init__(
        self,
        features: list[dict],
        tokenizer,
        batch_size: int,
        seed: int = 0,
        accumulation: int = 1,
        rank: int = 0,
        processes: int = 1,
        group_by_length: bool = False,
    ):
        if not features:
            raise ValueError("no rows to train on")
        self.features, self.pad_id, self.batch_size, self.seed = features, _pad_id(tokenizer), batch_size, seed
        self.left = pads_left(tokenizer, features[0])
        self.rank, self.processes, self.rows_per_step = rank, processes, batch_size * accumulation * processes
        self.steps_per_epoch = -(-len(features) // self.rows_per_step)
        self.taken = 0
        self._order: tuple[int, np.ndarray] | None = None
        self._lengths = np.array([len(f["input_ids"]) for f in features]) if group_by_length else None
        self._sum: int | None = None

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        epoch, step = divmod(self.taken, self.steps_per_epoch)
        self.taken += 1
        rows = self._epoch(epoch)[step * self.rows_per_step : (step + 1) * self.rows_per_step]
        own_rows = rows[len(rows) * self.rank // self.processes : len(rows) * (self.rank + 1) // self.processes]
        parts = [own_rows[i : i + self.batch_size] for i in range(0, len(own_rows), self.batch_size)]
        return [pad([self.features[i] for i in part], self.pad_id, self.left) for part in parts]

    def _epoch(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            generator = np.random.default_rng([self.seed, epoch])
            order = generator.permutation(len(self.features))
            if self._lengths is not None:
                order = grouped_by_length(order, self._lengths, self.rows_per_step, generator)
            self._order = epoch, order
        return self._order[1]

    def state_dict(self) -> dict:
        self._sum = checksum(self.features) if self._sum is None else self._sum
        return {"taken": self.taken, "rows": len(self.features), "checksum": self._sum}

    def load_state_dict(self, state: dict) -> None:
        """Go on where the saved stream was. ValueError when the rows are not the saved ones."""
        now = self.state_dict()
        if (now["rows"], now["checksum"]) != (state["rows"], state["checksum"]):
            raise ValueError(
                f"the training set has changed since this run was started: {state['rows']} rows with checksum "
                f"{state['checksum']:08x} then, {now['rows']} with {now['checksum']:08x} now. Start again (--restart)"
            )
        self.taken = state["taken"]


def grouped_by_length(order: np.ndarray, lengths: np.ndarray, per_step: int, generator: np.random.Generator) -> np.ndarray:
    """The order of an epoch (N,) with texts of similar length in each step, and the steps in random order.

    Within 50 steps of the shuffled order, texts are sorted by length, so a step still varies from epoch to epoch. The longest
    text is in the first step: if the memory is too small, the run stops there. A step with fewer examples stays the last one.
    """
    window = 50 * per_step
    parts = [order[i : i + window] for i in range(0, len(order), window)]
    ordered = np.concatenate([part[np.argsort(-lengths[part], kind="stable")] for part in parts])
    steps = [ordered[i : i + per_step] for i in range(0, len(ordered), per_step)]
    last = [steps.pop()] if len(steps) > 1 and len(steps[-1]) < per_step else []
    steps = [steps[i] for i in generator.permutation(len(steps))]
    first = max(range(len(steps)), key=lambda i: lengths[steps[i]].max())
    steps[0], steps[first] = steps[first], steps[0]
    return np.concatenate([*steps, *last])


def checksum(features: list[dict]) -> int:
    """A number that changes when any id, label or position of any row does."""
    value = 0
    for feature in features:
        for name in sorted(feature):
            value = zlib.crc32(np.asarray(feature[name], dtype=np.float64).tobytes(), zlib.crc32(name.encode(), value))
    return value


def pads_left(tokenizer, row: dict) -> bool:
    """Whether rows like this one are padded on the left: where the tokenizer says so, and the answer is one for the whole row."""
    by_row = not isinstance(row.get("labels"), list) and "start_positions" not in row
    return by_row and getattr(tokenizer, "padding_side", "right") == "left"


def pad(rows: list[dict], pad_id: int, left: bool = False) -> Batch:
    """Stack rows, lists padded on the right (or left): input ids with `pad_id`, labels with -100, the rest with 0."""
    batch = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if isinstance(values[0], list):
            fill = {"input_ids": pad_id, "labels": IGNORE}.get(name, 0)
            width = max(map(len, values))
            values = [[fill] * (width - len(v)) + v if left else v + [fill] * (width - len(v)) for v in values]
        array = np.array(values)  # five times as fast as torch.tensor, which would give float32 where this is float64
        batch[name] = torch.from_numpy(array) if array.dtype == np.int64 else torch.tensor(values)
    return batch


def _pad_id(tokenizer) -> int:
    if tokenizer.pad_token_id is None:
        raise ValueError(
            "the tokenizer has no pad token: set tokenizer.pad_token, as load_base does, and tell the model's config"
        )
    return tokenizer.pad_token_id
