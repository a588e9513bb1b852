"""From the settings of a run to the config of its adapter, and to the source of its base."""

import torch

from adapters.bottleneck.bottleneck import BottleneckConfig
from adapters.fusion.fusion import AdapterFusionConfig
from adapters.virtual.prefix import PrefixTuningConfig
from adapters.virtual.prompt import PromptTuningConfig
from loralib.variants.config import ALL_LINEAR, AdapterConfig, LoraConfig
from loralib.variants.ia3 import IA3Config
from training.data.tasks import TaskSpec
from training.models.base_models import Source, default_model
from training.models.fusing import FusionMembers
from training.runs.settings import TrainSettings


def adapter_config(
    settings: TrainSettings,
) -> AdapterConfig | BottleneckConfig | PrefixTuningConfig | PromptTuningConfig | FusionMembers:
    """The adapter's settings among these; the task and the base add the rest (`methods.apply_method`)."""
    if settings.method == "bottleneck":
        return BottleneckConfig(placement=settings.placement, reduction_factor=settings.reduction_factor)
    if settings.method == "fusion":
        folders = tuple(folder for folder in settings.members.split(",") if folder)
        return FusionMembers(folders, AdapterFusionConfig(dynamic=settings.fusion_dynamic))
    if settings.method in ("prefix", "prompt"):
        return _virtual_config(settings)
    targets = settings.target_modules if settings.target_modules == ALL_LINEAR else settings.target_modules.split(",")
    if settings.method == "ia3":
        return IA3Config(targets, feedforward_modules=[n for n in settings.feedforward_modules.split(",") if n])
    return LoraConfig(
        target_modules=targets,
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        bias=settings.bias,
        init_lora_weights="pissa" if settings.pissa else True,
    )


def _virtual_config(settings: TrainSettings) -> PrefixTuningConfig | PromptTuningConfig:
    start, text = None if settings.virtual_start == "default" else settings.virtual_start, settings.start_text
    if settings.method == "prefix":
        return PrefixTuningConfig(
            num_virtual_tokens=settings.num_virtual_tokens,
            prefix_projection=settings.prefix_projection,
            init_weights=start,
            init_text=text,
        )
    return PromptTuningConfig(
        num_virtual_tokens=settings.num_virtual_tokens,
        prompt_tuning_init=(start or "sample_vocab").upper(),
        prompt_tuning_init_text=text,
    )


def source_of(settings: TrainSettings, spec: TaskSpec) -> Source:
    """Where the base of these settings comes from, and how it lies in memory."""
    if settings.dtype == "fp16" and not torch.cuda.is_available():
        raise ValueError("dtype='fp16': found no GPU, whose gradients are scaled; expected one, or dtype='bf16'")
    name = settings.model or default_model(spec)
    four_bit = settings.method == "qlora"
    return Source(name, settings.seed, settings.random_weights, four_bit, settings.dtype, settings.attn_implementation)
