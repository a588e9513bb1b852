"""Folders of fusions: one is enough to load a fusion with all that it needs.

    fusion_<...>/   fusion_config.json, fusion.safetensors     the fusion, and whose head it was trained with
                    members/<name>/                            a folder for each member, of its own kind

What is loaded is what was saved, to the last bit. A folder that does not fit raises AdapterFileError, and the model is left as it
was.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from adapters.bottleneck.attachment import activate, attached, detach, sites, train_only
from adapters.bottleneck.checkpoint import (
    act_again,
    adapter_tensors,
    fill,
    load_bottleneck,
    read_folder,
    save_bottleneck,
    what_acts,
    write_folder,
)
from adapters.bottleneck.composition import Fuse
from adapters.fusion.fuse import add_fusion, delete_fusion, members_kind
from adapters.fusion.fusion import AdapterFusionConfig
from loralib.files.file_tensors import PREFIX, file_tensors
from loralib.files.read_adapter import AdapterFileError, read_tensors
from loralib.files.save_and_load import load_adapter, save_adapter
from loralib.injection.injection import adapter_configs, delete_adapter


def save_fusion(model: nn.Module, folder: str | Path, fuse: Fuse, head: str | None = None) -> Path:
    """Write a fusion with all its members. head: the member whose head it was trained with; None is the last that has one."""
    folder, kind, tensors = Path(folder), members_kind(model, fuse), _fusion_tensors(model, fuse)
    before = what_acts(model)
    model.requires_grad_(False)  # a member's file is complete without the fusion that trains beside it
    try:
        for name in fuse.names:
            (save_adapter if kind == "lora" else save_bottleneck)(model, folder / "members" / name, name)
    finally:
        act_again(model, before)
    one = next(site.fusions[fuse.key] for site in sites(model).values() if fuse.key in site.fusions)
    settings = {"type": "fusion", "names": list(fuse.names), "dynamic": one.dynamic, "pull": one.pull, "head": head, "of": kind}
    return write_folder(folder, "fusion", settings, tensors)


def load_fusion(model: nn.Module, folder: str | Path, *, trainable: bool) -> Fuse:
    """Add the fusion and the members that the model lacks; it acts. Members that are there must equal the folder's."""
    folder = Path(folder)
    settings, tensors = read_folder(folder, "fusion", "fusion")
    try:
        fuse, kind, head = Fuse(*settings["names"]), settings["of"], settings["head"]
        config = AdapterFusionConfig(dynamic=settings["dynamic"], pull=settings["pull"])
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterFileError(f"{folder}: not the settings of a fusion ({type(error).__name__}: {error})") from error
    there = adapter_configs(model) if kind == "lora" else attached(model)
    new = [name for name in fuse.names if name not in there]
    before = what_acts(model)
    try:
        for name in fuse.names:
            _member(model, folder / "members" / name, name, kind, name in new)
        add_fusion(model, fuse, config)
        try:
            fill(_fusion_tensors(model, fuse), tensors, folder)
            if head is not None and head not in fuse.names:
                raise AdapterFileError(f"{folder}: the head of {head!r}, which is none of its members {list(fuse.names)}")
        except AdapterFileError:
            delete_fusion(model, fuse)
            raise
    except ValueError:
        for name in new:
            if name in (adapter_configs(model) if kind == "lora" else attached(model)):
                (delete_adapter if kind == "lora" else detach)(model, name)
        act_again(model, before)
        raise
    activate(model, fuse, head)
    train_only(model, fuse)
    if not trainable:
        model.requires_grad_(False)
    return fuse


def _member(model: nn.Module, folder: Path, name: str, kind: str, new: bool) -> None:
    """Load a member, or see that the model's own is the folder's."""
    if new:
        (load_adapter if kind == "lora" else load_bottleneck)(model, folder, name, trainable=False)
        return
    if kind == "lora":
        in_model = {key.removeprefix(PREFIX): value for key, value in file_tensors(model, name).items()}
        in_folder = read_tensors(folder)
    else:
        in_model, in_folder = adapter_tensors(model, name), read_folder(folder, "adapter", "bottleneck")[1]
    if in_model.keys() != in_folder.keys() or not all(torch.equal(in_model[key].cpu(), in_folder[key]) for key in in_model):
        raise AdapterFileError(f"{folder}: the model has another adapter called {name!r}; detach it first")


def _fusion_tensors(model: nn.Module, fuse: Fuse) -> dict[str, Tensor]:
    here = {path: site for path, site in sites(model).items() if fuse.key in site.fusions}
    if not here:
        raise KeyError(f"no fusion {fuse} in this model")
    return {f"{path}.{key}": value for path, site in here.items() for key, value in site.fusions[fuse.key].state_dict().items()}
