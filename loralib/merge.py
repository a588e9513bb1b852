"""Merging: W' = W + Σ s · B A, so that the adapted model costs what the base costs.

Explicit only: `train()` and `eval()` never touch weights. The sum is taken in float32 (float64 for a float64 base) and
rounded once. The original weight is kept, so `unmerge` restores its exact bits, not W' - s · B A.
"""

import torch
from torch import nn

from loralib.heads import saved_modules
from loralib.layers import to_plain
from loralib.lora_layer import LoraLayer, lora_layers


def merge(model: nn.Module, names: str | list[str] | None = None) -> list[str]:
    """Add the adapters (None: the active ones) to the weights. Returns their names.

    Costs a second copy of each merged weight until `unmerge`. Raises RuntimeError when something is merged already, and
    ValueError for tied weights (the update would change both places) or an update that is not finite.
    """
    layers = lora_layers(model)
    if merged_adapters(model):
        raise RuntimeError(f"adapters {merged_adapters(model)} are merged already: unmerge(model) first")
    wanted = [names] if isinstance(names, str) else names
    plan = {path: [n for n in (layer.active if wanted is None else wanted) if n in layer.slots] for path, layer in layers.items()}
    chosen = list(dict.fromkeys(n for ns in plan.values() for n in ns))
    if not chosen or set(wanted or []) - set(chosen):
        known = sorted({n for layer in layers.values() for n in layer.slots})
        raise ValueError(f"nothing to merge for {wanted if wanted is not None else 'the active adapters'}; there are {known}")
    _refuse_tied(model, [layers[path] for path, ns in plan.items() if ns])
    merged = {path: _merged_weight(path, layers[path], ns) for path, ns in plan.items() if ns}
    for path, weight in merged.items():  # all updates are known to be good before the first weight changes
        layer = layers[path]
        layer._unmerged_weight = layer.weight.data
        layer.weight.data = weight
        layer.merged = tuple(plan[path])
    return chosen


def unmerge(model: nn.Module) -> None:
    """Put the kept weights back, bit for bit. RuntimeError when nothing is merged."""
    if not merged_adapters(model):
        raise RuntimeError("nothing is merged, so there is nothing to unmerge")
    for layer in lora_layers(model).values():
        if layer.merged:
            assert layer._unmerged_weight is not None
            layer.weight.data = layer._unmerged_weight.to(layer.weight.device)
            layer._unmerged_weight, layer.merged = None, ()


def merged_adapters(model: nn.Module) -> list[str]:
    """Names of the adapters that are in the weights now."""
    found = [n for m in model.modules() if isinstance(m, LoraLayer) for n in m.merged]
    return list(dict.fromkeys(found))


def merge_and_unload(model: nn.Module, names: str | list[str] | None = None) -> nn.Module:
    """Merge for good and take LoRA out: the same model object, with plain layers and the adapter's own head."""
    if not merged_adapters(model):
        merge(model, names)
    merged = merged_adapters(model)
    for layer in lora_layers(model).values():
        to_plain(layer)
    for path, head in saved_modules(model).items():
        parent, _, leaf = path.rpartition(".")
        owner = next((n for n in merged if n in head.copies), None)
        setattr(model.get_submodule(parent), leaf, head.original if owner is None else head.copies[owner])
    model.__dict__.pop("peft_config", None)
    return model


def _merged_weight(path: str, layer: LoraLayer, names: list[str]) -> torch.Tensor:
    wide = torch.promote_types(layer.weight.dtype, torch.float32)
    weight = layer.weight.detach().to(wide, copy=True)
    for name in names:
        delta = layer.delta_weight(name).to(wide)
        if not torch.isfinite(delta).all():
            raise ValueError(f"adapter {name!r} at {path} has values that are not finite: nothing was merged")
        weight += delta
    return weight.to(layer.weight.dtype)


def _refuse_tied(model: nn.Module, layers: list[LoraLayer]) -> None:
    mine = {layer.weight.data_ptr(): layer for layer in layers if layer.weight.device.type != "meta"}
    owners: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.data_ptr() in mine:
                owners.setdefault(parameter.data_ptr(), []).append(f"{path}.{name}")
    for pointer, paths in owners.items():
        modules = {id(model.get_submodule(p.rpartition(".")[0])) for p in paths}
        if len(modules) > 1:
            raise ValueError(
                f"{' and '.join(paths)} share one weight (tied): merging would change them all. "
                "Untie them first (give one its own copy of the weight), or keep the adapter unmerged"
            )
        assert pointer in mine
