"""The settings of a training run: its command's options, with their help, and the ranges that make sense."""

from dataclasses import dataclass, fields
from typing import Literal

from adapters.bottleneck import BottleneckConfig
from adapters.fusion import AdapterFusionConfig
from adapters.prefix import PrefixTuningConfig
from adapters.prompt import PromptTuningConfig
from loralib import IA3Config, LoraConfig
from loralib.config import ALL_LINEAR, AdapterConfig
from training.fusing import FusionMembers
from training.setting_checks import at_least, below_one, known_choices, positive

LORA_VARIANTS = ("use_rslora", "use_dora", "pissa", "bias", "lora_plus_ratio")
QLORA_VARIANTS = ("use_rslora", "lora_plus_ratio")  # the others need the weight itself
BOTTLENECK = ("placement", "reduction_factor")
PROMPT = ("num_virtual_tokens", "virtual_start", "start_text")
PREFIX = (*PROMPT, "prefix_projection")
FUSION = ("members", "fusion_dynamic")
VARIANTS = (*LORA_VARIANTS, "feedforward_modules", *BOTTLENECK, *PREFIX, *FUSION)


@dataclass(frozen=True)
class TrainSettings:
    """Fine-tune a base model on one task. The same command goes on with a run that was stopped or killed."""

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
    steps: int = 300
    batch_size: int = 16
    """rows per process and micro-batch; a step takes batch_size x accumulation x processes rows"""
    learning_rate: float | None = None
    """None: the method's default for the model's size (small / large): full 1e-3 / 5e-5, head and ia3
    1e-2 / 1e-2, lora and qlora 5e-3 / 5e-4, bottleneck 1e-2 / 2e-3, prefix 5e-2 / 1e-2, prompt 1e-1 / 3e-2, fusion 2e-3 / 5e-4"""
    optimizer: Literal["adamw", "adamw8bit", "paged_adamw8bit"] = "adamw"
    """adamw8bit: its averages in 8 bits, a quarter of the memory; paged: these in the host's memory"""
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    warmup_share: float = 0.06
    weight_decay: float = 0.0
    accumulation: int = 1
    """micro-batches of batch_size per step"""
    max_grad_norm: float = 1.0
    max_length: int = 128
    """longer texts are cut, and the run says how many"""
    eval_every: int = 100
    eval_rows: int | None = None
    """evaluate on the first so many rows only; None is all"""
    train_rows: int | None = None
    patience: int | None = None
    """stop early after so many evaluations without a better one; None trains all steps"""
    keep: Literal["last", "best"] = "last"
    """the weights to keep at the end: the last, or those of the best evaluation"""
    save_every: int = 100
    """steps between checkpoints: what a kill can cost"""
    seed: int = 0
    """draws the training set (small world), the new head, LoRA's start and the order of the batches"""
    random_weights: bool = False
    """drop the pretraining and keep the shape: the control that shows what pretraining is worth"""
    r: int = 8
    lora_alpha: float = 16
    lora_dropout: float = 0.0
    target_modules: str = "all-linear"
    """`all-linear`, or names joined by commas"""
    feedforward_modules: str = ""
    """ia3: those of the target modules whose input is scaled, joined by commas"""
    use_rslora: bool = False
    """lora: scale by alpha / sqrt(r)"""
    use_dora: bool = False
    """lora: learn the rows' lengths apart from their directions"""
    pissa: bool = False
    """lora: start with the principal directions of the weights"""
    bias: Literal["none", "all", "lora_only"] = "none"
    """lora: biases that train too"""
    placement: Literal["pfeiffer", "houlsby", "parallel"] = "pfeiffer"
    """bottleneck: after the feed-forward part, after attention too, or beside the feed-forward part"""
    reduction_factor: float | None = None
    """bottleneck: width of the model over width of the adapter; None is 16, parallel 2"""
    num_virtual_tokens: int = 20
    """prefix, prompt: tokens that no word has, before the text"""
    virtual_start: Literal["default", "sample_vocab", "text", "random", "zero"] = "default"
    """prefix, prompt: start from random words, from `start_text`, from random numbers, or (prefix) from zeros; default is
    sample_vocab, and random for a prefix with projection"""
    start_text: str | None = None
    """prefix, prompt: the text of virtual_start text, repeated or cut to the number of virtual tokens"""
    prefix_projection: bool = False
    """prefix: let a small network make the keys and values while training"""
    members: str = ""
    """fusion: folders of trained adapters (runs/NAME/adapter), joined by commas; the one for this task gives its head"""
    fusion_dynamic: bool = True
    """fusion: each token chooses among the adapters; otherwise each layer does"""
    lora_plus_ratio: float | None = None
    """lora: B learns so many times as fast as A (LoRA+; the paper: 16); None is 1"""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    gradient_checkpointing: bool = False
    """keep fewer activations and compute them again in backward: less memory, about a third more time"""
    threads: int | None = None
    """torch threads; None is 1 for models under 5 M parameters (two were slower) and torch's own choice above"""
    samples: int = 3
    """generation tasks: how many prompts to continue and show at the end"""
    score_texts: int | None = 0
    """generation tasks: so many distinct prompts are continued before and after training and scored (BLEU, chrF, ROUGE-L, NIST);
    None is all, 0 none"""
    decoding: Literal["greedy", "lora_paper"] = "greedy"
    """lora_paper: 10 beams, length penalty 0.8, no 4-gram twice"""
    max_new_tokens: int = 128
    trackers: str = "tensorboard"
    """where rows go beside the run folder: tensorboard, wandb, mlflow, joined by commas; "" is nowhere"""
    out: str | None = None
    """run folder; None is runs/TASK-METHOD"""
    restart: bool = False
    """throw away what is in the run folder and start over"""

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
        positive(("learning_rate", "max_grad_norm", "lora_alpha", "lora_plus_ratio"), self)
        below_one(("warmup_share", "lora_dropout"), self)
        self._refuse_unused()
        if self.method == "fusion" and len([m for m in self.members.split(",") if m.strip()]) < 2:
            raise ValueError(f"members={self.members!r}: a fusion has at least two, joined by commas")

    def _refuse_unused(self) -> None:
        """A variant's setting that the method would not look at is a mistake, not a wish."""
        changed = [f.name for f in fields(self) if f.name in VARIANTS and getattr(self, f.name) != f.default]
        used = {"lora": LORA_VARIANTS, "qlora": QLORA_VARIANTS, "ia3": ("feedforward_modules",), "bottleneck": BOTTLENECK}
        used |= {"prefix": PREFIX, "prompt": PROMPT, "fusion": FUSION}
        mine = used.get(self.method, ())
        unused = [name for name in changed if name not in mine]
        if unused:
            raise ValueError(f"{', '.join(unused)}: method {self.method!r} does not use that")

    def adapter_config(self) -> AdapterConfig | BottleneckConfig | PrefixTuningConfig | PromptTuningConfig | FusionMembers:
        """The adapter's settings among these; the task and the base add the rest (`methods.apply_method`)."""
        if self.method == "bottleneck":
            return BottleneckConfig(placement=self.placement, reduction_factor=self.reduction_factor)
        if self.method == "fusion":
            folders = tuple(folder for folder in self.members.split(",") if folder)
            return FusionMembers(folders, AdapterFusionConfig(dynamic=self.fusion_dynamic))
        if self.method in ("prefix", "prompt"):
            return self._virtual_config()
        targets = self.target_modules if self.target_modules == ALL_LINEAR else self.target_modules.split(",")
        if self.method == "ia3":
            return IA3Config(targets, feedforward_modules=[n for n in self.feedforward_modules.split(",") if n])
        return LoraConfig(
            target_modules=targets,
            r=self.r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            bias=self.bias,
            init_lora_weights="pissa" if self.pissa else True,
        )

    def _virtual_config(self) -> PrefixTuningConfig | PromptTuningConfig:
        start, text = None if self.virtual_start == "default" else self.virtual_start, self.start_text
        if self.method == "prefix":
            return PrefixTuningConfig(
                num_virtual_tokens=self.num_virtual_tokens,
                prefix_projection=self.prefix_projection,
                init_weights=start,
                init_text=text,
            )
        return PromptTuningConfig(
            num_virtual_tokens=self.num_virtual_tokens,
            prompt_tuning_init=(start or "sample_vocab").upper(),
            prompt_tuning_init_text=text,
        )
