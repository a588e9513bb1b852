"""peft's names for what `verbs.py` does, for programs that were written with peft: `PeftConfig`, `PeftModel`, `get_peft_config`.

A model here stays what it is: `PeftModel.from_pretrained(model, folder)` changes it in place and returns it.
"""

from dataclasses import MISSING, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from torch import nn

from adapters.verbs import load
from adapters.virtual import peft_settings
from loralib.files.read_adapter import CONFIG, AdapterFileError, read_json
from loralib.settings.peft_config import config_from_peft
from loralib.variants.registry import CONFIGS


class PromptTuningInit(StrEnum):
    """How a prompt starts; the values of `PromptTuningConfig.prompt_tuning_init`."""

    TEXT = "TEXT"
    SAMPLE_VOCAB = "SAMPLE_VOCAB"
    RANDOM = "RANDOM"


def get_peft_config(config_dict: dict[str, Any]) -> Any:
    """The config for a dictionary of peft's settings; `peft_type` is LORA, IA3, VERA, PREFIX_TUNING or PROMPT_TUNING.

    ValueError for another type, or for a setting that has no counterpart here.
    """
    if "peft_type" not in config_dict:
        raise ValueError(f"peft_type is missing; there are {sorted(config_dict)}")
    kind = str(getattr(config_dict["peft_type"], "value", config_dict["peft_type"]))
    if kind in peft_settings.CONFIGS:
        return peft_settings.virtual_config(config_dict | {"peft_type": kind})
    method = CONFIGS.get(kind)  # a file must say what a program may leave to the defaults
    defaults = {f.name: f.default for f in fields(method) if f.name in method.required} if method else {}
    given = {name: value for name, value in defaults.items() if value not in (None, MISSING)} | config_dict
    return config_from_peft(given | {"peft_type": kind})


class PeftConfig:
    """Reads the config of a saved adapter."""

    @staticmethod
    def from_pretrained(folder: str | Path) -> Any:
        """The config in `folder`, of LoRA and its variants, a prefix or a prompt. AdapterFileError where there is none."""
        path = Path(folder) / CONFIG
        settings = read_json(path)
        if settings.get("type") == "bottleneck":
            raise AdapterFileError(f"{path}: a bottleneck adapter, which peft does not have: adapters.load(model, folder)")
        try:
            if str(settings.get("peft_type")) in peft_settings.CONFIGS:
                return peft_settings.config_from_file(settings)
            return config_from_peft(settings)
        except (ValueError, TypeError, KeyError) as error:
            raise AdapterFileError(f"{path}: {error}") from error


class PeftModel:
    """Loads a saved adapter; there is no wrapper around the model."""

    @staticmethod
    def from_pretrained(
        model: nn.Module, folder: str | Path, adapter_name: str = "default", is_trainable: bool = False
    ) -> nn.Module:
        """`adapters.load`, which returns the same model. AdapterFileError for a folder that does not fit."""
        load(model, folder, adapter_name, trainable=is_trainable)
        return model
