"""Folders of bottleneck adapters: JSON and safetensors, strict in both directions.

    adapter_<task>/   adapter_config.json, adapter.safetensors     the adapter at each place, and its heads

What is loaded is what was saved, to the last bit. A folder that does not fit raises AdapterFileError, and the model is left as it
was.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from adapters.bottleneck.attachment import attach, bottleneck_config, detach, model_width, sites
from adapters.bottleneck.bottleneck import BottleneckConfig
from loralib.compute.rows import Rows
from loralib.files.read_adapter import AdapterFileError, read_json
from loralib.files.save_and_load import LoadReport, check_fits, refuse_meta, write_together
from loralib.layers.heads import saved_modules
from loralib.layers.lora_layer import LoraLayer

HEAD = "head:"
"""what a head's keys begin with; the rest of a key is a path in the model"""


def save_bottleneck(model: nn.Module, folder: str | Path, name: str = "default") -> Path:
    """Write one adapter with its heads; KeyError for an unknown name, ValueError for numbers that are not finite."""
    config = bottleneck_config(model, name)
    heads = [path for path, module in saved_modules(model).items() if name in module.copies]
    settings = asdict(config) | {"type": "bottleneck", "modules_to_save": heads, "width": model_width(model)}
    return write_folder(Path(folder), "adapter", settings, adapter_tensors(model, name))


def load_bottleneck(
    model: nn.Module, folder: str | Path, name: str = "default", *, trainable: bool, with_heads: bool = True
) -> LoadReport:
    """Add the adapter in `folder`; it acts, and `trainable` says whether it learns on. Strict: see above.

    with_heads=False leaves its heads in the file: for a model with the head of another task.
    """
    folder = Path(folder)
    refuse_meta(model)
    settings, tensors = read_folder(folder, "adapter", "bottleneck")
    if not with_heads:
        settings["modules_to_save"] = []
        tensors = {key: value for key, value in tensors.items() if not key.startswith(HEAD)}
    before = what_acts(model)
    if settings.get("width") not in (None, model_width(model)):
        raise AdapterFileError(f"{folder}: made for a model of width {settings['width']}, this one has {model_width(model)}")
    try:
        attach(model, _config(settings), name)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise AdapterFileError(f"{folder}: does not fit this {type(model).__name__}: {error}") from error
    try:
        fill(adapter_tensors(model, name), tensors, folder)
    except AdapterFileError:
        detach(model, name)
        act_again(model, before)
        raise
    if not trainable:
        model.requires_grad_(False)
    return LoadReport(len(tensors), len(tensors), None)


# ---------------------------------------------------------------- what lies in the model, by the file's keys


def adapter_tensors(model: nn.Module, name: str) -> dict[str, Tensor]:
    tensors = {}
    for path, site in sites(model).items():
        if name in site.bottlenecks:
            tensors |= {f"{path}.{key}": value for key, value in site.bottlenecks[name].state_dict().items()}
    for path, module in saved_modules(model).items():
        if name in module.copies:
            tensors |= {f"{HEAD}{path}.{key}": value for key, value in module.copies[name].state_dict().items()}
    return tensors


@torch.no_grad()
def fill(places: dict[str, Tensor], tensors: dict[str, Tensor], folder: Path) -> None:
    """Copy a file's tensors into the model, after all names, shapes and numbers were found right."""
    check_fits(tensors, places, folder)
    bad = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise AdapterFileError(f"{folder}: {bad[0]} has values that are not finite")
    for key, tensor in tensors.items():
        places[key].copy_(tensor)


@dataclass(frozen=True)
class WhatActs:
    """What a failed load has to put back: which adapters, virtual tokens, LoRA adapters and heads act, and what trains."""

    trains: list[nn.Parameter]
    places: dict[str, Any]
    lora: dict[str, tuple[str, ...]]
    heads: dict[str, tuple[str | None, Rows | None]]


def what_acts(model: nn.Module) -> WhatActs:
    """Now, before a load."""
    return WhatActs(
        [p for p in model.parameters() if p.requires_grad],
        {path: site.active for path, site in sites(model).items()},
        {path: m.active for path, m in model.named_modules() if isinstance(m, LoraLayer)},
        {path: (head.active, head.rows) for path, head in saved_modules(model).items()},
    )


def act_again(model: nn.Module, before: WhatActs) -> None:
    """Put it back, where it is still there."""
    model.requires_grad_(False)
    for p in before.trains:
        p.requires_grad_(True)
    for path, site in sites(model).items():
        site.active = before.places.get(path)
    for path, module in model.named_modules():
        if isinstance(module, LoraLayer):
            module.active = before.lora.get(path, ())
    for path, head in saved_modules(model).items():
        head.active, head.rows = before.heads.get(path, (None, None))


# ---------------------------------------------------------------- files


def write_folder(folder: Path, stem: str, settings: dict, tensors: dict[str, Tensor]) -> Path:
    bad = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"not finite, so not saved: {bad[:3]}")
    folder.mkdir(parents=True, exist_ok=True)
    content = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    text = (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()
    write_together({folder / f"{stem}.safetensors": content, folder / f"{stem}_config.json": text})
    return folder


def read_folder(folder: Path, stem: str, kind: str) -> tuple[dict, dict[str, Tensor]]:
    try:
        settings = read_json(folder / f"{stem}_config.json")
        tensors = load((folder / f"{stem}.safetensors").read_bytes())
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise AdapterFileError(f"{folder}: no readable {stem}_config.json and {stem}.safetensors ({error})") from error
    if settings.get("type") != kind:
        raise AdapterFileError(f"{folder}: type {settings.get('type')!r}, expected {kind!r}")
    return settings, tensors


def _config(settings: dict) -> BottleneckConfig:
    known = {field.name for field in fields(BottleneckConfig)}
    strange = sorted(settings.keys() - known - {"type", "width"})
    if strange:
        raise ValueError(f"settings {strange} are not known")
    values = {key: value for key, value in settings.items() if key in known}
    values["leave_out"] = tuple(values["leave_out"])
    values["places"] = values["places"] and tuple(map(tuple, values["places"]))
    return BottleneckConfig(**values)
