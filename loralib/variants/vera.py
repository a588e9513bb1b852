"""VeRA: two frozen random matrices for a model, two small vectors for each layer (Kopiczko et al. 2024, arXiv 2310.11454).

    y = W x + b + Λ_b B Λ_d A x          Λ_d = diag(d), d (r,), starts at 0.1;  Λ_b = diag(b), b (d_out,), starts at 0

A (r, largest d_in) and B (largest d_out, r) are random, frozen, and shared by all adapted layers. A layer of d_in inputs and
d_out outputs uses the first d_in columns of A and the first d_out rows of B. Only the vectors d and b train: r + d_out parameters
in each layer.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loralib.variants.config import AdapterConfig, check_rank, check_targets
from loralib.variants.variant import Start, Variant, in_float32, size_of

A, B, D_VECTOR, B_VECTOR = "vera_A", "vera_B", "vera_lambda_d", "vera_lambda_b"


@dataclass(frozen=True, kw_only=True)
class VeraConfig(AdapterConfig):
    """Settings of one VeRA adapter; field names and defaults are peft's. ValueError for settings that cannot work."""

    r: int = 256
    """rank: rows of A, columns of B, length of d"""
    projection_prng_key: int = 0
    """seed of A and B"""
    save_projection: bool = True
    """whether the file holds A and B; False: whoever loads it draws them again from the seed"""
    vera_dropout: float = 0.0
    """dropout probability of the input of A"""
    d_initial: float = 0.1
    """start of d"""
    bias: Literal["none", "all", "vera_only"] = "none"
    """biases to train beside the vectors"""
    init_weights: bool = True
    """False: b starts at 1 and d at random, so that the update is not zero (for tests)"""

    peft_type: ClassVar[str] = "VERA"
    required: ClassVar[tuple[str, ...]] = ("r", "target_modules")

    def __post_init__(self):
        check_targets(self.target_modules)
        check_rank(self.r, "r")
        if not 0 <= self.vera_dropout < 1:
            raise ValueError(f"vera_dropout={self.vera_dropout!r}: expected a probability in [0, 1)")
        if self.bias not in ("none", "all", "vera_only"):
            raise ValueError(f"bias={self.bias!r}: expected one of none, all, vera_only")

    def variants(self, modules: dict[str, nn.Module]) -> dict[str, Variant]:
        sizes = [size_of(module) for module in modules.values() if not isinstance(module, nn.Embedding | nn.Conv2d)]
        largest = max((out for out, _ in sizes), default=0), max((inputs for _, inputs in sizes), default=0)
        return {path: Vera(self.r, self.vera_dropout, self, largest) for path in modules}

    def file_settings(self, variants: dict[str, Variant]) -> dict[str, Any]:
        return super().file_settings(variants) | {"layers_to_transform": None, "layers_pattern": None, "init_weights": True}


@dataclass(frozen=True)
class Vera(Variant):
    """VeRA on Linear, Conv1D and 4-bit layers. Embeddings and convolutions are refused, as in peft."""

    config: VeraConfig = VeraConfig()
    largest: tuple[int, int] = (0, 0)
    """(largest d_out, largest d_in) of the adapted layers: the sizes of B and A"""

    title: ClassVar[str] = "vera"
    layers: ClassVar[tuple[str, ...]] = ("Conv1D", "Linear", "Linear4bit")
    parameters: ClassVar[tuple[str, ...]] = (B_VECTOR, D_VECTOR)
    fixed: ClassVar[tuple[str, ...]] = (A, B)
    is_low_rank: ClassVar[bool] = True

    def start(self, layer: Any, name: str, start: Start) -> None:
        shared = {} if start.shared is None else start.shared
        if not shared:
            random_A, random_B = self._projections()
            for key, value in ((A, random_A), (B, random_B)):
                shared[key] = nn.Parameter(value.to(layer.weight.device, start.dtype), requires_grad=False)
        for container, p in shared.items():
            layer.add_parameter(container, name, p, trainable=False)
        d_out, _ = layer.matrix_shape()
        b, d = torch.zeros(d_out), torch.full((self.r,), self.config.d_initial)
        if not (self.config.init_weights and start.zero):
            generator = torch.Generator().manual_seed(self.config.projection_prng_key)
            b, d = torch.ones(d_out), torch.randn(self.r, generator=generator)
        layer.add_parameter(B_VECTOR, name, b.to(layer.weight.device, start.dtype))
        layer.add_parameter(D_VECTOR, name, d.to(layer.weight.device, start.dtype))

    def _projections(self) -> tuple[Tensor, Tensor]:
        """peft's random A and B of this seed: Kaiming uniform, ±√(6 / columns), from a generator on the CPU."""
        d_out, d_in = self.largest
        generator = torch.Generator().manual_seed(self.config.projection_prng_key)
        return _kaiming_uniform(self.r, d_in, generator), _kaiming_uniform(d_out, self.r, generator)

    def update(self, layer: Any, name: str, x: Tensor) -> Tensor:
        W_A, W_B, b, d = (tensor.to(x.dtype) for tensor in self._tensors(layer, name))
        low = d * F.linear(layer.drop(x, self.dropout), W_A)
        return b * F.linear(low, W_B)

    def factors(self, layer: Any, name: str) -> tuple[Tensor, Tensor]:
        """(diag(d) A, diag(b) B): the equal LoRA adapter."""
        W_A, W_B, b, d = self._tensors(layer, name)
        return d[:, None] * W_A, b[:, None] * W_B

    def delta_weight(self, layer: Any, name: str) -> Tensor:
        low, high = (in_float32(factor) for factor in self.factors(layer, name))
        return high @ low

    def _tensors(self, layer: Any, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A and B cut to the layer's size, b and d."""
        d_out, d_in = layer.matrix_shape()
        return layer.vera_A[name][:, :d_in], layer.vera_B[name][:d_out], layer.vera_lambda_b[name], layer.vera_lambda_d[name]

    def shared_tensors(self, layer: Any, name: str) -> dict[str, Tensor]:
        return {A: layer.vera_A[name], B: layer.vera_B[name]} if self.config.save_projection else {}

    def largest_rank(self, tensors: dict[str, Tensor]) -> int | None:
        return max((len(t) for key, t in tensors.items() if key.endswith(f".{D_VECTOR}")), default=1)


def _kaiming_uniform(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    bound = math.sqrt(3.0) * (math.sqrt(2) / math.sqrt(columns))  # in the order of peft's operations, to get its bits
    return torch.empty(rows, columns).uniform_(-bound, bound, generator=generator)
