"""Merging: W' = W + Σ s · B A, so that the adapted model costs what the base costs.

Explicit only: `train()` and `eval()` never touch weights. The sum is taken in float32 (float64 for a float64 base) and
rounded once. The original weight is kept, so `unmerge` restores its exact bits, not W' - s · B A.
"""

import torch
from torch import nn

from loralib.base_model.handles import bare_model
from loralib.layers.biases import forget_biases, model_biases, the_one_with_biases, use_biases
from loralib.layers.conversion import to_plain
from loralib.layers.heads import SavedModule, replace_module, saved_modules
from loralib.layers.linear4bit import Linear4bit
from loralib.layers.lora_layer import LoraLayer, lora_layers


def merge(model: nn.Module, names: str | list[str] | None = None) -> list[str]:
    """Add the adapters (None: the active ones) to the weights. Returns their names.

    Costs a second copy of each merged weight until `unmerge`. Raises RuntimeError when something is merged already, and
    ValueError for tied weights (the update would change both places) or an update that is not finite.
    """
    layers, heads = lora_layers(model), saved_modules(model)
    if merged_adapters(model):
        raise RuntimeError(f"adapters {merged_adapters(model)} are merged already: unmerge(model) first")
    if any(layer.rows is not None for layer in layers.values()):
        raise RuntimeError("inside mixed_batch rows have adapters of their own, and a merge would add to all of them")
    wanted = [names] if isinstance(names, str) else names
    known = sorted({n for layer in layers.values() for n in layer.variants})
    if wanted is not None and (len(set(wanted)) < len(wanted) or not set(wanted) <= set(known)):
        raise ValueError(f"cannot merge {wanted}: each name once, of {known}")
    plan = {
        path: [n for n in (layer.active if wanted is None else wanted) if n in layer.variants] for path, layer in layers.items()
    }
    chosen = list(dict.fromkeys(n for ns in plan.values() for n in ns))
    if not chosen:
        raise ValueError(f"no adapter is active, so there is nothing to merge; there are {known}")
    owners = {path: the_one_owner(path, head, chosen) for path, head in heads.items()}
    with_biases = the_one_with_biases(model, chosen)
    _refuse_tied(model, [layers[path] for path, ns in plan.items() if ns])
    _refuse_packed([path for path, ns in plan.items() if ns and isinstance(layers[path], Linear4bit)])
    weights = {path: _merged(path, layers[path], "weight", ns) for path, ns in plan.items() if ns}
    scaled = {path: ns for path, ns in plan.items() if any(layers[path].delta_bias(n) is not None for n in ns)}
    if scaled and with_biases:
        raise ValueError(f"{chosen}: one adapter scales biases and {with_biases!r} brings its own: merge them one at a time")
    bias_before = model_biases(model).active
    use_biases(model, with_biases)  # before any bias is scaled: the base's own has to stand there
    try:
        biases = {path: _merged(path, layers[path], "bias", ns) for path, ns in scaled.items()}
    except BaseException:
        use_biases(model, bias_before)
        raise
    for path, layer in layers.items():  # from here on nothing can fail
        original = layer.weight.data if path in weights else None, layer.get_parameter("bias").data if path in biases else None
        layer._before_merge = (*original, layer.active)
        layer.weight.data = weights.get(path, layer.weight.data)
        if path in biases:
            layer.get_parameter("bias").data = biases[path]
        layer.active = layer.merged = tuple(plan[path])
    model_biases(model).before_merge = bias_before
    for path, head in heads.items():
        head.active_before_merge, head.active = head.active, owners[path]
    return chosen


