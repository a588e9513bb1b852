"""Exercises of lesson 07. Write the functions, then run `python -m tutorials check 07`."""

from torch import Tensor


def bits_per_number(blocksize: int, double_quant: bool) -> float:
    """★ Bits that NF4 stores for each number: its index, and its share of the scales.

    A scale has 32 bits; with double quantisation 8 bits, and 32 more for every 256 scales. Two lines.
    """
    raise NotImplementedError("bits_per_number")


def pack(indices: list[int]) -> list[int]:
    """★★ Indices (0 to 15) to bytes, the first of a pair in the high half; 7 follows a last one that is alone.

    Three lines.
    """
    raise NotImplementedError("pack")


def nearest_index(x: Tensor, levels: Tensor) -> Tensor:
    """★★ The index of the nearest of `levels` (sorted) for each number in x; on a tie the lower one.

    Two lines; no loop over x.
    """
    raise NotImplementedError("nearest_index")
