"""The LoRA linear map as one hand-written autograd node.

Autograd would keep x, the dropped copy of x, its mask and S = x̃ Aᵀ, and would cast x where adapters are float32.
This node keeps x and S, and with dropout a mask of bytes. It casts the small A and B, never x, to the compute dtype.
Under autocast the weight is cast again in backward instead of being kept in a second dtype. A 4-bit weight is decoded in
forward and once more in backward: what is kept is the packed one that exists anyway.

`lora_linear` and `quantized_linear` are where a Triton kernel is chosen, and nowhere else (`dispatch.py` says by what).
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from kernels.formulas.dropout import keep_mask, keep_probability
from kernels.formulas.lora_matmul import Parts, lora_backward, lora_forward
from kernels.formulas.nf4 import Quantized, dequantize
from loralib.compute.casting import cast, compute_dtype, without_autocast
from loralib.compute.decode_op import decode_in_graph
from loralib.compute.dispatch import choose, mode_of
from loralib.compute.fused import FusedLoraFunction, Nf4LinearFunction, dropout_seed
from loralib.compute.plain_autograd import derived, plain_lora, second_derivative_asked, transformed
from loralib.compute.workspace import decoded


def lora_linear(
    x: Float[Tensor, "*batch K"],
    weight: Float[Tensor, "N K"] | Quantized,
    bias: Float[Tensor, " N"] | None,
    lora_A: Float[Tensor, "pr K"],
    lora_B: Float[Tensor, "width r"],
    scaling: float | Tensor,
    dropout: float = 0.0,
    parts: Parts | None = None,
) -> Float[Tensor, "*batch N"]:
    """y = x Wᵀ + b + scaling · (dropout(x) Aᵀ) Bᵀ, in x's dtype (autocast's, where it is on).

    `parts` are the column ranges of y that the stacked (A_i, B_i) update; None is one part, all of y.
    The dropout mask comes from the global generator of x's device (`kernels/formulas/dropout.py`). A scale that is a tensor can
    change without a new compilation; it is put into B, since a number alone can ride in the matmul.
    """
    if isinstance(scaling, Tensor):
        lora_B, scaling = lora_B * scaling, 1.0
    (N, K), operation = weight.shape, "nf4_lora" if isinstance(weight, Quantized) else "lora"
    parts, mode = parts or ((0, N),), mode_of(x, lora_A, lora_B)
    if transformed():
        return plain_lora(x, dense(weight, x.dtype), bias, lora_A, lora_B, scaling, parts, F.dropout(x, dropout))
    if choose(operation, x.device, compute_dtype(x), (x.shape[:-1].numel(), N, K), len(lora_A), mode).path == "triton":
        y = FusedLoraFunction.apply(x, weight, bias, lora_A, lora_B, scaling, dropout_seed(x, dropout), dropout, parts)
    else:
        keep, scaling = dropout_mask(x, dropout, scaling)
        y = LoraLinearFunction.apply(x, weight, bias, lora_A, lora_B, scaling, keep, parts)
    return y.view(*x.shape[:-1], N)  # out here: a model may change the output in place, which a view made in a node forbids


def quantized_linear(x: Float[Tensor, "*batch K"], weight: Quantized, bias: Tensor | None) -> Float[Tensor, "*batch N"]:
    """y = x · dequant(W)ᵀ + b in x's dtype, without LoRA."""
    if transformed():
        return F.linear(x, dense(weight, x.dtype), bias)
    N, K = weight.shape
    choice = choose("nf4", x.device, x.dtype, (x.shape[:-1].numel(), N, K))
    if choice.path == "triton":
        return Nf4LinearFunction.apply(x, weight, bias).view(*x.shape[:-1], N)
    return QuantizedLinearFunction.apply(x, weight, bias)


def dense(weight: Tensor | Quantized, dtype: torch.dtype) -> Tensor:
    """The weight as a matrix of this dtype."""
    if isinstance(weight, Tensor):
        return cast(weight, dtype)
    return decode_in_graph(weight, dtype) if torch.compiler.is_compiling() else dequantize(weight, dtype)


def matrix(weight: Tensor | Quantized, dtype: torch.dtype) -> AbstractContextManager[Tensor]:
    """The same for the inside of an autograd node: a 4-bit weight is decoded into a reused buffer."""
    if isinstance(weight, Tensor) or torch.compiler.is_compiling():
        return nullcontext(dense(weight, dtype))
    return decoded(weight, dtype)


