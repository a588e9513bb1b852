"""Answers to the exercises of lesson 10."""

import torch
from torch import Tensor


def budget(processors: int, per_cycle: int, hertz: float, bandwidth: float, bits: float) -> float:
    weights_per_second = bandwidth / (bits / 8)
    return processors * per_cycle * hertz / weights_per_second


def pair_table(levels: Tensor) -> Tensor:
    return torch.stack([levels.repeat_interleave(16), levels.repeat(16)], 1)


def best_path(M: int, once: float, per_tile: float, multiply: float, tile: int = 128) -> str:
    tiles = -(-M // tile)
    packed, decoded = tiles * per_tile + M * multiply, once + M * multiply
    return "packed" if packed < decoded else "decode once"
