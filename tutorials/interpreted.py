"""For lessons 09 to 11: how many bytes the programs of an interpreted Triton kernel ask for.

The interpreter runs a kernel's programs one after the other on a CPU, with numpy. Each load and store passes through two of its
functions; here they also count. What a GPU takes from its caches is not told apart: this is what the programs request.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Traffic:
    """Bytes that programs ask for."""

    loaded: int = 0
    stored: int = 0


@dataclass
class Launches:
    launches: int = 0


@contextmanager
def count_launches() -> Iterator[Launches]:
    """Counts how many kernels are started inside."""
    from triton.runtime.interpreter import GridExecutor

    seen, call = Launches(), GridExecutor.__call__

    def counting(self, *args, **kwargs):
        seen.launches += 1
        return call(self, *args, **kwargs)

    GridExecutor.__call__ = counting
    try:
        yield seen
    finally:
        GridExecutor.__call__ = call


@contextmanager
def traffic() -> Iterator[Traffic]:
    """Counts inside. Elements that a mask leaves out are not counted."""
    from triton.runtime.interpreter import InterpreterBuilder as Builder

    seen, load, store = Traffic(), Builder.create_masked_load, Builder.create_masked_store

    def counting_load(self, ptrs, mask, *rest):
        result = load(self, ptrs, mask, *rest)
        seen.loaded += int(mask.data.sum()) * result.data.itemsize
        return result

    def counting_store(self, ptrs, value, mask, *rest):
        seen.stored += int(mask.data.sum()) * value.data.itemsize
        return store(self, ptrs, value, mask, *rest)

    Builder.create_masked_load, Builder.create_masked_store = counting_load, counting_store
    try:
        yield seen
    finally:
        Builder.create_masked_load, Builder.create_masked_store = load, store
