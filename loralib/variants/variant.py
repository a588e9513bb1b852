"""What a LoRA variant is: everything that one adapter does in one layer.

The layer (`layers/lora_layer.py`) holds the tensors, in containers by adapter name: `layer.lora_A["default"]`. The variant holds
the settings and the methods. A new variant is one file with a subclass of `Variant` and of `AdapterConfig`, and one call of
`registry.register`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Start:
    """How the parameters of a new adapter start."""

    dtype: torch.dtype
    zero: bool = True
    """whether the update starts at zero; False: random, for tests"""
    generator: torch.Generator | None = None
    shared: dict[str, nn.Parameter] | None = None
    """tensors that all layers of the adapter share, by name; the first layer makes them"""


@dataclass(frozen=True)
class Variant:
    """The base class of all variants. `layer` is a `LoraLayer`, `name` the adapter's name in it."""

    r: int = 1
    """rank of the update"""
    dropout: float = 0.0
    """dropout probability of the update's input in training"""

    title: ClassVar[str] = ""
    """what messages call it"""
    layers: ClassVar[tuple[str, ...]] = ("Conv1D", "Linear")
    """classes of the plain layers that it can adapt"""
    parameters: ClassVar[tuple[str, ...]] = ()
    """containers of its trainable parameters"""
    first_trained: ClassVar[str] = ""
    """the container whose gradient is not zero at the start; "": the first of `parameters`"""
    fixed: ClassVar[tuple[str, ...]] = ()
    """containers of what belongs to the adapter and does not train"""
    is_low_rank: ClassVar[bool] = False
    """whether the update is `scaling` · B A with `factors`: such adapters can be combined, and have a kernel for mixed batches"""

    has_kernel: ClassVar[bool] = False
    """whether the forward pass can run in a Triton kernel (`explain`)"""

    @property
    def scaling(self) -> float:
        return 1.0

    def check(self, path: str, module: nn.Module) -> None:
        """ValueError for settings that do not fit the module; called before any module is changed."""

    def start(self, layer: Any, name: str, start: Start) -> None:
        """Make the adapter's parameters: `layer.add_parameter(container, name, tensor)`."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its parameters start")

    def forward(self, layer: Any, name: str, x: Tensor) -> Tensor:
        """The layer's output with this adapter."""
        return layer.base_forward(x) + self.update(layer, name, x)

    def update(self, layer: Any, name: str, x: Tensor) -> Tensor:
        """What the adapter adds to the output of the base layer. One of `forward` and `update` has to be defined."""
        return self.forward(layer, name, x) - layer.base_forward(x)

    def delta_weight(self, layer: Any, name: str) -> Tensor:
        """ΔW (d_out, d_in), or for other layers in the shape of `weight`; in float32 or wider."""
        raise NotImplementedError(f"{type(self).__name__} does not say its ΔW, so it cannot be merged")

    def delta_bias(self, layer: Any, name: str) -> Tensor | None:
        """Δb, or None where the bias stays."""
        return None

    def factors(self, layer: Any, name: str) -> tuple[Tensor, Tensor]:
        """(A, B) of the equal plain adapter with the scale `scaling`, where `is_low_rank`."""
        raise NotImplementedError(f"{type(self).__name__} has no factors")

    def file_tensors(self, layer: Any, name: str) -> dict[str, Tensor]:
        """{end of the key: tensor} in an adapter file."""
        return {container: getattr(layer, container)[name] for container in self.parameters}

    def load(self, layer: Any, name: str, tensors: dict[str, Tensor]) -> None:
        """Copy a file's tensors, whose keys and shapes are those of `file_tensors`. ValueError for values that do not fit."""
        for container in self.parameters:
            getattr(layer, container)[name].copy_(tensors[container])

    def shared_tensors(self, layer: Any, name: str) -> dict[str, Tensor]:
        """{key: tensor} of what all layers share and the file holds once."""
        return {}

    def largest_rank(self, tensors: dict[str, Tensor]) -> int | None:
        """The largest rank that a file's tensors allow, asked before memory is allocated; None where the rank needs none."""
        return None

    def remove(self, layer: Any, name: str) -> None:
        """Take out what `start` put into the layer beside the containers."""


def in_float32(tensor: Tensor) -> Tensor:
    """The detached values in float32 (float64 stays): updates are summed in this precision and rounded once."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


def size_of(module: Any) -> tuple[int, int]:
    """(d_out, d_in) of Linear, Conv1D and the 4-bit layer."""
    return (module.nf, module.nx) if hasattr(module, "nf") else (module.out_features, module.in_features)
