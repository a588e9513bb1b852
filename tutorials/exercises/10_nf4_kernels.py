"""Exercises of lesson 10. Write the functions, then run `python -m tutorials check 10`."""

from torch import Tensor


def budget(processors: int, per_cycle: int, hertz: float, bandwidth: float, bits: float) -> float:
    """★ Instructions for each weight while weights of `bits` bits arrive at `bandwidth` bytes per second.

    `processors` issue `per_cycle` instructions each in each of `hertz` cycles per second. Two lines.
    """
    raise NotImplementedError("budget")


def pair_table(levels: Tensor) -> Tensor:
    """★★ (256, 2): both levels of every byte; the first index is in the high half of the byte.

    `levels` has 16 numbers. One or two lines; `torch.stack` joins two columns (import torch).
    """
    raise NotImplementedError("pair_table")


def best_path(M: int, once: float, per_tile: float, multiply: float, tile: int = 128) -> str:
    """★★ "packed" or "decode once", whichever takes less time; work is done in turn, as in section 2 of the deep dive.

    once: seconds to decode the weight to bf16. per_tile: seconds to decode it inside the product, for each `tile` tokens.
    multiply: seconds of the product of one token (the time to read the decoded weight is left out). On a tie "decode once".
    """
    raise NotImplementedError("best_path")
