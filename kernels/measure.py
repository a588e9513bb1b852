"""What a forward costs, counted rather than timed: bytes of saved activations, and the operations that ran.

Counts repeat exactly on any machine, so tests assert them; times are for benchmarks.
"""

import re
import resource
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = {"view", "t", "transpose", "expand", "slice", "_unsafe_view", "alias", "detach", "permute", "select", "unsqueeze"}


def saved_bytes(forward: Callable[[], Any], leave_out: Iterable[Tensor] = ()) -> int:
    """Bytes of the distinct storages that autograd keeps while `forward` runs, without those of `leave_out` (parameters)."""
    known = {t.untyped_storage().data_ptr() for t in leave_out}
    saved: dict[int, tuple[int, Tensor]] = {}  # the tensor is held so that its address is not used again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(size for size, _ in saved.values())


class _Counting(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        if name not in VIEWS:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def count_operations(forward: Callable[[], Any]) -> Counter[str]:
    """How often each ATen operation ran, views left out (they move no data)."""
    with _Counting() as mode:
        forward()
    return mode.counts


class _Moving(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.moved = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func._schema.name.removeprefix("aten::") not in VIEWS:
            results = result if isinstance(result, tuple | list) else (result,)
            given = [] if "_out" in func.__name__ or "empty" in func.__name__ else [*args, *(kwargs or {}).values()]
            self.moved += sum(t.numel() * t.element_size() for t in (*given, *results) if isinstance(t, Tensor))
        return result


def moved_bytes(forward: Callable[[], Any]) -> int:
    """Bytes that its operations read and write, each operand once per operation, as if nothing stayed in a cache between two."""
    with _Moving() as mode:
        forward()
    return mode.moved


def peak_bytes(device: torch.device) -> int:
    """The most memory this process has held so far: on a GPU what torch allocated there, else what the process had in RAM.

    A peak never falls, so two runs in one process cannot be compared by it: give each a process of its own.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # `getrusage` would tell the peak of the process that started this one, where that is larger
        return 1024 * int(re.findall(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts in bytes
