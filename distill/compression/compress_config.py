"""How small a student becomes: the shares that stay, the zeros, and the bits. `compress.py` does it."""

from dataclasses import dataclass
from typing import Literal

Bits = Literal["float32", "int8", "nf4"]


@dataclass(frozen=True)
class CompressConfig:
    """How small. Shares are of what the student has at the start."""

    heads: float = 1.0
    units: float = 1.0
    zeros: float = 0.0
    bits: Bits = "float32"

    def __post_init__(self):
        for name, value in (("heads", self.heads), ("units", self.units)):
            if not 0 < value <= 1:
                raise ValueError(f"{name}={value}: expected a share that stays, more than 0 and at most 1")
        if not 0 <= self.zeros < 1:
            raise ValueError(f"zeros={self.zeros}: expected a share, 0 or more and less than 1")
        if self.zeros and self.cuts:
            raise ValueError("zeros and cuts: a cut throws the masks away; take one of them")
        if self.bits == "nf4" and self.cuts:
            raise ValueError(
                "bits nf4 and cuts: the format of 4-bit files has no place for layers of different widths; take int8"
            )

    @property
    def cuts(self) -> bool:
        return self.heads < 1 or self.units < 1

    def __bool__(self) -> bool:
        return self != CompressConfig()
