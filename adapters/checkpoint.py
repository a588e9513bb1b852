"""Folders of bottleneck adapters and fusions: JSON and safetensors, strict in both directions.

    adapter_<task>/   adapter_config.json, adapter.safetensors     the adapter at each place, and its heads
    fusion_<...>/     fusion_config.json, fusion.safetensors       the fusion, and the head it was trained with
                      members/<name>/                              a folder for each member

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

from adapters.attach import activate, add_fusion, attach, attached, bottleneck_config, delete_fusion, detach, sites, train_only
from adapters.bottleneck import BottleneckConfig
from adapters.composition import Fuse
from loralib.checkpoint import AdapterFileError, LoadReport, write_atomic
from loralib.heads import saved_modules

HEAD = "head:"
"""what a head's keys begin with; the rest of a key is a path in the model"""


def save_bottleneck(model: nn.Module, folder: str | Path, name: str = "default") -> Path:
    """Write one adapter with its heads; KeyError for an unknown name, ValueError for numbers that are not finite."""
    config = bottleneck_config(model, name)
    heads = [path for path, module in saved_modules(model).items() if name in module.copies]
    settings = asdict(config) | {"type": "bottleneck", "modules_to_save": heads, "width": next(iter(sites(model).values())).width}
    return _write(Path(folder), "adapter", settings, _adapter_tensors(model, name))


def load_bottleneck(model: nn.Module, folder: str | Path, name: str = "default", *, trainable: bool) -> LoadReport:
    """Add the adapter in `folder`; it acts, and `trainable` says whether it learns on. Strict: see above."""
    folder = Path(folder)
    settings, tensors = _read(folder, "adapter", "bottleneck")
    before = [p for p in model.parameters() if p.requires_grad]
    try:
        attach(model, _config(settings), name)
    except (ValueError, TypeError, AttributeError) as error:
        raise AdapterFileError(f"{folder}: does not fit this {type(model).__name__}: {error}") from error
    try:
        _fill(_adapter_tensors(model, name), tensors, folder)
    except AdapterFileError:
        detach(model, name)
        _only(model, before)
        raise
    if not trainable:
        model.requires_grad_(False)
    return LoadReport(len(tensors), len(tensors), None)


def save_fusion(model: nn.Module, folder: str | Path, fuse: Fuse, head: str | None = None) -> Path:
    """Write a fusion with all its members, so that one folder is enough to load it.

    head: the member whose head the fusion was trained with; None is the last member that has one.
    """
    folder = Path(folder)
    for name in fuse.names:
        save_bottleneck(model, folder / "members" / name, name)
    tensors = _fusion_tensors(model, fuse)
    dynamic = any(key.endswith("query.weight") for key in tensors)
    return _write(folder, "fusion", {"type": "fusion", "names": list(fuse.names), "dynamic": dynamic, "head": head}, tensors)


def load_fusion(model: nn.Module, folder: str | Path, *, trainable: bool) -> Fuse:
    """Add the fusion and the members that the model lacks; it acts. Members that are there must equal the folder's."""
    folder = Path(folder)
    settings, tensors = _read(folder, "fusion", "fusion")
    fuse = Fuse(*settings["names"])
    new = [name for name in fuse.names if name not in attached(model)]
    try:
        for name in fuse.names:
            if name in new:
                load_bottleneck(model, folder / "members" / name, name, trainable=False)
            else:
                _same(_adapter_tensors(model, name), _read(folder / "members" / name, "adapter", "bottleneck")[1], name, folder)
        add_fusion(model, fuse, settings["dynamic"])
        try:
            _fill(_fusion_tensors(model, fuse), tensors, folder)
        except AdapterFileError:
            delete_fusion(model, fuse)
            raise
    except (AdapterFileError, ValueError):
        for name in set(new) & set(attached(model)):
            detach(model, name)
        raise
    activate(model, fuse, settings["head"])
    train_only(model, fuse)
    if not trainable:
        model.requires_grad_(False)
    return fuse


# ---------------------------------------------------------------- what lies in the model, by the file's keys


def _adapter_tensors(model: nn.Module, name: str) -> dict[str, Tensor]:
    found = {}
    for path, site in sites(model).items():
        if name in site.bottlenecks:
            found |= {f"{path}.{key}": value for key, value in site.bottlenecks[name].state_dict().items()}
    for path, module in saved_modules(model).items():
        if name in module.copies:
            found |= {f"{HEAD}{path}.{key}": value for key, value in module.copies[name].state_dict().items()}
    return found


def _fusion_tensors(model: nn.Module, fuse: Fuse) -> dict[str, Tensor]:
    here = {path: site for path, site in sites(model).items() if fuse.key in site.fusions}
    if not here:
        raise KeyError(f"no fusion {fuse} in this model")
    return {f"{path}.{key}": value for path, site in here.items() for key, value in site.fusions[fuse.key].state_dict().items()}


@torch.no_grad()
def _fill(places: dict[str, Tensor], tensors: dict[str, Tensor], folder: Path) -> None:
    """Copy a file's tensors into the model, after all names and shapes were found right."""
    missing, strange = sorted(places.keys() - tensors.keys()), sorted(tensors.keys() - places.keys())
    if missing or strange:
        raise AdapterFileError(f"{folder}: missing {missing[:3]}, not in the model {strange[:3]}")
    for key, tensor in tensors.items():
        if tensor.shape != places[key].shape:
            raise AdapterFileError(f"{folder}: {key} is {tuple(tensor.shape)}, expected {tuple(places[key].shape)}")
    for key, tensor in tensors.items():
        places[key].copy_(tensor)


def _same(mine: dict[str, Tensor], tensors: dict[str, Tensor], name: str, folder: Path) -> None:
    if mine.keys() != tensors.keys() or not all(torch.equal(mine[key].cpu(), tensors[key]) for key in mine):
        raise AdapterFileError(f"{folder}: the model has another adapter called {name!r}; detach it first")


def _only(model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    model.requires_grad_(False)
    for p in parameters:
        p.requires_grad_(True)


# ---------------------------------------------------------------- files


def _write(folder: Path, stem: str, settings: dict, tensors: dict[str, Tensor]) -> Path:
    bad = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"not finite, so not saved: {bad[:3]}")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{stem}.safetensors", save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))
    write_atomic(folder / f"{stem}_config.json", (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode())
    return folder


def _read(folder: Path, stem: str, kind: str) -> tuple[dict, dict[str, Tensor]]:
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
