"""peft's two rules for names: the end of a path, and a regular expression for the end of a path."""

import re
from typing import Any


def name_ends_with(path: str, name: str) -> bool:
    """peft's suffix rule: the whole path, or its end after a dot."""
    return path == name or path.endswith("." + name)


def pattern_fits(key: str, path: str) -> bool:
    """peft's rule for patterns: the regular expression matches the whole path, or its end after a dot; `^` binds it to the
    whole."""
    return re.match(rf"(.*\.)?({key})$", path) is not None


def of_pattern(pattern: dict[str, Any], path: str, default: Any) -> Any:
    """The value of the first key that fits."""
    return next((value for key, value in pattern.items() if pattern_fits(key, path)), default)


def named(setting: str, given: list[str] | str, paths: list[str]) -> set[str]:
    """The paths that a list of names, or one regular expression, names. ValueError for a name of none of them."""
    if isinstance(given, str):
        matches = {path for path in paths if re.fullmatch(given, path)}
        unused = [] if matches else [given]
    else:
        unused = [key for key in given if not any(name_ends_with(path, key) for path in paths)]
        matches = {path for path in paths if any(name_ends_with(path, key) for key in given)}
    if unused:
        raise ValueError(f"{setting}: {unused[0]!r} is none of the matched modules, e.g. {paths[:3]}")
    return matches
