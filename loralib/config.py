"""What a LoRA adapter is made of. Field names are peft's, so that its files and its users' habits carry over."""

import math
from dataclasses import dataclass, field
from numbers import Integral, Real

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class LoraConfig:
    """Settings of one adapter (Hu et al. 2021).

    Raises ValueError for settings that cannot work: a rank below 1, a dropout outside [0, 1), no target.
    """

    r: int = 8
    """rank of the update"""
    lora_alpha: float = 8
    """numerator of the scale: the update is lora_alpha / r · B A"""
    lora_dropout: float = 0.0
    """dropout rate on the input of the LoRA branch; the frozen branch never drops"""
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
    enable_lora: dict[str, list[bool]] = field(default_factory=dict)
    """which equal parts of a wide projection to adapt, for example {"c_attn": [True, False, True]} for q and v"""
    init_lora_weights: bool = True
    """True: the update starts at zero. False: both factors random (for tests: the update shows at once)"""
    task_type: str | None = None
    """peft's task type (SEQ_CLS, CAUSAL_LM, ...), kept in the file"""
    base_model_name_or_path: str | None = None
    """where the base came from, kept in the file"""

    def __post_init__(self):
        if not isinstance(self.r, Integral) or isinstance(self.r, bool) or self.r < 1:
            raise ValueError(f"r={self.r!r}: the rank must be a whole number of at least 1")
        if isinstance(self.lora_alpha, bool) or not isinstance(self.lora_alpha, Real) or not math.isfinite(self.lora_alpha):
            raise ValueError(f"lora_alpha={self.lora_alpha!r}: expected a finite number")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout={self.lora_dropout!r}: expected a rate in [0, 1)")
        if not self.target_modules:
            raise ValueError('target_modules is empty: give names, a regular expression, or "all-linear"')
        for name, parts in self.enable_lora.items():
            if not any(parts):
                raise ValueError(f"enable_lora[{name!r}]={parts}: no part is switched on, so nothing would train")

    @property
    def scaling(self) -> float:
        """lora_alpha / r, the factor of B A."""
        return self.lora_alpha / self.r
