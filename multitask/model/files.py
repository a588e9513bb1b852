"""A trained multitask model on disk: everything that trains in one file, and what is needed to build the rest around it.

multitask.json       the tasks with their labels, how the model was made, where its base came from
weights.safetensors  the trained weights: backbone and heads, or with a frozen backbone the adapters or fusion and heads alone
members/             the frozen adapters of a fusion, a folder for each
config.json, tokenizer files
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, AutoTokenizer

from adapters.bottleneck.bottleneck import BottleneckConfig
from loralib import LoraConfig
from loralib.files.save_and_load import write_atomic
from multitask.model.fused_members import MEMBERS, load_members, save_members
from multitask.model.multitask_model import MultitaskModel
from training.data.tasks import TaskSpec
from training.loop.checkpoint import TrainableWeights
from training.models.base_models import Source, load_backbone
from training.models.sealed import read_sealed, whole_folder, write_sealed

CARD, WEIGHTS = "multitask.json", "weights.safetensors"


def save_multitask(
    folder: Path, model: MultitaskModel, tokenizer: Any, source: Source, layers: int | None, max_length: int
) -> int:
    """Write a model that was made from the backbone `source`; returns the bytes of the weights, frozen members included."""
    adapters = None if model.adapters is None else [type(model.adapters.config).__name__, asdict(model.adapters.config)]
    content = save({name: value.contiguous().cpu() for name, value in TrainableWeights(model).state_dict().items()})
    with whole_folder(folder) as partial:
        card = {
            "tasks": {name: asdict(spec) for name, spec in model.tasks.items()},
            "made_with": model.made_with,
            "adapters": adapters,
            "source": asdict(source),
            "members": save_members(model.backbone, partial),
            "encoder_of_a_pair": type(model.backbone) is not MODEL_MAPPING[type(model.backbone.config)],
            "layers": layers,
            "max_length": max_length,
        }
        model.backbone.config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        write_atomic(partial / WEIGHTS, content)
        write_sealed(partial / CARD, card)
    members = (folder / MEMBERS).rglob("*.safetensors")
    return len(content) + sum(file.stat().st_size for file in members)


def load_multitask(folder: Path) -> tuple[MultitaskModel, Any, int]:
    """(model, tokenizer, max_length) of a folder that `save_multitask` wrote.

    A frozen backbone comes from where it came from then. ValueError for a folder that is not one, or does not fit.
    """
    try:
        card = read_sealed(folder / CARD)
        weights = load_file(folder / WEIGHTS)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ValueError(f"{folder}: no multitask model ({error}); expected {CARD} and {WEIGHTS}") from error
    try:
        tasks = {name: _spec(values) for name, values in card["tasks"].items()}
        source, adapters = Source(**card["source"]), None
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / CARD}: not the card of a multitask model ({type(error).__name__}: {error})") from error
    if card.get("members"):
        backbone, tokenizer = load_backbone(source, card["layers"])
        load_members(backbone, folder, card["members"])
    elif card["adapters"] is not None:
        backbone, tokenizer = load_backbone(source, card["layers"])
        kind, values = card["adapters"]
        adapters = LoraConfig(**values) if kind == "LoraConfig" else BottleneckConfig(**_with_tuples(values))
    else:
        backbone, tokenizer = _empty_backbone(folder, card["encoder_of_a_pair"])
    model = MultitaskModel(backbone, tasks, **card["made_with"], task_adapters=adapters)
    try:
        TrainableWeights(model).load_state_dict(weights)
    except ValueError as error:
        raise ValueError(f"{folder}: its weights do not fit the model that {CARD} describes ({error})") from error
    return model.eval(), tokenizer, card["max_length"]


def _empty_backbone(folder: Path, of_a_pair: bool) -> tuple[Any, Any]:
    config = AutoConfig.from_pretrained(folder, **({"is_encoder_decoder": True} if of_a_pair else {}))  # T5's encoder denies it
    model = AutoModel.from_config(config, dtype=torch.float32)
    if of_a_pair:
        model = model.get_encoder()
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    return model, AutoTokenizer.from_pretrained(folder)


def _spec(values: dict) -> TaskSpec:
    return TaskSpec(**_with_tuples(values))


def _with_tuples(values: dict) -> dict[str, Any]:
    """JSON has lists where a dataclass had tuples."""
    return {name: tuple(v) if isinstance(v, list) and name != "modules_to_save" else v for name, v in values.items()}
