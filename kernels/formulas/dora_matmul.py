"""The DoRA matmul  y = g ⊙ (x Wᵀ + s · (x̃ Aᵀ) Bᵀ) + b  with  g = m / ‖W + s B A‖  by row (Liu et al. 2024, section 4).

m is learnt; the norm counts as a constant in backward (their section 4.3). With v the matmul in brackets:

    dv = dy ⊙ g                    (M, N)   and from here LoRA's own backward
    dm = Σ_rows(dy ⊙ v) / norm     (N,)

The norm needs no (N, K) matrix W + s B A. With ‖W‖² by row known:

    ‖W + s B A‖² = ‖W‖² + 2 s · rowsum((W Aᵀ) ⊙ B) + s² · rowsum((B (A Aᵀ)) ⊙ B)

Letters as in `lora_matmul.py`: M tokens, K = d_in, N = d_out, r rank.
"""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from kernels.formulas.lora_matmul import lora_backward, lora_forward


def dora_matmul_reference(x, weight, bias, lora_A, lora_B, magnitude, scaling: float) -> Tensor:
    """The definition, with the whole updated weight: what everything else is judged by (use float64)."""
    updated = weight + scaling * (lora_B @ lora_A)
    norm = updated.norm(dim=1).detach()
    return F.linear(x, updated * (magnitude / torch.where(norm > 0, norm, 1.0))[:, None], bias)


def squared_rows(weight: Float[Tensor, "N K"]) -> Float[Tensor, " N"]:
    """‖W‖² by row, in float32 or wider."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    return torch.linalg.vector_norm(weight.detach(), dim=1, dtype=wide).square()


def row_norms(
    weight: Float[Tensor, "N K"],
    weight_squares: Float[Tensor, " N"],
    lora_A: Float[Tensor, "r K"],
    lora_B: Float[Tensor, "N r"],
    scaling: float,
) -> Float[Tensor, " N"]:
    """‖W + s B A‖ by row, in the dtype of `weight_squares` (‖W‖² by row). Rows that are zero get 1: they divide nothing.

    The largest temporaries are (N, r) and (r, r). W Aᵀ runs in W's dtype, the rest wide.
    """
    wide = weight_squares.dtype
    A, B = lora_A.to(wide), lora_B.to(wide)
    mixed = F.linear(weight, lora_A.to(weight.dtype)).to(wide)  # (N, r)
    squares = weight_squares + scaling * ((2 * mixed + scaling * (B @ (A @ A.T))) * B).sum(1)
    return torch.where(squares > 0, squares, 1.0).sqrt()


def dora_forward(
    x: Float[Tensor, "M K"],
    weight: Float[Tensor, "N K"],
    bias: Float[Tensor, " N"] | None,
    lora_A: Float[Tensor, "r K"],
    lora_B: Float[Tensor, "N r"],
    gain: Float[Tensor, " N"],
    scaling: float,
    dropped: Float[Tensor, "M K"] | None = None,
) -> tuple[Float[Tensor, "M N"], Float[Tensor, "M N"], Float[Tensor, "M r"]]:
    """Returns (y, v, S): LoRA's matmul without its bias, and one pass over the output for gain and bias together."""
    v, S = lora_forward(x, weight, None, lora_A, lora_B, scaling, ((0, len(weight)),), dropped)
    return (v * gain if bias is None else torch.addcmul(bias, v, gain)), v, S


def dora_backward(
    dy: Float[Tensor, "M N"],
    v: Float[Tensor, "M N"],
    gain: Float[Tensor, " N"],
    norm: Float[Tensor, " N"],
    x: Float[Tensor, "M K"],
    weight: Float[Tensor, "N K"],
    lora_A: Float[Tensor, "r K"],
    lora_B: Float[Tensor, "N r"],
    S: Float[Tensor, "M r"],
    scaling: float,
    keep: UInt8[Tensor, "M K"] | Bool[Tensor, "M K"] | None,
    need: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Float[Tensor, " N"], Float[Tensor, "M N"]]:
    """Returns (dx, dA, dB, dm, dv); the first three None where `need` says so."""
    scratch = dy * v
    dm = scratch.sum(0, dtype=norm.dtype) / norm
    dv = torch.mul(dy, gain, out=scratch)  # one (M, N) buffer serves both matmuls
    dx, dA, dB = lora_backward(dv, x, weight, lora_A, lora_B, S, scaling, ((0, len(weight)),), keep, need)
    return dx, dA, dB, dm, dv
