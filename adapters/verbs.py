"""One set of functions for all adapters: LoRA and its variants, bottleneck adapters, prefixes, prompts and fusions.

    attach(model, config, "a")     put an adapter in; it is active, and only it trains
    activate(model, "b")           choose which adapters act: a name, a composition, or None for the base model
    train_only(model, "a")         choose which adapter trains; it does not change what the model computes
    save(model, folder, "a")       write it;     load(model, folder, "a")  read it
    detach(model, "a")             take it out
    attached(model)                {name: config}
    with adapters_off(model): ...  the base model

The type of the config, or the file, selects the implementation (`implementations.py`).
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from adapters import implementations
from adapters.bottleneck.attachment import fuses_lora, sites
from adapters.bottleneck.composition import Composition, Fuse, members
from adapters.implementations import BOTTLENECK, FUSION, IMPLEMENTATIONS, LORA, VIRTUAL, Implementation
from adapters.virtual.virtual_tokens import without_virtual_tokens
from loralib.files.save_and_load import LoadReport
from loralib.injection.merge_weights import merged_adapters
from loralib.injection.switch import disable_adapters
from loralib.layers.heads import saved_modules
from loralib.report import AttachReport

AdapterName = str | Fuse
"""a fusion is named by its members: Fuse("a", "b")"""


def attach(
    model: nn.Module, config: Any, name: AdapterName = "default", *, seed: int | None = None, tokenizer: Any = None
) -> AttachReport:
    """Put an adapter into the model, in place. It is the only active adapter, and only it trains, with its heads.

    config: also one of peft's. name: of a fusion `Fuse("a", "b")`. seed: of a generator for the start of the parameters; None
    draws from torch's global one. tokenizer: for a prefix or prompt that starts from a text; None reads the one
    beside the model's files (`name_or_path`, which may ask the Hub).
    Raises TypeError for another object, ValueError for a name that is taken or settings that do not fit the model, and
    RuntimeError while a LoRA adapter is merged. Then nothing was changed.
    """
    implementation = implementations.of_config(config)
    if name in attached(model):
        raise ValueError(f"adapter {name!r} exists already; there are {[str(n) for n in attached(model)]}. Detach it first")
    _check_nothing_is_merged(model)
    if isinstance(name, Fuse) != (implementation is FUSION):
        raise TypeError(f"name={name!r}: a fusion is named Fuse('a', 'b', ...), and every other adapter has a text as its name")
    report = implementation.attach(model, config, name, seed=seed, tokenizer=tokenizer)
    activate(model, name)
    return report


def get_peft_model(model: nn.Module, config: Any, adapter_name: str = "default", **options: Any) -> nn.Module:
    """`attach` under peft's name, for every config; returns the same model, changed in place (no wrapper around it)."""
    attach(model, config, adapter_name, **options)
    return model


def activate(model: nn.Module, what: Composition | list[str] | None, head: str | None = None) -> None:
    """Choose the adapters that act; all others do not. It never changes what trains.

    what: a name; a composition of bottleneck adapters (`Stack`, `Average`, `Fuse`, `BatchSplit`, `Parallel`) or a `Fuse` of LoRA
    adapters; a list of LoRA adapters, whose updates add up; None for the base model. head: whose head is active; None is that of
    the last member.
    KeyError for an unknown name, ValueError for an adapter in a composition that cannot hold it, RuntimeError while a LoRA
    adapter is merged.
    """
    chosen = _implementation_of(model, what)
    _check_nothing_is_merged(model)
    for implementation in IMPLEMENTATIONS:
        if implementation is not chosen:
            implementation.activate(model, None)
    if chosen in (BOTTLENECK, FUSION):
        chosen.activate(model, what, head=head)
        return
    if chosen is not None:
        chosen.activate(model, what)
    _activate_head(model, head)


def _check_nothing_is_merged(model: nn.Module) -> None:
    """RuntimeError while a LoRA adapter is merged: the base model is not there to put another adapter on."""
    merged = merged_adapters(model)
    if merged:
        raise RuntimeError(f"adapters {merged} are merged: unmerge(model) before you attach or activate others")


def _activate_head(model: nn.Module, head: str | None) -> None:
    if head is None:
        return
    owners = [module for module in saved_modules(model).values() if head in module.copies]
    if not owners:
        raise KeyError(f"adapter {head!r} has no head in this model")
    for module in owners:
        module.active = head


