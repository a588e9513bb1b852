"""One pass of a model, with all that a teacher has to say: answers, hidden states, queries, keys and values of each attention.

transformers lets a function be registered by name (`AttentionInterface`); every attention of a model whose implementation has
that name calls it, after rotation. So one function serves encoders and decoders alike, and nothing is read off module names.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from adapters.virtual.attention import NAME as PREFIX_ATTENTION
from adapters.virtual.attention import implementation
from adapters.virtual.attention_options import refuse_dropped_options
from distill.losses.losses import MASKED
from training.data.batching import Batch
from training.data.ignored import IGNORE
from training.evaluation.evaluation import model_inputs

NAME = "distill_recorder"
VECTORS = ("query", "key", "value")


@dataclass(frozen=True)
class AttentionInputs:
    """What one attention computes with."""

    query: Tensor
    """(B, H, T, d), rotated if the model rotates"""
    key: Tensor
    """(B, H_kv, T, d): fewer heads where several queries share one"""
    value: Tensor
    scale: float

    def scores(self) -> Tensor:
        """Q Kᵀ · scale (B, H, T, T), before mask and softmax."""
        key = self.key.repeat_interleave(self.query.shape[1] // self.key.shape[1], 1)
        return self.query @ key.mT * self.scale

    def joined(self, which: str) -> Tensor:
        """The queries, keys or values with their heads joined: (B, T, H · d)."""
        return getattr(self, which).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class ForwardStates:
    """What one pass showed: `hidden[k]` is the output of layer k, `hidden[0]` of the embeddings; `attentions[k - 1]` is of
    layer k.

    Of GPT-2 and Llama the last one is after the final norm, as transformers returns it: compare it with another last one only.
    """

    out: Any
    mask: Tensor
    """(B, T), 0 at padding"""
    hidden: tuple[Tensor, ...] = ()
    attentions: tuple[AttentionInputs, ...] = ()


_recorded: ContextVar[list[AttentionInputs] | None] = ContextVar("recorded", default=None)


def _record(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any):
    refuse_dropped_options(module, options)
    recorded = _recorded.get()
    if recorded is not None:
        scale = options.get("scaling")
        recorded.append(AttentionInputs(query, key, value, query.shape[-1] ** -0.5 if scale is None else scale))
    return sdpa_attention_forward(module, query, key, value, attention_mask, **options)


def _register() -> None:
    """Tell transformers the name under which a model finds `_record`; doing it again changes nothing."""
    AttentionInterface.register(NAME, _record)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def forward_with_states(model: Any, batch: Batch, hidden: bool = False, attention: bool = False) -> ForwardStates:
    """Run `model` on a batch. ValueError where its attentions cannot be recorded."""
    inputs = model_inputs(batch)
    if attention and model.config._attn_implementation == PREFIX_ATTENTION:  # a second function would take the prefix away
        raise ValueError(
            f"{type(model).__name__} reads its prefix in its attention, so a loss on attention or relations would see none; "
            "losses on logits and hidden states can be computed"
        )
    with _recording(model) if attention else nullcontext([]) as recorded:
        out = model(**inputs, **({"output_hidden_states": True} if hidden else {}))
    if attention and not recorded:
        raise ValueError(
            f"{type(model).__name__}: its attentions do not go through transformers' AttentionInterface, so no loss on attention "
            "or relations can be computed; losses on logits and hidden states can"
        )
    mask = batch.get("attention_mask")
    mask = torch.ones_like(batch["input_ids"]) if mask is None else mask
    return ForwardStates(out, mask, tuple(out.hidden_states) if hidden else (), tuple(recorded))


def answer_logits(kind: str, out: Any, batch: Batch) -> Tensor:
    """The logits (N, C) of all answers that a batch asks for, in the order of its rows.

    A row's label, the tags of its labelled tokens, the tokens of its completion, or for a question two rows: the places where
    the answer starts and ends, with padding masked.
    """
    if kind == "qa":
        padding = batch["attention_mask"] == 0
        both = torch.stack([out.start_logits, out.end_logits], 1)  # (B, 2, T)
        both = both.to(torch.promote_types(both.dtype, torch.float32))  # float16 has no number as low as MASKED
        both = both.masked_fill(padding[:, None], MASKED)
        return both.flatten(0, 1)
    logits = out.logits
    if kind in ("generation", "text"):  # position t predicts token t + 1
        logits = logits[:, -batch["labels"].shape[1] :][:, :-1]
        return logits[batch["labels"][:, 1:] != IGNORE]
    return logits[batch["labels"] != IGNORE] if kind == "tagging" else logits


def answers_in(kind: str, batch: Batch) -> list[int]:
    """How many rows of `answer_logits` each row of the batch has."""
    if kind in ("generation", "text"):
        return (batch["labels"][:, 1:] != IGNORE).sum(1).tolist()
    if kind == "tagging":
        return (batch["labels"] != IGNORE).sum(1).tolist()
    return [2 if kind == "qa" else 1] * len(batch["input_ids"])


@contextmanager
def _recording(model: Any) -> Iterator[list[AttentionInputs]]:
    recorded: list[AttentionInputs] = []
    _register()
    token = _recorded.set(recorded)
    try:
        with implementation(model, NAME):
            yield recorded
    finally:
        _recorded.reset(token)