def dropout_mask(x: Tensor, p: float, scaling: float) -> tuple[Tensor | None, float]:
    """What dropout keeps of x (None without dropout), and the scale of an update whose input is x ⊙ mask."""
    return (keep_mask(x.shape, p, x.device), scaling / keep_probability(p)) if p > 0 else (None, scaling)


class LoraLinearFunction(torch.autograd.Function):
    """Forward and backward of `lora_linear`; the formulas stand in `kernels/formulas/lora_matmul.py`."""

    @staticmethod
    def forward(ctx, x, weight, bias, lora_A, lora_B, scaling, keep, parts):
        dtype = compute_dtype(x)
        rows = cast(x.reshape(-1, x.shape[-1]), dtype)  # (M, K)
        mask = None if keep is None else keep.view(rows.shape)
        dropped = None if mask is None else rows * mask
        bias_ = None if bias is None else cast(bias, dtype)
        factors = cast(lora_A, dtype), cast(lora_B, dtype)
        with matrix(weight, dtype) as W:
            y, S = lora_forward(rows, W, bias_, *factors, scaling, parts, dropped)
        ctx.packed = None if isinstance(weight, Tensor) else weight
        ctx.save_for_backward(x, weight if ctx.packed is None else None, bias, lora_A, lora_B, S, mask)
        ctx.settings = scaling, parts
        return y  # (M, N)

    @staticmethod
    def backward(ctx, dy):  # pyright: ignore[reportIncompatibleMethodOverride]
        with without_autocast(dy.device.type):
            return _derived_again(ctx, dy) if second_derivative_asked() else _backward(ctx, dy)


def _derived_again(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
    """The same gradients, by autograd, so that they can be derived once more."""
    *given, S, mask = ctx.saved_tensors
    scaling, parts = ctx.settings

    def formula(x, weight, bias, lora_A, lora_B):
        rows = cast(x, S.dtype)
        dropped = rows if mask is None else rows * mask.view(rows.shape)
        matrix, bias = dense(weight if ctx.packed is None else ctx.packed, S.dtype), bias if bias is None else cast(bias, S.dtype)
        return plain_lora(rows, matrix, bias, lora_A, lora_B, scaling, parts, dropped).reshape(dy.shape)

    return *derived(formula, given, dy), None, None, None


def _backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, lora_A, lora_B, S, mask = ctx.saved_tensors
    scaling, parts = ctx.settings
    need_x, need_weight, need_bias, need_A, need_B, *_ = ctx.needs_input_grad
    dtype = S.dtype
    rows, grads = cast(x.reshape(-1, x.shape[-1]), dtype), dy.reshape(-1, dy.shape[-1])
    factors, need = (cast(lora_A, dtype), cast(lora_B, dtype)), (need_x, need_A, need_B)
    with matrix(weight if ctx.packed is None else ctx.packed, dtype) as W:
        dx, dA, dB = lora_backward(grads, rows, W, *factors, S, scaling, parts, mask, need)
    return (
        None if dx is None else cast(dx.view(x.shape), x.dtype),
        cast(grads.T @ rows, weight.dtype) if need_weight else None,  # a trainable base stays trainable
        cast(grads.sum(0), bias.dtype) if need_bias else None,
        None if dA is None else cast(dA, lora_A.dtype),
        None if dB is None else cast(dB, lora_B.dtype),
        None,
        None,
        None,
    )


class QuantizedLinearFunction(torch.autograd.Function):
    """x · dequant(W)ᵀ + b, and the same decoding again for dx."""

    @staticmethod
    def forward(ctx, x, quantized, bias):
        ctx.quantized, ctx.bias_needs_grad = quantized, ctx.needs_input_grad[2]
        with matrix(quantized, x.dtype) as W:
            return F.linear(x, W, bias)

    @staticmethod
    def backward(ctx, dy):  # pyright: ignore[reportIncompatibleMethodOverride]
        dx = None
        if ctx.needs_input_grad[0]:
            with matrix(ctx.quantized, dy.dtype) as W:
                dx = dy @ W
        return dx, None, dy.reshape(-1, dy.shape[-1]).sum(0) if ctx.bias_needs_grad else None
