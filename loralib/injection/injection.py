"""Put LoRA into a model: match modules, change them in place, freeze the rest, keep new heads trainable.

`inject` (peft's name: `get_peft_model`) adds the first adapter and makes it active and trainable;
`add_adapter` only adds a further one. Both answer or raise; neither can match nothing.
"""

import torch
from torch import nn

from loralib.base_model.forwards import stored_forwards
from loralib.base_model.handles import bare_model
from loralib.base_model.never_called import watch
from loralib.base_model.stacked_weights import find_stacks
from loralib.injection.matching import heads_to_save, match_targets
from loralib.injection.merge_weights import merged_adapters
from loralib.injection.switch import set_active, set_trainable
from loralib.layers.biases import add_biases, bias_names, delete_biases, refuse_overlap
from loralib.layers.conversion import to_lora, to_plain
from loralib.layers.heads import SavedModule, put_saved_module, remove_heads
from loralib.layers.linear4bit import Linear4bit
from loralib.layers.lora_layer import LoraLayer, check_adapter_name
from loralib.report import AttachedRow, AttachReport
from loralib.settings.peft_objects import our_config
from loralib.variants.config import AdapterConfig, LoraConfig
from loralib.variants.variant import Start, Variant


def inject(
    model: nn.Module,
    config: AdapterConfig,
    adapter_name: str = "default",
    *,
    autocast_adapter_dtype: bool = True,
    seed: int | None = None,
) -> AttachReport:
    """Add an adapter, make it the active and the only trainable one, freeze all else. Changes `model` in place.

    autocast_adapter_dtype: adapters in float32 (float64 for a float64 base); False: in the base's dtype.
    config: a LoraConfig or an IA3Config, also peft's own. seed: start of A from a generator of its own; None draws from torch's
    global one.
    Raises ValueError where a name matches nothing, or a matched module is of a kind that LoRA cannot adapt.
    """
    report = add_adapter(model, config, adapter_name, autocast_adapter_dtype=autocast_adapter_dtype, seed=seed)
    set_active(model, adapter_name)
    set_trainable(model, adapter_name)
    return report


def get_peft_model(model: nn.Module, config: AdapterConfig, adapter_name: str = "default", **options) -> nn.Module:
    """`inject` under peft's name; returns the same model, changed in place (no wrapper around it)."""
    inject(model, config, adapter_name, **options)
    return model


def add_adapter(
    model: nn.Module,
    config: AdapterConfig,
    adapter_name: str,
    *,
    autocast_adapter_dtype: bool = True,
    seed: int | None = None,
) -> AttachReport:
    """Add a further adapter: frozen and inactive until `set_trainable` and `set_active` say otherwise."""
    model, config = bare_model(model), our_config(config)
    configs = adapter_configs(model)
    check_adapter_name(adapter_name, configs)
    if merged_adapters(model):
        raise RuntimeError(f"adapters {merged_adapters(model)} are merged: unmerge(model) before adding another")
    heads, names = heads_to_save(model, config.modules_to_save), match_targets(model, config)
    refuse_overlap(model, [head for head in heads if not isinstance(model.get_submodule(head), SavedModule)])
    variants = config.variants({name: model.get_submodule(name) for name in names})
    _check_shapes(model, variants)
    biases = bias_names(model, config, names, heads)
    zero_start = not isinstance(config, LoraConfig) or bool(config.init_lora_weights)
    for name in names:
        module = model.get_submodule(name)
        check_adapter_name(adapter_name, module.variants if isinstance(module, LoraLayer) else ())
    rows, shared = [], {}
    for index, name in enumerate(names):
        layer = to_lora(model.get_submodule(name))
        generator = None if seed is None else torch.Generator(layer.weight.device).manual_seed(seed * 100_003 + index)
        dtype = _base_weight(layer).dtype
        dtype = torch.promote_types(dtype, torch.float32) if autocast_adapter_dtype else dtype
        layer.add_adapter(adapter_name, variants[name], Start(dtype, zero_start, generator, shared))
        trained = layer.trained(adapter_name).values()
        for p in trained:
            p.requires_grad_(False)
        count = sum(p.numel() for p in trained)
        shape = tuple(_base_weight(layer).shape)
        rows.append(AttachedRow(name, type(layer).__name__, shape, variants[name].r, count))
    add_biases(model, adapter_name, biases)
    for head in heads:
        put_saved_module(model, head, adapter_name)
    watch(model, [*names, *heads])
    configs[adapter_name] = config
    injected_shapes(model)[adapter_name] = {row.path: row.shape for row in rows}
    return AttachReport(tuple(rows), tuple(heads), tuple(find_stacks(model).lines()))


