"""What trains, in groups for the optimizer: each has one learning rate and one weight decay."""

from typing import Any

from torch import nn

from adapters.fusion.fusion import no_decay
from loralib import lora_plus_groups
from training.loop.checks import trainable_parameters


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float = 0.0, lora_plus_ratio: float | None = None
) -> list[dict[str, Any]]:
    """Groups for `torch.optim.AdamW(groups)`. With LoRA+, B has its own learning rate.

    Biases, norms and other vectors have no weight decay, as in BERT's recipe. Neither have the value matrices of a fusion: its
    penalty pulls them to the identity, and weight decay would pull them to zero.
    """
    if lora_plus_ratio is None:
        groups = [{"params": trainable_parameters(model)}]
    else:
        groups = lora_plus_groups(model, learning_rate, lora_plus_ratio)
    if not weight_decay:
        return groups
    exempt = {id(model.get_parameter(name)) for name in no_decay(model)} | {id(p) for p in model.parameters() if p.ndim < 2}
    split = []
    for group in groups:
        for without_decay in (False, True):
            part = [p for p in group["params"] if (id(p) in exempt) == without_decay]
            split += [{**group, "params": part, **({"weight_decay": 0.0} if without_decay else {})}] if part else []
    return split
