"""What a puzzle of the ladder consists of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Values = dict[str, Any]
"""arguments of `launch` by name: tensors and numbers"""


@dataclass(frozen=True)
class Puzzle:
    """One kernel to write. A file in `stubs/` has a `launch` that takes the inputs and the outputs by name."""

    title: str
    new: str
    """the new difficulty, in a few words"""
    task: str
    """two sentences"""
    formula: str
    """in TeX"""
    programs: str
    """what one program loads and stores, in words: the text of the figure"""
    hints: tuple[str, ...]
    inputs: Callable[[], Values]
    """the same values each time"""
    outputs: Callable[[Values], dict[str, Tensor]]
    """empty tensors of the right shapes"""
    definition: Callable[..., dict[str, Tensor]]
    """the outputs from the inputs, in plain PyTorch; a float64 input gives a float64 output"""
    fewest_bytes: Callable[[Values], int]
    """how many bytes all programs together have to load, with the tiles that the stub fixes"""
    depth: int = 1
    """how many roundings one output has at most: the tolerance"""
    cache: int = 0
    """bytes of the cache behind which loads are counted; 0: all loads are counted"""
