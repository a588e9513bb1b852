"""Magnitude pruning: the weights closest to zero become zero, few at first and slowly more, and stay zero through every step.

    s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (t_1 - t_0))³        the share that is zero (Zhu & Gupta 2017, equation 1)

As in the paper, every layer reaches the same share: then no layer can be emptied, which a ranking over all layers does to some.
A mask only grows. Masked weights get no gradient, so they have no part in the norm that clips, and are set to zero again after
each step, whatever momentum or decay did to them.

Honestly: a dense file and a dense matmul gain nothing from zeros. `sparse_size.py` counts what other storage would save.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distill.compression.fake_quant import int8_paths


@dataclass(frozen=True)
class CubicSchedule:
    """The share of zeros at a step: 0 before `start`, then from `initial` to `final` at `end`; new masks each `every` steps."""

    final: float
    start: int = 0
    end: int = 100
    every: int = 1
    initial: float = 0.0

    def __post_init__(self):
        if not 0 <= self.initial <= self.final < 1:
            raise ValueError(f"initial={self.initial}, final={self.final}: expected 0 <= initial <= final < 1")
        if not 0 <= self.start < self.end or self.every < 1:
            raise ValueError(f"start={self.start}, end={self.end}, every={self.every}: expected 0 <= start < end, every >= 1")

    def share(self, step: int) -> float:
        """s_t. Between two updates it stays at that of the last one; at `end` there always is one."""
        if step < self.start:
            return 0.0
        if step >= self.end:
            return self.final
        at = self.start + (step - self.start) // self.every * self.every
        return self.final + (self.initial - self.final) * (1 - (at - self.start) / (self.end - self.start)) ** 3


class MagnitudePruner:
    """Masks for every linear layer but the heads; call `step(step)` after each step of the optimizer.

    exclude: further layers to leave, by the end of their name; heads: paths of the heads, where the model's structure does not
    tell them. It can be a part of a checkpoint (`state_dict`). ValueError for names that fit no layer and for adapted models.
    """

    def __init__(
        self, model: nn.Module, schedule: CubicSchedule, exclude: list[str] | None = None, heads: list[str] | None = None
    ):
        self.schedule = schedule
        self.weights = {path: model.get_submodule(path).get_parameter("weight") for path in int8_paths(model, exclude, heads)}
        self.masks: dict[str, Tensor] = {path: torch.ones_like(w, dtype=torch.bool) for path, w in self.weights.items()}
        """True where a weight lives"""
        self._hooks = [
            w.register_hook(lambda grad, path=path: grad * self.masks[path])
            for path, w in self.weights.items()
            if w.requires_grad
        ]

    @torch.no_grad()
    def step(self, step: int) -> float:
        """New masks where the schedule asks for more zeros, then all masked weights are zero; returns the share of zeros."""
        self._check_shapes()
        share = self.schedule.share(step)
        for path, w in self.weights.items():
            self.masks[path] = _grown(self.masks[path], w, round(share * w.numel()))
            w.mul_(self.masks[path])
        return self.sparsity

    @property
    def sparsity(self) -> float:
        """The share of masked weights among those that may be masked."""
        masked = sum(int((~mask).sum()) for mask in self.masks.values())
        return masked / sum(mask.numel() for mask in self.masks.values())

    def remove(self) -> None:
        """The end: zeros stay what they are now, and are ordinary weights again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.weights = {}

    def state_dict(self) -> dict[str, Any]:
        return {"masks": {path: mask.clone() for path, mask in self.masks.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """ValueError where layers or shapes differ."""
        masks = state["masks"]
        there = {path: tuple(mask.shape) for path, mask in self.masks.items()}
        if {path: tuple(mask.shape) for path, mask in masks.items()} != there:
            odd = sorted(set(masks) ^ set(there))
            raise ValueError(f"masks of {len(masks)} layers do not fit the model's {len(there)}: {odd[:2] or 'shapes differ'}")
        self.masks = {path: mask.to(self.masks[path].device, torch.bool) for path, mask in masks.items()}

    def _check_shapes(self) -> None:
        if not self.weights:
            raise ValueError("this pruner has been removed: its zeros are ordinary weights now")
        wrong = [path for path, w in self.weights.items() if w.shape != self.masks[path].shape]
        if wrong:
            raise ValueError(f"{wrong[0]} changed its shape (structured pruning?): make a new MagnitudePruner after the cut")


def _grown(mask: Tensor, weight: Tensor, zeros: int) -> Tensor:
    """The mask with `zeros` False places: those it has, and of the rest the smallest; a mask that has more stays as it is."""
    if zeros <= int((~mask).sum()):
        return mask
    size = weight.abs().float().masked_fill(~mask, -1.0).flatten()
    grown = torch.ones_like(size, dtype=torch.bool)
    grown[size.topk(zeros, largest=False, sorted=False).indices] = False
    return grown.view_as(mask)
