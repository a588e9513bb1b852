"""Prefix and prompt configs from peft's settings: a dictionary, or an object of peft (`peft.PromptTuningConfig(...)`)."""

from enum import Enum
from typing import Any

from adapters.virtual.prefix import PrefixTuningConfig
from adapters.virtual.prompt import PromptTuningConfig

CONFIGS = {"PREFIX_TUNING": PrefixTuningConfig, "PROMPT_TUNING": PromptTuningConfig}
NO_EFFECT = ("auto_mapping", "inference_mode", "peft_type", "peft_version", "revision")
"""notes in peft's settings"""


def virtual_config(settings: dict[str, Any]) -> PrefixTuningConfig | PromptTuningConfig:
    """The config for peft's settings. ValueError for a setting that is given and has no counterpart here."""
    plain = {key: value.value if isinstance(value, Enum) else value for key, value in settings.items()}
    method = CONFIGS[plain["peft_type"]]
    fields = method.__dataclass_fields__
    given = {
        key: value
        for key, value in plain.items()
        if key not in NO_EFFECT and value is not None and (key in fields or value is not False)  # peft switches these off
    }
    unknown = sorted(given.keys() - fields.keys())
    if unknown:
        raise ValueError(f"{method.__name__}: no counterpart here: {', '.join(unknown)}; there are {', '.join(fields)}")
    return method(**given)


def config_from_file(settings: dict[str, Any]) -> PrefixTuningConfig | PromptTuningConfig:
    """The config for the settings of a saved adapter, which also hold sizes that peft derived from the model.

    A file of a prefix has no network: its result was written down.
    """
    fields = CONFIGS[settings["peft_type"]].__dataclass_fields__.keys() - {"encoder_hidden_size", "prefix_projection"}
    known = {key: value for key, value in settings.items() if key in fields or key == "peft_type"}
    if settings["peft_type"] == "PREFIX_TUNING":
        known.setdefault("keep_positions", False)  # as in peft
    return virtual_config(known)


def is_virtual_config(config: Any) -> bool:
    """Whether an object is a config of a prefix or prompt, ours or peft's."""
    if isinstance(config, tuple(CONFIGS.values())):
        return True
    return type(config).__module__.partition(".")[0] == "peft" and _peft_type(config) in CONFIGS


def our_virtual_config(config: Any) -> PrefixTuningConfig | PromptTuningConfig:
    """The same settings as an object of ours, which is returned as it is."""
    return config if isinstance(config, tuple(CONFIGS.values())) else virtual_config(config.to_dict())


def _peft_type(config: Any) -> str:
    kind = getattr(config, "peft_type", None)
    return kind.value if isinstance(kind, Enum) else str(kind)
