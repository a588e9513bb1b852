"""Folders of bottleneck adapters: JSON and safetensors, strict in both directions.

    adapter_<task>/   adapter_config.json, adapter.safetensors     the adapter at each place, and its heads

What is loaded is what was saved, to the last bit. A folder that does not fit raises AdapterFileError, and the model is left as it
was.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from adapters.attach import attach, bottleneck_config, detach, sites
from adapters.bottleneck import BottleneckConfig
from loralib.checkpoint import AdapterFileError, LoadReport, write_atomic
from loralib.heads import saved_modules

HEAD = "head:"
"""what a head's keys begin with; the rest of a key is a path in the model"""


def save_bottleneck(model: nn.Module, folder: str | Path, name: str = "default") -> Path:
    """Write one adapter with its heads; KeyError for an unknown name, ValueError for numbers that are not finite."""
    config = bottleneck_config(model, name)
    heads = [path for path, module in saved_modules(model).items() if name in module.copies]
    settings = asdict(config) | {"type": "bottleneck", "modules_to_save": heads, "width": next(iter(sites(model).values())).width}
    return write_folder(Path(folder), "adapter", settings, adapter_tensors(model, name))


def load_bottleneck(model: nn.Module, folder: str | Path, name: str = "default", *, trainable: bool) -> LoadReport:
    """Add the adapter in `folder`; it acts, and `trainable` says whether it learns on. Strict: see above."""
    folder = Path(folder)
    settings, tensors = read_folder(folder, "adapter", "bottleneck")
    before = [p for p in model.parameters() if p.requires_grad]
    try:
        attach(model, _config(settings), name)
    except (ValueError, TypeError, AttributeError) as error:
        raise AdapterFileError(f"{folder}: does not fit this {type(model).__name__}: {error}") from error
    try:
        fill(adapter_tensors(model, name), tensors, folder)
    except AdapterFileError:
        detach(model, name)
        train_again(model, before)
        raise
    if not trainable:
        model.requires_grad_(False)
    return LoadReport(len(tensors), len(tensors), None)


# ---------------------------------------------------------------- what lies in the model, by the file's keys


def adapter_tensors(model: nn.Module, name: str) -> dict[str, Tensor]:
    found = {}
    for path, site in sites(model).items():
        if name in site.bottlenecks:
            found |= {f"{path}.{key}": value for key, value in site.bottlenecks[name].state_dict().items()}
    for path, module in saved_modules(model).items():
        if name in module.copies:
            found |= {f"{HEAD}{path}.{key}": value for key, value in module.copies[name].state_dict().items()}
    return found


@torch.no_grad()
def fill(places: dict[str, Tensor], tensors: dict[str, Tensor], folder: Path) -> None:
    """Copy a file's tensors into the model, after all names and shapes were found right."""
    missing, strange = sorted(places.keys() - tensors.keys()), sorted(tensors.keys() - places.keys())
    if missing or strange:
        raise AdapterFileError(f"{folder}: missing {missing[:3]}, not in the model {strange[:3]}")
    for key, tensor in tensors.items():
        if tensor.shape != places[key].shape:
            raise AdapterFileError(f"{folder}: {key} is {tuple(tensor.shape)}, expected {tuple(places[key].shape)}")
    for key, tensor in tensors.items():
        places[key].copy_(tensor)


def train_again(model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    model.requires_grad_(False)
    for p in parameters:
        p.requires_grad_(True)


# ---------------------------------------------------------------- files


def write_folder(folder: Path, stem: str, settings: dict, tensors: dict[str, Tensor]) -> Path:
    bad = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"not finite, so not saved: {bad[:3]}")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{stem}.safetensors", save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))
    write_atomic(folder / f"{stem}_config.json", (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode())
    return folder


def read_folder(folder: Path, stem: str, kind: str) -> tuple[dict, dict[str, Tensor]]:
    try:
        settings = json.loads((folder / f"{stem}_config.json").read_text())
        tensors = load((folder / f"{stem}.safetensors").read_bytes())
    except (OSError, ValueError, SafetensorError) as error:
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
