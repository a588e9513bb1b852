"""Adapter files in peft's format: `adapter_config.json` + `adapter_model.safetensors`, strict in both directions.

The keys stand in `file_tensors.py`, the settings in `peft_config.py`.
"""

import contextlib
import json
import os
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from loralib.base_model.handles import bare_model
from loralib.files.file_settings import check_ranks, heads_in_file, without_unused
from loralib.files.file_tensors import PREFIX, file_tensors, is_factor, key_in_model, layer_tensors, saved_heads
from loralib.files.read_adapter import CONFIG, WEIGHTS, AdapterFileError, read_config, read_tensors
from loralib.files.word_tables import Rows, added_rows, tables_to_save, take_rows, word_tables
from loralib.injection.injection import adapter_configs, add_adapter, check_still_there, delete_adapter
from loralib.injection.merge_weights import merged_adapters
from loralib.injection.switch import set_active, set_trainable
from loralib.layers.biases import model_biases
from loralib.layers.heads import saved_modules
from loralib.layers.lora_layer import LoraLayer, lora_layers
from loralib.settings.peft_config import config_to_peft
from loralib.variants.config import AdapterConfig


@dataclass(frozen=True)
class LoadReport:
    """What a load did."""

    tensors: int
    expected: int
    note: str | None
    """a cast to another dtype, rows of added tokens"""

    def __str__(self) -> str:
        return f"{self.tensors}/{self.expected} tensors loaded" + (f" ({self.note})" if self.note else "")


