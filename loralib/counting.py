"""How many parameters train, told honestly: adapter and head apart (the two are often added up and compared with others)."""

from dataclasses import dataclass

import torch
from torch import nn

from loralib.heads import saved_modules
from loralib.lora_layer import lora_layers


@dataclass(frozen=True)
class ParameterCount:
    adapter: int
    """trainable LoRA factors"""
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
    adapter = sum(count for name, count in trainable.items() if ".lora_" in f".{name}")
    extra = sum(p.numel() for head in saved_modules(model).values() for p in head.copies.parameters())
    lora = sum(p.numel() for n, p in model.named_parameters() if ".lora_" in f".{n}")
    base = sum(p.numel() for p in model.parameters()) - lora - extra
    return ParameterCount(adapter, sum(trainable.values()) - adapter, base)


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
    if bias != "none":
        raise ValueError(f"bias={bias!r}: only 'none' is supported; name modules in modules_to_save to train their biases")
    layers = lora_layers(model)
    model.requires_grad_(False)
    for layer in layers.values():
        for name in layer.active:
            layer.lora_A[name].requires_grad_(True)
            layer.lora_B[name].requires_grad_(True)


def lora_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """Microsoft's call: the LoRA factors alone, under the model's own names. Raises ValueError without LoRA layers."""
    lora_layers(model)
    return {name: p for name, p in model.state_dict().items() if ".lora_" in f".{name}"}
