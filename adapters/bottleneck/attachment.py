"""Put bottleneck adapters into a model, choose which act, and which learn: three separate verbs.

`attach` finds the places, adds an adapter at each, and answers with a table of where it went. `activate` says which adapters act
and how (`composition.py`); `train_only` says which learn, and freezes all else. `detach` takes an adapter out again.
"""

from typing import Any

import torch
from torch import nn

from adapters.bottleneck.bottleneck import Bottleneck, BottleneckConfig
from adapters.bottleneck.composition import BatchSplit, Composition, Fuse, Stack, members
from adapters.bottleneck.never_ran import watch_sites
from adapters.bottleneck.places import WAYS, Place, find_places
from adapters.bottleneck.site import SITE, SOURCE, Site, change_from_input, change_output, change_sum, remember_input
from loralib.compute.rows import Rows
from loralib.injection.matching import heads_to_save
from loralib.injection.switch import set_active
from loralib.layers.heads import owners_of_heads, put_saved_module, remove_heads, saved_modules
from loralib.layers.lora_layer import check_adapter_name
from loralib.report import AttachedRow, AttachReport

HANDLES = "_adapter_hooks"


def attach(model: nn.Module, config: BottleneckConfig, name: str = "default", seed: int | None = None) -> AttachReport:
    """Add an adapter; it acts and learns, and all else is frozen. ValueError for a structure that is not known.

    seed: start of the weights from a generator of its own; None draws from torch's global one.
    """
    check_adapter_name(name, [*attached(model), *owners_of_heads(model)])
    places = _places(model, config)  # whatever is wrong raises before anything is changed
    heads = heads_to_save(model, config.modules_to_save)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    width = model_width(model)
    near = next(model.parameters())
    rows = []
    for place in places:
        site = site_at(model, place, width)
        adapter = Bottleneck(width, config, generator).to(near.device, torch.promote_types(near.dtype, torch.float32))
        site.bottlenecks[name] = adapter
        count = sum(p.numel() for p in adapter.parameters())
        rows.append(
            AttachedRow(place.path, place.way, (width, adapter.down.out_features), adapter.down.out_features, count, place.layer)
        )
    for path in heads:
        put_saved_module(model, path, name)
    _configs(model)[name] = config
    activate(model, name)
    train_only(model, name)
    watch_sites(model)
    return AttachReport(tuple(rows), tuple(heads))


def activate(model: nn.Module, what: Composition | None, head: str | None = None) -> None:
    """Choose the adapters that act; None is the base. Their heads: `head`, or that of the last member that has one; with a
    BatchSplit and no `head`, each row has the head of its own adapter.

    KeyError for an unknown adapter; RuntimeError for a fusion that was not added.
    """
    names, of_lora = members(what), fuses_lora(model, what)
    known = {*attached(model), *owners_of_heads(model)} if of_lora else set(attached(model))
    unknown = sorted(({*names, head} - {None}) - known - (set(names) if of_lora else set()))
    if unknown:
        raise KeyError(f"no adapter {unknown}; there are {attached(model)}")
    for fuse in fusions_in(what):
        if not any(fuse.key in site.fusions for site in sites(model).values()):
            raise RuntimeError(f"{fuse} was not added to this model: add_fusion(model, {fuse}) first")
    if of_lora:
        set_active(model, [])  # the fusion adds the updates, so no layer may add one itself
    before = {name for site in sites(model).values() for name in members(site.active)}
    for site in sites(model).values():
        site.active = what if (site.way == "lora") == of_lora else None
    for module in saved_modules(model).values():
        module.rows = Rows(what.rows) if isinstance(what, BatchSplit) and head is None else None
        wanted = [n for n in (names if head is None else [head]) if n in module.copies]
        if wanted:
            module.active = wanted[-1]
        elif module.active in before | set(attached(model)):  # heads of other kinds of adapters stay as they are
            module.active = None


def fuses_lora(model: nn.Module, what: Composition | None) -> bool:
    """Whether `what` is a fusion whose members are LoRA adapters."""
    return isinstance(what, Fuse) and any(s.way == "lora" and what.key in s.fusions for s in sites(model).values())


def train_only(model: nn.Module, what: str | Fuse, with_head: bool = True) -> None:
    """Make one adapter with its own head trainable, or one fusion with the head that acts, and freeze every other parameter.

    KeyError for an unknown adapter or fusion.
    """
    key = what.key if isinstance(what, Fuse) else what
    parts = [site.fusions if isinstance(what, Fuse) else site.bottlenecks for site in sites(model).values()]
    if not any(key in part for part in parts):
        raise KeyError(f"no adapter or fusion {key!r} in this model; there are {attached(model)}")
    model.requires_grad_(False)
    for part in parts:
        if key in part:
            part[key].requires_grad_(True)
    for module in saved_modules(model).values():
        owner = module.active if isinstance(what, Fuse) else what
        if with_head and owner is not None and owner in module.copies:
            module.copies[owner].requires_grad_(True)


