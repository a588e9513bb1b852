"""LoRA+: B learns faster than A (Hayou et al. 2024, arXiv 2402.12354).

In a wide layer with one learning rate, the updates of A hardly change the output while those of B do all the work. A rate for
B that is `ratio` times that of A makes both count. The paper's advice is a ratio of about 16, with a smaller learning rate for A.
"""

from torch import nn

from loralib.layers.embedding import Embedding
from loralib.layers.lora_layer import lora_layers


def lora_plus_groups(model: nn.Module, learning_rate: float, ratio: float = 16.0) -> list[dict]:
    """Optimizer groups for `torch.optim.AdamW(groups)`: A and all else at `learning_rate`, B at `ratio` times that.

    In an embedding the two change places: A starts at zero there and B at random. Raises ValueError when no B trains.
    """
    if ratio <= 0 or learning_rate <= 0:
        raise ValueError(f"learning_rate={learning_rate}, ratio={ratio}: expected both above 0")
    fast = {
        id(p)
        for layer in lora_layers(model).values()
        for p in (layer.lora_A if isinstance(layer, Embedding) else layer.lora_B).values()
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) not in fast], "lr": learning_rate},
        {"params": [p for p in trained if id(p) in fast], "lr": learning_rate * ratio},
    ]
    if not groups[1]["params"]:
        raise ValueError("LoRA+ found no trainable lora_B: set_trainable(model, NAME) first, or the method has no factor B")
    return [group for group in groups if group["params"]]
