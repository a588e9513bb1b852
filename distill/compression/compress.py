"""Make the student smaller while it learns: cut heads and feed-forward units, zero small weights, train in int8, store in NF4.

What is cut is what the distillation loss misses least, so no label is needed. The order of a run:

    steps 1 ... cut_until     cuts, in equal rounds        (`structured.py`)
    from cut_until on         int8 in the forward pass     (`fake_quant.py`): the export then changes nothing
    the middle of the run     zeros, by the cubic schedule (`magnitude.py`)
    after the last step       export: int8, or NF4, which is not trained for
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from distill.compression.compress_config import CompressConfig
from distill.compression.fake_quant import fake_paths, fake_quantize, int8_paths
from distill.compression.int8 import quantize_int8
from distill.compression.magnitude import CubicSchedule, MagnitudePruner
from distill.compression.sites import find_sites
from distill.compression.structured import StructuredPruner
from loralib.four_bit.qlora import quantize_model
from training.data.batching import Batch

ROUNDS = 4


class Compressor:
    """What the trainer calls after each step, and a part of its checkpoint, which has to be loaded before weights and optimizer.

    batches and loss_sum tell what matters (`structured.importance`). ValueError for a share that leaves nothing to cut.
    """

    def __init__(
        self,
        model: nn.Module,
        config: CompressConfig,
        steps: int,
        batches: Sequence[Batch],
        loss_sum: Callable[[nn.Module, Any], torch.Tensor],
    ):
        self.model, self.config, self.batches, self.loss_sum = model, config, list(batches), loss_sum
        self.cut_until = steps // 2 if config.cuts else 0
        self.cuts = _pruners(model, config, steps)
        schedule = CubicSchedule(config.zeros, steps // 10, max(6 * steps // 10, steps // 10 + 1))
        self.zeros = MagnitudePruner(model, schedule) if config.zeros else None
        self._fake_if_due(0)

    def after(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        """What is due after this step."""
        if self.config.cuts and step <= self.cut_until and step in self._cut_steps():
            for cut in self.cuts:
                cut.step(self.batches, self.loss_sum, optimizer)
        if self.zeros is not None:
            self.zeros.step(step)
        self._fake_if_due(step)

    def export(self) -> None:
        """The end: what the student is in memory is now what will be on disk."""
        if self.zeros is not None:
            self.zeros.remove()
        if self.config.bits == "int8":
            quantize_int8(self.model)
        if self.config.bits == "nf4":
            quantize_model(self.model)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"cuts": [cut.state_dict() for cut in self.cuts], "faked": bool(fake_paths(self.model))}
        return state | ({"zeros": self.zeros.state_dict()} if self.zeros is not None else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for cut, saved in zip(self.cuts, state["cuts"], strict=True):
            cut.load_state_dict(saved)
        if self.zeros is not None:
            self.zeros.load_state_dict(state["zeros"])
        if state["faked"] and not fake_paths(self.model):
            fake_quantize(self.model)

    def _cut_steps(self) -> list[int]:
        return [self.cut_until * (i + 1) // ROUNDS for i in range(ROUNDS)]

    def _fake_if_due(self, step: int) -> None:
        if self.config.bits == "int8" and step >= self.cut_until and not fake_paths(self.model):
            fake_quantize(self.model)


def check_compress(model: nn.Module, config: CompressConfig, steps: int) -> None:
    """ValueError where cuts or fewer bits do not fit this model, before anything is trained. The model stays as it is."""
    _pruners(model, config, steps)
    if config.bits == "int8":
        int8_paths(model, None, None)
    if config.bits == "nf4":
        quantize_model(copy.deepcopy(model))  # it comes after the last step, when all would be lost


def _pruners(model: nn.Module, config: CompressConfig, steps: int) -> list[StructuredPruner]:
    if config.cuts and steps < 2 * ROUNDS:
        raise ValueError(f"steps={steps}: cuts come in {ROUNDS} rounds in the first half, so expected {2 * ROUNDS} or more")
    return [_pruner(model, kind, share) for kind, share in (("heads", config.heads), ("ffn", config.units)) if share < 1]


def _pruner(model: nn.Module, kind: str, share: float) -> StructuredPruner:
    sites = find_sites(model, kind)
    units = sum(site.units for site in sites)
    keep = round(share * units)
    if not len(sites) <= keep < units:
        name = "keep_heads" if kind == "heads" else "keep_units"
        raise ValueError(
            f"{name}={share}: {keep} of {units} {kind} in {len(sites)} layers would stay; expected fewer than there are, and one "
            "in each layer (where queries share a key, a key with its queries is one head)"
        )
    return StructuredPruner(model, kind, keep, ROUNDS)
