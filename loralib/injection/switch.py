"""Which adapters answer, and which of them learn: two separate things.

`set_active` never touches `requires_grad`; `set_trainable` never changes an output. `disable_adapters` gives the base model
exactly, nested and on exceptions too, and with merged adapters (it puts the kept weights back for the time).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from loralib.base_model.no_gradient import watch_gradients
from loralib.injection.merge_weights import merge, merged_adapters, the_one_owner, unmerge
from loralib.layers.biases import model_biases, the_one_with_biases, use_biases
from loralib.layers.heads import SavedModule, saved_modules
from loralib.layers.lora_layer import LoraLayer, lora_layers


def set_active(model: nn.Module, names: str | list[str]) -> None:
    """Choose the adapters that take part in forward; their updates add up. [] is the base model."""
    names = [names] if isinstance(names, str) else list(names)
    layers, heads = lora_layers(model), saved_modules(model)
    _check_known(model, names)
    if merged_adapters(model):
        raise RuntimeError(f"adapters {merged_adapters(model)} are merged: unmerge(model) before choosing others")
    owners = {path: the_one_owner(path, head, names) for path, head in heads.items()}
    use_biases(model, the_one_with_biases(model, names))
    for layer in layers.values():
        layer.active = tuple(n for n in names if n in layer.variants)
    for path, head in heads.items():
        head.active = owners[path]


def set_trainable(model: nn.Module, names: str | list[str]) -> None:
    """Make exactly these adapters (with their heads) trainable, and freeze every other parameter of the model."""
    names = [names] if isinstance(names, str) else list(names)
    layers = lora_layers(model)
    _check_known(model, names)
    record = model_biases(model)
    away = [n for n in names if n in record.copies and record.active != n]
    if away:
        raise ValueError(f"adapter {away[0]!r} trains biases, which stand in the model while it is active: set_active first")
    model.requires_grad_(False)
    for p in record.originals.values():  # they are not in the model while copies stand in their places
        p.requires_grad_(False)
    first_parameters, others = {}, []
    for path, layer in layers.items():
        for name in (n for n in names if n in layer.variants):
            trained = layer.trained(name)
            for p in trained.values():
                p.requires_grad_(True)
            first_parameters[path] = trained[layer.variants[name].first_trained or next(iter(trained))]
    for head in saved_modules(model).values():
        for name in (n for n in names if n in head.copies):
            head.copies[name].requires_grad_(True)
            others += head.copies[name].parameters()
    watch_gradients(model, first_parameters, others)
    for name, copies in record.copies.items():
        for p in copies.values():
            p.requires_grad_(name in names)


@contextmanager
def disable_adapters(model: nn.Module) -> Iterator[None]:
    """Inside, the model is the base model (`torch.equal`); afterwards everything is active that was and still exists."""
    layers, heads = lora_layers(model), saved_modules(model)
    merged = merged_adapters(model)
    if merged:
        unmerge(model)
    layers_before = {path: layer.active for path, layer in layers.items()}
    heads_before = {path: head.active for path, head in heads.items()}
    biases_before = model_biases(model).active
    use_biases(model, None)
    for layer in layers.values():
        layer.active = ()
    for head in heads.values():
        head.active = None
    users = [*layers.values(), *heads.values()]
    rows_before = [user.rows for user in users]
    for user in users:
        user.rows = None  # inside `mixed_batch` as well
    try:
        yield
    finally:
        for user, rows in zip(users, rows_before, strict=True):
            if not isinstance(user, LoraLayer | SavedModule):
                continue  # its last adapter was deleted inside: a plain layer again
            user.rows = rows
        layers = {path: layer for path, layer in layers.items() if isinstance(layer, LoraLayer)}
        for path, layer in layers.items():
            layer.active = tuple(n for n in layers_before[path] if n in layer.variants)
        for path, head in heads.items():
            head.active = next((n for n in head.copies if n == heads_before[path]), None)
        use_biases(model, biases_before)
        left = [n for n in merged if any(n in layer.variants for layer in layers.values())]
        if left:
            merge(model, left)


def _check_known(model: nn.Module, names: list[str]) -> None:
    known = {n for layer in lora_layers(model).values() for n in layer.variants}
    if len(set(names)) < len(names):
        raise ValueError(f"{names}: an adapter is named twice, so its update would count twice")
    unknown = sorted(set(names) - known)
    if unknown:
        raise KeyError(f"no adapter {unknown}; there are {sorted(known)}")
