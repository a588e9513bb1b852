"""What one adapter is in a file: names and shapes as peft writes them.

    base_model.model.<path>.lora_A.weight, .lora_B.weight        factors; of embeddings .lora_embedding_A, .lora_embedding_B
    base_model.model.<path>.lora_magnitude_vector                DoRA
    base_model.model.<path>.ia3_l                                (IA)³
    base_model.model.<name of a bias>                            trained biases (of adapted modules <path>.base_layer.bias)
    base_model.model.<path of a module>.<its own names>          modules saved whole

An adapter on parts of a projection (`enable_lora`) is written as the equal plain adapter with block-shaped B, and a PiSSA
adapter as the equal plain adapter of twice its rank: peft computes the same with both.
"""

from torch import Tensor, nn

from loralib.layers.biases import model_biases
from loralib.layers.heads import saved_modules
from loralib.layers.layers import Embedding, Projection
from loralib.layers.lora_layer import LoraLayer, lora_layers

PREFIX = "base_model.model."


def file_tensors(model: nn.Module, adapter_name: str) -> dict[str, Tensor]:
    """{key in the file: tensor} of one adapter: factors, biases, heads."""
    tensors = {}
    for path, layer in lora_layers(model).items():
        if adapter_name in layer.slots:
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
    return path in layers and adapter_name in layers[path].slots


def layer_tensors(path: str, layer: LoraLayer, adapter_name: str) -> dict[str, Tensor]:
    """{key: tensor} of one layer, in the shapes of peft's files."""
    slot = layer.slots[adapter_name]
    if slot.is_ia3:
        scale = layer.ia3_l[adapter_name]
        return {f"{path}.ia3_l": scale[None] if slot.kind == "ia3_input" else scale[:, None]}
    key_A, key_B = layer_keys(path, layer)
    A, B = _dense(layer, adapter_name)
    found = {key_A: A, key_B: B}
    if slot.kind == "dora":
        found[f"{path}.lora_magnitude_vector"] = layer.lora_magnitude_vector[adapter_name]
    return found


def layer_keys(path: str, layer: LoraLayer) -> tuple[str, str]:
    """Keys of A and B."""
    if isinstance(layer, Embedding):
        return f"{path}.lora_embedding_A", f"{path}.lora_embedding_B"
    return f"{path}.lora_A.weight", f"{path}.lora_B.weight"


def _dense(layer: LoraLayer, adapter_name: str) -> tuple[Tensor, Tensor]:
    if isinstance(layer, Projection):
        return layer.dense_factors(adapter_name)
    return layer.lora_A[adapter_name], layer.lora_B[adapter_name]


def is_factor(key: str) -> bool:
    """Whether a key holds a factor (not a bias, not a head)."""
    return ".lora_" in key or key.endswith(".ia3_l")
