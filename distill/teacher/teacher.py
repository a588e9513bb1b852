"""The teacher, or several: asked batch by batch, never changed.

Several teachers answer with the mean of their probabilities, as one of them drawn at random would; the mean of their logits
would be a geometric mean, in which one teacher's "impossible" is a veto. Losses on hidden states look at the first teacher.
"""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from distill.losses.losses import log_probabilities
from distill.losses.states import ForwardStates, answer_logits, forward_with_states
from training.data.batching import Batch
from training.evaluation.evaluation import MODEL_INPUTS
from training.loop.checkpoint import frozen_checksum

PREFIX = "teacher."
"""before the inputs of a teacher with a tokenizer of its own: teacher.input_ids, ..."""


class Teacher:
    """Frozen models of one task. They stand in eval mode, whatever mode the student is in.

    dropout: leave the teachers' dropout on, which is noise in the targets (BinaryBERT wants it so).
    """

    def __init__(self, models: Sequence[Any], kind: str, dropout: bool = False):
        if not models:
            raise ValueError("a teacher needs at least one model")
        self.models, self.kind, self.dropout = list(models), kind, dropout
        for model in self.models:
            model.requires_grad_(False)

    def to(self, device: torch.device) -> "Teacher":
        for model in self.models:
            model.to(device)
        return self

    @torch.no_grad()
    def see(self, batch: Batch, hidden: bool = False, attention: bool = False) -> ForwardStates:
        """The first teacher's pass."""
        return forward_with_states(self._ready(self.models[0]), self._own(batch), hidden, attention)

    @torch.no_grad()
    def answers(self, batch: Batch, first: ForwardStates | None = None) -> Tensor:
        """The teachers' logits (N, C) of the batch's answers; `first` is the first teacher's pass, if it was made already."""
        batch = self._own(batch)
        outs = [first.out if first is not None else None, *[None] * (len(self.models) - 1)]
        logits = [
            answer_logits(self.kind, out or forward_with_states(self._ready(model), batch).out, batch)
            for model, out in zip(self.models, outs, strict=True)
        ]
        return logits[0] if len(logits) == 1 else mix_teachers(logits, self.kind)

    def checksum(self) -> int:
        """Changes when any teacher's weight does."""
        sums = [frozen_checksum(model) for model in self.models]
        return sums[0] if len(sums) == 1 else zlib.crc32(repr(sums).encode())

    def _own(self, batch: Batch) -> Batch:
        """The batch as the teachers read it, padded with their own token: a classifier on a decoder looks for the last other."""
        batch, pad = own_batch(batch), getattr(getattr(self.models[0], "config", None), "pad_token_id", None)
        if pad is None or "attention_mask" not in batch:
            return batch
        return batch | {"input_ids": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, pad)}

    def _ready(self, model: Any) -> Any:
        return model.train(self.dropout)


def mix_teachers(logits: Sequence[Tensor], kind: str) -> Tensor:
    """Logits whose probabilities are the mean of the teachers' (N, C); numbers (regression) are averaged.

    Their level, which no probability shows and `mse` compares, is the mean of the teachers' levels.
    """
    stacked = torch.stack(list(logits))
    if kind == "regression":
        return stacked.mean(0)
    if kind == "multilabel":
        return logsigmoid(stacked).logsumexp(0) - logsigmoid(-stacked).logsumexp(0)  # finite where a sigmoid is 1
    return log_probabilities(stacked).logsumexp(0) - math.log(len(logits)) + stacked.logsumexp(-1, keepdim=True).mean(0)


def own_batch(batch: Batch) -> Batch:
    """What a teacher reads: its own tokens where the batch has them."""
    own = {name.removeprefix(PREFIX): value for name, value in batch.items() if name.startswith(PREFIX)}
    students = MODEL_INPUTS if own else ()  # all of them: a teacher may have no token types, and must not get the student's
    owns = {name: value for name, value in batch.items() if not name.startswith(PREFIX) and name not in students}
    return owns | own
