"""Runs a kernel in Triton's interpreter and watches each load and store: bytes, addresses, and what a small cache would save."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

LINE = 64
"""bytes of a cache line"""
MARGIN = 4096
"""elements before and behind a tensor that belong to nobody"""


class OutOfBoundsError(AssertionError):
    """A kernel reads or writes an address that belongs to no tensor it may use."""


@dataclass
class Watch:
    """What the programs of all kernels inside did."""

    readable: dict[str, Tensor]
    writable: dict[str, Tensor]
    cache: int = 0
    loaded: int = 0
    stored: int = 0
    written: dict[str, np.ndarray] = field(default_factory=dict)
    """{output: how often each element was written}"""
    lines: OrderedDict = field(default_factory=OrderedDict)

    def __post_init__(self):
        self.written = {name: np.zeros(t.numel(), int) for name, t in self.writable.items()}

    def load(self, addresses: np.ndarray, size: int) -> None:
        """`addresses`: those that the mask lets through."""
        _owner(addresses, size, self.readable | self.writable, "reads")
        if not self.cache:
            self.loaded += addresses.size * size
            return
        for line in np.unique(addresses // LINE).tolist():  # a cache that forgets what was used longest ago
            if line in self.lines:
                self.lines.move_to_end(line)
                continue
            self.loaded += LINE
            self.lines[line] = None
            if len(self.lines) > self.cache // LINE:
                self.lines.popitem(last=False)

    def store(self, addresses: np.ndarray, size: int) -> None:
        self.stored += addresses.size * size
        if not addresses.size:
            return
        name = _owner(addresses, size, self.writable, "writes")
        start = self.writable[name].data_ptr()
        np.add.at(self.written[name], (addresses.astype(np.int64) - start) // size, 1)


def _owner(addresses: np.ndarray, size: int, tensors: dict[str, Tensor], does: str) -> str:
    """The tensor that all addresses lie in. OutOfBoundsError if there is none."""
    if not addresses.size:
        return ""
    low, high = int(addresses.min()), int(addresses.max())
    nearest = min(tensors, key=lambda name: abs(low - tensors[name].data_ptr()))
    for name, tensor in tensors.items():
        start = tensor.data_ptr()
        if start <= low and high + size <= start + tensor.nbytes:
            return name
    tensor = tensors[nearest]
    first, last = ((address - tensor.data_ptr()) // tensor.element_size() for address in (low, high))
    raise OutOfBoundsError(
        f"a program {does} the elements {first} to {last} of {nearest}, which has {tensor.numel()}. "
        "Is a mask missing (with & and parentheses), or a stride wrong?"
    )


@contextmanager
def watching(readable: dict[str, Tensor], writable: dict[str, Tensor], cache: int = 0) -> Iterator[Watch]:
    """Inside, kernels may read both groups of tensors, and write the second."""
    from triton.runtime.interpreter import InterpreterBuilder as Builder

    seen = Watch(readable, writable, cache)
    load, store = Builder.create_masked_load, Builder.create_masked_store

    def watched_load(self, ptrs, mask, other, *rest):
        allowed = np.broadcast_to(mask.data, ptrs.data.shape)
        seen.load(ptrs.data[allowed], _bytes_of(ptrs))
        result = load(self, ptrs, mask, other, *rest)
        if other is None and result.data.dtype.kind == "f":  # a GPU leaves anything there
            result.data = np.where(allowed, result.data, np.nan).astype(result.data.dtype)
        return result

    def watched_store(self, ptrs, value, mask, *rest):
        seen.store(ptrs.data[np.broadcast_to(mask.data, ptrs.data.shape)], _bytes_of(ptrs))
        return store(self, ptrs, value, mask, *rest)

    def refused(*_):
        raise TypeError("these puzzles need no atomic operation: one program owns each output, so use tl.store")

    watched = dict.fromkeys(("create_atomic_rmw", "create_atomic_cas"), refused)
    watched |= {"create_masked_load": watched_load, "create_masked_store": watched_store}
    before = {name: getattr(Builder, name) for name in watched}
    for name, function in watched.items():
        setattr(Builder, name, function)
    try:
        yield seen
    finally:
        for name, function in before.items():
            setattr(Builder, name, function)


def _bytes_of(addresses) -> int:
    """Of one element at these addresses."""
    return addresses.get_element_ty().primitive_bitwidth // 8


def apart(values: dict) -> dict:
    """The same values, each tensor alone in the middle of a larger buffer, so that a wrong address belongs to no other tensor."""
    return {name: _alone(value) if isinstance(value, Tensor) else value for name, value in values.items()}


def _alone(tensor: Tensor) -> Tensor:
    buffer = tensor.new_empty(2 * MARGIN + tensor.numel())
    start = MARGIN + (-(buffer.data_ptr() // tensor.element_size() + MARGIN)) % (LINE // tensor.element_size())  # at a cache line
    return buffer[start : start + tensor.numel()].view(tensor.shape).copy_(tensor)


def tensors_of(values: dict) -> dict[str, Tensor]:
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
