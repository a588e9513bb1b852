"""The weights are wrong, their histogram is perfect

Symptom: The decoded weights give bad outputs. The histogram of their values looks perfect.

Question: Which half of a byte holds the first index?

Cause: Packing puts the first index into the high half of the byte, decoding reads the low half
first. Test packing with an asymmetric pattern, such as 0, 1, 2, 3.

Lesson: 07
"""

import torch


def wrong() -> float:
    """Which part of the indices is wrong after packing and unpacking."""
    torch.manual_seed(0)
    index = torch.randint(16, (64,), dtype=torch.uint8)
    packed = (index[0::2] << 4) | index[1::2]
    unpacked = torch.stack([packed & 15, packed >> 4], dim=1).flatten()
    return float((unpacked != index).double().mean())


def fixed() -> float:
    """Which part of the indices is wrong after packing and unpacking."""
    torch.manual_seed(0)
    index = torch.randint(16, (64,), dtype=torch.uint8)
    packed = (index[0::2] << 4) | index[1::2]
    unpacked = torch.stack([packed >> 4, packed & 15], dim=1).flatten()
    return float((unpacked != index).double().mean())


def is_right(value: float) -> bool:
    return value == 0
