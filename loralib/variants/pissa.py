"""PiSSA: start LoRA with the principal directions of the weight (Meng et al. 2024, arXiv 2404.02948, section 3).

    W = U S Vᵀ      B₀ = U_r √(S_r / s)      A₀ = √(S_r / s) V_rᵀ      s · B₀ A₀ = the best rank-r part of W

The paper trains B A on the frozen rest W - s B₀A₀. We leave W in place and subtract B₀A₀ beside it:

    y = x (W + s (B A - B₀ A₀))ᵀ

The same function and the same gradients. The base stays the base: switching the adapter off is exact, other adapters can
share it, and the file is an ordinary adapter of rank 2 r, [B, -B₀][A; A₀], that needs no converted base.
"""

import torch
from torch import Tensor


def principal_factors(matrix: Tensor, r: int, scaling: float) -> tuple[Tensor, Tensor]:
    """(A₀, B₀) of a (d_out, d_in) weight, computed in float32 or wider. ValueError for a rank above that of the matrix."""
    if r > min(matrix.shape):
        raise ValueError(f"PiSSA with r={r}: a {tuple(matrix.shape)} weight has only {min(matrix.shape)} directions")
    if scaling <= 0:
        raise ValueError(f"PiSSA needs a scale above 0, found {scaling}")
    wide = matrix.detach().to(torch.promote_types(matrix.dtype, torch.float32))
    U, S, Vh = torch.linalg.svd(wide, full_matrices=False)
    root = (S[:r] / scaling).sqrt()
    return root[:, None] * Vh[:r], U[:, :r] * root
