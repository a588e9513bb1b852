"""Method `fusion`: adapters that other runs trained, fused for a task; only the fusion and the task's head train."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from adapters.bottleneck.composition import Fuse
from adapters.bottleneck.site import Site
from adapters.fusion.fuse import active_fusion
from adapters.fusion.fusion import AdapterFusionConfig
from adapters.verbs import activate, attach, load, save, train_only
from loralib.injection.matching import heads_to_save
from loralib.layers.heads import put_saved_module, saved_modules
from training.data.tasks import TaskSpec
from training.models.base_models import Base
from training.models.sealed import read_sealed

CARD = "training.json"
FUSIBLE = ("bottleneck", "lora")


@dataclass(frozen=True)
class FusionMembers:
    """What to fuse: the folders of trained adapters (runs/NAME/adapter)."""

    folders: tuple[str, ...]
    fusion: AdapterFusionConfig


def fuse_members(base: Base, spec: TaskSpec, members: FusionMembers, seed: int) -> str:
    """Load the members, add the fusion, and train it with the head of the member for this task, or with a new head.

    ValueError for folders that hold no adapter that can be fused, or of two kinds.
    """
    cards = [read_card(Path(folder)) for folder in members.folders]
    kinds = {card["method"] for card in cards}
    if len(kinds) > 1:
        raise ValueError(f"members of {sorted(kinds)}: bottleneck and LoRA adapters cannot be fused together")
    names = _names([card["task"] for card in cards])
    own = next((name for name, card in zip(names, cards, strict=True) if card["task"] == spec.name), None)
    for folder, name in zip(members.folders, names, strict=True):
        load(base.model, folder, name, with_heads=name == own)
    if own is None:
        for path in heads_to_save(base.model, list(base.new_modules) or None):
            put_saved_module(base.model, path, names[-1])
    fuse = Fuse(*names)
    attach(base.model, members.fusion, fuse, seed=seed)
    activate(base.model, fuse, own or names[-1])
    train_only(base.model, fuse)
    return _report(base.model, fuse, own)


def save_trained_fusion(model: nn.Module, folder: Path) -> None:
    """The fusion that acts, its members, and whose head it uses."""
    heads = {head.active for head in saved_modules(model).values()} - {None}
    save(model, folder, active_fusion(model), head=next(iter(heads), None))


def read_card(folder: Path) -> dict:
    """What a run says about the adapter that it left; ValueError where it is none that can be fused."""
    try:
        card = read_sealed(folder / CARD)
    except ValueError as error:
        raise ValueError(f"{folder}: no adapter of a run (runs/NAME/adapter) to fuse ({error})") from error
    if card.get("method") in ("prefix", "prompt"):
        raise ValueError(
            f"{folder} is a {card['method']}, which changes what every layer attends to: it says nothing at a place of its own "
            "that a fusion could weigh. Fuse bottleneck or LoRA adapters"
        )
    if card.get("method") not in FUSIBLE:
        raise ValueError(f"{folder}: trained with method {card.get('method')!r}; fusion takes {', '.join(FUSIBLE)}")
    return card


def _names(tasks: list[str]) -> list[str]:
    """The tasks, with a number where one comes again."""
    return [task if tasks.count(task) == 1 else f"{task}_{tasks[:i].count(task)}" for i, task in enumerate(tasks)]


def _report(model: nn.Module, fuse: Fuse, own: str | None) -> str:
    places = [m for m in model.modules() if isinstance(m, Site) and fuse.key in m.fusions]
    count = sum(p.numel() for place in places for p in place.fusions[fuse.key].parameters())
    head = f"the head of {own}" if own else "a new head"
    return f"fusion of {', '.join(fuse.names)} at {len(places)} places, {count:,} parameters; with {head}"
