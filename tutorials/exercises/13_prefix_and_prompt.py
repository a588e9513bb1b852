"""Exercises of lesson 13. Write the functions, then run `python -m tutorials check 13`."""

from torch import Tensor


def prompt_as_large(virtual_tokens: int, attentions: int, key_heads: int, head_size: int, width: int) -> int:
    """★ How many virtual tokens a prompt needs (rounded up) to have as many parameters as a prefix of `virtual_tokens` in a
    model of this width.

    Two lines.
    """
    raise NotImplementedError("prompt_as_large")


def share_of_prefix(q: Tensor, k: Tensor, first_k: Tensor) -> Tensor:
    """★★ The share of its attention that each query spends on the prefix, (B, H, T), in an encoder without padding.

    q and k are (B, H, T, d_head), first_k is (H, P, d_head). Three lines; the sum of the first P columns of a softmax.
    """
    raise NotImplementedError("share_of_prefix")


def shared_prefix_attention(q: Tensor, k: Tensor, v: Tensor, first_k: Tensor, first_v: Tensor) -> Tensor:
    """★★ Attention with a prefix in an encoder without padding, where query heads share key heads: q is (B, H, T, d_head), k and
    v are (B, H_kv, T, d_head), first_k and first_v are (H_kv, P, d_head). Queries 0 to H / H_kv - 1 read key head 0.

    Four or five lines.
    """
    raise NotImplementedError("shared_prefix_attention")
