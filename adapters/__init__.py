"""ADAPTERS: one set of functions for LoRA, bottleneck adapters, prefix and prompt tuning, and AdapterFusion."""

from typing import TYPE_CHECKING

from loralib.lazy import lazy_names

if TYPE_CHECKING:
    from adapters.bottleneck.bottleneck import Bottleneck, BottleneckConfig
    from adapters.bottleneck.composition import Average, BatchSplit, Fuse, Parallel, Stack, repeated
    from adapters.fusion.fusion import AdapterFusion, AdapterFusionConfig, fusion_penalty, no_decay
    from adapters.peft_names import PeftConfig, PeftModel, PromptTuningInit, get_peft_config
    from adapters.verbs import (
        activate,
        adapters_off,
        attach,
        attached,
        detach,
        get_peft_model,
        load,
        save,
        train_only,
    )
    from adapters.virtual.prefix import PrefixEncoder, PrefixTuningConfig
    from adapters.virtual.prompt import PromptEmbedding, PromptTuningConfig
    from adapters.virtual.virtual_tokens import eject_prefix
    from loralib.files.read_adapter import AdapterFileError
    from loralib.files.save_and_load import LoadReport
    from loralib.report import AttachReport
else:
    __getattr__ = lazy_names(__name__, __file__)

__all__ = [
    "AdapterFileError",
    "AdapterFusion",
    "AdapterFusionConfig",
    "AttachReport",
    "Average",
    "BatchSplit",
    "Bottleneck",
    "BottleneckConfig",
    "Fuse",
    "LoadReport",
    "Parallel",
    "PeftConfig",
    "PeftModel",
    "PrefixEncoder",
    "PrefixTuningConfig",
    "PromptEmbedding",
    "PromptTuningConfig",
    "PromptTuningInit",
    "Stack",
    "activate",
    "adapters_off",
    "attach",
    "attached",
    "detach",
    "eject_prefix",
    "fusion_penalty",
    "get_peft_config",
    "get_peft_model",
    "load",
    "no_decay",
    "repeated",
    "save",
    "train_only",
]
