"""PiSSA: start LoRA with the principal directions of the weight (Meng et al. 2024, arXiv 2404.02948, section 3).

    W = U S Vᵀ      B₀ = U_r √(S_r / s)      A₀ = √(S_r / s) V_rᵀ      s · B₀ A₀ = the best rank-r part of W

The paper trains B A on the frozen rest W - s B₀A₀. We leave W in place and subtract B₀A₀ beside it:

    y = x (W + s (B A - B₀ A₀))ᵀ

The same function and the same gradients. The base stays the base: switching the adapter off is exact, other adapters can
share it, and the file is an ordinary adapter of rank 2 r, [B, -B₀][A; A₀], that needs no converted base.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from loralib.rslora import lora_alpha_for
from loralib.variants.lora import Lora
from loralib.variants.variant import Start


@dataclass(frozen=True)
class Pissa(Lora):
    """PiSSA on Linear and Conv1D: plain LoRA with a start, which is subtracted. `lora_start_A`, `lora_start_B` hold A₀ and B₀."""

    title: ClassVar[str] = "pissa"
    layers: ClassVar[tuple[str, ...]] = ("Conv1D", "Linear")
    fixed: ClassVar[tuple[str, ...]] = ("lora_start_A", "lora_start_B")

    def check(self, path: str, module: nn.Module) -> None:
        directions = min(module.get_parameter("weight").shape)
        if self.r > directions:
            raise ValueError(f"{path}: PiSSA with r={self.r}, but the weight has only {directions} directions")
        if self.scaling <= 0:
            raise ValueError(f"{path}: PiSSA needs a scale above 0, found {self.scaling}")

    @torch.no_grad()
    def start(self, layer: Any, name: str, start: Start) -> None:
        super().start(layer, name, start)
        A0, B0 = principal_factors(layer.matrix(), self.r, self.scaling)
        for container, fixed, value in zip(self.parameters, self.fixed, (A0, B0), strict=True):
            p = getattr(layer, container)[name]
            p.copy_(value)
            layer.add_parameter(fixed, name, p.detach().clone(), trainable=False)

    def forward(self, layer: Any, name: str, x: Tensor) -> Tensor:
        dropout = self.dropout if layer.training else 0.0
        return layer.forward_with_low_rank(x, *self.factors(layer, name), self.scaling, dropout, self)

    def factors(self, layer: Any, name: str) -> tuple[Tensor, Tensor]:
        """[A; A₀] (2 r, d_in) and [B, -B₀] (d_out, 2 r)."""
        A, B, A0, B0 = (getattr(layer, container)[name] for container in (*self.parameters, *self.fixed))
        return torch.cat([A, A0]), torch.cat([B, -B0], 1)

    def file_rank_and_alpha(self) -> tuple[int, float]:
        return 2 * self.r, lora_alpha_for(self.scaling, 2 * self.r, self.rslora)


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
