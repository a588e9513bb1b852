"""Put a fusion into a model and take it out: over bottleneck adapters, or over LoRA adapters."""

import torch
from torch import nn

from adapters.bottleneck.attachment import HANDLES, activate, attached, fusions_in, sites, train_only
from adapters.bottleneck.composition import Fuse
from adapters.bottleneck.site import SITE, Site, fuse_lora
from adapters.fusion.fusion import AdapterFusion, AdapterFusionConfig
from adapters.virtual.virtual_tokens import virtual_tokens
from loralib.injection.injection import adapter_configs
from loralib.layers.linear import Projection
from loralib.layers.lora_layer import LoraLayer, lora_layers
from loralib.report import AttachedRow, AttachReport


def add_fusion(
    model: nn.Module,
    fuse: Fuse,
    config: AdapterFusionConfig = AdapterFusionConfig(),  # noqa: B008 (frozen)
    seed: int | None = None,
) -> AttachReport:
    """Add a learned attention over these adapters at every place where all of them live; it acts, and only it learns.

    KeyError for an unknown member; ValueError for members of different kinds or places, and for prefixes and prompts.
    """
    places = _lora_places(model, fuse) if members_kind(model, fuse) == "lora" else _bottleneck_places(model, fuse)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    for site, near in places:
        fusion = AdapterFusion(site.width, len(fuse.names), config, generator)
        site.fusions[fuse.key] = fusion.to(near.device, torch.promote_types(near.dtype, torch.float32))
    activate(model, fuse)
    train_only(model, fuse)
    here = {path: site for path, site in sites(model).items() if fuse.key in site.fusions}
    counts = {path: sum(p.numel() for p in site.fusions[fuse.key].parameters()) for path, site in here.items()}
    rows = (AttachedRow(path, "fusion", (s.width, s.width), len(fuse.names), counts[path]) for path, s in here.items())
    return AttachReport(tuple(rows), ())


def delete_fusion(model: nn.Module, fuse: Fuse) -> None:
    """Take a fusion out; nothing acts afterwards if it did."""
    if not any(fuse.key in site.fusions for site in sites(model).values()):
        raise KeyError(f"no fusion {fuse}; there are {sorted({key for site in sites(model).values() for key in site.fusions})}")
    for path, site in sites(model).items():
        if fuse.key in site.fusions:
            del site.fusions[fuse.key]
        site.active = None if fuse in fusions_in(site.active) else site.active
        if site.way == "lora" and not site.fusions:
            layer = model.get_submodule(path)
            layer.__dict__.pop(HANDLES)[0].remove()
            delattr(layer, SITE)


def fusion_configs(model: nn.Module) -> dict[Fuse, AdapterFusionConfig]:
    """The settings of each fusion in the model, by its members."""
    fusions = {key: fusion for site in sites(model).values() for key, fusion in site.fusions.items()}
    return {Fuse(*key.split("__")): AdapterFusionConfig(dynamic=one.dynamic, pull=one.pull) for key, one in fusions.items()}  # pyright: ignore


def active_fusion(model: nn.Module) -> Fuse:
    """The fusion that acts; ValueError where none does."""
    fusions = [fuse for site in sites(model).values() for fuse in fusions_in(site.active)]
    if not fusions:
        raise ValueError("no fusion acts in this model: add_fusion, or activate one")
    return fusions[0]


def members_kind(model: nn.Module, fuse: Fuse) -> str:
    """bottleneck or lora, the same for all members."""
    known = {"bottleneck": attached(model), "lora": list(adapter_configs(model)), "virtual": list(virtual_tokens(model))}
    virtual = sorted(set(fuse.names) & set(known["virtual"]))
    if virtual:
        raise ValueError(
            f"{fuse}: {virtual} are prefixes or prompts, which change what every layer attends to. They say nothing at a place "
            "of their own that an attention could weigh; fuse bottleneck or LoRA adapters"
        )
    kinds = {kind for kind, names in known.items() for name in fuse.names if name in names}
    missing = sorted(set(fuse.names) - {name for names in known.values() for name in names})
    if missing:
        raise KeyError(f"no adapter {missing}; there are {known['bottleneck'] + known['lora']}")
    if len(kinds) > 1:
        raise ValueError(f"{fuse}: bottleneck and LoRA adapters live at different places and cannot be fused together")
    return kinds.pop()


def _bottleneck_places(model: nn.Module, fuse: Fuse) -> list[tuple[Site, nn.Parameter]]:
    here = [site for site in sites(model).values() if any(name in site.bottlenecks for name in fuse.names)]
    _refuse_lonely(fuse, [all(name in site.bottlenecks for name in fuse.names) for site in here])
    return [(site, next(site.bottlenecks.parameters())) for site in here]


def _lora_places(model: nn.Module, fuse: Fuse) -> list[tuple[Site, nn.Parameter]]:
    """The LoRA layers that hold the members, each with a site of its own."""
    here = {path: m for path, m in lora_layers(model).items() if any(name in m.variants for name in fuse.names)}
    _refuse_lonely(fuse, [all(name in layer.variants for name in fuse.names) for layer in here.values()])
    strange = {type(layer).__name__ for layer in here.values() if not isinstance(layer, Projection)}
    if strange:
        raise ValueError(f"{fuse}: LoRA on {', '.join(sorted(strange))} cannot be fused, only on Linear and Conv1D")
    return [(_lora_site(layer), layer.weight) for layer in here.values()]


def _lora_site(layer: LoraLayer) -> Site:
    if not hasattr(layer, SITE):
        layer.add_module(SITE, Site(layer.matrix_shape()[0], "lora"))  # pyright: ignore
        layer.__dict__[HANDLES] = [layer.register_forward_hook(fuse_lora)]
    return getattr(layer, SITE)


def _refuse_lonely(fuse: Fuse, complete: list[bool]) -> None:
    if not complete or not all(complete):
        few = complete.count(False)
        raise ValueError(f"{fuse}: its members live at different places ({few} of {len(complete)} hold only some of them)")
