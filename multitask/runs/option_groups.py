"""The options of a multitask run by topic: one class per group of `--help`. `settings.py` joins them and checks them."""

from dataclasses import dataclass
from typing import Literal

from multitask.balancing.weightings import METHODS


@dataclass(frozen=True)
class DataOptions:
    """The tasks, the model and the data."""

    tasks: str = "sentiment,topic,nli"
    """names joined by commas; small world: topic, sentiment, nli, tagging, qa; real: sst2, mrpc, rte, squad, ud_pos, ..."""
    model: str = "encoder"
    """encoder or decoder (the committed small bases), a folder, or a Hub name"""
    layers: int | None = None
    """keep the first so many layers of the model; None is all"""
    random_weights: bool = False
    """drop the pretraining and keep the shape"""
    data_dirs: str = ""
    """where real tasks have their files: sst2=FOLDER,squad=FOLDER; others come from the Hub"""
    train_rows: str = ""
    """fewer training examples: a number for all tasks, or nli=100,topic=50"""
    eval_rows: int | None = None
    """evaluate on so many examples of each task (of files a random sample, always the same one); None is all"""
    max_length: int = 128
    """longer texts are cut to so many tokens"""
    seed: int = 0
    """of the data order, the new weights and dropout"""


@dataclass(frozen=True)
class MixtureOptions:
    """How examples of several tasks become one training step."""

    batching: Literal["mixed", "one_task"] = "mixed"
    """examples of all tasks in each batch, or one task per step"""
    task_sampling: Literal["proportional", "temperature", "equal", "annealed"] = "proportional"
    """how often each task is sampled: by its size, size^(1/T), all alike, or from the first to nearly the last over the run"""
    temperature: float = 2.0
    """of task_sampling temperature: 1 is proportional, inf is equal"""
    max_examples: int | None = None
    """count a task as at most so many examples when sampling"""
    loss_weighting: Literal[METHODS] = "equal"  # pyright: ignore[reportInvalidTypeForm]
    """how the tasks' losses, or their gradients, are put together"""
    weighting_options: str = ""
    """of loss_weighting: c=0.4 (cagrad), alpha=1.5,step_size=0.025 (gradnorm), period=50,temperature=2 (dwa)"""
    task_weights: str = ""
    """fixed weights beside it: nli=2,topic=0.5; others are 1"""


@dataclass(frozen=True)
class TaskOptions:
    """What each task has for itself: a head, an embedding, an adapter."""

    use_task_embeddings: bool = False
    """tell the backbone which task an example is for"""
    task_embedding: Literal["input", "layer_norm"] = "input"
    """by a vector added to the input, or by the scale and shift of every norm"""
    task_adapters: Literal["none", "lora", "bottleneck"] = "none"
    """freeze the backbone, and give each task an adapter of its own"""
    members: str = ""
    """freeze the backbone and trained adapters of single runs (folders joined by commas), and train one fusion of them"""
    share_heads: str = ""
    """tasks that use another's head: sick=nli"""
    pooling: Literal["auto", "mean", "last", "first"] = "auto"
    """how a text becomes one vector; auto: mean for an encoder, last for a decoder"""
    dropout: float = 0.1
    """before each head"""


@dataclass(frozen=True)
class OptimizerOptions:
    """The length of the training, the batches, the learning rate and the precision."""

    steps: int = 600
    """optimizer steps"""
    batch_size: int = 16
    """examples per process and micro-batch, of all tasks together"""
    accumulation: int = 1
    """micro-batches per step"""
    learning_rate: float | None = None
    """None: 1e-3 for models under 5 M parameters and 5e-5 above; with task_adapters or members those of these methods"""
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
    """When the model is evaluated, and which weights are kept."""

    eval_every: int = 200
    """steps between evaluations"""
    keep: Literal["last", "best"] = "last"
    """the weights to keep: the last, or those of the best mean score"""
    analyze_interference: bool = False
    """at every evaluation: do the tasks' gradients point the same way, and does a step on one help the others?"""


@dataclass(frozen=True)
class RunFolderOptions:
    """Where the run is written."""

    out: str | None = None
    """run folder; None is runs/multitask-TASKS"""
    restart: bool = False
    """throw away what is in the run folder and start over"""
    save_every: int = 200
    """steps between checkpoints"""
    trackers: str = ""
    """tensorboard, wandb, mlflow, joined by commas; "" is nowhere"""
