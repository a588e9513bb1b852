"""One place in a model: the adapters that live there, which of them act, and the hooks through which they act.

A site is a child of the module it changes, so that its parameters are parameters of the model, are moved and saved with it, and a
deep copy of the model has its own. Hooks look the site up on the module they are called for, never in a closure.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from adapters.bottleneck.composition import Average, BatchSplit, Composition, Fuse, Parallel, Stack

SITE = "adapter_site"
SOURCE = "adapter_source"


class Site(nn.Module):
    """Adapters by name, and fusions by the key of their members. Where these are LoRA adapters, the layer itself holds them."""

    def __init__(self, width: int, way: str = "output"):
        super().__init__()
        self.width, self.way = width, way
        self.bottlenecks, self.fusions = nn.ModuleDict(), nn.ModuleDict()
        self.active: Composition | None = None
        self.remembered: Tensor | None = None
        self.ran = False

    def change(self, z: Tensor, view: Callable[[Tensor], Tensor], what: Composition) -> Tensor | None:
        """What `what` adds to z; the adapters look at `view(z)`. None where none of them lives here (AdapterDrop)."""
        if isinstance(what, Stack):
            return self._stacked(z, view, what)
        if isinstance(what, Parallel):
            what = what.rows(len(z))
        if isinstance(what, BatchSplit):
            return self._by_rows(z, view, what)
        names = [name for name in ((what,) if isinstance(what, str) else what.names) if name in self.bottlenecks]
        if not names:
            return None
        adapter_input = view(z)
        changes = {name: self.bottlenecks[name](adapter_input) for name in names}
        if isinstance(what, str):
            return changes[what]
        if isinstance(what, Average):
            parts = [w * changes[name] for name, w in zip(what.names, what.weights, strict=True) if name in changes]
            return torch.stack(parts).sum(0)
        return self.fusions[what.key](adapter_input, torch.stack([changes[name] for name in what.names], -2))

    def _stacked(self, z: Tensor, view: Callable[[Tensor], Tensor], what: Stack) -> Tensor | None:
        total = None
        for part in what.parts:
            change = self.change(z if total is None else z + total, view, part)
            if change is not None:
                total = change if total is None else total + change
        return total

    def _by_rows(self, z: Tensor, view: Callable[[Tensor], Tensor], what: BatchSplit) -> Tensor | None:
        if len(z) != len(what.rows):
            raise ValueError(f"BatchSplit names adapters for {len(what.rows)} rows, the batch has {len(z)}")
        here = [name for name in dict.fromkeys(what.rows) if name is not None and name in self.bottlenecks]
        if not here:
            return None
        adapter_input, total = view(z), torch.zeros_like(z)
        for name in here:
            rows = torch.tensor([i for i, row in enumerate(what.rows) if row == name], device=z.device)
            total = total.index_add(0, rows, self.bottlenecks[name](adapter_input[rows]))
        return total


def added(site: Site, to: Tensor, z: Tensor, view: Callable[[Tensor], Tensor]) -> Tensor:
    """`to` with the change of the active composition; the very same tensor where there is none."""
    if site.active is None:
        return to
    if not site.ran:
        site.ran = True
    change = site.change(z, view, site.active)
    return to if change is None else to + change


def change_output(module: nn.Module, args: tuple, output):
    """Way output: h → h + A(h). A tuple's first element is h."""
    h = output[0] if isinstance(output, tuple) else output
    new = added(getattr(module, SITE), h, h, lambda z: z)
    return (new, *output[1:]) if isinstance(output, tuple) else new


def change_sum(module: nn.Module, args: tuple):
    """Way sum_norm: z → z + A(norm(z)), before the norm. `module.forward` is the norm without this hook."""
    return (added(getattr(module, SITE), args[0], args[0], module.forward), *args[1:])


def remember_input(module: nn.Module, args: tuple, kwargs: dict) -> None:
    """For way parallel: what the source takes in, kept until the place has used it."""
    site: Site = getattr(module, SOURCE)[0]
    if site.active is not None:
        site.remembered = args[0] if args else next(iter(kwargs.values()))


def change_from_input(module: nn.Module, args: tuple, output):
    """Way parallel: y → y + A(x)."""
    site: Site = getattr(module, SITE)
    if site.active is None:
        return output
    x, site.remembered = site.remembered, None
    if x is None:
        raise RuntimeError("a parallel adapter's source did not run before its place: is the path of the source right?")
    y = output[0] if isinstance(output, tuple) else output
    new = added(site, y, x, lambda z: z)
    return (new, *output[1:]) if isinstance(output, tuple) else new


def fuse_lora(module: Any, args: tuple, output: Tensor) -> Tensor:
    """Way lora: y → y + attention over the updates s B_i A_i x, of which none was added by the layer itself."""
    site: Site = getattr(module, SITE)
    if not isinstance(site.active, Fuse):
        return output
    site.ran = True
    if module.active:
        raise RuntimeError(f"LoRA adapters {module.active} act beside {site.active}: activate(model, None) before set_active")
    changes = torch.stack([module.update(name, args[0]) for name in site.active.names], -2)
    return output + site.fusions[site.active.key](output, changes)