def adapter_configs(model: nn.Module) -> dict[str, AdapterConfig]:
    """The settings of each adapter in the model, by name (kept on the model under peft's name, `peft_config`)."""
    model = bare_model(model)
    if not isinstance(model.__dict__.get("peft_config"), dict):
        model.__dict__["peft_config"] = {}
    return model.__dict__["peft_config"]


def injected_shapes(model: nn.Module) -> dict[str, dict[str, tuple[int, ...]]]:
    """{adapter: {path: shape of the weight}} at the time when each adapter was added."""
    return bare_model(model).__dict__.setdefault("lora_shapes", {})


def check_still_there(model: nn.Module, adapter_name: str) -> None:
    """ValueError where a module lost the adapter, or its weight has another shape, since the adapter was added.

    `resize_token_embeddings` puts a new `lm_head` in the place of an adapted one, or gives an adapted embedding more rows.
    """
    for path, shape in injected_shapes(model).get(adapter_name, {}).items():
        module = bare_model(model).get_submodule(path)
        if not isinstance(module, LoraLayer) or adapter_name not in module.variants:
            raise ValueError(
                f"{path} had LoRA for {adapter_name!r} and is now a {type(module).__name__} without it: it was replaced, as "
                "resize_token_embeddings does. Resize first, and add the adapter afterwards"
            )
        now = tuple(_base_weight(module).shape)
        if now != shape:
            raise ValueError(
                f"{path} had a weight of {shape} when {adapter_name!r} was added, and has one of {now}: its factors do not fit. "
                "Resize first, and add the adapter afterwards"
            )


def delete_adapter(model: nn.Module, adapter_name: str) -> None:
    """Remove an adapter from every layer and head; the last one leaves plain layers behind.

    RuntimeError while it is merged, KeyError when there is none of the name.
    """
    model = bare_model(model)
    configs = adapter_configs(model)
    if adapter_name not in configs:
        raise KeyError(f"no adapter {adapter_name!r}; there are {sorted(configs)}")
    owners = [m for m in model.modules() if isinstance(m, LoraLayer) and adapter_name in m.variants]
    if any(adapter_name in layer.merged for layer in owners):
        raise RuntimeError(f"adapter {adapter_name!r} is merged into the weights: unmerge(model) first, then delete it")
    for layer in owners:
        layer.delete_adapter(adapter_name)
        if not layer.variants:
            to_plain(layer)
    delete_biases(model, adapter_name)
    remove_heads(model, adapter_name)
    injected_shapes(model).pop(adapter_name, None)
    del configs[adapter_name]


def _base_weight(layer: LoraLayer):
    """The weight, or the 4-bit one: both say their shape and dtype."""
    return layer.quantized if isinstance(layer, Linear4bit) else layer.weight


def _check_shapes(model: nn.Module, variants: dict[str, Variant]) -> None:
    """Everything that could still fail, before the first module is changed."""
    for name, variant in variants.items():
        module = model.get_submodule(name)
        stored_forwards(module)  # raises where a replaced forward would keep LoRA from running
        if isinstance(module, nn.Conv2d) and module.groups != 1:
            raise ValueError(f"{name}: LoRA on Conv2d with groups={module.groups} has no low-rank form that merges")
        plain = module.PLAIN if isinstance(module, LoraLayer) else type(module).__name__
        if plain not in variant.layers:
            raise ValueError(f"{name}: {variant.title} is for {', '.join(variant.layers)}, not for {plain}")
        variant.check(name, module)
