"""What an adapter is made of. Field names are peft's, so that its files and its users' habits carry over."""

import math
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Literal

from loralib.rslora import lora_scaling

ALL_LINEAR = "all-linear"
BIAS = ("none", "all", "lora_only")


@dataclass(frozen=True)
class AdapterConfig:
    """What every kind of adapter says: where it sits, and what is trained beside it."""

    target_modules: list[str] | str = ALL_LINEAR
    """list of names (whole, or the end after a dot), one regular expression (matched in full), or `all-linear`"""
    exclude_modules: list[str] | str | None = None
    """names or one regular expression to leave out"""
    layers_to_transform: list[int] | tuple[int, ...] | int | None = None
    """layer numbers to adapt; None is all"""
    layers_pattern: list[str] | str | None = None
    """name of the list of layers, where a path holds several numbers"""
    modules_to_save: list[str] | None = None
    """modules to train and save whole; None finds the new heads of a transformers model, [] is none"""
    task_type: str | None = None
    """peft's task type (SEQ_CLS, CAUSAL_LM, ...), kept in the file"""
    base_model_name_or_path: str | None = None
    """where the base came from, kept in the file"""


@dataclass(frozen=True, kw_only=True)
class LoraConfig(AdapterConfig):
    """Settings of one LoRA adapter (Hu et al. 2021).

    Raises ValueError for settings that cannot work: a rank below 1, a dropout outside [0, 1), no target.
    """

    r: int = 8
    """rank of the update"""
    lora_alpha: float = 8
    """numerator of the scale: the update is lora_alpha / r · B A"""
    lora_dropout: float = 0.0
    """dropout rate on the input of the LoRA branch; the frozen branch never drops"""
    rank_pattern: dict[str, int] = field(default_factory=dict)
    """other ranks for some modules: {name or regular expression for the end of a path: rank}; the first that fits counts"""
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    """other values of lora_alpha for some modules, in the same way"""
    bias: Literal["none", "all", "lora_only"] = "none"
    """biases to train beside the factors: none, those of the adapted modules, or all. Each adapter has copies of its own"""
    use_rslora: bool = False
    """rank-stabilised scale lora_alpha / √r (`rslora.py`)"""
    use_dora: bool = False
    """learn the rows' lengths apart from their directions (`dora.py`)"""
    enable_lora: dict[str, list[bool]] = field(default_factory=dict)
    """which equal parts of a wide projection to adapt, for example {"c_attn": [True, False, True]} for q and v"""
    init_lora_weights: bool | Literal["pissa"] = True
    """True: the update starts at zero. "pissa": at the principal directions (`pissa.py`). False: random (for tests)"""

    def __post_init__(self):
        check_targets(self.target_modules)
        _check_rank(self.r, "r")
        _check_alpha(self.lora_alpha, "lora_alpha")
        for name, r in self.rank_pattern.items():
            _check_rank(r, f"rank_pattern[{name!r}]")
        for name, alpha in self.alpha_pattern.items():
            _check_alpha(alpha, f"alpha_pattern[{name!r}]")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout={self.lora_dropout!r}: expected a rate in [0, 1)")
        for name, parts in self.enable_lora.items():
            if not any(parts):
                raise ValueError(f"enable_lora[{name!r}]={parts}: no part is switched on, so nothing would train")
        if self.bias not in BIAS:
            raise ValueError(f"bias={self.bias!r}: expected one of {', '.join(BIAS)}")
        if self.init_lora_weights not in (True, False, "pissa"):
            raise ValueError(f"init_lora_weights={self.init_lora_weights!r}: expected True, False or 'pissa'")
        special = [n for n, on in (("use_dora", self.use_dora), ("pissa", self.init_lora_weights == "pissa")) if on]
        if self.enable_lora and special:
            raise ValueError(f"{special[0]} works on a whole weight, so it cannot be joined with enable_lora={self.enable_lora}")
        if len(special) > 1:
            raise ValueError(
                "use_dora with init_lora_weights='pissa': DoRA's lengths would be those of the base, not of PiSSA's rest"
            )

    @property
    def scaling(self) -> float:
        """The factor of B A where no pattern changes it."""
        return lora_scaling(self.lora_alpha, self.r, self.use_rslora)


def check_targets(targets: list[str] | str) -> None:
    if not targets:
        raise ValueError('target_modules is empty: give names, a regular expression, or "all-linear"')


def _check_rank(r, name: str) -> None:
    if not isinstance(r, Integral) or isinstance(r, bool) or r < 1:
        raise ValueError(f"{name}={r!r}: the rank must be a whole number of at least 1")


def _check_alpha(alpha, name: str) -> None:
    if isinstance(alpha, bool) or not isinstance(alpha, Real) or not math.isfinite(alpha):
        raise ValueError(f"{name}={alpha!r}: expected a finite number")
    if alpha == 0:
        raise ValueError(f"{name}=0: the update would always be zero, so nothing could train")
