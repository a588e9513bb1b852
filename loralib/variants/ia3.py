"""(IA)³: learn one factor for each feature, and no matrix (Liu et al. 2022, arXiv 2205.05638, section 3.3).

    y = l ⊙ (W x + b)      on keys and values: the output's features are scaled
    y = W (l ⊙ x) + b      in a feed-forward block: the input's features are scaled (`feedforward_modules`)

l starts at 1, so the model starts as the base. Merging scales rows (and the bias) or columns of W.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from loralib.variants.config import AdapterConfig, check_targets
from loralib.variants.names import named
from loralib.variants.variant import Start, Variant, in_float32


@dataclass(frozen=True)
class IA3Config(AdapterConfig):
    """Settings of one (IA)³ adapter; field names are peft's. The paper: keys, values, and the second feed-forward layer."""

    feedforward_modules: list[str] | str = field(default_factory=list)
    """those of the target modules whose input is scaled; names or one regular expression"""

    peft_type: ClassVar[str] = "IA3"
    required: ClassVar[tuple[str, ...]] = ("target_modules", "feedforward_modules")

    def __post_init__(self):
        check_targets(self.target_modules)

    def variants(self, modules: dict[str, nn.Module]) -> dict[str, Variant]:
        inputs = named("feedforward_modules", self.feedforward_modules, list(modules))
        return {path: Ia3(scales_input=path in inputs) for path in modules}

    def file_settings(self, variants: dict[str, Variant]) -> dict[str, Any]:
        inputs = sorted(path for path, v in variants.items() if isinstance(v, Ia3) and v.scales_input)
        return {"feedforward_modules": inputs, "init_ia3_weights": True}


@dataclass(frozen=True)
class Ia3(Variant):
    """(IA)³ on Linear and Conv1D. The scale multiplies W itself, so 4-bit layers are refused, and adapters cannot be summed."""

    scales_input: bool = False

    title: ClassVar[str] = "(IA)³"
    parameters: ClassVar[tuple[str, ...]] = ("ia3_l",)

    def start(self, layer: Any, name: str, start: Start) -> None:
        d_out, d_in = layer.matrix_shape()
        size = d_in if self.scales_input else d_out
        layer.add_parameter("ia3_l", name, torch.ones(size, dtype=start.dtype, device=layer.weight.device))

    def forward(self, layer: Any, name: str, x: Tensor) -> Tensor:
        scale = layer.ia3_l[name].to(x.dtype)
        return layer.base_forward(x * scale) if self.scales_input else layer.base_forward(x) * scale

    def delta_weight(self, layer: Any, name: str) -> Tensor:
        W = in_float32(layer.matrix())
        change = in_float32(layer.ia3_l[name]).to(W.dtype) - 1
        return W * (change if self.scales_input else change[:, None])

    def delta_bias(self, layer: Any, name: str) -> Tensor | None:
        if self.scales_input or layer.bias is None:
            return None
        return in_float32(layer.bias) * (in_float32(layer.ia3_l[name]) - 1)

    def file_tensors(self, layer: Any, name: str) -> dict[str, Tensor]:
        scale = layer.ia3_l[name]
        return {"ia3_l": scale[None] if self.scales_input else scale[:, None]}

    def load(self, layer: Any, name: str, tensors: dict[str, Tensor]) -> None:
        layer.ia3_l[name].copy_(tensors["ia3_l"].flatten())
