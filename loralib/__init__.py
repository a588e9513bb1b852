"""LAYERS: LoRA by hand. Names people know from Microsoft's `loralib` and from `peft`, with stricter manners."""

from loralib.checkpoint import AdapterFileError, LoadReport, load_adapter, save_adapter
from loralib.config import LoraConfig
from loralib.counting import (
    ParameterCount,
    count_parameters,
    lora_state_dict,
    mark_only_lora_as_trainable,
    print_trainable_parameters,
)
from loralib.functional import lora_linear
from loralib.inject import MatchReport, add_adapter, delete_adapter, get_peft_model, inject
from loralib.layers import Conv1D, Conv2d, Embedding, Linear, MergedLinear
from loralib.lora_layer import lora_layers
from loralib.merge import merge, merge_and_unload, merged_adapters, unmerge
from loralib.microsoft import load_microsoft
from loralib.switch import disable_adapters, set_active, set_trainable

__all__ = [
    "AdapterFileError",
    "Conv1D",
    "Conv2d",
    "Embedding",
    "Linear",
    "LoadReport",
    "LoraConfig",
    "MatchReport",
    "MergedLinear",
    "ParameterCount",
    "add_adapter",
    "count_parameters",
    "delete_adapter",
    "disable_adapters",
    "get_peft_model",
    "inject",
    "load_adapter",
    "load_microsoft",
    "lora_layers",
    "lora_linear",
    "lora_state_dict",
    "mark_only_lora_as_trainable",
    "merge",
    "merge_and_unload",
    "merged_adapters",
    "print_trainable_parameters",
    "save_adapter",
    "set_active",
    "set_trainable",
    "unmerge",
]
