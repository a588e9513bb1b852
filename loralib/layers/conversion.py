"""Turn a layer into a LoRA layer and back, in place."""

from torch import nn
from transformers.pytorch_utils import Conv1D as PlainConv1D

from loralib.base_model.forwards import rebind_forward
from loralib.layers.conv2d import Conv2d
from loralib.layers.embedding import Embedding
from loralib.layers.linear import Conv1D, Linear, QuantizedLinear
from loralib.layers.linear4bit import Linear4bit
from loralib.layers.lora_layer import LoraLayer
from loralib.variants.registry import containers

LORA_CLASSES: dict[type[nn.Module], type[LoraLayer]] = {
    nn.Linear: Linear,
    PlainConv1D: Conv1D,
    Linear4bit: QuantizedLinear,
    nn.Embedding: Embedding,
    nn.Conv2d: Conv2d,
}


def to_lora(module: nn.Module) -> LoraLayer:
    """Turn a base layer into a LoRA layer in place (nothing to do when it is one). TypeError for other kinds."""
    if isinstance(module, LoraLayer):
        return module
    if type(module) not in LORA_CLASSES:
        raise TypeError(f"no LoRA for {type(module).__name__}; there is for {[c.__name__ for c in LORA_CLASSES]}")
    module.__class__ = LORA_CLASSES[type(module)]
    rebind_forward(module)
    assert isinstance(module, LoraLayer)
    module.start_lora()
    return module


def to_plain(layer: nn.Module) -> None:
    """Take LoRA out in place: the class and the attributes are what they were."""
    state = ("variants", "active", "merged", "rows", "_before_merge", "cache", "hot_scale", "called")
    for name in (*containers(), *state):
        if name in layer._modules or name in layer.__dict__:
            delattr(layer, name)
    layer.__class__ = next(  # pyright: ignore[reportAttributeAccessIssue]
        plain for plain, lora in LORA_CLASSES.items() if isinstance(layer, lora)
    )
    rebind_forward(layer)
