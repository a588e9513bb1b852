"""What zeros save on disk: dense bytes, a bitmap with the other values, and gzip over all. Counted on bytes that are really made.

    bitmap: 1 bit for each number, and the numbers that are not zero     smaller than dense float32 from 1/32 zeros on

No speed is won: a dense matmul multiplies zeros too. Time falls only when whole rows go (`structured.py`).
"""

import gzip
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class StoredBytes:
    """One model, three ways to store it."""

    dense: int
    bitmap: int
    """each tensor the smaller way: dense, or bitmap and values"""
    gzip: int
    """the dense bytes, compressed"""
    zeros: float
    """share of zeros among all numbers of the linear layers and all others"""


def stored_bytes(model: nn.Module) -> StoredBytes:
    """Count the bytes of the distinct tensors of a model (parameters and persistent buffers), without names and headers."""
    tensors = {(t.data_ptr(), tuple(t.shape)): t.detach() for t in model.state_dict().values() if t.numel()}.values()
    if not tensors:
        raise ValueError(f"{type(model).__name__} has no tensors: nothing to store")
    dense = [_raw(t) for t in tensors]
    packed = sum(min(len(raw), len(pack(t))) for raw, t in zip(dense, tensors, strict=True))
    zeros = sum(int((t == 0).sum()) for t in tensors) / sum(t.numel() for t in tensors)
    return StoredBytes(sum(map(len, dense)), packed, len(gzip.compress(b"".join(dense), compresslevel=6, mtime=0)), zeros)


def pack(tensor: Tensor) -> bytes:
    """A bitmap of what is not zero, then those values. -0.0 counts as zero and comes back as 0.0."""
    flat = tensor.detach().cpu().flatten()
    alive = flat != 0
    return np.packbits(alive.numpy()).tobytes() + _raw(flat[alive])


def unpack(content: bytes, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """What `pack` made. ValueError where the bytes do not fit the shape."""
    n = int(np.prod(shape))
    split = (n + 7) // 8
    alive = (
        torch.from_numpy(np.unpackbits(np.frombuffer(content[:split], np.uint8), count=n).astype(bool)) if n else torch.ones(0)
    )
    wanted = split + int(alive.sum()) * dtype.itemsize
    if len(content) != wanted:
        raise ValueError(f"{len(content)} bytes, expected {wanted} for {tuple(shape)} {dtype}: another shape, or a damaged file")
    flat = torch.zeros(n, dtype=dtype)
    if len(content) > split:
        flat[alive] = torch.frombuffer(bytearray(content[split:]), dtype=dtype)
    return flat.view(shape)


def _raw(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
