"""In which dtype a matmul runs, with and without autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a matmul with x runs: x's own, or autocast's (which leaves float64 alone, as torch does)."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if x.dtype != torch.float64 and autocast_is_on(device) else x.dtype


def autocast_is_on(device: str) -> bool:
    """False too where there is no autocast, as on the meta device, on which models are counted without memory."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def without_autocast(device: str) -> AbstractContextManager:
    """For a backward, in which every operand is given the forward's dtype by hand."""
    return torch.autocast(device, enabled=False) if autocast_is_on(device) else nullcontext()


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor itself where the dtype is right already."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)
