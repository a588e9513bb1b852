"""The functions that attach, activate, train, detach, save and load each kind of adapter. `verbs.py` chooses among them.

A further kind of adapter is one more `Implementation` in the list `IMPLEMENTATIONS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from adapters.bottleneck import attachment, checkpoint
from adapters.bottleneck.bottleneck import BottleneckConfig
from adapters.bottleneck.composition import Fuse
from adapters.fusion import fuse, fusion_files
from adapters.fusion.fusion import AdapterFusionConfig
from adapters.virtual import peft_settings, virtual_files, virtual_tokens
from loralib.files import read_adapter
from loralib.files.save_and_load import LoadReport, load_adapter, save_adapter
from loralib.injection.injection import adapter_configs, delete_adapter, inject
from loralib.injection.switch import set_active, set_trainable
from loralib.settings.peft_objects import is_lora_config
from loralib.variants.registry import CONFIGS

FUSION_CONFIG = "fusion_config.json"


@dataclass(frozen=True)
class Implementation:
    """One kind of adapter. Every function takes the model first."""

    kind: str
    takes: Callable[[Any], bool]
    """whether a config is one of this kind"""
    reads: Callable[[Path], bool]
    """whether a folder holds one of this kind"""
    configs: Callable[[nn.Module], Mapping[Any, Any]]
    """{name: config} of those in the model"""
    attach: Callable[..., Any]
    activate: Callable[..., None]
    """with the name, or with None for no adapter of this kind"""
    train_only: Callable[..., None]
    detach: Callable[..., None]
    save: Callable[..., Path]
    load: Callable[..., Any]


def _activate_lora(model: nn.Module, names: Any) -> None:
    if adapter_configs(model):
        set_active(model, [] if names is None else names)


def _activate_virtual(model: nn.Module, name: str | None) -> None:
    if name is not None or virtual_tokens.virtual_tokens(model):
        virtual_tokens.use_virtual_tokens(model, name)


def _load_fusion(model: nn.Module, folder: Path, name: str, *, trainable: bool, with_heads: bool) -> LoadReport:
    """Its name is that of the folder, and its members bring their heads."""
    if name != "default" or not with_heads:
        raise ValueError(f"{folder} holds a fusion, which is named by its members and comes with their heads")
    loaded = fusion_files.load_fusion(model, folder, trainable=trainable)
    count = sum(1 for site in attachment.sites(model).values() if loaded.key in site.fusions)
    return LoadReport(count, count, f"fusion of {', '.join(loaded.names)}, at {count} places")


def _peft_type(folder: Path) -> str | None:
    """The method that `adapter_config.json` names; None where the file is another one or cannot be read."""
    path = folder / read_adapter.CONFIG
    if not path.exists():
        return None
    settings = read_adapter.read_json(path)
    return settings.get("type") or settings.get("peft_type") or "LORA"


LORA = Implementation(
    "lora",
    is_lora_config,
    lambda folder: _peft_type(folder) in CONFIGS,
    adapter_configs,
    lambda model, config, name, seed, tokenizer: inject(model, config, name, seed=seed),
    _activate_lora,
    set_trainable,
    delete_adapter,
    save_adapter,
    load_adapter,
)
BOTTLENECK = Implementation(
    "bottleneck",
    lambda config: isinstance(config, BottleneckConfig),
    lambda folder: _peft_type(folder) == "bottleneck",
    attachment.bottleneck_configs,
    lambda model, config, name, seed, tokenizer: attachment.attach(model, config, name, seed),
    attachment.activate,
    attachment.train_only,
    attachment.detach,
    checkpoint.save_bottleneck,
    checkpoint.load_bottleneck,
)
VIRTUAL = Implementation(
    "virtual",
    peft_settings.is_virtual_config,
    lambda folder: _peft_type(folder) in virtual_files.KINDS,
    virtual_tokens.virtual_tokens,
    lambda model, config, name, seed, tokenizer: virtual_tokens.add_virtual_tokens(
        model, peft_settings.our_virtual_config(config), name, seed, tokenizer
    ),
    _activate_virtual,
    virtual_tokens.train_virtual_tokens,
    virtual_tokens.remove_virtual_tokens,
    virtual_files.save_virtual_tokens,
    virtual_files.load_virtual_tokens,
)
FUSION = Implementation(
    "fusion",
    lambda config: isinstance(config, AdapterFusionConfig),
    lambda folder: (folder / FUSION_CONFIG).exists(),
    fuse.fusion_configs,
    lambda model, config, name, seed, tokenizer: fuse.add_fusion(model, name, config, seed),
    attachment.activate,
    attachment.train_only,
    fuse.delete_fusion,
    fusion_files.save_fusion,
    _load_fusion,
)
IMPLEMENTATIONS = [FUSION, VIRTUAL, LORA, BOTTLENECK]
"""in the order of their `takes`: LoRA takes, and refuses with a message, every config of peft that no other one takes"""


def of_config(config: Any) -> Implementation:
    """The implementation for a config. TypeError for an object that is none."""
    for implementation in IMPLEMENTATIONS:
        if implementation.takes(config):
            return implementation
    raise TypeError(
        f"{type(config).__name__} is no config of an adapter; expected LoraConfig, IA3Config, VeraConfig, BottleneckConfig, "
        "PrefixTuningConfig, PromptTuningConfig or AdapterFusionConfig"
    )


def of_name(model: nn.Module, name: str | Fuse) -> Implementation:
    """The implementation of an adapter in the model. KeyError for an unknown name."""
    for implementation in IMPLEMENTATIONS:
        if name in implementation.configs(model):
            return implementation
    there = [str(name) for implementation in IMPLEMENTATIONS for name in implementation.configs(model)]
    raise KeyError(f"no adapter {name!r} in this {type(model).__name__}; there are {there}")


def of_folder(folder: Path) -> Implementation:
    """The implementation for a folder. AdapterFileError where it holds no adapter."""
    for implementation in IMPLEMENTATIONS:
        if implementation.reads(folder):
            return implementation
    peft_type = _peft_type(folder)
    raise read_adapter.AdapterFileError(
        f"{folder}: {read_adapter.CONFIG} names the method {peft_type!r}; expected bottleneck, "
        f"{', '.join((*CONFIGS, *virtual_files.KINDS))}"
        if peft_type
        else f"{folder}: neither {read_adapter.CONFIG} nor {FUSION_CONFIG} is there"
    )
