"""Our answers to lesson 13."""

import torch
from torch import Tensor


def prompt_as_large(virtual_tokens: int, attentions: int, key_heads: int, head_size: int, width: int) -> int:
    """★ How many virtual tokens a prompt needs (rounded up) to have as many parameters as a prefix of `virtual_tokens` in a
    model of this width."""
    numbers = 2 * attentions * virtual_tokens * key_heads * head_size
    return -(-numbers // width)


def share_of_prefix(q: Tensor, k: Tensor, first_k: Tensor) -> Tensor:
    """★★ The share of its attention that each query spends on the prefix, (B, H, T), in an encoder without padding."""
    keys = torch.cat([first_k.expand(len(q), -1, -1, -1), k], 2)
    weights = (q @ keys.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return weights[..., : first_k.shape[1]].sum(-1)


def shared_prefix_attention(q: Tensor, k: Tensor, v: Tensor, first_k: Tensor, first_v: Tensor) -> Tensor:
    """★★ Attention with a prefix in an encoder without padding, where query heads share key heads."""
    keys, values = (torch.cat([a.expand(len(q), -1, -1, -1), b], 2) for a, b in ((first_k, k), (first_v, v)))
    times = q.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(times, 1), values.repeat_interleave(times, 1)
    return (q @ keys.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ values
