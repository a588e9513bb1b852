"""How a command line names a student that is cut out of its teacher:  copy:1,3  copy:2,hidden=12,heads=2,intermediate=7

`student.py` says what the parts mean and makes the student.
"""

from dataclasses import dataclass

PREFIX = "copy:"
WIDTHS = {
    "hidden": ("hidden_size",),
    "heads": ("num_attention_heads",),
    "intermediate": ("intermediate_size", "n_inner", "hidden_dim"),
}
"""what the configs of transformers call it: the first name that a config has"""


@dataclass(frozen=True)
class CopySpec:
    """Which layers (from 1), and the widths that change."""

    layers: tuple[int, ...]
    widths: dict[str, int]


def read_copy(text: str) -> CopySpec:
    """`copy:1,3,heads=2` as a CopySpec; ValueError for anything else."""
    layers, widths = [], {}
    for part in filter(None, text.removeprefix(PREFIX).split(",")):
        name, equals, value = part.partition("=")
        if not (value if equals else part).isdecimal() or (equals and name not in WIDTHS):
            raise ValueError(f"student {text!r}: {part!r}; expected layers, as in copy:1,3,5, and {', '.join(WIDTHS)}=NUMBER")
        if equals:
            widths[name] = int(value)
        else:
            layers.append(int(part))
    if not layers:
        raise ValueError(f"student {text!r}: expected at least one layer, as in copy:1,3,5")
    return CopySpec(tuple(layers), widths)
