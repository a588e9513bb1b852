"""What a run leaves for others: weights, head, config and tokenizer in one folder, written whole and read strictly.

Weights are in peft's format for LoRA and in transformers' for all weights; `training.json` says how the pieces belong together.
Folders that peft wrote are read too.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from transformers import AutoConfig

from adapters import verbs
from loralib.files.read_adapter import read_config as read_adapter_config
from loralib.files.save_and_load import write_atomic
from loralib.layers.heads import saved_modules
from training.data.labels import LABELLED, are_names, config_names, match_trained, order_of, other_labels
from training.data.tasks import TASKS, TaskSpec, find_task
from training.models.base_models import Base, Source, load_base, where_is
from training.models.fusing import CARD, save_trained_fusion
from training.models.methods import ADAPTERS, train_head
from training.models.sealed import read_sealed, whole_folder, write_sealed

HEAD = "head.safetensors"


@dataclass(frozen=True)
class Trained:
    """What came back from a folder: ready to answer."""

    base: Base
    spec: TaskSpec
    method: str
    report: str
    max_length: int
    """tokens to which the texts were cut in training"""


def save_trained(folder: Path, name: str, base: Base, spec: TaskSpec, max_length: int = 128) -> int:
    """Write what the method trained, with all that belongs to it; returns the bytes of the weights.

    The folder appears complete or not at all, in place of an older one.
    """
    with whole_folder(folder) as partial:
        _write(partial, name, base)
        base.tokenizer.save_pretrained(partial)
        card = {"task": spec.name, "method": name, "max_length": max_length, "base": base.source.__dict__}
        write_sealed(partial / CARD, card)
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def _write(folder: Path, name: str, base: Base) -> None:
    """What the method trained, and the config of its model."""
    if name == "full":
        base.model.save_pretrained(folder)
        return
    if name in ADAPTERS:
        verbs.save(base.model, folder)
    elif name == "fusion":
        save_trained_fusion(base.model, folder)
    elif name != "untouched":
        tensors = {n: p.detach().cpu().contiguous() for n, p in base.model.named_parameters() if p.requires_grad}
        write_atomic(folder / HEAD, save(tensors, metadata={"format": "pt"}))
    base.model.config.save_pretrained(folder)


def load_trained(where: str | Path, task: str | None = None, model: str | None = None) -> Trained:
    """The model that `save_trained` wrote, or that peft wrote: a folder, or `user/repo` on the Hub.

    `task` and `model` are read from the folder where it says them. Strict: what is missing, does not fit, would stay random or
    answers with other labels raises ValueError.
    """
    folder = _folder(str(where))
    card = _card(folder)
    trained = _load(folder, card, task, model)
    if trained.method != "full":  # whose head was compared when it was loaded
        match_trained(trained.base.model, folder, where_is(trained.base.source), trained.spec)
    return trained


def _load(folder: Path, card: dict, task: str | None, model: str | None) -> Trained:
    spec, source = find_task(_task_of(card, task, folder)), _source_of(card, model, folder)
    limit = card.get("max_length", 128)
    if card.get("method") == "qlora":
        source = replace(source, four_bit=True)
    if card.get("method") == "full":
        return _load_full(folder, spec, model, limit)
    base = load_base(spec, source, tokenizer=str(folder) if (folder / "tokenizer_config.json").exists() else None)
    if card.get("method") == "untouched":
        base.model.requires_grad_(False)
        return Trained(base, spec, "untouched", "nothing was trained", limit)
    if card.get("method") == "head":
        return Trained(base, spec, "head", _load_head(base, spec, folder), limit)
    report = verbs.load(base.model, folder)
    if card.get("method") == "fusion":
        return Trained(base, spec, "fusion", str(report), limit)
    random = sorted(set(base.new_modules) - set(saved_modules(base.model)))
    if random:
        raise ValueError(
            f"{folder}: neither the adapter nor {source.name} holds {random}, so the answers would be random. "
            "Was the adapter trained with its head (modules_to_save)?"
        )
    return Trained(base, spec, card.get("method", "lora"), str(report), limit)


def _load_full(folder: Path, spec: TaskSpec, model: str | None, limit: int) -> Trained:
    if model is not None:
        raise ValueError(f"{folder} holds all weights of its own model: leave --model out")
    names = config_names(AutoConfig.from_pretrained(folder))
    if spec.kind in LABELLED and are_names(names) and are_names(spec.labels) and order_of(names, spec.labels) is None:
        raise ValueError(other_labels(str(folder), names, spec))
    base = load_base(spec, Source(str(folder)))
    if base.new_modules:
        raise ValueError(f"{folder}: the weights of {list(base.new_modules)} are missing, so the answers would be random")
    return Trained(base, spec, "full", "all weights loaded", limit)


def _folder(where: str) -> Path:
    if Path(where).is_dir():
        return Path(where)
    if where.count("/") == 1 and not where.startswith((".", "/", "~")) and not where.startswith("runs/"):
        try:
            return Path(snapshot_download(where, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]))
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{where!r} is no folder, and could not be had from the Hub either: {reason}") from error
    raise ValueError(f"{where!r} is no folder; expected one that a run wrote (runs/NAME/adapter), or user/repo on the Hub")


def _card(folder: Path) -> dict:
    if (folder / CARD).exists():
        return read_sealed(folder / CARD)
    if (folder / "adapter_config.json").exists():
        return {}
    raise ValueError(f"{folder}: neither {CARD} nor adapter_config.json; found {sorted(p.name for p in folder.iterdir())[:8]}")


def _task_of(card: dict, task: str | None, folder: Path) -> str:
    trained = card.get("task")
    if task is None and trained is None:
        raise ValueError(f"{folder} does not say what task it is for: give --task, one of {', '.join(TASKS)}")
    if trained is not None and task is not None and find_task(task).kind != find_task(trained).kind:
        raise ValueError(f"{folder} was trained for {trained} ({find_task(trained).kind}), not for {task}")
    return task or trained  # pyright: ignore[reportReturnType]


def _source_of(card: dict, model: str | None, folder: Path) -> Source:
    if model is not None:
        return Source(model)
    if "base" in card:
        return Source(**card["base"])
    name = read_adapter_config(folder).base_model_name_or_path
    if not name:
        raise ValueError(f"{folder} does not say what model it belongs to: give --model")
    return Source(name)


@torch.no_grad()
def _load_head(base: Base, spec: TaskSpec, folder: Path) -> str:
    train_head(base, spec)
    expected = {n: p for n, p in base.model.named_parameters() if p.requires_grad}
    try:
        tensors = load_file(folder / HEAD)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ValueError(f"{folder / HEAD}: not a readable safetensors file ({error})") from error
    wrong = sorted(set(expected) ^ set(tensors)) or [n for n, p in expected.items() if p.shape != tensors[n].shape]
    if wrong:
        raise ValueError(f"{folder / HEAD} does not fit {type(base.model).__name__}: {wrong[:3]} differ in name or shape")
    for name, p in expected.items():
        p.copy_(tensors[name])
    base.model.requires_grad_(False)
    return f"{len(tensors)}/{len(expected)} tensors loaded"
