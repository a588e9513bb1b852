"""LoRA: a low-rank update beside a frozen weight (Hu et al. 2021, arXiv 2106.09685, section 4.1).

    y = W x + b + s · B (A x)            W (d_out, d_in), A (r, d_in), B (d_out, r), s = α / r, or α / √r (rsLoRA)

A starts as torch's Linear does (uniform, ±1/√d_in) and B at zero, so the adapted layer starts as the base layer.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.formulas.lora_matmul import Parts
from loralib.compute.fused import in_blocks
from loralib.rslora import lora_alpha_for, lora_scaling
from loralib.variants.variant import Start, Variant, in_float32, size_of


def lora_forward(x: Tensor, W: Tensor, b: Tensor | None, A: Tensor, B: Tensor, scaling: float) -> Tensor:
    """The definition, in plain PyTorch. x (*batch, d_in) → (*batch, d_out). `compute/functional.py` computes the same faster."""
    y = F.linear(x, W, b)
    low = F.linear(x, A)
    return y + scaling * F.linear(low, B)


@dataclass(frozen=True)
class Lora(Variant):
    """Plain LoRA, for every kind of layer. The layer multiplies: `low_rank`, and `forward_with_low_rank` in one step."""

    alpha: float = 1.0
    parts: tuple[bool, ...] | None = None
    """which equal parts of the output are adapted (`enable_lora`); None: all of it"""
    rslora: bool = False

    title: ClassVar[str] = "lora"
    layers: ClassVar[tuple[str, ...]] = ("Conv1D", "Conv2d", "Embedding", "Linear", "Linear4bit")
    parameters: ClassVar[tuple[str, ...]] = ("lora_A", "lora_B")
    first_trained: ClassVar[str] = "lora_B"
    is_low_rank: ClassVar[bool] = True
    has_kernel: ClassVar[bool] = True

    @property
    def scaling(self) -> float:
        return lora_scaling(self.alpha, self.r, self.rslora)

    def ranges(self, width: int) -> Parts:
        """The column ranges of the output that this adapter changes."""
        if self.parts is None:
            return ((0, width),)
        step = width // len(self.parts)
        return tuple((i * step, (i + 1) * step) for i, on in enumerate(self.parts) if on)

    def check(self, path: str, module: nn.Module) -> None:
        if self.parts is None:
            return
        if isinstance(module, nn.Embedding | nn.Conv2d):
            raise ValueError(f"{path}: enable_lora is for projections, not for {type(module).__name__}")
        d_out, _ = size_of(module)
        if d_out % len(self.parts):
            raise ValueError(f"{path}: {len(self.parts)} parts in enable_lora, but d_out={d_out} is not a multiple of it")

    def start(self, layer: Any, name: str, start: Start) -> None:
        A, B = (torch.empty(shape, dtype=start.dtype, device=layer.weight.device) for shape in layer.factor_shapes(self))
        layer.start_factors(A, B, start.zero, start.generator)
        layer.add_parameter("lora_A", name, A)
        layer.add_parameter("lora_B", name, B)

    def forward(self, layer: Any, name: str, x: Tensor) -> Tensor:
        A, B, dropout = layer.lora_A[name], layer.lora_B[name], self.dropout if layer.training else 0.0
        return layer.forward_with_low_rank(x, A, B, self.scaling, dropout, self)

    def update(self, layer: Any, name: str, x: Tensor) -> Tensor:
        """A further active adapter, or that of some examples, in plain autograd: rare, so simple."""
        return layer.low_rank(layer.drop(x, self.dropout), *self.factors(layer, name), self.scaling)

    def delta_weight(self, layer: Any, name: str) -> Tensor:
        A, B = self.factors(layer, name)
        return layer.low_rank_weight(in_float32(A), in_float32(B)) * self.scaling

    def factors(self, layer: Any, name: str) -> tuple[Tensor, Tensor]:
        """With parts, B becomes block-shaped: (d_out, number of parts · r)."""
        A, B = layer.lora_A[name], layer.lora_B[name]
        if self.parts is None:
            return A, B
        d_out, _ = layer.matrix_shape()
        return A, in_blocks(B, self.ranges(d_out), d_out, len(A))

    def file_tensors(self, layer: Any, name: str) -> dict[str, Tensor]:
        return dict(zip(layer.FILE_KEYS, self.factors(layer, name), strict=True))

    def load(self, layer: Any, name: str, tensors: dict[str, Tensor]) -> None:
        key_A, key_B = layer.FILE_KEYS
        layer.lora_A[name].copy_(tensors[key_A])
        layer.lora_B[name].copy_(self._own_blocks(tensors[key_B]))

    def _own_blocks(self, B: Tensor) -> Tensor:
        if self.parts is None:
            return B
        blocks = [B[a:b, i * self.r : (i + 1) * self.r] for i, (a, b) in enumerate(self.ranges(B.shape[0]))]
        if sum(int(block.count_nonzero()) for block in blocks) != int(B.count_nonzero()):
            raise ValueError(f"an adapter on parts {self.parts} has values outside its parts")
        return torch.cat(blocks)

    def file_rank_and_alpha(self) -> tuple[int, float]:
        """Rank and alpha of the plain adapter that the file holds: with parts, one of p · r columns and the same scale."""
        r = self.r * (sum(self.parts) if self.parts else 1)
        return r, self.alpha if r == self.r else lora_alpha_for(self.scaling, r, self.rslora)

    def largest_rank(self, tensors: dict[str, Tensor]) -> int | None:
        return max((min(t.shape) for key, t in tensors.items() if ".lora_" in key and t.ndim > 1), default=1)
