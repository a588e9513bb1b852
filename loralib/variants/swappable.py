"""An adapter that is made to be exchanged under `torch.compile` (`files/hotswap.py`).

A compiled model is made for the shapes and numbers that it has seen. So the factors are padded with zeros to the largest rank
that will come, and the scale is a tensor: new values in the same tensors compile nothing again.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from loralib.variants.lora import Lora


class Scale(nn.Module):
    """The scale as a tensor. `model.to(bfloat16)` does not round it: it would be wrong by up to 0.4 %."""

    value: Tensor

    def __init__(self, scaling: float, dtype: torch.dtype, device: torch.device):
        super().__init__()
        self.exact = scaling
        self.register_buffer("value", torch.tensor(scaling, dtype=dtype, device=device), persistent=False)

    def set(self, scaling: float) -> None:
        self.exact = scaling
        self.value.fill_(scaling)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        dtype = torch.promote_types(self.value.dtype, torch.float32)
        self.value = torch.tensor(self.exact, dtype=dtype, device=self.value.device)
        return self


@dataclass(frozen=True)
class Swappable(Lora):
    """Plain LoRA with space for larger ranks: A (largest, d_in), B (d_out, largest), zero beyond `r`. The scale:
    `layer.hot_scale`."""

    title: ClassVar[str] = "lora"
    layers: ClassVar[tuple[str, ...]] = ("Conv1D", "Linear", "Linear4bit")

    def forward(self, layer: Any, name: str, x: Tensor) -> Tensor:
        A, B, dropout = layer.lora_A[name], layer.lora_B[name], self.dropout if layer.training else 0.0
        return layer.forward_with_low_rank(x, A, B, layer.hot_scale.value, dropout, self)

    def factors(self, layer: Any, name: str) -> tuple[Tensor, Tensor]:
        return layer.lora_A[name][: self.r], layer.lora_B[name][:, : self.r]

    def remove(self, layer: Any, name: str) -> None:
        del layer.hot_scale
