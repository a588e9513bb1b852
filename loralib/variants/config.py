"""The settings of adapters. Field names are peft's, so that its files and its users' habits carry over.

`AdapterConfig` is the base class. It also says how its settings become a variant for each module, and how they are written to and
read from `adapter_config.json`. `LoraConfig` covers LoRA, DoRA and PiSSA, as in peft.
"""

import math
import re
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

from torch import nn

from loralib.rslora import lora_scaling
from loralib.variants.dora import Dora
from loralib.variants.lora import Lora
from loralib.variants.names import name_ends_with, of_pattern, pattern_fits
from loralib.variants.pissa import Pissa
from loralib.variants.variant import Variant

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

    peft_type: ClassVar[str] = ""
    """the name of the method in the file"""
    required: ClassVar[tuple[str, ...]] = ("target_modules",)
    """settings that a file must hold"""

    def variants(self, modules: dict[str, nn.Module]) -> dict[str, Variant]:
        """A variant for every matched module, by path. ValueError for a setting that fits none of them."""
        raise NotImplementedError(f"{type(self).__name__} does not say its variants")

    def file_settings(self, variants: dict[str, Variant]) -> dict[str, Any]:
        """What `adapter_config.json` holds beside the settings of every method. `variants`: those in the model, by path."""
        return {name: getattr(self, name) for name in self.own_fields()}

    @classmethod
    def from_file(cls, settings: dict[str, Any], shared: dict[str, Any]) -> Self:
        """The settings of a file; `shared`: those of every method."""
        return cls(**shared, **{name: settings[name] for name in cls.own_fields() if settings.get(name) is not None})

    @classmethod
    def own_fields(cls) -> list[str]:
        """Names of the settings that this method has beside those of every method."""
        return [f.name for f in fields(cls) if f.name not in {shared.name for shared in fields(AdapterConfig)}]


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

    peft_type: ClassVar[str] = "LORA"
    required: ClassVar[tuple[str, ...]] = ("r", "lora_alpha", "target_modules")

    def __post_init__(self):
        check_targets(self.target_modules)
        check_rank(self.r, "r")
        _check_alpha(self.lora_alpha, "lora_alpha")
        for name, r in self.rank_pattern.items():
            check_rank(r, f"rank_pattern[{name!r}]")
        for name, alpha in self.alpha_pattern.items():
            _check_alpha(alpha, f"alpha_pattern[{name!r}]")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout={self.lora_dropout!r}: expected a probability in [0, 1)")
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

    def variants(self, modules: dict[str, nn.Module]) -> dict[str, Variant]:
        paths = list(modules)
        for suffix in self.enable_lora:
            if not any(name_ends_with(path, suffix) for path in paths):
                raise ValueError(f"enable_lora names {suffix!r}, which is none of the matched modules, e.g. {paths[:3]}")
        for setting in ("rank_pattern", "alpha_pattern"):
            unused = [key for key in getattr(self, setting) if not any(pattern_fits(key, path) for path in paths)]
            if unused:
                raise ValueError(f"{setting}: {unused[0]!r} fits none of the matched modules, e.g. {paths[:3]}")
        return {path: self._variant(path) for path in paths}

    def _variant(self, path: str) -> Lora:
        variant = Dora if self.use_dora else Pissa if self.init_lora_weights == "pissa" else Lora
        r, alpha = of_pattern(self.rank_pattern, path, self.r), of_pattern(self.alpha_pattern, path, self.lora_alpha)
        parts = next((tuple(parts) for suffix, parts in self.enable_lora.items() if name_ends_with(path, suffix)), None)
        return variant(r, self.lora_dropout, alpha, parts, self.use_rslora)

    def file_settings(self, variants: dict[str, Variant]) -> dict[str, Any]:
        """The patterns give rank and alpha of every layer whose plain form in the file differs from the settings."""
        in_file = {path: v.file_rank_and_alpha() for path, v in variants.items() if isinstance(v, Lora)}
        own = {"enable_lora": self.enable_lora, "enable_lora_patterns": [self.rank_pattern, self.alpha_pattern]}
        return {
            "r": self.r,
            "lora_alpha": self.lora_alpha,
            "lora_dropout": self.lora_dropout,
            "layers_to_transform": None,
            "layers_pattern": None,
            "rank_pattern": {f"^{re.escape(path)}": r for path, (r, _) in in_file.items() if r != self.r},
            "alpha_pattern": {f"^{re.escape(path)}": alpha for path, (_, alpha) in in_file.items() if alpha != self.lora_alpha},
            "bias": self.bias,
            "init_lora_weights": True,
            "use_rslora": self.use_rslora,
            "use_dora": self.use_dora,
            **(own if self.enable_lora else {}),
        }

    @classmethod
    def from_file(cls, settings: dict[str, Any], shared: dict[str, Any]) -> Self:
        patterns = [settings.get("rank_pattern") or {}, settings.get("alpha_pattern") or {}]
        rank_pattern, alpha_pattern = settings.get("enable_lora_patterns") or patterns
        return cls(
            **shared,
            r=settings["r"],
            lora_alpha=settings["lora_alpha"],
            lora_dropout=settings.get("lora_dropout") or 0.0,
            rank_pattern=rank_pattern,
            alpha_pattern=alpha_pattern,
            bias=settings.get("bias") or "none",
            use_rslora=bool(settings.get("use_rslora")),
            use_dora=bool(settings.get("use_dora")),
            enable_lora=settings.get("enable_lora") or {},
        )


def check_targets(targets: list[str] | str) -> None:
    if not targets:
        raise ValueError('target_modules is empty: give names, a regular expression, or "all-linear"')


def check_rank(r, name: str) -> None:
    if not isinstance(r, Integral) or isinstance(r, bool) or r < 1:
        raise ValueError(f"{name}={r!r}: the rank must be a whole number of at least 1")


def _check_alpha(alpha, name: str) -> None:
    if isinstance(alpha, bool) or not isinstance(alpha, Real) or not math.isfinite(alpha):
        raise ValueError(f"{name}={alpha!r}: expected a finite number")
    if alpha == 0:
        raise ValueError(f"{name}=0: the update would always be zero, so nothing could train")
