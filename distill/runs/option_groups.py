"""The options of a distillation by topic: one class per group of `--help`. `settings.py` joins them and checks them."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class PairOptions:
    """The teacher, the student, the task and the losses."""

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
    seed: int = 0
    """of the data order, the new weights and dropout"""


@dataclass(frozen=True)
class DataOptions:
    """The examples, with and without labels."""

    data_dir: str | None = None
    """folder with the data files; None is the small world, or the Hub"""
    train_rows: int | None = None
    """examples whose labels the student may use; None is all (small world: the task's usual number)"""
    transfer_rows: int = 0
    """further training examples without their labels, for the teacher to predict"""
    eval_rows: int | None = None
    """evaluate on so many examples only (of files a random sample, always the same one); None is all"""
    max_length: int = 128
    """longer texts are cut to so many tokens"""


@dataclass(frozen=True)
class TeacherOptions:
    """How the teacher's predictions are obtained."""

    cache: str | None = None
    """folder for the teacher's answers: made in the first run, used by later ones; None asks the teacher in every step"""
    cache_top: int | None = None
    """keep only the so many likeliest classes of each answer; None is all"""
    teacher_dropout: bool = False
    """leave the teacher's dropout on"""


@dataclass(frozen=True)
class GenerationOptions:
    """For tasks whose answer is a text."""

    targets: Literal["data", "teacher"] = "data"
    """tasks that write: texts to learn from, as people wrote them or as the teacher does (sequence-level distillation)"""
    on_policy: float = 0.0
    """tasks that write: in this share of the steps the student writes itself, and the teacher judges its words"""
    beams: int = 4
    """of targets teacher"""
    max_new_tokens: int = 64
    """of targets teacher and on_policy"""
    score_texts: int = 0
    """tasks that write: in the end student and teacher continue so many test prompts, scored with BLEU and others"""


@dataclass(frozen=True)
class CompressionOptions:
    """How the student becomes smaller while it trains."""

    keep_heads: float = 1.0
    """the share of attention heads that stays; the others are cut out in the first half of the steps"""
    keep_units: float = 1.0
    """the same of feed-forward units"""
    zeros: float = 0.0
    """the share of each matrix that becomes zero"""
    bits: Literal["float32", "int8", "nf4"] = "float32"
    """of the student's linear layers: int8 is trained for, nf4 is not"""


@dataclass(frozen=True)
class OptimizerOptions:
    """The length of the training, the batches, the learning rate and the precision."""

    steps: int = 600
    """optimizer steps"""
    batch_size: int = 16
    """examples per process and micro-batch"""
    accumulation: int = 1
    """micro-batches per step"""
    learning_rate: float | None = None
    """None: 1e-3 (lora 5e-3) for students under 5 M parameters, 5e-5 (lora 5e-4) above"""
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """how the learning rate falls after the warm-up"""
    warmup_share: float = 0.06
    """the share of the steps in which the learning rate rises from 0"""
    weight_decay: float = 0.0
    """of AdamW, for matrices"""
    max_grad_norm: float = 1.0
    """longer gradients are scaled down to this norm"""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """the precision of the forward pass"""
    threads: int | None = None
    """torch threads; None is 1 for models under 5 M parameters and torch's own choice above"""


@dataclass(frozen=True)
class EvaluationOptions:
    """When the student is evaluated, and which weights are kept."""

    eval_every: int = 200
    """steps between evaluations"""
    keep: Literal["last", "best"] = "last"
    """the weights to keep at the end: the last, or those of the best evaluation"""


@dataclass(frozen=True)
class RunFolderOptions:
    """Where the run is written."""

    out: str | None = None
    """run folder; None is runs/distill-TASK, or runs/distill-task where `task` is None"""
    restart: bool = False
    """throw away what is in the run folder and start over"""
    save_every: int = 200
    """steps between checkpoints"""
    trackers: str = ""
    """tensorboard, wandb, mlflow, joined by commas; "" is nowhere"""
