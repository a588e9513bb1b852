"""What the settings of every command are checked for: least values, choices, shares, positive numbers."""

import math
from typing import Any, Literal, get_args, get_origin, get_type_hints


def at_least(least: dict[str, int], settings: Any) -> None:
    """ValueError for the first setting below its least value; None passes."""
    for name, low in least.items():
        value = getattr(settings, name)
        if value is not None and not value >= low:
            raise ValueError(f"{name}={value}: expected at least {low}")


def known_choices(settings: Any) -> None:
    """ValueError for a setting that is none of the words of its Literal."""
    for name, kind in get_type_hints(type(settings)).items():
        if get_origin(kind) is Literal and getattr(settings, name) not in get_args(kind):
            raise ValueError(f"{name} {getattr(settings, name)!r} is unknown; there are {', '.join(get_args(kind))}")


def below_one(names: tuple[str, ...], settings: Any) -> None:
    """ValueError for a share outside [0, 1)."""
    for name in names:
        if not 0 <= getattr(settings, name) < 1:
            raise ValueError(f"{name}={getattr(settings, name)}: expected 0 or more and less than 1")


def positive(names: tuple[str, ...], settings: Any) -> None:
    """ValueError for a number that is not above 0 and finite; None passes."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name}={value}: expected more than 0, and finite")
