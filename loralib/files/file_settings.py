"""The settings of a file against the model and against the file's tensors.

`inject` is strict about names, because a person typed them. In a file, peft ignores a name that matches nothing, and the tensors
tell what belongs to the adapter: a file is valid if all its tensors fit and all are used (`checkpoint.check_fits`).
"""

import re
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from torch import Tensor, nn

from loralib.injection.matching import match_targets, model_paths
from loralib.variants.config import AdapterConfig
from loralib.variants.names import name_ends_with, pattern_fits


def without_unused(model: nn.Module, config: AdapterConfig) -> AdapterConfig:
    """The settings without those that match nothing in this model, and so have no effect. ValueError where no target is left."""
    paths = model_paths(model)
    targets = _matching_names(config.target_modules, paths) or config.target_modules  # all unknown: the matching names them
    layers = None if config.layers_to_transform == [] else config.layers_to_transform
    config = replace(
        config,
        target_modules=targets,
        exclude_modules=_matching_names(config.exclude_modules, paths),
        layers_to_transform=layers,
        layers_pattern=None if layers is None else config.layers_pattern,
    )
    matched = match_targets(model, config)
    known = {field.name for field in fields(config)}
    patterns: dict[str, Any] = {
        setting: {key: value for key, value in getattr(config, setting).items() if any(fits(key, path) for path in matched)}
        for setting, fits in PATTERNS.items()
        if setting in known
    }
    return replace(config, **patterns)


PATTERNS = {
    "rank_pattern": pattern_fits,
    "alpha_pattern": pattern_fits,
    "enable_lora": lambda key, path: name_ends_with(path, key),
}


def _matching_names(given: list[str] | str | None, paths: list[str]) -> Any:
    if isinstance(given, list):
        return [name for name in given if any(name_ends_with(path, name) for path in paths)] or None
    if given and given != "all-linear" and not any(re.fullmatch(given, path) for path in paths):
        return None
    return given


def check_ranks(model: nn.Module, config: AdapterConfig, tensors: dict[str, Tensor]) -> None:
    """ValueError for a rank above that of every factor in the file, before memory for it is asked for."""
    modules = {path: model.get_submodule(path) for path in match_targets(model, config)}
    for path, variant in config.variants(modules).items():
        largest = variant.largest_rank(tensors)
        if largest is not None and variant.r > max(largest, 1):
            raise ValueError(
                f"{path}: the settings give rank {variant.r}, and the factors in the file have ranks up to {largest}"
            )


def heads_in_file(model: nn.Module, names: list[str], keys: Iterable[str]) -> tuple[list[str], list[str]]:
    """(paths of the heads whose tensors are in the file, names of heads that this model has and the file has not).

    `modules_to_save` lists names that a model may lack (`classifier`, `score`). peft compares the end of the path as a text, so
    that `classifier` also means DistilBERT's `pre_classifier`.
    """
    paths, keys = model_paths(model), list(keys)
    there = [p for p in paths if any(p.endswith(n) for n in names) and any(key.startswith(f"{p}.") for key in keys)]
    lost = [n for n in names if not any(p.endswith(n) for p in there) and _has_parameters(model, n, paths)]
    return there, lost


def _has_parameters(model: nn.Module, name: str, paths: list[str]) -> bool:
    owners = (model.get_submodule(path) for path in paths if name_ends_with(path, name))
    return any(next(owner.parameters(), None) is not None for owner in owners)
