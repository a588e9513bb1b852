"""Rows of several tasks in one batch: one padded block of texts, and beside it the labels of each task.

A batch is a flat dictionary of tensors, so that whatever moves a batch moves all of it:

    input_ids, attention_mask, token_type_ids  (B, T)   all rows, padded to the longest
    task_ids                                   (B,)     the task of each row, ascending
    K.labels | K.start_positions | ...                  the labels of the rows of task number K, in their order
    K.count, K.share                           ()       of the whole step, over all its batches and processes: how many answers
                                                        task K asks for, and which share of the rows it has
    leads                                      ()       1 for one batch of the step, 0 for the others
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.batching import pad
from training.data.ignored import IGNORE

MixedBatch = dict[str, Tensor]
TEXT = ("input_ids", "attention_mask", "token_type_ids")
LABEL_NAMES = ("labels", "start_positions")
PER_STEP = ("count", "share")


def answers_in(feature: dict, kind: str) -> int:
    """How many answers one row asks for: its labelled tokens (tagging), else one."""
    if kind == "tagging":
        return sum(label != IGNORE for label in feature["labels"])
    return int(feature.get("start_positions") != IGNORE)


def collate(rows: Sequence[tuple[int, dict]], kinds: Sequence[str], pad_id: int) -> MixedBatch:
    """A batch of (task number, feature), examples of a task side by side."""
    rows = sorted(rows, key=lambda row: row[0])
    batch = pad([{k: feature[k] for k in TEXT if k in feature} for _, feature in rows], pad_id)
    batch["task_ids"] = torch.tensor([k for k, _ in rows])
    width = batch["input_ids"].shape[1]
    for k in sorted({k for k, _ in rows}):
        labels = pad([{n: v for n, v in feature.items() if n not in TEXT} for task, feature in rows if task == k], pad_id)
        for name, values in labels.items():
            if kinds[k] == "tagging":
                values = F.pad(values, (0, width - values.shape[1]), value=IGNORE)
            batch[f"{k}.{name}"] = values
    return batch


def measure(batches: Sequence[MixedBatch], counts: dict[int, int], rows: dict[int, int]) -> None:
    """Write into every batch of a step what the step as a whole holds of its tasks: answers and rows by task number."""
    everything = sum(rows.values())
    for i, batch in enumerate(batches):
        batch["leads"] = torch.tensor(int(i == 0))
        for k in tasks_in(batch):
            batch[f"{k}.count"] = torch.tensor(counts[k])
            batch[f"{k}.share"] = torch.tensor(rows[k] / everything, dtype=torch.float64)


def tasks_in(batch: MixedBatch) -> list[int]:
    """The numbers of its tasks, ascending."""
    return sorted({int(name.partition(".")[0]) for name in batch if name.partition(".")[2] in LABEL_NAMES})


def labels_of(batch: MixedBatch, k: int) -> dict[str, Tensor]:
    """The labels of task number `k`."""
    labels = {name.partition(".")[2]: value for name, value in batch.items() if name.partition(".")[0] == str(k)}
    return {name: value for name, value in labels.items() if name not in PER_STEP}


def split_by_task(batch: MixedBatch) -> list[MixedBatch]:
    """The same step as one batch for each task, for backbones that pay for padding to another task's length."""
    parts = []
    for k in tasks_in(batch):
        of_task = batch["task_ids"] == k
        width = int(batch["attention_mask"][of_task].sum(1).max())
        part = {name: batch[name][of_task][:, :width] for name in TEXT if name in batch} | {
            "task_ids": batch["task_ids"][of_task]
        }
        for name, value in batch.items():
            if name.partition(".")[0] == str(k):
                tagging = value.dim() == 2 and value.shape[1] == batch["input_ids"].shape[1]
                part[name] = value[:, :width] if tagging else value
        part["leads"] = batch["leads"] * int(not parts)
        parts.append(part)
    return parts
