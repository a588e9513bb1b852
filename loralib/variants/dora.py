"""DoRA: the rows of the weight keep a length of their own, and LoRA turns their directions (Liu et al. 2024, arXiv 2402.09353).

    y = m ⊙ (W + s B A) x / ‖W + s B A‖ + b          m starts at ‖W‖, so the model starts as the base

One hand-written autograd node, as for LoRA; the formulas stand in `dora_matmul.py`. Two things differ from peft's:
the norm comes in closed form, without a matrix of the weight's size; and dropout touches the LoRA branch alone (peft, as
the paper's code, also drops the input of W where dropout is on).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from kernels.formulas.dora_matmul import dora_backward, dora_forward, row_norms, squared_rows
from loralib.compute.casting import cast, compute_dtype, without_autocast
from loralib.compute.functional import dropout_mask
from loralib.compute.plain_autograd import derived, plain_dora, second_derivative_asked, transformed
from loralib.variants.lora import Lora
from loralib.variants.variant import Start, in_float32


@dataclass(frozen=True)
class Dora(Lora):
    """DoRA on Linear and Conv1D. It needs the weight itself, so 4-bit layers are refused; its update is no s · B A."""

    title: ClassVar[str] = "dora"
    layers: ClassVar[tuple[str, ...]] = ("Conv1D", "Linear")
    parameters: ClassVar[tuple[str, ...]] = (*Lora.parameters, "lora_magnitude_vector")
    is_low_rank: ClassVar[bool] = False
    has_kernel: ClassVar[bool] = False

    @torch.no_grad()
    def start(self, layer: Any, name: str, start: Start) -> None:
        super().start(layer, name, start)
        layer.add_parameter("lora_magnitude_vector", name, updated_norms(layer, name).to(start.dtype))

    def forward(self, layer: Any, name: str, x: Tensor) -> Tensor:
        A, B, magnitude = (getattr(layer, container)[name] for container in self.parameters)
        dropout = self.dropout if layer.training else 0.0
        return dora_linear(x, layer.matrix(), layer.bias, A, B, magnitude, squared_row_norms(layer), self.scaling, dropout)

    def update(self, layer: Any, name: str, x: Tensor) -> Tensor:
        return self.forward(layer, name, x) - layer.base_forward(x)

    def delta_weight(self, layer: Any, name: str) -> Tensor:
        W, delta = in_float32(layer.matrix()), super().delta_weight(layer, name)
        gain = in_float32(layer.lora_magnitude_vector[name]) / updated_norms(layer, name)
        return gain[:, None] * (W + delta) - W

    def file_tensors(self, layer: Any, name: str) -> dict[str, Tensor]:
        return super().file_tensors(layer, name) | {"lora_magnitude_vector": layer.lora_magnitude_vector[name]}

    def load(self, layer: Any, name: str, tensors: dict[str, Tensor]) -> None:
        super().load(layer, name, tensors)
        layer.lora_magnitude_vector[name].copy_(tensors["lora_magnitude_vector"])


def updated_norms(layer: Any, name: str) -> Tensor:
    """‖W + s B A‖ by row, (d_out,)."""
    factors = layer.lora_A[name].detach(), layer.lora_B[name].detach()
    return row_norms(layer.matrix().detach(), squared_row_norms(layer), *factors, layer.variants[name].scaling)


def squared_row_norms(layer: Any) -> Tensor:
    """‖W‖² by row, in float32 or wider; computed again when the weight is another one than last time.

    A change past autograd (`weight.data.mul_(2)`) is not noticed, because torch counts none: change the weight under
    `torch.no_grad()` instead (`weight.mul_(2)`), which is noticed.
    """
    matrix = layer.matrix()
    if transformed():
        return squared_rows(matrix)
    cached = layer.cache.get("squared_row_norms")
    version = 0 if matrix.is_inference() else matrix._version
    now = matrix.data_ptr(), version, matrix.device
    if cached is None or now != (cached[0].data_ptr(), cached[1], cached[0].device):
        # the detached weight is kept so that its address cannot be given to another one
        layer.cache["squared_row_norms"] = cached = (matrix.detach(), version, squared_rows(matrix))
    return cached[2]


def dora_linear(
    x: Float[Tensor, "*batch K"],
    weight: Float[Tensor, "N K"],
    bias: Float[Tensor, " N"] | None,
    lora_A: Float[Tensor, "r K"],
    lora_B: Float[Tensor, "N r"],
    magnitude: Float[Tensor, " N"],
    weight_squares: Float[Tensor, " N"],
    scaling: float,
    dropout: float = 0.0,
) -> Float[Tensor, "*batch N"]:
    """DoRA's output, in x's dtype (autocast's, where it is on). `weight_squares` is ‖W‖² by row, in float32 or wider.

    The norm is a constant in backward (section 4.3). Rows of W + s B A that are zero give zero, not NaN.
    """
    if transformed():
        gain = magnitude / row_norms(weight, weight_squares, lora_A, lora_B, scaling).detach()
        return plain_dora(x, weight, bias, lora_A, lora_B, gain, scaling, F.dropout(x, dropout))
    keep, branch_scale = dropout_mask(x, dropout, scaling)
    y = DoraLinearFunction.apply(x, weight, bias, lora_A, lora_B, magnitude, weight_squares, scaling, keep, branch_scale)
    return y.view(*x.shape[:-1], len(weight))  # out here, so that a model may change it in place


class DoraLinearFunction(torch.autograd.Function):
    """Forward and backward of `dora_linear`. `branch_scale`: `scaling`, divided by the probability of `keep`."""

    @staticmethod
    def forward(ctx, x, weight, bias, lora_A, lora_B, magnitude, weight_squares, scaling, keep, branch_scale):
        dtype = compute_dtype(x)
        rows = cast(x.reshape(-1, x.shape[-1]), dtype)  # (M, K)
        mask = None if keep is None else keep.view(rows.shape)
        dropped = None if mask is None else rows * mask
        norm = row_norms(weight, weight_squares, lora_A, lora_B, scaling)
        gain = (magnitude / norm).to(dtype)
        bias_ = None if bias is None else cast(bias, dtype)
        y, v, S = dora_forward(
            rows, cast(weight, dtype), bias_, cast(lora_A, dtype), cast(lora_B, dtype), gain, branch_scale, dropped
        )
        ctx.save_for_backward(x, weight, bias, lora_A, lora_B, magnitude, S, v, gain, norm, mask)
        ctx.branch_scale = branch_scale
        return y  # (M, N)

    @staticmethod
    def backward(ctx, dy):  # pyright: ignore[reportIncompatibleMethodOverride]
        with without_autocast(dy.device.type):
            return _derived_again(ctx, dy) if second_derivative_asked() else _backward(ctx, dy)


def _derived_again(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
    """The same gradients, by autograd, so that they can be derived once more; the norm stays a constant."""
    *given, S, _, _, norm, mask = ctx.saved_tensors

    def formula(x, weight, bias, lora_A, lora_B, magnitude):
        rows = cast(x, S.dtype)
        dropped = rows if mask is None else rows * mask.view(rows.shape)
        bias = None if bias is None else cast(bias, S.dtype)
        return plain_dora(rows, cast(weight, S.dtype), bias, lora_A, lora_B, magnitude / norm, ctx.branch_scale, dropped).reshape(
            dy.shape
        )

    return *derived(formula, given, dy), *(None,) * 4


def _backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, lora_A, lora_B, magnitude, S, v, gain, norm, mask = ctx.saved_tensors
    need_x, need_weight, need_bias, need_A, need_B, *_ = ctx.needs_input_grad
    dtype = S.dtype
    rows, grads = cast(x.reshape(-1, x.shape[-1]), dtype), dy.reshape(-1, dy.shape[-1])
    factors = cast(weight, dtype), cast(lora_A, dtype), cast(lora_B, dtype)
    dx, dA, dB, dm, dv = dora_backward(grads, v, gain, norm, rows, *factors, S, ctx.branch_scale, mask, (need_x, need_A, need_B))
    return (
        None if dx is None else cast(dx.view(x.shape), x.dtype),
        cast(dv.T @ rows, weight.dtype) if need_weight else None,
        cast(grads.sum(0), bias.dtype) if need_bias else None,
        None if dA is None else cast(dA, lora_A.dtype),
        None if dB is None else cast(dB, lora_B.dtype),
        cast(dm, magnitude.dtype),
        *(None,) * 4,
    )
