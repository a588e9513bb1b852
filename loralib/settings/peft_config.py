"""The settings of adapters to and from peft's `adapter_config.json`. Each method writes and reads its own (`variants/config.py`).

Unknown settings are refused when they are switched on: an adapter trained with them computes something else than ours on the same
tensors.
"""

from typing import Any

from loralib.layers.lora_layer import LoraLayer
from loralib.settings.setting_types import check_types
from loralib.variants.config import AdapterConfig
from loralib.variants.registry import CONFIGS

SHARED = ("exclude_modules", "layers_to_transform", "layers_pattern", "task_type", "base_model_name_or_path")
READ = {*SHARED, "target_modules", "modules_to_save", "peft_type", "enable_lora_patterns", "init_ia3_weights"}
"""what every method reads, and two names of single methods that are no fields of theirs"""
NO_EFFECT = {  # switched on by default, or only a note, in peft's files
    "auto_mapping",
    "inference_mode",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "fan_in_fan_out",  # given by the layer's type
    "target_parameters",  # peft names the experts of a mixture by itself; where it adapted them, the file holds their tensors
}
STARTS = ("gaussian", "eva", "orthogonal")
"""other starts of the factors, which leave the base as it is: the file holds where they ended"""


def config_to_peft(config: AdapterConfig, layers: dict[str, LoraLayer], heads: list[str], adapter_name: str) -> dict:
    """The settings as peft reads them. `target_modules` are the full paths that were matched, so nothing is matched anew."""
    adapted = {path: layer for path, layer in layers.items() if adapter_name in layer.variants}
    return {
        "task_type": config.task_type,
        "base_model_name_or_path": config.base_model_name_or_path,
        "target_modules": sorted(adapted),
        "exclude_modules": None,
        "modules_to_save": heads or None,
        "fan_in_fan_out": any(layer.PLAIN == "Conv1D" for layer in adapted.values()),
        "inference_mode": True,
        "peft_type": config.peft_type,
        **config.file_settings({path: layer.variants[adapter_name] for path, layer in adapted.items()}),
    }


def config_from_peft(settings: dict) -> AdapterConfig:
    """Read peft's settings. ValueError names what is absent, of a wrong type, or not supported."""
    if not isinstance(settings, dict):
        raise ValueError(f"expected an object of settings, found {type(settings).__name__}")
    check_types(settings)
    kind = settings.get("peft_type") or "LORA"
    if kind not in CONFIGS:
        raise ValueError(f"peft_type={kind!r}: this is not a LoRA adapter, and no (IA)³; there are {', '.join(CONFIGS)}")
    method = CONFIGS[kind]
    absent = [key for key in method.required if settings.get(key) is None]
    if absent:
        raise ValueError(f"settings {absent} are missing; there are {sorted(settings)[:8]}")
    _refuse_unsupported(settings)
    shared: dict[str, Any] = {key: settings.get(key) or None for key in SHARED if key != "layers_to_transform"}
    shared["layers_to_transform"] = settings.get("layers_to_transform")
    shared["target_modules"] = settings["target_modules"]
    shared["modules_to_save"] = settings.get("modules_to_save") or []
    return method.from_file(settings, shared)


def _refuse_unsupported(settings: dict) -> None:
    known = READ | NO_EFFECT | {name for config in CONFIGS.values() for name in config.own_fields()}
    on = {k: v for k, v in settings.items() if k not in known and v not in (None, False, "none", "", 0) and v != {} and v != []}
    on.pop("runtime_config", None)
    if settings.get("init_lora_weights") == "eva":
        on.pop("eva_config", None)  # how the factors started
    if settings.get("init_lora_weights") not in (None, True, False, *STARTS):
        on["init_lora_weights"] = settings["init_lora_weights"]  # PiSSA and its kin change the base weight too
    if on:
        raise ValueError(f"settings {on} change what the adapter computes and are not supported here")
