"""The one attention function through which a prefix reaches every model of transformers, and a way to record what it gets.

transformers lets a function be registered by name (`AttentionInterface`); every attention of a model whose implementation has
that name then calls it with its keys and values, after rotation and cache. So no cache class is needed, and the same code serves
encoders, decoders, cross-attention and shared key heads.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from adapters.virtual.attention_options import refuse_dropped_options, virtual_tokens_in_window

NAME = "virtual_prefix"
LINK = "_virtual_tokens"
"""where a module keeps (holder, number): the VirtualTokens of its model, and which attention it is"""


@dataclass(frozen=True)
class AttentionInput:
    """What one attention got in a recorded pass."""

    module: nn.Module
    key: Tensor
    """(B, H_kv, T, d_head), rotated if the model rotates"""
    value: Tensor


_recorded: ContextVar[list[AttentionInput] | None] = ContextVar("recorded", default=None)


def prefix_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' scaled dot-product attention, with the active prefix before keys and values (B, H_kv, T, d_head).

    ValueError for an option that it would drop (`attention_options.py`).
    """
    refuse_dropped_options(module, options)
    recorded = _recorded.get()
    if recorded is not None:
        recorded.append(AttentionInput(module, key, value))
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    prefix_key, prefix_value = prefix_of(module, key)
    is_causal = options.pop("is_causal", None)
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    count, length = prefix_key.shape[2], query.shape[2]
    window = options.get("sliding_window") if is_causal else None
    visible = virtual_tokens_in_window(count, length, key.shape[2], window, query.device)
    if attention_mask is None and is_causal and (length > 1 or visible is not None):
        key, value, attention_mask = key[:, :, :length], value[:, :, :length], causal_mask(length, query.device)
    if attention_mask is not None:
        attention_mask = mask_with_prefix(attention_mask, count, visible)
    if options.get("position_bias") is not None:  # T5: a distance to a virtual token does not exist
        options["position_bias"] = F.pad(options["position_bias"], (count, 0))
    key, value = torch.cat([prefix_key, key], 2), torch.cat([prefix_value, value], 2)
    return sdpa_attention_forward(module, query, key, value, attention_mask, is_causal=False, **options)


def prefix_of(module: nn.Module, key: Tensor) -> tuple[Tensor, Tensor]:
    """The active prefix's keys and values for this attention, (B, H_kv, P, d_head) each, in the dtype of `key`."""
    holder, number = module.__dict__[LINK]
    pair = holder.prefix[2 * number : 2 * number + 2]
    prefix_key, prefix_value = (part.to(key).expand(len(key), -1, -1, -1) for part in pair)
    return prefix_key, prefix_value


def causal_mask(length: int, device: torch.device) -> Tensor:
    """(1, 1, T, T). No mask meant a causal one, which torch would make for the longer keys wrongly."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]


def mask_with_prefix(mask: Tensor, count: int, visible: Tensor | None) -> Tensor:
    """The mask (..., T_q, T_k) with `count` virtual tokens before the keys, all visible, or only those of `visible`."""
    is_bool = mask.dtype == torch.bool
    mask = F.pad(mask, (count, 0), value=1 if is_bool else 0)
    if visible is not None:
        hidden = False if is_bool else torch.finfo(mask.dtype).min
        mask[..., :count] = mask[..., :count].masked_fill(~visible, hidden)
    return mask


def register_prefix_attention() -> None:
    """Tell transformers the name under which a model finds `prefix_attention`; doing it again changes nothing."""
    AttentionInterface.register(NAME, prefix_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


@torch.no_grad()
def record_attentions(model: Any, ids: list[int]) -> list[AttentionInput]:
    """Run `model` on a text and record what each of its attentions gets, in order. An encoder-decoder reads it on both sides.

    ValueError where attentions do not go through transformers' interface, or one serves several layers.
    """
    tokens = torch.tensor([ids], device=next(model.parameters()).device)
    inputs = {"input_ids": tokens} | ({"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {})
    training = model.training
    register_prefix_attention()
    with _recording() as recorded, implementation(model, NAME):
        model.eval()
        try:
            model.base_model(**inputs)
        finally:
            model.train(training)
    if not recorded:
        raise ValueError(f"{type(model).__name__}: its attentions do not go through transformers' AttentionInterface")
    if len({id(one.module) for one in recorded}) < len(recorded):
        raise ValueError(f"{type(model).__name__}: layers share an attention, so they cannot have prefixes of their own")
    if len({(one.key.shape[1], one.key.shape[3]) for one in recorded}) > 1:
        raise ValueError(f"{type(model).__name__}: its attentions differ in heads or their size, which one table cannot hold")
    return recorded


@contextmanager
def _recording() -> Iterator[list[AttentionInput]]:
    recorded: list[AttentionInput] = []
    token = _recorded.set(recorded)
    try:
        yield recorded
    finally:
        _recorded.reset(token)


@contextmanager
def implementation(model: Any, name: str) -> Iterator[None]:
    """Another attention implementation for a while."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
