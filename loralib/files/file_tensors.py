"""What one adapter is in a file: names and shapes as peft writes them.

    base_model.model.<path>.lora_A.weight, .lora_B.weight        factors; of embeddings .lora_embedding_A, .lora_embedding_B
    base_model.model.<path>.lora_magnitude_vector                DoRA
    base_model.model.<path>.ia3_l                                (IA)³
    base_model.model.<path>.vera_lambda_b, .vera_lambda_d        VeRA; base_model.vera_A, base_model.vera_B for all layers
    base_model.model.<name of a bias>                            trained biases (of adapted modules <path>.base_layer.bias)
    base_model.model.<path of a module>.<its own names>          modules saved whole

An adapter on parts of a projection (`enable_lora`) is written as the equal plain adapter with block-shaped B, and a PiSSA
adapter as the equal plain adapter of twice its rank: peft computes the same with both.
"""

from torch import Tensor, nn

from loralib.layers.biases import model_biases
from loralib.layers.heads import saved_modules
from loralib.layers.lora_layer import LoraLayer, lora_layers
from loralib.variants.registry import containers, trainable_containers

PREFIX = "base_model.model."
SHARED_PREFIX = "base_model."
"""of tensors that all layers of an adapter share"""


def file_tensors(model: nn.Module, adapter_name: str) -> dict[str, Tensor]:
    """{key in the file: tensor} of one adapter: factors, biases, heads."""
    tensors = {}
    for path, layer in lora_layers(model).items():
        if adapter_name in layer.variants:
            shared = layer.variants[adapter_name].shared_tensors(layer, adapter_name)
            tensors |= {SHARED_PREFIX + key: value for key, value in shared.items()}
            tensors |= {PREFIX + key: value for key, value in layer_tensors(path, layer, adapter_name).items()}
    for path, head in saved_modules(model).items():
        if adapter_name in head.copies:
            tensors |= {f"{PREFIX}{path}.{k}": v for k, v in head.copies[adapter_name].state_dict().items()}
    layers = lora_layers(model)
    for name, bias in model_biases(model).copies.get(adapter_name, {}).items():
        path, _, leaf = name.rpartition(".")
        tensors[f"{PREFIX}{path}.base_layer.{leaf}" if _is_adapted(layers, path, adapter_name) else PREFIX + name] = bias
    return tensors


def saved_heads(model: nn.Module, adapter_name: str) -> list[str]:
    """Paths of the modules that the adapter saves whole."""
    return sorted(path for path, head in saved_modules(model).items() if adapter_name in head.copies)


def _is_adapted(layers: dict[str, LoraLayer], path: str, adapter_name: str) -> bool:
    return path in layers and adapter_name in layers[path].variants


def layer_tensors(path: str, layer: LoraLayer, adapter_name: str) -> dict[str, Tensor]:
    """{key: tensor} of one layer, in the shapes of peft's files."""
    tensors = layer.variants[adapter_name].file_tensors(layer, adapter_name)
    return {f"{path}.{end}": tensor for end, tensor in tensors.items()}


def key_in_model(key: str) -> str | None:
    """The key in a file without peft's prefix: a path in the model, or the name of a shared tensor. None for other keys."""
    if key.startswith(PREFIX):
        return key.removeprefix(PREFIX)
    name = key.removeprefix(SHARED_PREFIX)
    return name if name in containers() else None


def is_factor(key: str) -> bool:
    """Whether a key holds a parameter of an adapter's layer (not a bias, not a head)."""
    return ".lora_" in key or key.rpartition(".")[2] in trainable_containers()
