"""The LoRA linear map on the Triton kernels, as one autograd node: what `functional.py` is in plain torch.

It keeps x and S = s · x̃ Aᵀ. Dropout keeps a seed of 8 bytes instead of a mask. Several parts in one wide projection become
one LoRA of rank p · r whose B has blocks, so the kernels know nothing of parts. A 4-bit weight is multiplied packed for a
single token, and is decoded first for more.
"""

import torch
from torch import Tensor

from kernels.formulas.lora_matmul import Parts
from kernels.formulas.nf4 import Quantized
from kernels.triton_kernels.philox import keep_mask
from loralib.compute.casting import cast, compute_dtype, without_autocast
from loralib.compute.plain_autograd import derived, plain_lora, second_derivative_asked


class FusedLoraFunction(torch.autograd.Function):
    """Forward and backward of `lora_linear` on a GPU; the formulas stand in `kernels/triton_kernels/lora_matmul_triton.py`."""

    @staticmethod
    def forward(ctx, x, weight, bias, lora_A, lora_B, scaling: float, seed, p: float, parts: Parts):
        from kernels.triton_kernels import ops

        dtype = compute_dtype(x)
        rows = cast(x.reshape(-1, x.shape[-1]), dtype)  # (M, K)
        bias_ = None if bias is None else cast(bias, dtype)
        A, B = cast(lora_A, dtype), cast(in_blocks(lora_B, parts, weight.shape[0], len(lora_A)), dtype)
        if isinstance(weight, Quantized) and packed_pays(rows, weight):
            S = ops.shrink(rows, A, scaling, seed, p)
            y = ops.nf4_matmul(rows, weight, bias_, S, B)
        else:
            y, S = ops.lora_forward(rows, decoded(weight, dtype), bias_, A, B, scaling, seed, p)
        ctx.packed = weight if isinstance(weight, Quantized) else None
        ctx.save_for_backward(x, None if ctx.packed is not None else weight, bias, lora_A, lora_B, S, seed)
        ctx.settings = scaling, p, parts
        return y  # (M, N)

    @staticmethod
    def backward(ctx, dy):  # pyright: ignore[reportIncompatibleMethodOverride]
        with without_autocast(dy.device.type):
            return _derived_again(ctx, dy) if second_derivative_asked() else _backward(ctx, dy)


def _derived_again(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
    """The same gradients, by autograd, so that they can be derived once more."""
    *given, S, seed = ctx.saved_tensors
    scaling, p, parts = ctx.settings

    def formula(x, weight, bias, lora_A, lora_B):
        rows = cast(x, S.dtype)
        keep = None if seed is None else keep_mask(seed, rows.shape[:-1].numel(), rows.shape[-1], p).view(rows.shape)
        dropped = rows if keep is None else rows * keep / (1 - p)
        matrix = decoded(weight if ctx.packed is None else ctx.packed, S.dtype)
        return plain_lora(
            rows, matrix, None if bias is None else cast(bias, S.dtype), lora_A, lora_B, scaling, parts, dropped
        ).reshape(dy.shape)

    return *derived(formula, given, dy), None, None, None, None


def _backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
    from kernels.triton_kernels import ops

    x, weight, bias, lora_A, lora_B, S, seed = ctx.saved_tensors
    scaling, p, parts = ctx.settings
    need_x, need_weight, need_bias, need_A, need_B, *_ = ctx.needs_input_grad
    dtype, N = S.dtype, dy.shape[-1]
    rows, grads = cast(x.reshape(-1, x.shape[-1]), dtype), dy.reshape(-1, N)
    A, B = cast(lora_A, dtype), cast(in_blocks(lora_B, parts, N, len(lora_A)), dtype)
    W = decoded(weight if ctx.packed is None else ctx.packed, dtype)
    dx, dA, dB = ops.lora_backward(grads, rows, W, A, B, S, scaling, seed, p, need_x)
    return (
        cast(dx.view(x.shape), x.dtype) if need_x else None,
        cast(grads.T @ rows, weight.dtype) if need_weight else None,
        cast(grads.sum(0), bias.dtype) if need_bias else None,
        cast(dA, lora_A.dtype) if need_A else None,
        cast(out_of_blocks(dB, parts, lora_B.shape[1]), lora_B.dtype) if need_B else None,
        None,
        None,
        None,
        None,
    )


class Nf4LinearFunction(torch.autograd.Function):
    """y = x · decoded(W)ᵀ + b on the kernels, without LoRA."""

    @staticmethod
    def forward(ctx, x, weight: Quantized, bias):
        ctx.packed, ctx.shape, ctx.bias_needs_grad = weight, x.shape, bias is not None and ctx.needs_input_grad[2]
        rows = x.reshape(-1, x.shape[-1])
        return nf4_linear(rows, weight, bias)

    @staticmethod
    def backward(ctx, dy):  # pyright: ignore[reportIncompatibleMethodOverride]
        dx = (dy @ decoded(ctx.packed, dy.dtype)).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return dx, None, dy.reshape(-1, dy.shape[-1]).sum(0) if ctx.bias_needs_grad else None


def nf4_linear(rows: Tensor, weight: Quantized, bias: Tensor | None) -> Tensor:
    from kernels.triton_kernels import ops

    if packed_pays(rows, weight):
        return ops.nf4_matmul(rows, weight, bias)
    return torch.nn.functional.linear(rows, decoded(weight, rows.dtype), bias)


def packed_pays(rows: Tensor, weight: Quantized) -> bool:
    """Whether the weight stays packed in the matmul: one token, and rows of whole blocks."""
    from kernels.triton_kernels.nf4_matmul_triton import PACKED_PAYS, fits

    return len(rows) <= PACKED_PAYS and fits(rows, weight)


def decoded(weight: Tensor | Quantized, dtype: torch.dtype) -> Tensor:
    from kernels.triton_kernels import ops

    return cast(weight, dtype) if isinstance(weight, Tensor) else ops.nf4_decode(weight, dtype)


def dropout_seed(x: Tensor, p: float) -> Tensor | None:
    """(1,) int64 from the generator of x's device: no waiting for the GPU, and CUDA graphs draw a new one each time."""
    return torch.randint(0, 2**62, (1,), device=x.device) if p > 0 else None


def in_blocks(lora_B: Tensor, parts: Parts, N: int, pr: int) -> Tensor:
    """B (width, r) of stacked parts as one (N, p · r) matrix, zero where a part does not reach."""
    if len(parts) == 1 and parts[0] == (0, N):
        return lora_B
    r, row = lora_B.shape[1], 0
    dense = lora_B.new_zeros(N, pr)
    for i, (low, high) in enumerate(parts):
        dense[low:high, i * r : (i + 1) * r] = lora_B[row : row + high - low]
        row += high - low
    return dense


def out_of_blocks(dB: Tensor, parts: Parts, r: int) -> Tensor:
    """The gradient of B from that of its block form."""
    return torch.cat([dB[low:high, i * r : (i + 1) * r] for i, (low, high) in enumerate(parts)])
