"""A student on disk, whatever became of it: plain, cut, in int8 or in NF4; one way to write it and one to read it.

A plain student is a folder as `training` writes it. A compressed one has `student.json` beside its weights, to say what it is.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer

from distill.compression.compress_config import CompressConfig
from distill.compression.compressed_files import load_compressed, save_compressed
from loralib.four_bit.qlora import quantize_model
from loralib.four_bit.save4bit import save_4bit, tied_names
from training.data.tasks import TaskSpec, find_task
from training.models.base_models import AUTO, Base, Source
from training.models.sealed import read_sealed, whole_folder, write_sealed
from training.models.trained import Trained, load_trained, save_trained

CARD = "student.json"


def save_student(folder: Path, method: str, base: Base, spec: TaskSpec, max_length: int, compress: CompressConfig) -> int:
    """Write a student; returns the bytes of its weights (and of the card that says their shapes)."""
    if not (compress.cuts or compress.bits != "float32"):
        return save_trained(folder, method, base, spec, max_length)
    with whole_folder(folder) as partial:
        base.model.config.save_pretrained(partial)
        nbytes = save_4bit(base.model, partial) if compress.bits == "nf4" else save_compressed(base.model, partial)
        base.tokenizer.save_pretrained(partial)
        card = {"task": spec.name, "max_length": max_length, "bits": compress.bits, "base": base.source.__dict__}
        write_sealed(partial / CARD, card)
    return nbytes


def load_student(folder: Path) -> Trained:
    """The student that was saved, with the same answers to the last bit. ValueError for a folder that holds none."""
    if not (folder / CARD).exists():
        return load_trained(folder)
    card = read_sealed(folder / CARD)
    try:
        task, bits, max_length, source = card["task"], card["bits"], card["max_length"], Source(**card["base"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / CARD}: not the card of a student ({type(error).__name__}: {error})") from error
    spec = find_task(task)
    if bits == "nf4":
        model: Any = _nf4_model(folder, spec)
    else:
        model = AUTO[spec.kind].from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
        load_compressed(model, folder)
    base = Base(model.eval(), AutoTokenizer.from_pretrained(folder), (), source)
    return Trained(base, spec, "full", f"compressed ({bits})", max_length)


def _nf4_model(folder: Path, spec: TaskSpec) -> Any:
    """A model of the same layers in 4 bits, filled strictly from the file."""
    config = AutoConfig.from_pretrained(folder)
    if hasattr(config, "quantization_config"):
        delattr(config, "quantization_config")  # the layers are ours: transformers need not know of them
    model = AUTO[spec.kind].from_config(config, dtype=torch.float32)
    quantize_model(model)
    try:
        missing, strange = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    except (OSError, SafetensorError, RuntimeError) as error:  # absent, damaged, of another shape
        raise ValueError(f"{folder / 'model.safetensors'}: {error}") from error
    missing = sorted(set(missing) - tied_names(model))
    if missing or strange:
        raise ValueError(f"{folder}: missing {missing[:3]}, not in the model {strange[:3]}")
    return model
