"""LoRA and DoRA in operations that autograd derives by itself: for second derivatives and for `torch.func`.

The hand-written nodes give first derivatives. Where a derivative of a gradient is asked (a gradient penalty), their backward
derives the plain form below; inside a transform of `torch.func` (per-example gradients) the plain form runs from the start.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from kernels.formulas.lora_matmul import Parts
from loralib.compute.casting import cast


def transformed() -> bool:
    """Whether a transform of `torch.func` is active, which an autograd node of one's own cannot pass."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def second_derivative_asked() -> bool:
    """In a backward: whether its result is to be derived again (`create_graph=True`)."""
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def plain_lora(
    x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, scaling: float | Tensor, parts: Parts, dropped: Tensor
) -> Tensor:
    """y = x Wᵀ + b + scaling · (dropped Aᵀ) Bᵀ, in x's dtype. x (..., K), weight (N, K), A (parts · r, K), B (width, r)."""
    N, r, row = len(weight), B.shape[1], 0
    y = F.linear(x, weight, bias)
    S = F.linear(dropped, cast(A, x.dtype)) * scaling
    for i, (low, high) in enumerate(parts):
        update = F.linear(S[..., i * r : (i + 1) * r], cast(B[row : row + high - low], x.dtype))
        y = y + F.pad(update, (low, N - high))
        row += high - low
    return y


def plain_dora(
    x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, gain: Tensor, scaling: float, dropped: Tensor
) -> Tensor:
    """y = gain ⊙ (x Wᵀ + scaling · (dropped Aᵀ) Bᵀ) + b, in x's dtype; gain (N,) = magnitude / norm."""
    y = plain_lora(x, weight, None, A, B, scaling, ((0, len(weight)),), dropped) * cast(gain, x.dtype)
    return y if bias is None else y + bias


def derived(formula: Callable[..., Tensor], given: list[Tensor | None], dy: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of formula(*given) with respect to what is given, as a part of the graph; None where none is needed."""
    needed = [t for t in given if t is not None and t.requires_grad]
    with torch.enable_grad():
        y = formula(*given)
    gradients = dict(zip(map(id, needed), torch.autograd.grad(y, needed, dy, create_graph=True, allow_unused=True), strict=True))
    return tuple(None if t is None else gradients.get(id(t)) for t in given)
