"""(IA)³: learn one factor for each feature, and no matrix (Liu et al. 2022, arXiv 2205.05638, section 3.3).

    y = l ⊙ (W x + b)      on keys and values: the output's features are scaled
    y = W (l ⊙ x) + b      in a feed-forward block: the input's features are scaled (`feedforward_modules`)

l starts at 1, so the model starts as the base. Merging scales rows (and the bias) or columns of W.
"""

from dataclasses import dataclass, field

from loralib.config import AdapterConfig, check_targets


@dataclass(frozen=True)
class IA3Config(AdapterConfig):
    """Settings of one (IA)³ adapter; field names are peft's. The paper: keys, values, and the second feed-forward layer."""

    feedforward_modules: list[str] | str = field(default_factory=list)
    """those of the target modules whose input is scaled; names or one regular expression"""

    def __post_init__(self):
        check_targets(self.target_modules)
