"""Settings that are given as an object of peft (`peft.LoraConfig(...)`), for people who bring a program that uses peft."""

from dataclasses import replace
from enum import Enum
from typing import Any

from loralib.settings.peft_config import config_from_peft
from loralib.variants.config import AdapterConfig, LoraConfig

WITH_HEADS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
"""task types for which peft trains the new head without a setting"""


def is_lora_config(config: Any) -> bool:
    """Whether an object is a config of a LoRA variant, ours or peft's."""
    return isinstance(config, AdapterConfig) or _is_pefts(config)


def _is_pefts(config: Any) -> bool:
    return type(config).__module__.partition(".")[0] == "peft" and hasattr(config, "to_dict")


def our_config(config: Any) -> AdapterConfig:
    """The same settings as an object of ours, which is returned as it is.

    Raises TypeError for any other object, ValueError for settings of peft that are not supported here.
    """
    if isinstance(config, AdapterConfig):
        return config
    if not _is_pefts(config):
        raise TypeError(
            f"expected a LoraConfig, IA3Config or VeraConfig, found {type(config).__module__}.{type(config).__name__} "
            "(adapters.get_peft_model takes prefixes, prompts and bottleneck adapters too)"
        )
    settings = {key: _plain(value) for key, value in config.to_dict().items()}
    start = settings.pop("init_lora_weights", True)
    if start not in (True, False, "pissa"):
        raise ValueError(f"init_lora_weights={start!r} of peft is not supported here; expected True, False or 'pissa'")
    ours = config_from_peft(settings)
    if settings.get("modules_to_save") is None and settings.get("task_type") in WITH_HEADS:
        ours = replace(ours, modules_to_save=None)  # finds the new heads
    return replace(ours, init_lora_weights=start) if isinstance(ours, LoraConfig) else ours


def _plain(value: Any) -> Any:
    """As `adapter_config.json` holds it."""
    if isinstance(value, Enum):
        return value.value
    return sorted(value) if isinstance(value, set) else value