def unmerge(model: nn.Module) -> None:
    """Put the kept weights back, bit for bit, and make active what was before. RuntimeError when nothing is merged."""
    if not merged_adapters(model):
        raise RuntimeError("nothing is merged, so there is nothing to unmerge")
    for layer in lora_layers(model).values():
        weight, bias, active = layer._before_merge
        for name, original in (("weight", weight), ("bias", bias)):
            if original is not None:
                p = layer.get_parameter(name)
                p.data = original.to(p.device, p.dtype)  # the model may have moved since
        layer._before_merge, layer.merged, layer.active = (None, None, ()), (), tuple(n for n in active if n in layer.variants)
    use_biases(model, model_biases(model).before_merge)
    for head in saved_modules(model).values():
        head.active = head.active_before_merge if head.active_before_merge in (None, *head.copies) else None


def merged_adapters(model: nn.Module) -> list[str]:
    """Names of the adapters that are in the weights now."""
    names = [n for m in model.modules() if isinstance(m, LoraLayer) for n in m.merged]
    return list(dict.fromkeys(names))


def merge_and_unload(model: nn.Module, names: str | list[str] | None = None) -> nn.Module:
    """Merge for good and take LoRA out: the same model object, with plain layers and the adapter's own head."""
    if not merged_adapters(model):
        merge(model, names)
    elif names is not None and set([names] if isinstance(names, str) else names) != set(merged_adapters(model)):
        raise ValueError(f"{merged_adapters(model)} are merged, not {names}: unmerge(model) first")
    bare, shared = bare_model(model), shared_pointers(model)
    for layer in lora_layers(model).values():
        to_plain(layer)
    for path, head in saved_modules(model).items():
        if any(p.data_ptr() in shared for p in head.original.parameters()) and hasattr(bare, "config"):
            setattr(bare.config, "tie_word_embeddings", False)  # noqa: B010  # the trained copy is no longer the embedding
        replace_module(bare, path, head.current())
    bare.__dict__.pop("peft_config", None)
    bare.__dict__.pop("lora_shapes", None)
    forget_biases(bare)
    return model


def the_one_owner(path: str, head: SavedModule, names: list[str]) -> str | None:
    """Which of the adapters brings its own copy of a head; ValueError when several do."""
    owners = [n for n in names if n in head.copies]
    if len(owners) > 1:
        raise ValueError(f"adapters {owners} each have their own {path}: only one of them can be active at a time")
    return owners[0] if owners else None


def _merged(path: str, layer: LoraLayer, kind: str, names: list[str]) -> torch.Tensor:
    """Weight or bias with the updates of the adapters: summed wide, rounded once."""
    base = layer.get_parameter(kind)
    wide = torch.promote_types(base.dtype, torch.float32)
    total = base.detach().to(wide, copy=True)
    for name in names:
        delta = layer.delta_weight(name) if kind == "weight" else layer.delta_bias(name)
        if delta is not None:
            total += delta.to(wide)
    total = total.to(base.dtype)
    if not torch.isfinite(total).all():
        raise ValueError(f"{names} merged into {path} would not be finite in {total.dtype}: nothing was merged")
    return total


def _refuse_tied(model: nn.Module, layers: list[LoraLayer]) -> None:
    pointers = {layer.weight.data_ptr() for layer in layers if layer.weight.device.type != "meta"}
    for pointer, paths in shared_pointers(model).items():
        if pointer in pointers:
            raise ValueError(
                f"{' and '.join(paths)} share one weight (tied): merging would change them all. "
                "Untie them first (give one its own copy of the weight), or keep the adapter unmerged"
            )


def _refuse_packed(paths: list[str]) -> None:
    if paths:
        raise ValueError(
            f"{paths[0]} and {len(paths) - 1} more have 4-bit weights, which cannot hold the sum without an error: "
            "choose merge_dequant(model) for float weights, or merge_requant(model) for 4 bits again; both say their error"
        )


def shared_pointers(model: nn.Module) -> dict[int, list[str]]:
    """Address of each weight that lies in several modules, with the paths of its owners."""
    owners: dict[int, dict[int, str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.device.type != "meta" and parameter.numel():
                owners.setdefault(parameter.data_ptr(), {})[id(module)] = f"{path}.{name}"
    return {pointer: list(paths.values()) for pointer, paths in owners.items() if len(paths) > 1}
