"""Structured pruning: heads and feed-forward units that matter little are cut out, so bytes and time really fall.

    I_u = mean over texts of |∂L / ∂g_u| at g = 1,    g_u: a gate on all that unit u hands on

It is the change of the loss, to first order, when the unit is closed: for heads Michel et al. 2019 (section 4.1), for units
Molchanov et al. 2017 (section 2.2). Both divide the scores of a layer by their length before layers are compared.

    sites = find_sites(model, "ffn")
    shrink(model, choose(importance(model, sites, batches, loss_sum), keep=96), optimizer)

Parameters keep their identity, and the optimizer's moments are cut with them, so training goes on in the next step.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from distill.compression.sites import KINDS, Site, find_sites, widths

Scores = dict[str, Tensor]
Remaining = dict[str, list[int]]


def importance(
    model: nn.Module, sites: list[Site], batches: Iterable[Any], loss_sum: Callable[[nn.Module, Any], Tensor]
) -> Scores:
    """Score of every unit, in float64, by the path of its site. `loss_sum(model, batch)`: the loss summed over the batch's texts.

    Dropout is off meanwhile, and no gradient of a parameter is touched. Each text has gates of its own, so the size of the
    batches changes nothing. ValueError without batches, and for a site that the loss does not reach.
    """
    totals = {site.path: torch.zeros(site.units, dtype=torch.float64) for site in sites}
    texts, training = 0, {m: m.training for m in model.modules()}
    model.eval()
    try:
        with _gates(model, sites) as gates, torch.enable_grad():
            for batch in batches:
                gates.clear()
                loss = loss_sum(model, batch)
                for path, slope in zip(gates, _slopes(loss, gates, sites), strict=True):
                    totals[path] += slope.abs().double().sum(0).cpu()
                    texts += len(slope) if path == sites[0].path else 0
    finally:
        for module, mode in training.items():
            module.training = mode
    if not texts:
        raise ValueError("no batch came: importance is a mean over texts, give at least one batch")
    return {path: total / texts for path, total in totals.items()}


def choose(scores: Scores, keep: int, minimum: int = 1) -> Remaining:
    """The `keep` units of all sites together with the highest scores, and `minimum` of each site at least. Ties: the first.

    ValueError where so many cannot be kept.
    """
    total, least = sum(map(len, scores.values())), sum(min(minimum, len(s)) for s in scores.values())
    if minimum < 1 or not least <= keep <= total:
        raise ValueError(
            f"keep={keep} of {total} units, minimum={minimum} in each of {len(scores)} sites: expected {least}..{total}"
        )
    ranked, best = [], {}
    for path, s in scores.items():
        order = (s / s.norm().clamp(min=1e-30)).sort(descending=True, stable=True)
        best[path] = order.indices[:minimum].tolist()
        ranked += [(-value, path, unit) for value, unit in zip(order.values.tolist(), order.indices.tolist(), strict=True)][
            minimum:
        ]
    for _, path, unit in sorted(ranked, key=lambda r: r[0])[: keep - least]:
        best[path].append(unit)
    return {path: sorted(units) for path, units in best.items()}


@torch.no_grad()
def shrink(model: nn.Module, remaining: Remaining, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Cut all units out that `kept` does not list, in place; sites that it does not name stay whole.

    The optimizer's state is cut too. ValueError, before anything changes, for a path that is no site, for units that are not
    there, and for an optimizer whose state has another shape than its parameter (8-bit).
    """
    sites = {site.path: site for kind in KINDS for site in _known(model, kind)}
    for path, units in remaining.items():
        if path not in sites:
            raise ValueError(f"{path} has no units to cut; sites: {', '.join(list(sites)[:6]) or 'none known in this model'}")
        if not units or sorted(set(units)) != list(units) or not 0 <= units[0] <= units[-1] < sites[path].units:
            raise ValueError(f"{path}: kept {list(units)[:8]}, expected rising numbers, at least one, below {sites[path].units}")
    cuts = [cut for path, units in remaining.items() for cut in _cuts(model, sites[path], units)]
    for p, _, _ in cuts:
        _check_state(p, optimizer)
    for p, index, dim in cuts:
        _cut(p, index, dim, optimizer)
    for path, units in remaining.items():
        site = sites[path]
        for name, each in site.counts:
            setattr(model.get_submodule(path), name, each * len(units))
        for part in (*site.ins, site.out):
            _set_sizes(model.get_submodule(part.path))


