"""Our answers to lesson 07."""

import torch
from torch import Tensor


def bits_per_number(blocksize: int, double_quant: bool) -> float:
    """★ Bits that NF4 stores for each number: its index, and its share of the scales."""
    scale = 8 + 32 / 256 if double_quant else 32
    return 4 + scale / blocksize


def pack(indices: list[int]) -> list[int]:
    """★★ Indices (0 to 15) to bytes, the first of a pair in the high half; 7 follows a last one that is alone."""
    even = indices + [7] * (len(indices) % 2)
    return [(high << 4) | low for high, low in zip(even[0::2], even[1::2], strict=True)]


def nearest_index(x: Tensor, levels: Tensor) -> Tensor:
    """★★ The index of the nearest of `levels` (sorted) for each number in x; on a tie the lower one."""
    middles = (levels[1:] + levels[:-1]) / 2
    return torch.bucketize(x, middles)