def save_adapter(model: nn.Module, folder: str | Path, adapter_name: str = "default") -> Path:
    """Write one adapter (factors, heads, settings) to `folder`; returns it. Merged adapters can be saved too.

    Where tokens were added to the model of a local folder, its word tables are written too, as peft does.

    Raises KeyError for an unknown name, ValueError for a tensor that is not finite or when a trainable parameter of the
    model would be left out of the file.
    """
    model = bare_model(model)
    configs = adapter_configs(model)
    if adapter_name not in configs:
        part = any(adapter_name in layer.variants for layer in lora_layers(model).values())
        raise KeyError(
            f"{type(model).__name__} is a part of the model that adapter {adapter_name!r} was put into: save that model"
            if part
            else f"no adapter {adapter_name!r} to save; there are {sorted(configs)}"
        )
    refuse_meta(model)
    check_still_there(model, adapter_name)
    tables = {PREFIX + key: table for key, table in tables_to_save(model, adapter_name).items()}
    tensors = {k: t.detach().cpu().contiguous() for k, t in (file_tensors(model, adapter_name) | tables).items()}
    bad = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"not finite, so not saved: {bad[:3]}")
    _refuse_unsaved(model, configs)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = config_to_peft(configs[adapter_name], lora_layers(model), saved_heads(model, adapter_name), adapter_name)
    content = (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode()
    write_together({folder / WEIGHTS: save(tensors, metadata={"format": "pt"}), folder / CONFIG: content})
    return folder


def load_adapter(
    model: nn.Module, folder: str | Path, adapter_name: str = "default", *, trainable: bool, with_heads: bool = True
) -> LoadReport:
    """Add the adapter in `folder` to the model and make it active; `trainable` says whether it (alone) learns on.

    Otherwise a first adapter leaves everything frozen, and a further one leaves what trains as it was. with_heads=False leaves
    its heads in the file: for a model with the head of another task.

    Strict: settings, names, shapes and dtypes are all checked before the model is changed for good; on any mismatch the
    model is left without the adapter and AdapterFileError says what was found and expected.
    """
    model, folder = bare_model(model), Path(folder)
    refuse_meta(model)
    if merged_adapters(model):
        raise RuntimeError(f"adapters {merged_adapters(model)} are merged: unmerge(model) before loading another")
    config = read_config(folder)
    tensors, rows = _without_tables(model, config, read_tensors(folder), folder / WEIGHTS)
    there, lost = heads_in_file(model, config.modules_to_save or [], tensors)
    if lost and with_heads:
        raise AdapterFileError(
            f"{folder / WEIGHTS}: no tensors of {lost}, which {CONFIG} names in modules_to_save and this "
            f"{type(model).__name__} has: it would answer with a random head (with_heads=False loads the rest)"
        )
    if not with_heads:
        tensors = {key: t for key, t in tensors.items() if not key.startswith(tuple(f"{path}." for path in there))}
    try:
        config = without_unused(model, replace(config, modules_to_save=there if with_heads else []))
        check_ranks(model, config, tensors)
        add_adapter(model, config, adapter_name)
    except (ValueError, re.error) as error:  # re.error: a pattern may be broken only once it is joined with another
        raise AdapterFileError(f"{folder / CONFIG} does not fit this {type(model).__name__}: {error}") from error
    try:
        notes = [_fill(model, adapter_name, tensors, folder / WEIGHTS), take_rows(model, rows)]
        set_active(model, adapter_name)
    except BaseException:
        delete_adapter(model, adapter_name)
        raise
    if trainable or len(adapter_configs(model)) == 1:  # a first adapter freezes the base, as `inject` does
        set_trainable(model, adapter_name if trainable else [])
    return LoadReport(len(tensors), len(tensors), "; ".join(filter(None, notes)) or None)


def refuse_meta(model: nn.Module) -> None:
    """ValueError for a model without numbers: what is copied into torch's meta device is gone, without a word."""
    empty = [name for name, p in model.named_parameters() if p.is_meta]
    if empty:
        raise ValueError(
            f"{len(empty)} parameters of this {type(model).__name__}, e.g. {empty[0]}, are on the meta device, without numbers: "
            "load its weights first (from_pretrained without device_map and offloading)"
        )


def write_atomic(path: Path, content: bytes) -> None:
    """Write beside, flush to disk, rename: a reader sees the old file or the new one, never a part."""
    write_together({path: content})


def write_together(files: dict[Path, bytes]) -> None:
    """Write all beside, flush to disk, then rename all: where one cannot be written, all the old ones stay as they were.

    OSError names the file that was to be written (a full disk names none).
    """
    beside: dict[str, Path] = {}
    path = Path()
    try:
        for path, content in files.items():
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            beside[name] = path
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
        for name, path in beside.items():
            os.replace(name, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        for name in beside:
            with contextlib.suppress(OSError):
                os.unlink(name)


# ---------------------------------------------------------------- names and tensors


def _without_tables(
    model: nn.Module, config: AdapterConfig, tensors: dict[str, Tensor], path: Path
) -> tuple[dict[str, Tensor], Rows]:
    """The tensors of the adapter, without the base's own weights that peft writes too, and the rows of added tokens.

    Such weights are those of adapted embeddings, and both word tables where tokens were added (`word_tables.py`).
    """
    trains_biases = getattr(config, "bias", "none") != "none"
    parameters, tables = dict(model.named_parameters(remove_duplicate=False)), word_tables(model)
    adapter_tensors, rows = {}, {}
    for key, tensor in tensors.items():
        twice = ".modules_to_save." in key and key.replace(".modules_to_save.", ".") in tensors
        if twice or ".original_module." in key:
            continue  # a base's own weight, or a head for the second time: the head has its own key
        owner, adapted, parameter = key.partition(".base_layer.")
        if ".experts." in f".{key}" and is_factor(key) and (adapted or owner.rpartition(".lora_")[0].endswith(".experts")):
            raise AdapterFileError(
                f"{path}: {key} is LoRA on the stacked experts of a mixture (peft's target_parameters), which is not supported"
            )
        saved_whole = any(owner.endswith(f"{name}.weight") for name in config.modules_to_save or [])
        is_table = not adapted and key.endswith(".weight") and key.removesuffix(".weight") in tables and not saved_whole
        if not (is_table or adapted) or (trains_biases and "bias" in parameter):
            adapter_tensors[key] = tensor
            continue
        ours = parameters.get(f"{owner}.{parameter}" if adapted else key)
        if ours is None:
            raise AdapterFileError(f"{path}: {key} is a weight that this {type(model).__name__} does not have")
        added = added_rows(ours, tensor, f"{path}: {key}")
        if added:
            rows[owner if adapted else key.removesuffix(".weight")] = added
    others = sorted(adapter_configs(model))
    if rows and others:
        raise AdapterFileError(
            f"{path}: its rows of added tokens ({', '.join(rows)}) are not those of the model, on which {others} rely"
        )
    return adapter_tensors, rows


def check_fits(tensors: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
    """Names, shapes and kinds of the tensors of a file against those of the model. AdapterFileError for the first difference."""
    missing, unexpected = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unexpected:
        raise AdapterFileError(
            f"{path}: {len(missing)} tensors missing (e.g. {missing[:2]}), {len(unexpected)} unexpected "
            f"(e.g. {unexpected[:2]}); expected {len(expected)}. Was the adapter made for another model?"
        )
    wrong = [
        f"{k}: {tuple(tensors[k].shape)}, expected {tuple(v.shape)}" for k, v in expected.items() if v.shape != tensors[k].shape
    ]
    if wrong:
        raise AdapterFileError(f"{path}: {len(wrong)} tensors of wrong shape (r or model differ): {'; '.join(wrong[:2])}")
    wrong = [k for k, v in expected.items() if v.is_floating_point() != tensors[k].is_floating_point()]
    if wrong:
        raise AdapterFileError(f"{path}: {wrong[0]} is {tensors[wrong[0]].dtype}, expected {expected[wrong[0]].dtype}")


def _fill(model: nn.Module, adapter_name: str, tensors: dict[str, Tensor], path: Path) -> str | None:
    expected = {str(key_in_model(k)): v for k, v in file_tensors(model, adapter_name).items()}
    check_fits(tensors, expected, path)
    kinds = {t.dtype for k, t in tensors.items() if is_factor(k)}
    if len(kinds) > 1:
        raise AdapterFileError(f"{path}: LoRA tensors of several dtypes {sorted(map(str, kinds))}; one file has one")
    for name, layer in lora_layers(model).items():
        if adapter_name in layer.variants:
            _fill_layer(name, layer, adapter_name, tensors, path)
    for name, bias in model_biases(model).copies.get(adapter_name, {}).items():
        owner, _, leaf = name.rpartition(".")
        bias.data.copy_(tensors[name] if name in tensors else tensors[f"{owner}.base_layer.{leaf}"])
    for name, head in saved_modules(model).items():
        if adapter_name in head.copies:
            state = {k.removeprefix(name + "."): v for k, v in tensors.items() if k.startswith(name + ".")}
            head.copies[adapter_name].load_state_dict(state, strict=True)
    parameter = next(
        p for layer in lora_layers(model).values() if adapter_name in layer.variants for p in layer.trained(adapter_name).values()
    )
    file_dtype, ours = kinds.pop(), parameter.dtype
    return None if file_dtype == ours else f"cast from {file_dtype} to {ours}"


@torch.no_grad()
def _fill_layer(path: str, layer: LoraLayer, name: str, tensors: dict[str, Tensor], file: Path) -> None:
    variant = layer.variants[name]
    try:
        variant.load(layer, name, {key.removeprefix(f"{path}."): tensors[key] for key in layer_tensors(path, layer, name)})
    except ValueError as error:
        raise AdapterFileError(f"{file}: {error}") from error
    for key, shared in variant.shared_tensors(layer, name).items():
        shared.copy_(tensors[key])


def _refuse_unsaved(model: nn.Module, configs: dict) -> None:
    saved = {id(p) for layer in lora_layers(model).values() for name in layer.variants for p in layer.trained(name).values()}
    saved |= {id(p) for copies in model_biases(model).copies.values() for p in copies.values()}
    saved |= {id(p) for head in saved_modules(model).values() for p in head.copies.parameters()}
    lost = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in saved]
    if lost:
        raise ValueError(
            f"{len(lost)} trainable parameters belong to no adapter and would be lost, e.g. {lost[:3]}: "
            f"name their modules in modules_to_save (adapters: {sorted(configs)})"
        )