class StructuredPruner:
    """From all units of a kind to `keep` of them, in `rounds` equal parts; the training loop calls `step` between two of its own.

    `state_dict` holds the sizes as well: load it before weights and optimizer, since it brings the model to their shape.
    """

    def __init__(self, model: nn.Module, kind: str, keep: int, rounds: int = 1):
        self.model, self.kind, self.keep, self.rounds, self.round = model, kind, keep, rounds, 0
        self.start = sum(site.units for site in find_sites(model, kind))
        if rounds < 1 or not len(find_sites(model, kind)) <= keep < self.start:
            raise ValueError(
                f"keep={keep}, rounds={rounds}: expected fewer than the {self.start} {kind} there are, 1 in each layer"
            )

    @property
    def finished(self) -> bool:
        return self.round == self.rounds

    def step(
        self,
        batches: Iterable[Any],
        loss_sum: Callable[[nn.Module, Any], Tensor],
        optimizer: torch.optim.Optimizer | None = None,
    ) -> Remaining:
        """One round: score what is left, cut the least; returns what was kept (numbers before this cut)."""
        if self.finished:
            raise ValueError(f"all {self.rounds} rounds are done: {self.keep} {self.kind} are left")
        now = self.start - round((self.start - self.keep) * (self.round + 1) / self.rounds)
        remaining = choose(importance(self.model, find_sites(self.model, self.kind), batches, loss_sum), now)
        shrink(self.model, remaining, optimizer)
        self.round += 1
        return remaining

    def state_dict(self) -> dict[str, Any]:
        return {"round": self.round, "widths": widths(self.model)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_widths(self.model, state["widths"])
        self.round = state["round"]


def set_widths(model: nn.Module, wanted: dict[str, int]) -> None:
    """Bring the model to the sizes of a file; which units stay is of no importance, since the file's weights come in.

    ValueError for a site that is absent or smaller already.
    """
    there = widths(model)
    wrong = {path: (there.get(path), units) for path, units in wanted.items() if units > there.get(path, 0)}
    if wrong:
        path, (width, units) = next(iter(wrong.items()))
        raise ValueError(f"{path} has {width} units in the model, {units} in the file: give the model of the size before the cut")
    shrink(model, {path: list(range(units)) for path, units in wanted.items() if units < there[path]})


def _known(model: nn.Module, kind: str) -> list[Site]:
    try:
        return find_sites(model, kind)
    except ValueError:
        return []


@contextmanager
def _gates(model: nn.Module, sites: list[Site]) -> Iterator[dict[str, Tensor]]:
    """A gate (B, units) of ones before each site's `out`, new in every forward pass."""
    gates: dict[str, Tensor] = {}

    def gate(site: Site, x: Tensor) -> Tensor:
        if site.path in gates:
            raise ValueError(f"{site.out.path} runs twice in one forward pass: its importance would be that of the last run only")
        g = gates[site.path] = torch.ones(len(x), site.units, dtype=x.dtype, device=x.device, requires_grad=True)
        wide = g.repeat_interleave(site.out.width, 1)  # (B, D)
        return x * wide.view(len(x), *[1] * (x.ndim - 2), -1)

    hooks = [
        model.get_submodule(site.out.path).register_forward_pre_hook(lambda module, args, site=site: (gate(site, args[0]),))
        for site in sites
    ]
    try:
        yield gates
    finally:
        for hook in hooks:
            hook.remove()


def _slopes(loss: Tensor, gates: dict[str, Tensor], sites: list[Site]) -> tuple[Tensor, ...]:
    slopes = (
        torch.autograd.grad(loss, list(gates.values()), allow_unused=True)
        if gates and loss.requires_grad
        else [None] * len(gates)
    )
    reached = {path for path, slope in zip(gates, slopes, strict=True) if slope is not None}
    if missed := [site.path for site in sites if site.path not in reached]:
        raise ValueError(f"the loss does not reach {missed[:3]}: does loss_sum run this model, with gradients on?")
    return slopes  # pyright: ignore[reportReturnType]


def _cuts(model: nn.Module, site: Site, units: list[int]) -> Iterator[tuple[nn.Parameter, Tensor, int]]:
    """Parameter, rows that stay, dimension."""
    for part in (*site.ins, site.out):
        layer = model.get_submodule(part.path)
        weight = layer.get_parameter("weight")
        index = part.index(units, site.units).to(weight.device)
        reads = part is site.out
        yield weight, index, int(reads != isinstance(layer, Conv1D))  # Conv1D's weight lies transposed
        if not reads and getattr(layer, "bias", None) is not None:
            yield layer.get_parameter("bias"), index, 0


def _check_state(p: nn.Parameter, optimizer: torch.optim.Optimizer | None) -> None:
    state = {} if optimizer is None else optimizer.state.get(p, {})
    for name, value in state.items():
        if isinstance(value, Tensor) and value.numel() > 1 and value.shape != p.shape:
            raise ValueError(f"optimizer state {name} is {tuple(value.shape)}, its parameter {tuple(p.shape)}: it cannot be cut")


def _cut(p: nn.Parameter, index: Tensor, dim: int, optimizer: torch.optim.Optimizer | None) -> None:
    state = {} if optimizer is None else optimizer.state.get(p, {})
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == p.shape:
            state[name] = value.index_select(dim, index)
    p.grad = None
    p.data = p.data.index_select(dim, index)


def _set_sizes(layer: nn.Module) -> None:
    if isinstance(layer, Conv1D):
        layer.nx, layer.nf = layer.weight.shape
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
