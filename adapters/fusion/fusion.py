"""AdapterFusion: attention over what several adapters say, at each place and for each token (Pfeiffer et al. 2021, section 3).

    q = Q z̃ + b_q       z̃ what the adapters look at
    k_i = K a_i + b_k    a_i = A_i(z̃), the change of adapter i, without the residual
    v_i = V a_i          V starts at the identity
    out = Σ softmax_i(q · k_i) v_i

There is no 1/√d. While all q · k_i are small, as at the start, the fusion is nearly the mean of the changes. V is pulled towards
the identity by 0.01 ‖V − I‖² in the *loss* (`fusion_penalty`), and has to stay out of weight decay, which would pull it to zero.
Base and adapters are frozen; there are 3d² + 2d parameters at each insertion point.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class AdapterFusionConfig:
    """Settings of a fusion."""

    dynamic: bool = True
    """query and key learned, so that each token chooses; otherwise one learned score for each adapter and place"""
    pull: float = 0.01
    """how strongly the loss pulls V to the identity"""


class AdapterFusion(nn.Module):
    """The attention of one place. `weights` keeps the last scores (*batch, n) for drawing, if `keep` is on.

    The softmax runs over `count` adapters of width `width`.
    """

    def __init__(
        self,
        width: int,
        count: int,
        config: AdapterFusionConfig = AdapterFusionConfig(),
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.value = nn.Linear(width, width, bias=False)
        with torch.no_grad():
            self.value.weight.fill_(1e-6).fill_diagonal_(1.0)  # as in AdapterHub: a trace off the diagonal
        if config.dynamic:
            self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
            for layer in (self.query, self.key):
                nn.init.normal_(layer.weight, std=0.02, generator=generator)
                nn.init.zeros_(layer.bias)
        else:
            self.scores = nn.Parameter(torch.zeros(count))
        self.dynamic, self.pull = config.dynamic, config.pull
        self.keep, self.weights = False, None

    def forward(self, query_states: Float[Tensor, "*batch d"], changes: Float[Tensor, "*batch n d"]) -> Float[Tensor, "*batch d"]:
        """The attended change, in the dtype of `seen`; the fusion computes in its own."""
        dtype, given = self.value.weight.dtype, query_states.dtype
        query_states, changes = query_states.to(dtype), changes.to(dtype)
        if self.dynamic:
            scores = torch.einsum("...d,...nd->...n", self.query(query_states), self.key(changes))
        else:
            scores = self.scores.expand(*changes.shape[:-1])
        weights = scores.softmax(-1)
        self.weights = weights.detach() if self.keep else None
        return torch.einsum("...n,...nd->...d", weights, self.value(changes)).to(given)


def fusion_penalty(model: nn.Module) -> Tensor | float:
    """Σ pull · ‖V − I‖² over the places of `model` whose V trains: to be added to the loss. 0.0 where nothing trains."""
    total: Tensor | float = 0.0
    for module in model.modules():
        if isinstance(module, AdapterFusion) and module.value.weight.requires_grad:
            V = module.value.weight
            total = total + module.pull * (V - torch.eye(len(V), dtype=V.dtype, device=V.device)).square().sum()
    return total


def no_decay(model: nn.Module) -> set[str]:
    """Paths of the values V: weight decay would pull them to zero while the penalty pulls them to the identity."""
    places = [name for name, module in model.named_modules() if isinstance(module, AdapterFusion)]
    return {f"{name}.value.weight".removeprefix(".") for name in places}
