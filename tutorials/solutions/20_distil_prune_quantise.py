"""Our answers to lesson 20."""

import torch
from torch import Tensor


def to_int8(w: Tensor) -> tuple[Tensor, Tensor]:
    """★ Integers (N, K) of dtype int8 and one scale per row (N, 1), so that w ≈ q · scale. The error is half a scale at most."""
    scale = w.abs().amax(1, keepdim=True) / 127
    scale = torch.where(scale == 0, 1.0, scale)
    return (w / scale).round().to(torch.int8), scale


def smallest_storage(numbers: int, zeros: int, bits: int) -> tuple[str, float]:
    """★ ("plain" | "bitmap" | "index", bytes): the smallest storage for this many values of this many bits."""
    alive = numbers - zeros
    sizes = {"plain": numbers * bits / 8, "bitmap": (numbers + alive * bits) / 8, "index": alive * (bits + 32) / 8}
    return min(sizes.items(), key=lambda entry: entry[1])


def head_scores(x: Tensor, slope: Tensor, heads: int) -> Tensor:
    """★★ Importance I_h (H) of the heads, without gates: mean over texts of |∂L/∂g_h| at g = 1."""
    of_gates = (x * slope).unflatten(-1, (heads, -1)).sum((1, 3))  # (B, T, H, width) -> (B, H)
    return of_gates.abs().mean(0)


def straight_through(v: Tensor, bits: int, top: float) -> Tensor:
    """★★ v, rounded to steps of top / L with L = 2^(bits-1) - 1. Values beyond ±top become ±top."""
    step, inside = top / (2 ** (bits - 1) - 1), v.clamp(-top, top)
    return inside + ((inside / step).round() * step - inside).detach()
