"""The LoRA linear map as one hand-written autograd node.

Autograd would keep x, the dropped copy of x, its mask and S = x̃ Aᵀ, and would cast x where adapters are float32.
This node keeps x and S, and with dropout one bool mask. It casts the small A and B, never x, to the compute dtype.
Under autocast the weight is cast again in backward instead of being kept in a second dtype.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.lora_matmul import Parts, drop, lora_backward, lora_forward


def lora_linear(
    x: Float[Tensor, "*batch K"],
    weight: Float[Tensor, "N K"],
    bias: Float[Tensor, " N"] | None,
    lora_A: Float[Tensor, "pr K"],
    lora_B: Float[Tensor, "width r"],
    scaling: float,
    dropout: float = 0.0,
    parts: Parts | None = None,
) -> Float[Tensor, "*batch N"]:
    """y = x Wᵀ + b + scaling · (dropout(x) Aᵀ) Bᵀ, in x's dtype (autocast's, where it is on).

    `parts` are the column ranges of y that the stacked (A_i, B_i) update; None is one part, all of y.
    The dropout mask is drawn from the global generator of x's device, as `F.dropout` does.
    """
    keep = torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - dropout) if dropout > 0 else None
    return LoraLinearFunction.apply(x, weight, bias, lora_A, lora_B, scaling, keep, dropout, parts or ((0, weight.shape[0]),))


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a product with x runs: x's own, or autocast's (which leaves float64 alone, as torch does)."""
    device = x.device.type
    if x.dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


class LoraLinearFunction(torch.autograd.Function):
    """Forward and backward of `lora_linear`; the formulas stand in `kernels/lora_matmul.py`."""

    @staticmethod
    def forward(ctx, x, weight, bias, lora_A, lora_B, scaling, keep, p, parts):
        dtype = compute_dtype(x)
        rows = x.reshape(-1, x.shape[-1]).to(dtype)  # (M, K)
        mask = None if keep is None else keep.view(rows.shape)
        y, S = lora_forward(
            rows,
            weight.to(dtype),
            None if bias is None else bias.to(dtype),
            lora_A.to(dtype),
            lora_B.to(dtype),
            scaling,
            parts,
            None if mask is None else drop(rows, mask, p),
        )
        ctx.save_for_backward(x, weight, bias, lora_A, lora_B, S, mask)
        ctx.settings = scaling, p, parts
        return y.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, bias, lora_A, lora_B, S, mask = ctx.saved_tensors
        scaling, p, parts = ctx.settings
        need_x, need_weight, need_bias, need_A, need_B, *_ = ctx.needs_input_grad
        dtype = S.dtype
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        grads = dy.reshape(-1, dy.shape[-1])
        with torch.autocast(x.device.type, enabled=False):  # every operand already has the forward's dtype
            dx, dA, dB = lora_backward(
                grads,
                rows,
                weight.to(dtype),
                lora_A.to(dtype),
                lora_B.to(dtype),
                S,
                scaling,
                parts,
                mask,
                p,
                (need_x, need_A, need_B),
            )
            dW = (grads.T @ rows).to(weight.dtype) if need_weight else None  # a trainable base stays trainable
            db = grads.sum(0).to(bias.dtype) if need_bias else None
        dx = None if dx is None else dx.view_as(x).to(x.dtype)
        dA = None if dA is None else dA.to(lora_A.dtype)
        dB = None if dB is None else dB.to(lora_B.dtype)
        return dx, dW, db, dA, dB, None, None, None, None
