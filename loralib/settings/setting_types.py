"""The types that the settings in an `adapter_config.json` must have. A file in which one differs is damaged, or very old."""

import re
from collections.abc import Callable
from typing import Any

Check = Callable[[Any], bool]


def check_types(settings: dict[str, Any]) -> None:
    """ValueError for the first setting of a wrong type: its name, what was found and what was expected. None passes."""
    for key, (fits, expected) in EXPECTED.items():
        value = settings.get(key)
        if value is not None and not fits(value):
            raise ValueError(f"{key}={value!r}: expected {expected}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _list_of(fits: Check) -> Check:
    return lambda value: isinstance(value, list) and all(fits(each) for each in value)


def _dict_of(fits: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(_is_pattern(k) and fits(v) for k, v in value.items())


def _either(*checks: Check) -> Check:
    return lambda value: any(fits(value) for fits in checks)


def _is_pattern(value: Any) -> bool:
    """A text that is a regular expression."""
    try:
        re.compile(value)
    except (re.error, TypeError, OverflowError, RecursionError):
        return False
    return isinstance(value, str)


NAMES = (_either(_is_pattern, _list_of(_is_text)), "a list of names or one regular expression")
EXPECTED: dict[str, tuple[Check, str]] = {
    "target_modules": NAMES,
    "exclude_modules": NAMES,
    "feedforward_modules": NAMES,
    "modules_to_save": (_list_of(_is_text), "a list of names"),
    "layers_to_transform": (_either(_is_whole, _list_of(_is_whole)), "layer numbers from 0"),
    "layers_pattern": (_either(_is_pattern, _list_of(_is_pattern)), "names of lists of layers"),
    "rank_pattern": (_dict_of(_is_whole), "{regular expression: rank}"),
    "alpha_pattern": (_dict_of(_is_number), "{regular expression: number}"),
    "enable_lora": (
        _dict_of(_list_of(_is_flag)),
        "{name: [true, false, ...]} (a list alone is of peft 0.2, whose layers for several projections peft has given up)",
    ),
    "enable_lora_patterns": (_list_of(_dict_of(_is_number)), "two patterns, of ranks and of lora_alpha"),
    "r": (_is_whole, "a whole number of at least 1"),
    "lora_alpha": (_is_number, "a number"),
    "lora_dropout": (_is_number, "a probability in [0, 1)"),
    "bias": (_is_text, "none, all or lora_only (VeRA: vera_only)"),
    "vera_dropout": (_is_number, "a probability in [0, 1)"),
    "d_initial": (_is_number, "a number"),
    "projection_prng_key": (_is_whole, "a whole number"),
    "save_projection": (_is_flag, "true or false"),
    "use_rslora": (_is_flag, "true or false"),
    "use_dora": (_is_flag, "true or false"),
    "fan_in_fan_out": (_is_flag, "true or false"),
    "task_type": (_is_text, "a text such as SEQ_CLS"),
    "peft_type": (_is_text, "LORA, IA3 or VERA"),
    "base_model_name_or_path": (_is_text, "a folder or a name"),
    "init_lora_weights": (_either(_is_flag, _is_text), "true, false or the name of an initialization"),
}
