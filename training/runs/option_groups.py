"""The options of a training run by topic: one class per group of `--help`. `settings.py` joins them and checks them."""

from dataclasses import dataclass, is_dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class TaskOptions:
    """What is trained, and on which data."""

    task: str = "sentiment"
    """small world: topic, sentiment, nli, tagging, qa, data2text; real: sst2, cola, mrpc, rte, qnli, qqp, mnli, stsb, sick,
    e2e_nlg, squad, ud_pos; your own: text (column text), prompt (columns prompt and completion)"""
    model: str | None = None
    """encoder or decoder (the committed small bases; None picks by task), a folder, or a Hub name"""
    method: Literal["full", "head", "lora", "qlora", "ia3", "bottleneck", "prefix", "prompt", "fusion", "untouched"] = "lora"
    """what trains: all weights; the head alone; the head with LoRA, with LoRA on a base in 4 bits, with (IA)³, with bottleneck
    adapters, with virtual tokens in every layer (prefix) or at the input (prompt), with a fusion of trained adapters; or nothing
    (the row to compare with)"""
    data_dir: str | None = None
    """folder with train and validation (or test) as .parquet, .jsonl, .json, .csv or .txt, columns as on the Hub"""
    train_rows: int | None = None
    """train on the first so many examples only; None is all"""
    max_length: int = 128
    """longer texts are cut, and the run says how many"""
    random_weights: bool = False
    """drop the pretraining and keep the shape: the control that shows what pretraining is worth"""
    seed: int = 0
    """draws the training set (small world), the new head, LoRA's start and the order of the batches"""


@dataclass(frozen=True)
class OptimizerOptions:
    """The length of the training, the batches, the learning rate and the precision."""

    steps: int = 300
    """optimizer steps"""
    epochs: float | None = None
    """passes over the training examples, in place of `steps` (whose default counts as not given); 0.5 is half a pass"""
    batch_size: int = 16
    """examples per process and micro-batch; a step takes batch_size x accumulation x processes examples"""
    accumulation: int = 1
    """micro-batches of batch_size per step"""
    learning_rate: float | None = None
    """None: the method's default for the model's size (small / large): full 1e-3 / 5e-5, head and ia3
    1e-2 / 1e-2, lora and qlora 5e-3 / 5e-4, bottleneck 1e-2 / 2e-3, prefix 5e-2 / 1e-2, prompt 1e-1 / 3e-2, fusion 2e-3 / 5e-4"""
    optimizer: Literal["adamw", "adamw_fused", "adamw8bit", "paged_adamw8bit"] = "adamw"
    """adamw_fused: one operation for all parameters, rounded differently; adamw8bit: its averages in 8 bits, a quarter of the
    memory; paged: these in the host's memory"""
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
    dtype: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    """of the frozen weights (qlora: of its multiplications); auto is that of the checkpoint. Adapters, new heads and the
    optimizer's state stay in float32; fp16 needs a GPU"""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flex_attention"] | None = None
    """how attention is computed; None is transformers' choice for the model"""
    compile: bool = False
    """compile the model with torch.compile: the first steps take long, later ones less; graph breaks are reported"""
    group_by_length: bool = False
    """put texts of similar length into one batch: less padding"""
    gradient_checkpointing: bool = False
    """keep fewer activations and compute them again in backward: less memory, about a third more time"""
    threads: int | None = None
    """torch threads; None is 1 for models under 5 M parameters (two were slower) and torch's own choice above"""


@dataclass(frozen=True)
class EvaluationOptions:
    """When the model is evaluated, and which weights are kept."""

    eval_every: int = 100
    """steps between evaluations"""
    eval_rows: int | None = None
    """evaluate on so many examples only (of files a random sample, always the same one); None is all"""
    patience: int | None = None
    """stop early after so many evaluations without a better one; None trains all steps"""
    keep: Literal["last", "best"] = "last"
    """the weights to keep at the end: the last, or those of the best evaluation"""


