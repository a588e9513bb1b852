"""Ways to adapt a base: all weights, the head alone, the adapters of `loralib` and `adapters`, and `untouched`.

Each says what it trains.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

import loralib
from adapters.bottleneck.bottleneck import BottleneckConfig
from adapters.verbs import attach
from adapters.virtual.prefix import PrefixTuningConfig
from adapters.virtual.prompt import PromptTuningConfig
from loralib.injection.matching import new_heads, output_head
from loralib.variants.config import AdapterConfig
from training.data.tasks import TaskSpec
from training.models.base_models import PEFT_TASK_TYPE, Base
from training.models.fusing import FusionMembers, fuse_members

DEFAULTS = {
    "lora": loralib.LoraConfig,
    "qlora": loralib.LoraConfig,
    "ia3": loralib.IA3Config,
    "bottleneck": BottleneckConfig,
    "prefix": PrefixTuningConfig,
    "prompt": PromptTuningConfig,
}
ADAPTERS = tuple(DEFAULTS)
METHODS = ("untouched", "head", *ADAPTERS, "fusion", "full")
SMALL_MODEL = 5_000_000
# large: full and lora have the usual values of the papers; head and bottleneck have the better of two learning rates on SST-2.
# small: values between those that `python -m training gap` chose (training/results/gap/report.md)
LEARNING_RATE = {
    "small": {
        "full": 1e-3,
        "head": 1e-2,
        "lora": 5e-3,
        "qlora": 5e-3,
        "ia3": 1e-2,
        "bottleneck": 1e-2,
        "fusion": 2e-3,
        "prefix": 5e-2,
        "prompt": 1e-1,
    },
    "large": {
        "full": 5e-5,
        "head": 1e-2,
        "lora": 5e-4,
        "qlora": 5e-4,
        "ia3": 1e-2,
        "bottleneck": 2e-3,
        "fusion": 5e-4,
        "prefix": 1e-2,
        "prompt": 3e-2,
    },
}

Config = AdapterConfig | BottleneckConfig | PrefixTuningConfig | PromptTuningConfig | FusionMembers


@dataclass(frozen=True)
class Method:
    """A prepared model's method: `report` is LoRA's match table or one line."""

    name: str
    report: str


def default_learning_rate(method: str, model: nn.Module) -> float:
    size = "small" if loralib.count_parameters(model).base < SMALL_MODEL else "large"
    return LEARNING_RATE[size][method]


def apply_method(name: str, base: Base, spec: TaskSpec, config: Config | None = None, seed: int = 0) -> Method:
    """Freeze and adapt `base.model` in place. ValueError for an unknown method or a model without a head to train."""
    if name == "untouched":
        base.model.requires_grad_(False)
        return Method(name, "nothing trains")
    if name == "full":
        base.model.requires_grad_(True)
        return Method(name, "all weights train")
    if name == "head":
        return Method(name, f"only {', '.join(train_head(base, spec))} trains")
    if name == "fusion":
        if not isinstance(config, FusionMembers):
            raise ValueError("method fusion needs the folders of its members")
        return Method(name, fuse_members(base, spec, config, seed))
    if name in ADAPTERS:
        if isinstance(config, FusionMembers):
            raise ValueError(f"method {name} fuses no members")
        return Method(name, _adapt(name, base, spec, config or DEFAULTS[name](), seed))
    raise ValueError(f"method {name!r} is unknown; there are {', '.join(METHODS)}")


def _adapt(name: str, base: Base, spec: TaskSpec, config: Any, seed: int) -> str:
    """Put the adapter in, with the heads that the task needs; its report."""
    if config.modules_to_save is None:
        config = replace(config, modules_to_save=list(base.new_modules) or ([] if spec.is_language_modelling else None))
    if not isinstance(config, BottleneckConfig):  # it has no place for the two: its file is not peft's
        config = replace(config, task_type=PEFT_TASK_TYPE[spec.kind], base_model_name_or_path=base.model.config.name_or_path)
    if name == "qlora" and base.quantised is None:
        raise ValueError("method qlora needs a base in 4 bits: load_base(..., four_bit=True)")
    report = attach(base.model, config, seed=seed, tokenizer=base.tokenizer)
    return f"{base.quantised}\n" * (name == "qlora") + str(report)


def train_head(base: Base, spec: TaskSpec) -> list[str]:
    """Freeze all but the task's head; returns the paths of what trains. ValueError for a model without one."""
    model = base.model
    model.requires_grad_(False)
    names = [output_head(model)] if spec.is_language_modelling else (list(base.new_modules) or new_heads(model))
    if not names or names == [None]:
        raise ValueError(f"{type(model).__name__} has no head that method 'head' could train")
    if spec.is_language_modelling:
        _untie(model, str(names[0]))
    for name in names:
        model.get_submodule(str(name)).requires_grad_(True)
    return [str(n) for n in names]


def _untie(model, name: str) -> None:
    """A word head tied to the input embedding would drag the embedding along: give it a copy of its own."""
    head = model.get_submodule(name)
    head.weight = nn.Parameter(head.weight.detach().clone())
    model.config.tie_word_embeddings = False
