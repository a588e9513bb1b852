"""LAYERS: LoRA by hand. Names people know from Microsoft's `loralib` and from `peft`, with stricter manners."""

from typing import TYPE_CHECKING

from loralib.lazy import lazy_names

if TYPE_CHECKING:
    from loralib.combining.combine import CombineReport, combine_adapters
    from loralib.compute.dispatch import use_kernels
    from loralib.compute.functional import lora_linear
    from loralib.counting import (
        ParameterCount,
        base_bytes,
        count_parameters,
        lora_state_dict,
        mark_only_lora_as_trainable,
        print_trainable_parameters,
    )
    from loralib.explanation import explain
    from loralib.files.hotswap import hotswap_adapter, prepare_hotswap
    from loralib.files.microsoft import load_microsoft
    from loralib.files.read_adapter import AdapterFileError
    from loralib.files.save_and_load import LoadReport, load_adapter, save_adapter
    from loralib.four_bit.load4bit import load_4bit
    from loralib.four_bit.merge4bit import merge_dequant, merge_requant
    from loralib.four_bit.qlora import prepare_model_for_kbit_training, quantize_model
    from loralib.injection.injection import add_adapter, delete_adapter, get_peft_model, inject
    from loralib.injection.merge_weights import merge, merge_and_unload, merged_adapters, unmerge
    from loralib.injection.mixed_batches import mixed_batch
    from loralib.injection.switch import disable_adapters, set_active, set_trainable
    from loralib.layers.conv2d import Conv2d
    from loralib.layers.embedding import Embedding
    from loralib.layers.linear import Conv1D, Linear, MergedLinear
    from loralib.layers.linear4bit import Linear4bit
    from loralib.layers.lora_layer import lora_layers
    from loralib.lora_plus import lora_plus_groups
    from loralib.report import AttachReport
    from loralib.variants.config import LoraConfig
    from loralib.variants.ia3 import IA3Config
    from loralib.variants.vera import VeraConfig
else:
    __getattr__ = lazy_names(__name__, __file__)

__all__ = [
    "AdapterFileError",
    "AttachReport",
    "CombineReport",
    "Conv1D",
    "Conv2d",
    "Embedding",
    "IA3Config",
    "Linear",
    "Linear4bit",
    "LoadReport",
    "LoraConfig",
    "MergedLinear",
    "ParameterCount",
    "VeraConfig",
    "add_adapter",
    "base_bytes",
    "combine_adapters",
    "count_parameters",
    "delete_adapter",
    "disable_adapters",
    "explain",
    "get_peft_model",
    "hotswap_adapter",
    "inject",
    "load_4bit",
    "load_adapter",
    "load_microsoft",
    "lora_layers",
    "lora_linear",
    "lora_plus_groups",
    "lora_state_dict",
    "mark_only_lora_as_trainable",
    "merge",
    "merge_and_unload",
    "merge_dequant",
    "merge_requant",
    "merged_adapters",
    "mixed_batch",
    "prepare_hotswap",
    "prepare_model_for_kbit_training",
    "print_trainable_parameters",
    "quantize_model",
    "save_adapter",
    "set_active",
    "set_trainable",
    "unmerge",
    "use_kernels",
]
