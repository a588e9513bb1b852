"""Modules trained and saved whole, as a new task head: the original stays untouched, each adapter trains a copy of its own.

Switching adapters switches heads, and with adapters off the original answers, bit for bit (peft: `modules_to_save`).
"""

import copy

import torch
from torch import Tensor, nn

from loralib.base_model.handles import bare_model
from loralib.base_model.never_called import mark_called
from loralib.compute.rows import Rows


class SavedModule(nn.Module):
    """A module with one trainable copy per adapter; forwards to the active copy, or to the original when none is."""

    def __init__(self, original: nn.Module):
        super().__init__()
        self.original = original
        self.copies = nn.ModuleDict()
        self.active: str | None = None
        self.active_before_merge: str | None = None
        self.rows: Rows | None = None
        self.called = False

    def add(self, adapter_name: str) -> None:
        self.copies[adapter_name] = copy.deepcopy(self.original).requires_grad_(False)

    def delete(self, adapter_name: str) -> None:
        del self.copies[adapter_name]
        self.active = None if self.active == adapter_name else self.active

    def current(self) -> nn.Module:
        return self.original if self.active is None else self.copies[self.active]

    def forward(self, *args, **kwargs):
        if not self.called:
            mark_called(self)
        if self.rows is not None:
            return self._forward_rows(self.rows, *args, **kwargs)
        return self.current()(*args, **kwargs)

    def _forward_rows(self, rows: Rows, *args, **kwargs) -> Tensor:
        """Each row through the copy of its adapter; rows of the base, and of adapters without a copy, through the original."""
        given = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        names = [name if name is not None and name in self.copies else "" for name in rows.names]
        parts = Rows(tuple(names), rows.repeats)
        pieces, places = [], []
        for name, index in parts.groups(given[0], "a module that is saved whole"):
            module = self.copies[name] if name else self.original
            here = {k: _rows_of(v, index) for k, v in kwargs.items()}
            out = module(*(_rows_of(a, index) for a in args), **here)
            if not isinstance(out, Tensor):
                raise TypeError(
                    f"{type(module).__name__} returns {type(out).__name__}: only a tensor can be put together by rows"
                )
            pieces.append(out)
            places.append(index)
        return torch.cat(pieces)[torch.cat(places).argsort()]

    def __getattr__(self, name: str):
        """Attributes of the module in use (`weight`, `out_features`), so that code which reads them still works."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("original", "copies"):
                raise
            return getattr(self.current(), name)


def _rows_of(value, index: Tensor):
    return value[index] if isinstance(value, Tensor) else value


def put_saved_module(model: nn.Module, path: str, adapter_name: str) -> SavedModule:
    """Make the module at `path` a SavedModule (in its parent's place) and add a copy for the adapter."""
    module = model.get_submodule(path)
    if not isinstance(module, SavedModule):
        module = SavedModule(module)
        replace_module(model, path, module)
    module.add(adapter_name)
    return module


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def remove_heads(model: nn.Module, adapter_name: str) -> None:
    """Take an adapter's copies out; a module without any copy is itself again."""
    for path, head in saved_modules(model).items():
        if adapter_name in head.copies:
            head.delete(adapter_name)
        if not head.copies:
            replace_module(model, path, head.original)


def saved_modules(model: nn.Module) -> dict[str, SavedModule]:
    """Every SavedModule by its path in the model itself, whatever wrapper is given; may be empty."""
    return {name: module for name, module in bare_model(model).named_modules() if isinstance(module, SavedModule)}


def owners_of_heads(model: nn.Module) -> set[str]:
    """Names of the adapters, of whatever kind, that have a head of their own."""
    return {name for head in saved_modules(model).values() for name in head.copies}
