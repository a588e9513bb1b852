"""Which implementation each layer of a model would run, and why: `print(explain(model, tokens=4096))`."""

from dataclasses import dataclass

import torch
from torch import nn

from loralib.compute.dispatch import Choice, choose, mode_of
from loralib.layers.linear import Projection
from loralib.layers.linear4bit import Linear4bit


@dataclass(frozen=True)
class LayerPath:
    """One layer's choice."""

    layer: str
    shape: tuple[int, int]
    """(d_out, d_in)"""
    r: int
    """0 without an active adapter"""
    dtype: torch.dtype
    choice: Choice


@dataclass(frozen=True)
class Explanation:
    """Prints as a table, equal layers in one line."""

    tokens: int
    layers: tuple[LayerPath, ...]

    def __str__(self) -> str:
        groups: dict[tuple, list[str]] = {}
        for item in self.layers:
            groups.setdefault((item.shape, item.r, item.dtype, item.choice), []).append(item.layer)
        lines = [f"{len(self.layers)} layers, {self.tokens} tokens a forward"]
        for ((d_out, d_in), r, dtype, choice), names in groups.items():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            kind = f"{d_in}→{d_out}, r={r}, {str(dtype).removeprefix('torch.')}"
            lines.append(f"  {choice.path:6}  {names[0]}{more} ({kind}): {choice.reason}")
        return "\n".join(lines)


def explain(model: nn.Module, tokens: int = 4096) -> Explanation:
    """For every LoRA and 4-bit layer the path that `tokens` tokens (batch × length) take now: in training with a backward where
    the adapter trains, in `eval()` without.

    Raises ValueError where there is no such layer.
    """
    layers = [
        _explain(name, module, tokens) for name, module in model.named_modules() if isinstance(module, Projection | Linear4bit)
    ]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no LoRA and no 4-bit layer: torch runs all of it")
    return Explanation(tokens, tuple(layers))


def _explain(name: str, module: Projection | Linear4bit, tokens: int) -> LayerPath:
    packed = isinstance(module, Linear4bit)
    d_out, d_in = module.quantized.shape if packed else module.matrix_shape()
    dtype = module.compute_dtype if packed else module.weight.dtype
    variant, rank, mode = None, 0, "forward"
    if isinstance(module, Projection) and module.active and not module.merged:
        variant = module.variants[module.active[0]]
        rank = len(module.lora_A[module.active[0]]) if module.active[0] in module.lora_A else 0
        mode = mode_of(*module.trained(module.active[0]).values()) if module.training else mode
    if not packed and (variant is None or not variant.has_kernel):
        reason = "no adapter is active" if variant is None else f"{variant.title} has no kernel of its own"
        choice = Choice("torch", reason)
    else:
        operation = ("nf4_lora" if rank else "nf4") if packed else "lora"
        choice = choose(operation, module.weight.device, dtype, (tokens, d_out, d_in), rank, mode)
    return LayerPath(name, (d_out, d_in), rank, dtype, choice)
