"""The one attention function through which a prefix reaches every model of transformers, and a way to listen to it.

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
class Heard:
    module: nn.Module
    key: Tensor
    """(B, H_kv, T, d_head), rotated if the model rotates"""
    value: Tensor


_heard: ContextVar[list[Heard] | None] = ContextVar("heard", default=None)


def prefix_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' scaled dot-product attention, with the active prefix before keys and values (B, H_kv, T, d_head).

    ValueError for an option that it would drop (`attention_options.py`).
    """
    refuse_dropped_options(module, options)
    heard = _heard.get()
    if heard is not None:
        heard.append(Heard(module, key, value))
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    holder, number = module.__dict__[LINK]
    pair = holder.prefix[2 * number : 2 * number + 2]
    first_key, first_value = (part.to(key).expand(len(key), -1, -1, -1) for part in pair)
    count = first_key.shape[2]
    causal = options.pop("is_causal", None)
    causal = getattr(module, "is_causal", True) if causal is None else causal
    window = options.get("sliding_window") if causal else None
    sees = virtual_tokens_in_window(count, query.shape[2], key.shape[2], window, query.device)
    if attention_mask is None and causal and (query.shape[2] > 1 or sees is not None):
        # None meant causal, which is wrong for longer keys
        key, value = key[:, :, : query.shape[2]], value[:, :, : query.shape[2]]
        square = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool, device=query.device)
        attention_mask = square.tril()[None, None]
    if attention_mask is not None:
        seen = 1 if attention_mask.dtype == torch.bool else 0
        attention_mask = F.pad(attention_mask, (count, 0), value=seen)
        if sees is not None:
            hidden = False if attention_mask.dtype == torch.bool else torch.finfo(attention_mask.dtype).min
            attention_mask[..., :count] = attention_mask[..., :count].masked_fill(~sees, hidden)
    if options.get("position_bias") is not None:  # T5: a distance to a virtual token does not exist
        options["position_bias"] = F.pad(options["position_bias"], (count, 0))
    key, value = torch.cat([first_key, key], 2), torch.cat([first_value, value], 2)
    return sdpa_attention_forward(module, query, key, value, attention_mask, is_causal=False, **options)


AttentionInterface.register(NAME, prefix_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


@torch.no_grad()
def listen(model: Any, ids: list[int]) -> list[Heard]:
    """Run `model` on a text and hear what each of its attentions gets, in order. An encoder-decoder reads it on both sides.

    ValueError where attentions do not go through transformers' interface, or one serves several layers.
    """
    tokens = torch.tensor([ids], device=next(model.parameters()).device)
    inputs = {"input_ids": tokens} | ({"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {})
    training = model.training
    with _listening() as heard, implementation(model, NAME):
        model.eval()
        try:
            model.base_model(**inputs)
        finally:
            model.train(training)
    if not heard:
        raise ValueError(f"{type(model).__name__}: its attentions do not go through transformers' AttentionInterface")
    if len({id(h.module) for h in heard}) < len(heard):
        raise ValueError(f"{type(model).__name__}: layers share an attention, so they cannot have prefixes of their own")
    if len({(h.key.shape[1], h.key.shape[3]) for h in heard}) > 1:
        raise ValueError(f"{type(model).__name__}: its attentions differ in heads or their size, which one table cannot hold")
    return heard


@contextmanager
def _listening() -> Iterator[list[Heard]]:
    heard: list[Heard] = []
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)


@contextmanager
def implementation(model: Any, name: str) -> Iterator[None]:
    """Another attention implementation for a while."""
    before = model.config._attn_implementation
    model.set_attn_implementation(name)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
