"""Folders of prefixes and prompts in peft's format: `adapter_config.json` and `adapter_model.safetensors`, strictly read.

    prompt_embeddings          the table: of a prompt (P, d), of a prefix (P, 2 n H d), its network ejected, as peft does it
    base_model.<path>.<name>   the heads

Three files are ours alone, and the key `keep_positions` says so (peft warns of it): a prefix of an encoder-decoder, which has
more attentions than peft gives it; a prefix of an encoder with kept positions; a prompt of an encoder, where our heads read the
text's first token and peft's the first virtual one. So a prompt that peft made for an encoder is refused.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from adapters.bottleneck.checkpoint import act_again, what_acts
from adapters.virtual.peft_settings import CONFIGS as KINDS
from adapters.virtual.prefix import PrefixEncoder, PrefixTuningConfig
from adapters.virtual.prefix_hooks import reads_both_ways
from adapters.virtual.prompt import PromptTuningConfig
from adapters.virtual.virtual_tokens import (
    VirtualConfig,
    active_virtual,
    add_virtual_tokens,
    remove_virtual_tokens,
    use_virtual_tokens,
    virtual_encoder,
    virtual_tokens,
)
from loralib.files.read_adapter import CONFIG, WEIGHTS, AdapterFileError, read_json
from loralib.files.save_and_load import LoadReport, check_fits, refuse_meta, write_together
from loralib.layers.heads import saved_modules

TABLE, HEADS = "prompt_embeddings", "base_model."
SHARED = ("num_virtual_tokens", "task_type", "base_model_name_or_path")


def save_virtual_tokens(model: nn.Module, folder: str | Path, name: str = "default") -> Path:
    """Write one prefix or prompt with its heads; KeyError for an unknown name, ValueError for numbers that are not finite."""
    folder, encoder, config = Path(folder), virtual_encoder(model, name), virtual_tokens(model)[name]
    with torch.no_grad():
        tensors = {TABLE: encoder(), **_head_tensors(model, name)}
    tensors = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    bad = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"not finite, so not saved: {bad[:3]}")
    folder.mkdir(parents=True, exist_ok=True)
    text = (json.dumps(_settings(model, encoder, config), indent=2, sort_keys=True) + "\n").encode()
    write_together({folder / WEIGHTS: save(tensors, metadata={"format": "pt"}), folder / CONFIG: text})
    return folder


def load_virtual_tokens(
    model: nn.Module, folder: str | Path, name: str = "default", *, trainable: bool, with_heads: bool = True
) -> LoadReport:
    """Add the prefix or prompt in `folder`; it is active, and `trainable` says whether it trains further.

    with_heads=False leaves its heads in the file: for a model with the head of another task.

    A folder that does not fit raises AdapterFileError, and the model is left as it was.
    """
    folder = Path(folder)
    refuse_meta(model)
    config, wanted = _config(folder, model)
    try:
        tensors = load((folder / WEIGHTS).read_bytes())
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise AdapterFileError(f"{folder / WEIGHTS}: not a readable safetensors file ({error})") from error
    if not with_heads:
        wanted, tensors = [], {key: tensor for key, tensor in tensors.items() if not key.startswith(HEADS)}
    heads = [path for path in dict.fromkeys(wanted) if any(key.startswith(f"{HEADS}{path}.") for key in tensors)]
    before, acted = what_acts(model), active_virtual(model)
    try:
        add_virtual_tokens(model, replace(config, modules_to_save=heads), name)
    except ValueError as error:
        raise AdapterFileError(f"{folder / CONFIG} does not fit this {type(model).__name__}: {error}") from error
    try:
        _fill(model, name, tensors, folder / WEIGHTS)
    except AdapterFileError:
        remove_virtual_tokens(model, name)
        if acted is not None:
            use_virtual_tokens(model, acted)
        act_again(model, before)
        raise
    if not trainable:
        model.requires_grad_(False)
    return LoadReport(len(tensors), len(tensors), None)


def _head_tensors(model: nn.Module, name: str) -> dict[str, Tensor]:
    return {
        f"{HEADS}{path}.{key}": value
        for path, head in saved_modules(model).items()
        if name in head.copies
        for key, value in head.copies[name].state_dict().items()
    }


@torch.no_grad()
def _fill(model: nn.Module, name: str, tensors: dict[str, Tensor], path: Path) -> None:
    expected = {TABLE: virtual_encoder(model, name).embedding.weight, **_head_tensors(model, name)}
    check_fits(tensors, expected, path)
    bad = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise AdapterFileError(f"{path}: {bad[0]} has values that are not finite")
    for key, value in expected.items():
        value.copy_(tensors[key])


def _settings(model: Any, encoder: nn.Module, config: VirtualConfig) -> dict:
    """The settings as peft reads them."""
    kind = next(kind for kind, cls in KINDS.items() if isinstance(config, cls))
    settings = {key: getattr(config, key) for key in SHARED} | {
        "peft_type": kind,
        "inference_mode": True,
        "modules_to_save": config.modules_to_save or None,
        "num_transformer_submodules": 1,
    }
    if isinstance(encoder, PrefixEncoder) and isinstance(config, PrefixTuningConfig):
        layout, ours = encoder.layout, model.config.is_encoder_decoder or config.keep_positions
        return settings | {
            **({"keep_positions": config.keep_positions} if ours else {}),
            "num_layers": len(layout.paths),
            "num_attention_heads": layout.heads,
            "token_dim": layout.heads * layout.head_size,
            "prefix_projection": False,
            "encoder_hidden_size": layout.heads * layout.head_size,
            "init_weights": None,
        }
    return settings | {
        **({"keep_positions": True} if reads_both_ways(model) else {}),
        "num_layers": getattr(model.config, "num_hidden_layers", None),
        "num_attention_heads": getattr(model.config, "num_attention_heads", None),
        "token_dim": encoder.embedding.embedding_dim,  # pyright: ignore
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "tokenizer_name_or_path": None,
    }


def _config(folder: Path, model: nn.Module) -> tuple[VirtualConfig, list[str]]:
    """What the folder holds, and the heads that it names. Starts do not matter: the table is in the file."""
    path = folder / CONFIG
    settings: Any = read_json(path)
    if settings.get("peft_type") not in KINDS:
        raise AdapterFileError(f"{path}: peft_type {settings.get('peft_type')!r}, expected one of {', '.join(KINDS)}")
    if settings.get("num_transformer_submodules") not in (None, 1):
        raise AdapterFileError(f"{path}: num_transformer_submodules={settings['num_transformer_submodules']}, expected 1")
    shared, heads = {key: settings.get(key) for key in SHARED}, settings.get("modules_to_save") or []
    try:
        if settings["peft_type"] == "PREFIX_TUNING":
            keep_positions = settings.get("keep_positions", False)
            return PrefixTuningConfig(**shared, init_weights="random", keep_positions=keep_positions), heads
        if reads_both_ways(model) and not settings.get("keep_positions"):
            raise ValueError(
                "peft made this prompt for an encoder: its heads read the first virtual token, ours the first token of the text. "
                "Train it here, or use a prefix"
            )
        return PromptTuningConfig(**shared, prompt_tuning_init="RANDOM"), heads
    except (TypeError, ValueError) as error:
        raise AdapterFileError(f"{path}: {error}") from error
