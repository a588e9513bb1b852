"""How many parameters train: adapter and head apart, because they are often added up and compared with other counts."""

from dataclasses import dataclass

import torch
from torch import nn

from loralib.layers.heads import saved_modules
from loralib.layers.linear4bit import Linear4bit
from loralib.layers.lora_layer import is_adapter_parameter, lora_layers
from loralib.variants.config import BIAS


@dataclass(frozen=True)
class ParameterCount:
    adapter: int
    """trainable LoRA factors, with what a variant adds to them"""
    other: int
    """other trainable parameters, as a rule the task head"""
    base: int
    """parameters of the model without adapters (a tied weight counts once)"""

    @property
    def trainable(self) -> int:
        return self.adapter + self.other

    @property
    def share(self) -> float:
        return self.trainable / (self.base + self.adapter)


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count without needing LoRA layers (adapter = 0 then)."""
    trainable = {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}
    adapter = sum(count for name, count in trainable.items() if is_adapter_parameter(name))
    extra = sum(p.numel() for head in saved_modules(model).values() for p in head.copies.parameters())
    lora = sum(p.numel() for n, p in model.named_parameters() if is_adapter_parameter(n))
    base = sum(p.numel() for p in model.parameters()) - lora - extra
    packed = [m for m in model.modules() if isinstance(m, Linear4bit)]
    base += sum(m.out_features * m.in_features - m.weight.numel() for m in packed)  # a byte of theirs holds two numbers
    return ParameterCount(adapter, sum(trainable.values()) - adapter, base)


def base_bytes(model: nn.Module) -> int:
    """Bytes of the model without its adapters and trained heads, as it lies in memory; buffers too."""
    copies = {id(p) for head in saved_modules(model).values() for p in head.copies.parameters()}
    tensors = [p for n, p in model.named_parameters() if not is_adapter_parameter(n) and id(p) not in copies]
    return sum(t.nbytes for t in (*tensors, *model.buffers()))


def print_trainable_parameters(model: nn.Module) -> ParameterCount:
    """Print the counts and return them. Raises ValueError for a model without LoRA layers."""
    lora_layers(model)
    n = count_parameters(model)
    print(
        f"trainable params: {n.trainable:,} (LoRA {n.adapter:,} + heads {n.other:,}) || "
        f"base params: {n.base:,} || trainable: {100 * n.share:.4f}%"
    )
    return n


def mark_only_lora_as_trainable(model: nn.Module, bias: str = "none") -> None:
    """Microsoft's call: train the active adapters' factors, freeze all else. It adds nothing, so without LoRA it raises."""
    layers, biases = lora_layers(model), _base_biases(model, bias)
    model.requires_grad_(False)
    for layer in layers.values():
        for name in layer.active:
            for p in layer.trained(name).values():
                p.requires_grad_(True)
    for name in biases:
        model.get_parameter(name).requires_grad_(True)


def lora_state_dict(model: nn.Module, bias: str = "none") -> dict[str, torch.Tensor]:
    """Microsoft's call: the LoRA factors, and with `bias` those biases, under the model's own names.

    Raises ValueError without LoRA layers, and when biases train that this `bias` would leave out of the file.
    """
    lora_layers(model)
    biases = _base_biases(model, bias)
    lost = [n for n in _base_biases(model, "all") if model.get_parameter(n).requires_grad and n not in biases]
    if lost:
        raise ValueError(f"{len(lost)} biases train and bias={bias!r} would not save them, e.g. {lost[:3]}")
    return {name: p for name, p in model.state_dict().items() if is_adapter_parameter(name) or name in biases}


def _base_biases(model: nn.Module, bias: str) -> list[str]:
    """The base's own biases that a setting means; heads (`modules_to_save`) have theirs in their copies."""
    if bias not in BIAS:
        raise ValueError(f"bias={bias!r}: expected one of {', '.join(BIAS)}")
    if bias == "none":
        return []
    heads = [f"{path}." for path in saved_modules(model)]
    names = [n for n, _ in model.named_parameters() if "bias" in n.rpartition(".")[2] and not n.startswith(tuple(heads))]
    return names if bias == "all" else [n for n in names if n.rpartition(".")[0] in lora_layers(model)]
