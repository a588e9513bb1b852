"""The settings of a distillation: its command's options, with their help."""

from dataclasses import dataclass
from pathlib import Path

from distill.compression.compress_config import CompressConfig
from distill.losses.loss_specs import HARD, LossSpec, needs_teacher, read_losses
from distill.runs import option_groups as groups
from distill.student.copy_spec import PREFIX, read_copy
from training.runs.setting_checks import at_least, below_one, known_choices, positive


@dataclass(frozen=True)
class DistillSettings(  # the last class comes first among the fields
    groups.RunFolderOptions,
    groups.EvaluationOptions,
    groups.OptimizerOptions,
    groups.CompressionOptions,
    groups.GenerationOptions,
    groups.TeacherOptions,
    groups.DataOptions,
    groups.PairOptions,
):
    """Train a student to answer as its teacher does. The same command goes on with a run that was stopped or killed."""

    def __post_init__(self):
        ones = (
            "steps",
            "batch_size",
            "accumulation",
            "eval_every",
            "save_every",
            "train_rows",
            "eval_rows",
            "cache_top",
            "threads",
        )
        zeros = ("seed", "transfer_rows", "score_texts", "weight_decay")
        at_least(dict.fromkeys((*ones, "beams", "max_new_tokens"), 1) | dict.fromkeys(zeros, 0) | {"max_length": 2}, self)
        known_choices(self)
        below_one(("warmup_share",), self)
        positive(("learning_rate", "max_grad_norm"), self)
        if self.compress() and self.method != "full":
            raise ValueError("method lora: cuts, zeros and fewer bits are for students that train whole")
        if self.compress() and self.keep == "best":
            raise ValueError(
                "keep='best': the best weights may be from before a cut or before int8; compressed students keep the last"
            )
        self._check_models()

    def compress(self) -> CompressConfig:
        return CompressConfig(self.keep_heads, self.keep_units, self.zeros, self.bits)

    def _check_models(self) -> None:
        specs = self.loss_specs()
        if self.student.startswith(PREFIX):
            read_copy(self.student)
            if self.method != "full":
                raise ValueError(
                    "method lora: its file would need the copied student beside it; take full, or save the copy first"
                )
        if self.cache_top is not None and self.cache is None:
            raise ValueError("cache_top says how much of the teacher's answers to keep; give --cache FOLDER")
        if self.cache is not None and self.teacher_dropout:
            raise ValueError("a cache keeps one answer for each row; with teacher_dropout it would be another in every step")
        if self.cache is not None and not needs_teacher(specs):
            raise ValueError(f"losses {' '.join(self.losses)} ask for no answer of the teacher: leave --cache out")
        if not 0 <= self.on_policy <= 1:
            raise ValueError(f"on_policy={self.on_policy}: expected a share of the steps, 0 to 1")
        if self.on_policy and (self.cache is not None or not needs_teacher(specs)):
            raise ValueError(
                "on_policy asks the teacher about texts that are new in every step: it needs a loss on logits, no cache"
            )
        if self.cache_top is not None and any(spec.name == "mse" for spec in specs):
            raise ValueError("cache_top keeps probabilities, and mse compares logits: leave cache_top out, or take kd")
        if self.transfer_rows:
            self._check_transfer(specs)

    def _check_transfer(self, specs: list[LossSpec]) -> None:
        if self.targets == "teacher":
            raise ValueError(
                "targets teacher: the teacher writes every row's text, so none lacks a label; give all as train_rows"
            )
        if all(spec.name == HARD or spec.numbers.get("a") == (0, 0) for spec in specs):
            raise ValueError("transfer_rows have no labels, and these losses learn from nothing else: leave them out")

    def loss_specs(self) -> list[LossSpec]:
        return read_losses(self.losses)

    def folder(self) -> Path:
        return Path(self.out or f"runs/distill-{self.task or 'task'}")