@dataclass(frozen=True)
class GenerationOptions:
    """For tasks whose answer is a text."""

    samples: int = 3
    """how many prompts to continue and show at the end"""
    score_texts: int | None = 0
    """so many distinct prompts are continued before and after training and scored (BLEU, chrF, ROUGE-L, NIST);
    None is all, 0 none"""
    decoding: Literal["greedy", "lora_paper"] = "greedy"
    """lora_paper: 10 beams, length penalty 0.8, no 4-gram twice"""
    max_new_tokens: int = 128
    """at most so many tokens are generated"""


@dataclass(frozen=True)
class RunFolderOptions:
    """Where the run is written."""

    out: str | None = None
    """run folder; None is runs/TASK-METHOD"""
    restart: bool = False
    """throw away what is in the run folder and start over"""
    save_every: int = 100
    """steps between checkpoints: what a kill can cost"""
    trackers: str = "tensorboard"
    """where loss and scores are written beside the run folder: tensorboard, wandb, mlflow, joined by commas; "" is nowhere"""


@dataclass(frozen=True)
class LoraOptions:
    """For --method lora and qlora."""

    used_by: ClassVar = ("lora", "qlora")

    r: int = 8
    """the rank"""
    lora_alpha: float = 16
    """the LoRA branch is scaled by lora_alpha / r"""
    lora_dropout: float = 0.0
    """dropout on the input of the LoRA branch"""
    use_rslora: bool = False
    """scale the LoRA branch by lora_alpha / sqrt(r)"""
    lora_plus_ratio: float | None = None
    """LoRA+: the learning rate of B is so many times that of A (the paper: 16); None is 1"""


@dataclass(frozen=True)
class LoraVariantOptions:
    """For --method lora only: these variants need the weights in full precision."""

    used_by: ClassVar = ("lora",)

    use_dora: bool = False
    """DoRA: learn the length of each row of the weights apart from its direction"""
    pissa: bool = False
    """PiSSA: start with the principal directions of the weights"""
    bias: Literal["none", "all", "lora_only"] = "none"
    """biases that train too"""


@dataclass(frozen=True)
class TargetOptions:
    """For --method lora, qlora and ia3."""

    used_by: ClassVar = ("lora", "qlora", "ia3")

    target_modules: str = "all-linear"
    """`all-linear`, or names joined by commas"""


@dataclass(frozen=True)
class IA3Options:
    """For --method ia3."""

    used_by: ClassVar = ("ia3",)

    feedforward_modules: str = ""
    """those of the target modules whose input is scaled, joined by commas"""


@dataclass(frozen=True)
class BottleneckOptions:
    """For --method bottleneck."""

    used_by: ClassVar = ("bottleneck",)

    placement: Literal["pfeiffer", "houlsby", "parallel"] = "pfeiffer"
    """after the feed-forward part, after attention too, or beside the feed-forward part"""
    reduction_factor: float | None = None
    """width of the model over width of the adapter; None is 16, parallel 2"""


@dataclass(frozen=True)
class VirtualTokenOptions:
    """For --method prefix and prompt."""

    used_by: ClassVar = ("prefix", "prompt")

    num_virtual_tokens: int = 20
    """virtual tokens before the text"""
    virtual_start: Literal["default", "sample_vocab", "text", "random", "zero"] = "default"
    """start from random words, from `start_text`, from random numbers, or (prefix) from zeros; default is
    sample_vocab, and random for a prefix with projection"""
    start_text: str | None = None
    """the text of virtual_start text, repeated or cut to the number of virtual tokens"""


@dataclass(frozen=True)
class PrefixOptions:
    """For --method prefix."""

    used_by: ClassVar = ("prefix",)

    prefix_projection: bool = False
    """let a small network make the keys and values while training"""


@dataclass(frozen=True)
class FusionOptions:
    """For --method fusion."""

    used_by: ClassVar = ("fusion",)

    members: str = ""
    """folders of trained adapters (runs/NAME/adapter), joined by commas; the one for this task gives its head"""
    fusion_dynamic: bool = True
    """each token chooses among the adapters; otherwise each layer does"""


def groups_of(settings: type) -> list[type]:
    """The classes of options that a class of settings joins, in the order of its fields; its own fields come last."""
    return [kind for kind in reversed(settings.__mro__) if is_dataclass(kind)]


def used_by(group: type) -> tuple[str, ...]:
    """The methods that a group of options is for; () means every method."""
    return vars(group).get("used_by", ())
