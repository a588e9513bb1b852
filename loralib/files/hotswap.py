"""Exchange an adapter under `torch.compile` without compiling again.

An adapter that shall be exchanged is padded with zeros to the largest rank that will come, and its scale becomes a tensor
(`variants/swappable.py`). `hotswap_adapter` then copies a file's numbers into the same tensors: nothing that the compiler looked
at has changed.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from loralib.base_model.never_called import unwatch
from loralib.base_model.no_gradient import forget_gradients
from loralib.files.read_adapter import read_config, read_tensors
from loralib.files.save_and_load import LoadReport, check_fits
from loralib.injection.injection import adapter_configs
from loralib.injection.matching import match_targets
from loralib.injection.merge_weights import merged_adapters
from loralib.layers.linear import Projection
from loralib.layers.lora_layer import lora_layers
from loralib.variants.lora import Lora
from loralib.variants.swappable import Scale, Swappable


@torch.no_grad()
def prepare_hotswap(model: nn.Module, rank: int, adapter_name: str = "default") -> None:
    """Pad the adapter to `rank` everywhere, once, before compiling. The model computes what it did.

    Adapters that come later may have any rank up to `rank`, in the same modules. Raises ValueError for a larger adapter, for
    variants (DoRA, PiSSA, (IA)³, parts), for layers other than Linear and Conv1D, and for an adapter with a head.
    """
    layers = {path: layer for path, layer in lora_layers(model).items() if adapter_name in layer.variants}
    if not layers:
        raise KeyError(f"no adapter {adapter_name!r}; there are {sorted(adapter_configs(model))}")
    if merged_adapters(model):
        raise RuntimeError(f"adapters {merged_adapters(model)} are merged: unmerge(model) first")
    config = adapter_configs(model)[adapter_name]
    if getattr(config, "bias", "none") != "none" or config.modules_to_save:
        raise ValueError(f"adapter {adapter_name!r} brings a head or biases: only factors can be exchanged")
    for path, layer in layers.items():
        variant = layer.variants[adapter_name]
        if not isinstance(layer, Projection) or type(variant) not in (Lora, Swappable) or getattr(variant, "parts", None):
            raise ValueError(f"{path}: only plain LoRA on Linear and Conv1D can be exchanged, not {variant.title} here")
        if len(layer.lora_A[adapter_name]) > rank:
            raise ValueError(f"{path}: the adapter has space for rank {len(layer.lora_A[adapter_name])}, more than rank={rank}")
    unwatch(model)
    forget_gradients(model)
    for layer in layers.values():
        assert isinstance(layer, Projection)
        A, B = layer.lora_A[adapter_name], layer.lora_B[adapter_name]
        more = rank - A.shape[0]
        A.data = torch.cat([A.data, A.new_zeros(more, A.shape[1])])
        B.data = torch.cat([B.data, B.new_zeros(B.shape[0], more)], 1)
        layer.hot_scale = Scale(layer.variants[adapter_name].scaling, A.dtype, A.device)
        layer.variants[adapter_name] = _swappable(layer.variants[adapter_name])


@torch.no_grad()
def hotswap_adapter(model: nn.Module, folder: str | Path, adapter_name: str = "default") -> LoadReport:
    """Put the adapter in `folder` in the place of a prepared one. Strict as `load_adapter`; a refused file changes nothing."""
    folder = Path(folder)
    layers = {path: layer for path, layer in lora_layers(model).items() if isinstance(layer, Projection)}
    layers = {path: layer for path, layer in layers.items() if isinstance(layer.variants.get(adapter_name), Swappable)}
    if not layers:
        raise RuntimeError(f"adapter {adapter_name!r} is not prepared: call prepare_hotswap(model, rank=...) before compiling")
    if merged_adapters(model):
        raise RuntimeError(f"adapters {merged_adapters(model)} are merged, so the old one would go on answering: unmerge(model)")
    if any(p.requires_grad for layer in layers.values() for p in layer.trained(adapter_name).values()):
        raise RuntimeError(
            "the prepared adapter is trainable, and an optimizer's memory of it would go into the next one: "
            "exchange is for serving; set_trainable(model, []) first"
        )
    config, tensors = read_config(folder), read_tensors(folder)
    new = _new_variants(model, config, layers, adapter_name, folder)
    expected = {}
    for path, layer in layers.items():
        (d_out, d_in), r = layer.matrix_shape(), new[path].r
        key_A, key_B = (f"{path}.{end}" for end in layer.FILE_KEYS)
        expected |= {key_A: torch.empty(r, d_in, device="meta"), key_B: torch.empty(d_out, r, device="meta")}
    check_fits(tensors, expected, folder)
    for path, layer in layers.items():
        key_A, key_B = (f"{path}.{end}" for end in layer.FILE_KEYS)
        A, B, r = layer.lora_A[adapter_name], layer.lora_B[adapter_name], new[path].r
        A.zero_()[:r].copy_(tensors[key_A])
        B.zero_()[:, :r].copy_(tensors[key_B])
        layer.get_submodule("hot_scale").set(new[path].scaling)  # pyright: ignore
        layer.variants[adapter_name] = _swappable(new[path])
    adapter_configs(model)[adapter_name] = config
    return LoadReport(len(tensors), len(expected), None)


def _swappable(variant: Any) -> Swappable:
    return Swappable(variant.r, variant.dropout, variant.alpha, None, variant.rslora)


def _new_variants(model: nn.Module, config, layers: dict[str, Projection], adapter_name: str, folder: Path) -> dict[str, Lora]:
    """The file's rank and scale for each prepared layer. ValueError where the file wants something else than these layers."""
    more = config.modules_to_save or getattr(config, "bias", "none") != "none" or getattr(config, "enable_lora", None)
    variants = config.variants({path: model.get_submodule(path) for path in match_targets(model, config)})
    if more or any(type(variant) is not Lora for variant in variants.values()):
        raise ValueError(f"{folder}: only the factors of plain LoRA can be exchanged, and this adapter brings more")
    if set(variants) != set(layers):
        other = sorted(set(variants) ^ set(layers))
        raise ValueError(f"{folder} adapts {len(variants)} modules, the prepared adapter {len(layers)}; different: {other[:3]}")
    for path, variant in variants.items():
        space, prepared = len(layers[path].lora_A[adapter_name]), layers[path].variants[adapter_name]
        if variant.r > space:
            raise ValueError(f"{folder}: {path} has rank {variant.r}, and the prepared adapter has space for {space}")
        if variant.dropout != prepared.dropout and model.training:
            raise ValueError(f"{folder}: another dropout ({variant.dropout}) would compile again in training; call model.eval()")
    return variants
