"""LoraConfig and IA3Config to and from peft's `adapter_config.json`.

Unknown settings are refused when they are switched on: an adapter trained with them computes something else than plain LoRA
on the same tensors.
"""

import math
import re
from typing import Any

from loralib.config import AdapterConfig, LoraConfig
from loralib.layers.lora_layer import LoraLayer
from loralib.settings.setting_types import check_types
from loralib.variants.ia3 import IA3Config

OURS, OURS_PATTERNS = "enable_lora", "enable_lora_patterns"
READ = {
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "task_type",
    "base_model_name_or_path",
    "init_lora_weights",
    "peft_type",
    "rank_pattern",
    "alpha_pattern",
    "bias",
    "use_rslora",
    "use_dora",
    "feedforward_modules",
    "init_ia3_weights",
    OURS,
    OURS_PATTERNS,
}
NO_EFFECT = {  # switched on by default, or only a note, in peft's files
    "auto_mapping",
    "inference_mode",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "fan_in_fan_out",  # told by the layer's type
    "target_parameters",  # peft names the experts of a mixture by itself; where it adapted them, the file holds their tensors
}
STARTS = ("gaussian", "eva", "orthogonal")
"""other starts of the factors, which leave the base as it is: the file holds where they ended"""
REQUIRED = {"LORA": ("r", "lora_alpha", "target_modules"), "IA3": ("target_modules", "feedforward_modules")}
SHARED = ("exclude_modules", "layers_to_transform", "layers_pattern", "task_type", "base_model_name_or_path")


def config_to_peft(config: AdapterConfig, layers: dict[str, LoraLayer], heads: list[str], adapter_name: str) -> dict:
    """The settings as peft reads them. `target_modules` are the full paths that were matched, so nothing is matched anew."""
    mine = {path: layer for path, layer in layers.items() if adapter_name in layer.slots}
    settings = {
        "task_type": config.task_type,
        "base_model_name_or_path": config.base_model_name_or_path,
        "target_modules": sorted(mine),
        "exclude_modules": None,
        "modules_to_save": heads or None,
        "fan_in_fan_out": any(type(layer).__name__ == "Conv1D" for layer in mine.values()),
        "inference_mode": True,
    }
    if isinstance(config, IA3Config):
        inputs = sorted(path for path, layer in mine.items() if layer.slots[adapter_name].kind == "ia3_input")
        return settings | {"peft_type": "IA3", "feedforward_modules": inputs, "init_ia3_weights": True}
    assert isinstance(config, LoraConfig)
    ranks, alphas = _patterns(config, mine, adapter_name)
    own = {OURS: config.enable_lora, OURS_PATTERNS: [config.rank_pattern, config.alpha_pattern]} if config.enable_lora else {}
    return settings | {
        "peft_type": "LORA",
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "layers_to_transform": None,
        "layers_pattern": None,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "bias": config.bias,
        "init_lora_weights": True,
        "use_rslora": config.use_rslora,
        "use_dora": config.use_dora,
        **own,
    }


def _patterns(config: LoraConfig, layers: dict[str, LoraLayer], adapter_name: str) -> tuple[dict, dict]:
    """Rank and alpha of every layer whose plain form in the file differs from the config's: patterns, parts, PiSSA."""
    ranks, alphas = {}, {}
    for path, layer in layers.items():
        slot = layer.slots[adapter_name]
        r = slot.r * (2 if slot.kind == "pissa" else sum(slot.enable_lora) if slot.enable_lora else 1)
        alpha = slot.alpha if r == slot.r else slot.scaling * (math.sqrt(r) if slot.rslora else r)
        key = f"^{re.escape(path)}"
        if r != config.r:
            ranks[key] = r
        if alpha != config.lora_alpha:
            alphas[key] = alpha
    return ranks, alphas


def config_from_peft(settings: dict) -> AdapterConfig:
    """Read peft's settings. ValueError names what is absent, of a wrong type, or not supported."""
    if not isinstance(settings, dict):
        raise ValueError(f"expected an object of settings, found {type(settings).__name__}")
    check_types(settings)
    kind = settings.get("peft_type") or "LORA"
    if kind not in REQUIRED:
        raise ValueError(f"peft_type={kind!r}: this is not a LoRA adapter, and no (IA)³")
    absent = [key for key in REQUIRED[kind] if settings.get(key) is None]
    if absent:
        raise ValueError(f"settings {absent} are missing; there are {sorted(settings)[:8]}")
    _refuse_unsupported(settings)
    shared: dict[str, Any] = {key: settings.get(key) or None for key in SHARED if key != "layers_to_transform"}
    shared["layers_to_transform"] = settings.get("layers_to_transform")
    shared["target_modules"] = settings["target_modules"]
    shared["modules_to_save"] = settings.get("modules_to_save") or []
    if kind == "IA3":
        return IA3Config(**shared, feedforward_modules=settings["feedforward_modules"])
    own = settings.get(OURS_PATTERNS) or [settings.get("rank_pattern") or {}, settings.get("alpha_pattern") or {}]
    return LoraConfig(
        **shared,
        r=settings["r"],
        lora_alpha=settings["lora_alpha"],
        lora_dropout=settings.get("lora_dropout") or 0.0,
        rank_pattern=own[0],
        alpha_pattern=own[1],
        bias=settings.get("bias") or "none",
        use_rslora=bool(settings.get("use_rslora")),
        use_dora=bool(settings.get("use_dora")),
        enable_lora=settings.get(OURS) or {},
    )


def _refuse_unsupported(settings: dict) -> None:
    on = {
        k: v
        for k, v in settings.items()
        if k not in READ | NO_EFFECT and v not in (None, False, "none", "", 0) and v != {} and v != []
    }
    on.pop("runtime_config", None)
    if settings.get("init_lora_weights") == "eva":
        on.pop("eva_config", None)  # how the factors started
    if settings.get("init_lora_weights") not in (None, True, False, *STARTS):
        on["init_lora_weights"] = settings["init_lora_weights"]  # PiSSA and its kin change the base weight too
    if on:
        raise ValueError(f"settings {on} change what the adapter computes and are not supported here")
