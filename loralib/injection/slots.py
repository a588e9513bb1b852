"""From an adapter's settings to the numbers of each layer: rank, scale, variant, by module. Every pattern must fit something."""

import re

from loralib.config import AdapterConfig, LoraConfig
from loralib.injection.matching import name_ends_with, pattern_fits
from loralib.layers.lora_layer import Kind, Slot
from loralib.variants.ia3 import IA3Config


def slots_for(config: AdapterConfig, names: list[str]) -> dict[str, Slot]:
    """A Slot for every matched path. ValueError for a pattern, part or feed-forward name that fits none of them."""
    if isinstance(config, IA3Config):
        return _ia3_slots(config, names)
    if not isinstance(config, LoraConfig):
        raise TypeError(f"{type(config).__name__} is no LoraConfig and no IA3Config")
    for suffix in config.enable_lora:
        if not any(name_ends_with(n, suffix) for n in names):
            raise ValueError(f"enable_lora names {suffix!r}, which is none of the matched modules, e.g. {names[:3]}")
    for setting in ("rank_pattern", "alpha_pattern"):
        unused = [key for key in getattr(config, setting) if not any(pattern_fits(key, n) for n in names)]
        if unused:
            raise ValueError(f"{setting}: {unused[0]!r} fits none of the matched modules, e.g. {names[:3]}")
    kind: Kind = "dora" if config.use_dora else "pissa" if config.init_lora_weights == "pissa" else "lora"
    return {
        name: Slot(
            of_pattern(config.rank_pattern, name, config.r),
            of_pattern(config.alpha_pattern, name, config.lora_alpha),
            config.lora_dropout,
            _parts_of(name, config),
            config.use_rslora,
            kind,
        )
        for name in names
    }


def of_pattern(pattern: dict, path: str, default):
    """The value of the first key that fits."""
    return next((value for key, value in pattern.items() if pattern_fits(key, path)), default)


def _parts_of(name: str, config: LoraConfig) -> tuple[bool, ...] | None:
    parts = next((parts for suffix, parts in config.enable_lora.items() if name_ends_with(name, suffix)), None)
    return None if parts is None else tuple(parts)


def _ia3_slots(config: IA3Config, names: list[str]) -> dict[str, Slot]:
    given = config.feedforward_modules
    if isinstance(given, str):
        inputs = {n for n in names if re.fullmatch(given, n)}
        unused = [] if inputs else [given]
    else:
        unused = [key for key in given if not any(name_ends_with(n, key) for n in names)]
        inputs = {n for n in names if any(name_ends_with(n, key) for key in given)}
    if unused:
        raise ValueError(f"feedforward_modules: {unused[0]!r} is none of the matched modules, e.g. {names[:3]}")
    return {name: Slot(1, 1.0, kind="ia3_input" if name in inputs else "ia3_output") for name in names}
