"""A compressed model on disk: `compressed.safetensors` with what is left of it, `compressed.json` with the shape of what is left.

A config knows neither that layers are in int8 nor that each has another width, so the card says both. Loading takes the model
of the full size, brings it to that shape, and fills it strictly: a reloaded model answers with the same bits.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from distill.compression.fake_quant import fake_paths
from distill.compression.int8 import int8_shapes, put_int8_layers
from distill.compression.sites import widths
from distill.compression.structured import set_widths
from loralib.files.read_adapter import read_json
from loralib.files.save_and_load import refuse_meta, write_together
from loralib.layers.linear4bit import Linear4bit
from loralib.layers.lora_layer import LoraLayer

WEIGHTS, CARD = "compressed.safetensors", "compressed.json"
"""not model.safetensors: transformers would read that name without the scales and widths, and give wrong answers"""
OLDER_WEIGHTS = "model.safetensors"
FORMAT = 1


class CompressedFileError(ValueError):
    """A folder that is absent or damaged, or does not fit the model."""


def save_compressed(model: nn.Module, folder: str | Path) -> int:
    """Write weights and card; returns the bytes of both files. Tied weights are written once.

    ValueError for a model with LoRA or NF4 layers, which have files of their own, and with fake-quantised ones.
    """
    if any(isinstance(m, LoraLayer | Linear4bit) for m in model.modules()):
        raise ValueError("LoRA and NF4 layers have files of their own (loralib.save_adapter, nf4_files.py): merge first")
    if fake_paths(model):
        raise ValueError("the model still trains in int8: quantize_int8(model) exports it, unfake(model) turns it back")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors, tied = _tensors(model)
    content = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    card = {"format": FORMAT, "int8": int8_shapes(model), "widths": widths(model), "tied": tied}
    text = (json.dumps(card, indent=2, sort_keys=True) + "\n").encode()
    write_together({folder / WEIGHTS: save(content, metadata={"format": "pt"}), folder / CARD: text})
    return compressed_bytes(folder)


def load_compressed(model: nn.Module, folder: str | Path) -> str:
    """Turn the model (of the full size, in float) into the one that was saved, in place; returns "64/64 tensors loaded".

    CompressedFileError for a damaged file, and for names, shapes, dtypes or ties that differ.
    """
    folder = Path(folder)
    refuse_meta(model)
    card, tensors = _read(folder)
    try:
        set_widths(model, card["widths"])
        put_int8_layers(model, card["int8"])
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise CompressedFileError(f"{folder / CARD}: {error}") from error
    expected, tied = _tensors(model)
    if tied != card.get("tied"):
        raise CompressedFileError(f"{folder / CARD}: tied weights {card.get('tied')}, the model has {tied}")
    _check(tensors, expected, weights_of(folder))
    with torch.no_grad():
        for name, tensor in tensors.items():
            expected[name].copy_(tensor)  # into the model's own memory: a file's addresses could change the last bit of a matmul
    return f"{len(tensors)}/{len(expected)} tensors loaded"


def compressed_bytes(folder: str | Path) -> int:
    """Bytes of weights and card together."""
    return sum(path.stat().st_size for path in (weights_of(Path(folder)), Path(folder) / CARD))


def weights_of(folder: Path) -> Path:
    """The file with the weights; folders that were written earlier have another name for it."""
    return folder / (OLDER_WEIGHTS if (folder / OLDER_WEIGHTS).exists() else WEIGHTS)


def _tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, and the further names of those that are tied."""
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    names_of: dict[tuple, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        key = (tensor.data_ptr(), tuple(tensor.shape)) if tensor.numel() else (name,)
        if key in names_of:
            tied[name] = names_of[key]
        else:
            names_of[key] = name
            tensors[name] = tensor
    return tensors, tied


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        card = read_json(folder / CARD)
        tensors = load_file(weights_of(folder))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CompressedFileError(f"{folder}: not a compressed model ({error})") from error
    if card.get("format") != FORMAT:
        raise CompressedFileError(f"{folder / CARD}: expected a card of format {FORMAT}")
    return card, tensors


def _check(tensors: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
    missing, unexpected = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unexpected:
        raise CompressedFileError(
            f"{path}: {len(missing)} tensors missing (e.g. {missing[:2]}), {len(unexpected)} unexpected (e.g. {unexpected[:2]}); "
            "was it saved from another model?"
        )
    for name, want in expected.items():
        tensor = tensors[name]
        if tensor.shape != want.shape or tensor.dtype != want.dtype:
            raise CompressedFileError(
                f"{path}: {name} is {tensor.dtype} {tuple(tensor.shape)}, expected {want.dtype} {tuple(want.shape)}"
            )
