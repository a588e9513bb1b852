"""The settings of a training run: its command's options by topic, and the ranges that make sense."""

from dataclasses import dataclass, fields

from training.runs import option_groups as groups
from training.runs.setting_checks import at_least, below_one, known_choices, positive

SHARED = ("r", "lora_alpha", "lora_dropout", "target_modules")
"""a comparison of several methods sets them for every row; the methods that have no use for them take no notice"""


@dataclass(frozen=True)
class TrainSettings(  # the last class comes first among the fields, in `--help` and in config.json
    groups.FusionOptions,
    groups.PrefixOptions,
    groups.VirtualTokenOptions,
    groups.BottleneckOptions,
    groups.IA3Options,
    groups.TargetOptions,
    groups.LoraVariantOptions,
    groups.LoraOptions,
    groups.RunFolderOptions,
    groups.GenerationOptions,
    groups.EvaluationOptions,
    groups.OptimizerOptions,
    groups.TaskOptions,
):
    """Fine-tune a base model on one task. The same command goes on with a run that was stopped or killed."""

    def __post_init__(self):
        least = {
            "steps": 1,
            "batch_size": 1,
            "accumulation": 1,
            "max_length": 2,
            "eval_every": 1,
            "save_every": 1,
            "max_new_tokens": 1,
            "eval_rows": 1,
            "train_rows": 1,
            "num_virtual_tokens": 1,
            "patience": 1,
            "threads": 1,
            "samples": 0,
            "score_texts": 0,
            "weight_decay": 0,
            "seed": 0,
        }
        at_least(least, self)
        known_choices(self)
        if self.seed >= 2**32:
            raise ValueError(f"seed={self.seed}: expected less than {2**32}")
        if self.epochs is not None and self.steps != groups.OptimizerOptions.steps:
            raise ValueError(f"steps={self.steps} and epochs={self.epochs:g}: both set the length of the run; give one")
        positive(("epochs", "learning_rate", "max_grad_norm", "lora_alpha", "lora_plus_ratio"), self)
        below_one(("warmup_share", "lora_dropout"), self)
        self._refuse_unused()
        if self.method == "fusion" and len([m for m in self.members.split(",") if m.strip()]) < 2:
            raise ValueError(f"members={self.members!r}: a fusion has at least two, joined by commas")

    def _refuse_unused(self) -> None:
        """ValueError where an option is set that the chosen method does not use: it would have no effect."""
        unused = [
            field.name
            for group in groups.groups_of(type(self))
            if groups.used_by(group) and self.method not in groups.used_by(group)
            for field in fields(group)
            if field.name not in SHARED and getattr(self, field.name) != field.default
        ]
        if unused:
            raise ValueError(f"{', '.join(unused)}: method {self.method!r} does not use that")
