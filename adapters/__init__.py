"""BLOCKS: bottleneck adapters, prefix and prompt tuning, AdapterFusion, and their folders."""

from typing import TYPE_CHECKING

from loralib.lazy import lazy_names

if TYPE_CHECKING:
    from adapters.bottleneck.attachment import AttachReport, activate, attach, attached, detach, train_only
    from adapters.bottleneck.bottleneck import Bottleneck, BottleneckConfig
    from adapters.bottleneck.checkpoint import load_bottleneck, save_bottleneck
    from adapters.bottleneck.composition import Average, BatchSplit, Fuse, Parallel, Stack, repeated
    from adapters.fusion.fuse import add_fusion, delete_fusion
    from adapters.fusion.fusion import AdapterFusion, AdapterFusionConfig, fusion_penalty, no_decay
    from adapters.fusion.fusion_files import load_fusion, save_fusion
    from adapters.virtual.prefix import PrefixEncoder, PrefixTuningConfig
    from adapters.virtual.prompt import PromptEmbedding, PromptTuningConfig
    from adapters.virtual.virtual_files import load_virtual_tokens, save_virtual_tokens
    from adapters.virtual.virtual_tokens import (
        VirtualReport,
        add_virtual_tokens,
        eject_prefix,
        remove_virtual_tokens,
        train_virtual_tokens,
        use_virtual_tokens,
    )
else:
    __getattr__ = lazy_names(__name__, __file__)

__all__ = [
    "AdapterFusion",
    "AdapterFusionConfig",
    "AttachReport",
    "Average",
    "BatchSplit",
    "Bottleneck",
    "BottleneckConfig",
    "Fuse",
    "Parallel",
    "PrefixEncoder",
    "PrefixTuningConfig",
    "PromptEmbedding",
    "PromptTuningConfig",
    "Stack",
    "VirtualReport",
    "activate",
    "add_fusion",
    "add_virtual_tokens",
    "attach",
    "attached",
    "delete_fusion",
    "detach",
    "eject_prefix",
    "fusion_penalty",
    "load_bottleneck",
    "load_fusion",
    "load_virtual_tokens",
    "no_decay",
    "remove_virtual_tokens",
    "repeated",
    "save_bottleneck",
    "save_fusion",
    "save_virtual_tokens",
    "train_only",
    "train_virtual_tokens",
    "use_virtual_tokens",
]