def detach(model: nn.Module, name: str) -> None:
    """Take an adapter out, with its heads; after the last one the model is what it was. ValueError while a fusion needs it."""
    if name not in attached(model):
        raise KeyError(f"no adapter {name!r}; there are {attached(model)}")
    needing = sorted({key for site in sites(model).values() for key in site.fusions if name in key.split("__")})
    if needing:
        raise ValueError(f"adapter {name!r} is a member of fusions {needing}: delete_fusion first")
    del _configs(model)[name]
    for path, site in sites(model).items():
        if name in members(site.active):
            site.active = None
        if name in site.bottlenecks:
            del site.bottlenecks[name]
        if not site.bottlenecks:
            _remove(model, path)
    remove_heads(model, name)


def sites(model: nn.Module) -> dict[str, Site]:
    """Every place by the path of the module that it changes."""
    return {name.removesuffix(f".{SITE}"): m for name, m in model.named_modules() if isinstance(m, Site)}


def attached(model: nn.Module) -> list[str]:
    """Names of the adapters in the model."""
    return list(_configs(model))


def bottleneck_configs(model: nn.Module) -> dict[str, BottleneckConfig]:
    """The settings of each bottleneck adapter in the model, by name."""
    return dict(_configs(model))


def bottleneck_config(model: nn.Module, name: str) -> BottleneckConfig:
    """What an adapter was made with; KeyError for an unknown name."""
    if name not in _configs(model):
        raise KeyError(f"no adapter {name!r}; there are {attached(model)}")
    return _configs(model)[name]


def model_width(model: nn.Module) -> int:
    config: Any = model.config
    return getattr(config, "hidden_size", None) or config.d_model


def site_at(model: nn.Module, place: Place, width: int) -> Site:
    """The site of a place, made with its hooks when first needed."""
    module = model.get_submodule(place.path)
    if hasattr(module, SITE):
        site = getattr(module, SITE)
        if site.way != place.way:
            raise ValueError(
                f"{place.path} holds adapters of way {site.way!r} already: one of way {place.way!r} cannot join them"
            )
        return site
    site = Site(width, place.way)
    module.add_module(SITE, site)
    handles = []
    if place.way == "output":
        handles.append(module.register_forward_hook(change_output))
    elif place.way == "sum_norm":
        handles.append(module.register_forward_pre_hook(change_sum))
    else:
        source = model.get_submodule(place.source or place.path)
        setattr(source, SOURCE, (site,))  # in a tuple: it is no child of the source
        handles += [
            source.register_forward_pre_hook(remember_input, with_kwargs=True),
            module.register_forward_hook(change_from_input),
        ]
    module.__dict__[HANDLES] = handles
    return site


def _remove(model: nn.Module, path: str) -> None:
    module = model.get_submodule(path)
    for handle in module.__dict__.pop(HANDLES):
        handle.remove()
    site = getattr(module, SITE)
    for other in model.modules():
        if getattr(other, SOURCE, (None,))[0] is site:
            delattr(other, SOURCE)
    delattr(module, SITE)


def _places(model: nn.Module, config: BottleneckConfig) -> list[Place]:
    """The places of a configuration, without the layers that it leaves out."""
    if config.places is None:
        all_places = find_places(model, config.placement)
        layers = {place.layer for place in all_places}
        wrong = sorted(set(config.leave_out) - layers)
        if wrong:
            raise ValueError(f"leave_out={config.leave_out}: there are layers 0 to {max(layers)}, no {wrong}")
        chosen = [place for place in all_places if place.layer not in config.leave_out]
        if not chosen:
            raise ValueError(f"leave_out={config.leave_out} leaves no layer")
        return chosen
    if config.leave_out:
        raise ValueError(f"leave_out={config.leave_out}: `places` says already where adapters go")
    for path, way, *_ in config.places:
        if way not in WAYS:
            raise ValueError(f"place {path!r}: way {way!r}, expected one of {', '.join(WAYS)}")
    return [Place(i, *place) for i, place in enumerate(config.places)]


def fusions_in(what: Composition | None) -> list[Fuse]:
    if isinstance(what, Stack):
        return [fuse for part in what.parts for fuse in fusions_in(part)]
    return [what] if isinstance(what, Fuse) else []


def _configs(model: nn.Module) -> dict[str, BottleneckConfig]:
    return model.__dict__.setdefault("_bottleneck_configs", {})
