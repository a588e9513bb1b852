"""Adapters that single runs trained, frozen in one backbone, and one fusion of them: the fusion's stage on the mix of the tasks.

An adapter was trained in a model with a head, where the backbone's modules are called `bert.encoder...`; here the backbone stands
alone. So the adapter's file is read, its names are shortened, and its head (with BERT's pooler) is left out: tasks get new heads.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors.torch import load_file, save_file

from adapters.bottleneck.checkpoint import HEAD
from adapters.bottleneck.composition import Fuse
from adapters.fusion.fuse import active_fusion, members_kind
from adapters.fusion.fusion import AdapterFusionConfig
from adapters.verbs import attach, load, save
from loralib.files.file_tensors import PREFIX
from training.models.fusing import read_card

MEMBERS = "members"
FILES = {"bottleneck": "adapter.safetensors", "lora": "adapter_model.safetensors"}
CONFIG = "adapter_config.json"


def fuse_trained(backbone: Any, folders: Sequence[Path], seed: int = 0) -> Fuse:
    """Load the adapters of finished runs (runs/NAME/adapter), freeze them and the backbone, and add a fusion that trains.

    ValueError for folders that hold no adapter that can be fused, for two of the same task, and for two kinds.
    """
    cards = [read_card(Path(folder)) for folder in folders]
    names, kinds = [card["task"] for card in cards], {card["method"] for card in cards}
    if len(kinds) > 1:
        raise ValueError(f"members of {sorted(kinds)}: bottleneck and LoRA adapters cannot be fused together")
    if len(set(names)) < len(names):
        raise ValueError(f"members for {names}: expected one adapter for each task")
    return _fuse(backbone, dict(zip(names, map(Path, folders), strict=True)), kinds.pop(), seed)


def save_members(backbone: Any, folder: Path) -> dict | None:
    """Write the adapters of the fusion that acts; returns what `load_members` needs, or None where nothing is fused."""
    try:
        fuse = active_fusion(backbone)
    except ValueError:  # no fusion acts
        return None
    kind = members_kind(backbone, fuse)
    trains = [p for p in backbone.parameters() if p.requires_grad]
    backbone.requires_grad_(False)  # a member's file is complete without the fusion that trains beside it
    try:
        for name in fuse.names:
            save(backbone, folder / MEMBERS / name, name)
    finally:
        for p in trains:
            p.requires_grad_(True)
    return {"names": list(fuse.names), "kind": kind}


def load_members(backbone: Any, folder: Path, card: dict) -> Fuse:
    """Put the members and a new fusion into a backbone; the fusion's weights come with the model's."""
    return _fuse(backbone, {name: folder / MEMBERS / name for name in card["names"]}, card["kind"], 0)


def _fuse(backbone: Any, folders: dict[str, Path], kind: str, seed: int) -> Fuse:
    for name, folder in folders.items():
        with TemporaryDirectory() as short:
            _shorten(folder, Path(short), kind, f"{backbone.base_model_prefix}.")
            try:
                load(backbone, short, name, with_heads=False)
            except ValueError as error:  # it names the copy, which is gone by then
                raise ValueError(
                    f"member {folder} does not fit this backbone: {str(error).replace(short, str(folder))}"
                ) from error
    fuse = Fuse(*folders)
    attach(backbone, AdapterFusionConfig(), fuse, seed=seed)
    return fuse


def _shorten(folder: Path, target: Path, kind: str, prefix: str) -> None:
    """A copy of an adapter's folder, with names as they are in the backbone alone, and without what belongs to its head."""
    settings = json.loads((folder / CONFIG).read_text())
    heads = (*(f"{name}." for name in settings.get("modules_to_save") or ()), HEAD, f"{prefix}pooler.", "pooler.")
    before, tensors = PREFIX if kind == "lora" else "", {}
    for key, tensor in load_file(folder / FILES[kind]).items():
        name = key.removeprefix(before)
        if not name.startswith(heads):
            tensors[before + name.removeprefix(prefix)] = tensor
    settings["modules_to_save"] = None if kind == "lora" else []
    if isinstance(settings.get("target_modules"), list):
        settings["target_modules"] = [
            name.removeprefix(prefix) for name in settings["target_modules"] if not f"{name}.".startswith(heads)
        ]
    (target / CONFIG).write_text(json.dumps(settings))
    save_file(tensors, target / FILES[kind], metadata={"format": "pt"})
