"""Frozen weights in half precision: half of the memory, and faster matrix multiplications where the processor has them.

What trains stays in float32: adapters (they cast their input themselves), and heads, which get a cast in front. Gradients and the
optimizer's state are then float32, too.
"""

from typing import Any

import torch
from torch import Tensor, nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_of(name: str, config: Any) -> torch.dtype:
    """fp32, bf16 or fp16; `auto` is the dtype of the checkpoint, as its config says (float32 where it says nothing)."""
    if name != "auto":
        return DTYPES[name]
    stored = getattr(config, "dtype", None)
    stored = getattr(torch, stored, None) if isinstance(stored, str) else stored
    return stored if stored in DTYPES.values() else torch.float32


def hold_heads_in_float32(model: nn.Module, paths: list[str]) -> None:
    """The modules at these paths compute in float32, whatever the dtype of their input."""
    for path in paths:
        module = model.get_submodule(path).float()
        module.register_forward_pre_hook(_in_float32, with_kwargs=True)


def _in_float32(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    return tuple(map(_wide, args)), {name: _wide(value) for name, value in kwargs.items()}


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def refuse_half_precision_training(model: nn.Module, dtype: str) -> None:
    """ValueError where a parameter that trains is in half precision: its small updates would be rounded away."""
    half = [name for name, p in model.named_parameters() if p.requires_grad and p.dtype in (torch.bfloat16, torch.float16)]
    if half:
        raise ValueError(
            f"dtype={dtype!r} is for frozen weights, and {len(half)} parameters would train in half precision, e.g. {half[:2]}. "
            "Choose a method with a frozen base (such as lora, qlora or bottleneck), or dtype='fp32' with mixed_precision='bf16'"
        )
