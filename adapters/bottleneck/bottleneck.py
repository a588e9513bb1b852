"""The bottleneck adapter: a small network beside a frozen one, A(x) = s · U f(D x + b) + c (Houlsby et al. 2019).

D narrows from width d to m = d / reduction_factor, U widens again: 2dm + m + d numbers. Three placements are known by name:

    houlsby    after attention and after the feed-forward part:  h + A(h), before the residual sum    (Houlsby et al. 2019)
    pfeiffer   once a layer, on the sum z = h + residual:  z + A(LN(z))                               (Pfeiffer et al. 2021)
    parallel   beside the feed-forward part, on its input x:  FFN(x) + A(x)                           (He et al. 2022)

`init="identity"` starts U at zero, so that the adapted model is the base, bit for bit, until the first step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.bottleneck.places import PLACEMENTS

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "swish": F.silu, "gelu": F.gelu, "tanh": torch.tanh}
INITS = ("identity", "houlsby", "bert")


@dataclass(frozen=True, kw_only=True)
class BottleneckConfig:
    """Settings of one adapter. None takes what the paper of the placement takes."""

    placement: str = "pfeiffer"
    """pfeiffer, houlsby or parallel"""
    reduction_factor: float | None = None
    """width of the model over width of the adapter: 16; parallel 2"""
    non_linearity: str | None = None
    """relu; houlsby swish"""
    scaling: float | None = None
    """factor of the adapter's output: 1; parallel 4"""
    init: str = "identity"
    """identity: U = 0. houlsby: normal 0.01, cut at two of it. bert: normal 0.02. The last two do not start at the base"""
    leave_out: tuple[int, ...] = ()
    """layers that get no adapter, counted from 0 (AdapterDrop, Rücklé et al. 2021)"""
    places: tuple[tuple[str, ...], ...] | None = None
    """(path, way) or (path, "parallel", source) for a model whose structure is not known; see `places.py`"""
    modules_to_save: list[str] | None = None
    """heads to train and save whole; None finds the new heads of a transformers model, [] is none"""

    def __post_init__(self):
        for name, known in (("placement", PLACEMENTS), ("init", INITS), ("non_linearity", (None, *ACTIVATIONS))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {', '.join(map(str, known))}")
        if self.reduction_factor is not None and not self.reduction_factor > 0:
            raise ValueError(f"reduction_factor={self.reduction_factor}: expected a positive number")

    @property
    def factor(self) -> float:
        return self.reduction_factor or (2.0 if self.placement == "parallel" else 16.0)

    @property
    def activation(self) -> str:
        return self.non_linearity or ("swish" if self.placement == "houlsby" else "relu")

    @property
    def scale(self) -> float:
        return self.scaling if self.scaling is not None else (4.0 if self.placement == "parallel" else 1.0)


class Bottleneck(nn.Module):
    """A(x), without the residual: whoever places it adds it."""

    def __init__(self, width: int, config: BottleneckConfig, generator: torch.Generator | None = None):
        super().__init__()
        if width < config.factor:
            raise ValueError(f"width {width} over reduction_factor {config.factor} leaves no neuron")
        self.down = nn.Linear(width, int(width // config.factor))
        self.up = nn.Linear(self.down.out_features, width)
        self.activation, self.scale = config.activation, config.scale
        self.start(config.init, generator)

    @torch.no_grad()
    def start(self, init: str, generator: torch.Generator | None) -> None:
        for layer in (self.down, self.up):
            nn.init.zeros_(layer.bias)
            if init == "identity":
                nn.init.kaiming_uniform_(layer.weight, a=5**0.5, generator=generator)
            elif init == "houlsby":
                nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02, generator=generator)
            else:
                nn.init.normal_(layer.weight, std=0.02, generator=generator)
        if init == "identity":
            nn.init.zeros_(self.up.weight)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        y = self.up(ACTIVATIONS[self.activation](self.down(x.to(self.down.weight.dtype))))
        return (y * self.scale if self.scale != 1 else y).to(x.dtype)
