"""One reused buffer on the CPU for decoded 4-bit weights.

A new buffer of the size of a weight costs as much time as half of the decoding: the operating system must map and clear its
pages. So each thread keeps one buffer for each dtype, as large as the largest weight that it has decoded.

    with decoded(quantized, dtype) as weight:      # (N, K), valid until the end of the block
        y = x @ weight.T

A buffer that is in use is not in the pool, so nested calls get another one. Nothing that leaves the block may be a view of it,
and no graph may hold it: this is for the inside of autograd nodes. A GPU's allocator reuses memory by itself, so there the
weight is a new tensor. (So it is in a compiled graph: see `functional.py`.)
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from kernels.formulas.nf4 import Quantized, dequantize

_pool = threading.local()
"""attributes: `buffers`, {dtype: a flat tensor}"""


@contextmanager
def decoded(weight: Quantized, dtype: torch.dtype) -> Iterator[Tensor]:
    """The weight as a matrix of this dtype, in the thread's buffer."""
    if weight.packed.device.type != "cpu" or type(weight.packed) is not Tensor:  # a fake tensor has no memory
        yield dequantize(weight, dtype)
        return
    buffers = _pool.__dict__.setdefault("buffers", {})
    count = 2 * weight.packed.numel()
    buffer = buffers.pop(dtype, None)
    if buffer is None or len(buffer) < count:
        with torch.inference_mode(False):  # the next call may be a training step
            buffer = torch.empty(count, dtype=dtype)
    try:
        yield dequantize(weight, dtype, out=buffer[:count])
    finally:
        if type(buffer) is Tensor and len(buffer) >= len(buffers.get(dtype, ())):
            buffers[dtype] = buffer


def held_bytes() -> int:
    """Bytes of the buffers that this thread keeps."""
    return sum(buffer.nbytes for buffer in _pool.__dict__.get("buffers", {}).values())


def release() -> None:
    """Free the buffers of this thread."""
    _pool.__dict__.pop("buffers", None)
