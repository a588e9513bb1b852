"""The settings of a distillation: its command's options, with their help."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distill.compress import CompressConfig
from distill.loss_words import HARD, LossWord, needs_teacher, read_losses
from distill.student import PREFIX, read_copy
from training.setting_checks import at_least, below_one, known_choices, positive


@dataclass(frozen=True)
class DistillSettings:
    """Train a student to answer as its teacher does. The same command goes on with a run that was stopped or killed."""

    teacher: str = ""
    """folder of a trained model (runs/NAME/adapter); several, joined by commas, answer with the mean of their probabilities"""
    student: str = ""
    """copy:1,3 (these layers of the teacher; also copy:1,hidden=32,heads=2,intermediate=64), a folder, or a Hub name"""
    task: str | None = None
    """None is the teacher's; another of the same kind and labels, such as sick for a teacher of mnli"""
    losses: tuple[str, ...] = ("kd:T=2,a=0.9",)
    """hard, kd, mse, reverse_kl, jsd, skl, srkl, tv (T=, a= share of the teacher); hidden, cosine, patient, transfer, scores,
    attention, values, relations with layers STUDENT->TEACHER (w= weight); a number may move: a=1..0"""
    method: Literal["full", "lora"] = "full"
    """what of the student trains; lora: an adapter and its head, for a student that is no copy"""
    random_weights: bool = False
    """keep the student's shape and drop its weights"""
    data_dir: str | None = None
    train_rows: int | None = None
    """rows whose labels the student may use; None is all (small world: the task's usual number)"""
    transfer_rows: int = 0
    """further training rows without their labels, for the teacher to answer"""
    eval_rows: int | None = None
    score_texts: int = 0
    """tasks that write: in the end student and teacher continue so many test prompts, scored with BLEU and others"""
    cache: str | None = None
    """folder for the teacher's answers: made in the first run, used by later ones; None asks the teacher in every step"""
    cache_top: int | None = None
    """keep only the so many likeliest classes of each answer; None is all"""
    targets: Literal["data", "teacher"] = "data"
    """tasks that write: texts to learn from, as people wrote them or as the teacher does (sequence-level distillation)"""
    on_policy: float = 0.0
    """tasks that write: in this share of the steps the student writes itself, and the teacher judges its words"""
    beams: int = 4
    """of targets teacher"""
    max_new_tokens: int = 64
    """of targets teacher and on_policy"""
    teacher_dropout: bool = False
    """leave the teacher's dropout on"""
    keep_heads: float = 1.0
    """the share of attention heads that stays; the others are cut out in the first half of the steps"""
    keep_units: float = 1.0
    """the same of feed-forward units"""
    zeros: float = 0.0
    """the share of each matrix that becomes zero"""
    bits: Literal["float32", "int8", "nf4"] = "float32"
    """of the student's linear layers: int8 is trained for, nf4 is not"""
    steps: int = 600
    batch_size: int = 16
    accumulation: int = 1
    max_length: int = 128
    learning_rate: float | None = None
    """None: 1e-3 (lora 5e-3) for students under 5 M parameters, 5e-5 (lora 5e-4) above"""
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    warmup_share: float = 0.06
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    eval_every: int = 200
    save_every: int = 200
    keep: Literal["last", "best"] = "last"
    seed: int = 0
    threads: int | None = None
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    trackers: str = ""
    out: str | None = None
    """run folder; None is runs/distill-TASK, or runs/distill-task where `task` is None"""
    restart: bool = False

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
        words = self.words()
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
        if self.cache is not None and not needs_teacher(words):
            raise ValueError(f"losses {' '.join(self.losses)} ask for no answer of the teacher: leave --cache out")
        if not 0 <= self.on_policy <= 1:
            raise ValueError(f"on_policy={self.on_policy}: expected a share of the steps, 0 to 1")
        if self.on_policy and (self.cache is not None or not needs_teacher(words)):
            raise ValueError(
                "on_policy asks the teacher about texts that are new in every step: it needs a loss on logits, no cache"
            )
        if self.cache_top is not None and any(word.name == "mse" for word in words):
            raise ValueError("cache_top keeps probabilities, and mse compares logits: leave cache_top out, or take kd")
        if self.transfer_rows:
            self._check_transfer(words)

    def _check_transfer(self, words: list[LossWord]) -> None:
        if self.targets == "teacher":
            raise ValueError(
                "targets teacher: the teacher writes every row's text, so none lacks a label; give all as train_rows"
            )
        if all(word.name == HARD or word.numbers.get("a") == (0, 0) for word in words):
            raise ValueError("transfer_rows have no labels, and these losses learn from nothing else: leave them out")

    def words(self) -> list[LossWord]:
        return read_losses(self.losses)

    def folder(self) -> Path:
        return Path(self.out or f"runs/distill-{self.task or 'task'}")