def _implementation_of(model: nn.Module, what: Any) -> Implementation | None:
    if what is None or what == []:
        return None
    if isinstance(what, str):
        return implementations.of_name(model, what)
    if isinstance(what, list):
        kinds = {implementations.of_name(model, name).kind for name in what}
        if kinds != {"lora"}:
            raise ValueError(f"{what}: only the updates of LoRA adapters add up; compose others with Stack or Average")
        return LORA
    if isinstance(what, Fuse) and fuses_lora(model, what):
        return FUSION
    for name in members(what):
        kind = implementations.of_name(model, name).kind
        if kind != "bottleneck":
            raise ValueError(f"{what}: {name!r} is a {kind} adapter, and this composition is for bottleneck adapters")
    return BOTTLENECK


def train_only(model: nn.Module, names: AdapterName | list[str]) -> None:
    """Make one adapter, or several, trainable with their heads, and freeze all other parameters. KeyError for an unknown name."""
    chosen = names if isinstance(names, list) else [names]
    owners = [implementations.of_name(model, name) for name in chosen]
    if chosen and all(owner is LORA for owner in owners):
        LORA.train_only(model, chosen)
        return
    trained = []
    for owner, name in zip(owners, chosen, strict=True):
        owner.train_only(model, name)
        trained += [p for p in model.parameters() if p.requires_grad]
    model.requires_grad_(False)
    for p in trained:
        p.requires_grad_(True)


def detach(model: nn.Module, name: AdapterName) -> None:
    """Take an adapter out, with its heads; after the last one the model is what it was. KeyError for an unknown name."""
    implementations.of_name(model, name).detach(model, name)


def save(model: nn.Module, folder: str | Path, name: AdapterName = "default", **options: Any) -> Path:
    """Write an adapter with its heads; LoRA, (IA)³, VeRA, prefixes and prompts in peft's format. Returns the folder.

    options: of a fusion `head`, the member with whose head it was trained.
    KeyError for an unknown name, ValueError for parameters that are not finite.
    """
    return implementations.of_name(model, name).save(model, folder, name, **options)


def load(
    model: nn.Module, folder: str | Path, name: str = "default", *, trainable: bool = False, with_heads: bool = True
) -> LoadReport:
    """Attach the adapter in `folder`, whatever its kind. It is the only active one; `trainable` says whether it trains further.

    A fusion brings its members, and is named by them. with_heads=False leaves the heads in the file: for a model with the head of
    another task.
    Strict: AdapterFileError where anything does not fit, RuntimeError while a LoRA adapter is merged; then the model stays as it
    was.
    """
    implementation = implementations.of_folder(Path(folder))
    _check_nothing_is_merged(model)
    if name in attached(model) and implementation is not FUSION:
        raise ValueError(f"adapter {name!r} exists already; there are {[str(n) for n in attached(model)]}. Detach it first")
    report = implementation.load(model, folder, name, trainable=trainable, with_heads=with_heads)
    if implementation not in (LORA, FUSION):
        LORA.activate(model, None)
    if implementation is not VIRTUAL:
        VIRTUAL.activate(model, None)
    if implementation not in (BOTTLENECK, FUSION):
        BOTTLENECK.activate(model, None)
    return report


def attached(model: nn.Module) -> Mapping[AdapterName, Any]:
    """{name: config} of all adapters in the model; fusions under their `Fuse`."""
    return {name: config for implementation in IMPLEMENTATIONS for name, config in implementation.configs(model).items()}


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Inside, the model is the base model, bit for bit; afterwards everything is active that was and still exists."""
    with ExitStack() as stack:
        if LORA.configs(model):
            stack.enter_context(disable_adapters(model))
        stack.enter_context(without_virtual_tokens(model))
        stack.enter_context(_bottlenecks_off(model))
        yield


@contextmanager
def _bottlenecks_off(model: nn.Module) -> Iterator[None]:
    """Also heads: those of bottleneck adapters and of virtual tokens."""
    compositions = {path: site.active for path, site in sites(model).items()}
    heads = {path: (head.active, head.rows) for path, head in saved_modules(model).items()}
    for site in sites(model).values():
        site.active = None
    for head in saved_modules(model).values():
        head.active, head.rows = None, None
    try:
        yield
    finally:
        known = {name for implementation in (BOTTLENECK, FUSION) for name in implementation.configs(model)}
        for path, site in sites(model).items():
            before = compositions.get(path)
            still_there = set(members(before)) <= known | set(LORA.configs(model))
            site.active = before if still_there and (not isinstance(before, Fuse) or before in known) else None
        for path, head in saved_modules(model).items():
            active, rows = heads.get(path, (None, None))
            head.active, head.rows = active if active is not None and active in head.copies else None, rows
