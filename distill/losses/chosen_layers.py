"""What a config says of each layer, for the layers that a student takes over; and whether they still compute what they did.

Kinds of attention, rotations, windows and experts are set layer by layer, and each family of models has its own names for them.
So lists with one entry a layer are cut generally, a few other words by name, and in the end a pass decides: the student must
answer as its teacher does when the teacher's other layers are skipped.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from adapters.bottleneck.places import transformer_blocks

TOLERANCE = 1e-4
"""of the largest answer"""


def chosen_layers(config: Any, layers: tuple[int, ...]) -> Any:
    """The config of a model of these layers (from 1) of `config`. What it says survives a trip to the disk."""
    count, experts = config.num_hidden_layers, _layers_with_experts(config)
    for name, value in vars(config).items():
        if isinstance(value, list | tuple) and len(value) == count and not name.startswith("_"):
            setattr(config, name, type(value)(value[layer - 1] for layer in layers))
    config.num_hidden_layers = len(layers)
    if hasattr(config, "attention_types"):  # GPT-Neo: [[[kinds], times]], from which it makes its list again
        config.attention_types = [[[kind], 1] for kind in config.attention_layers]
    if hasattr(config, "decoder_sparse_step"):  # Qwen-MoE
        config.decoder_sparse_step, config.mlp_only_layers = 1, [i for i, layer in enumerate(layers) if layer - 1 not in experts]
    if hasattr(config, "first_k_dense_replace"):  # DeepSeek
        config.first_k_dense_replace = sum(layer <= config.first_k_dense_replace for layer in layers)
    return type(config).from_dict(config.to_dict())


def _layers_with_experts(config: Any) -> set[int]:
    """Of Qwen-MoE, counted from 0."""
    step, dense = getattr(config, "decoder_sparse_step", 0), getattr(config, "mlp_only_layers", None) or []
    return {i for i in range(config.num_hidden_layers) if step and (i + 1) % step == 0 and i not in dense}


@torch.no_grad()
def check_same_layers(teacher: Any, student: Any, layers: tuple[int, ...]) -> None:
    """ValueError where the student of these layers, in the teacher's order, does not answer as the teacher without its others."""
    device = next(teacher.parameters()).device
    words = min(teacher.get_input_embeddings().num_embeddings, 1000)
    ids = torch.arange(48, device=device).view(2, 24) % max(words - 1, 1) + 1
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with _only(teacher, layers), _evaluating(teacher), _evaluating(student):
        output, wanted = (model(**inputs)[0] for model in (student.to(device), teacher))
    if (output - wanted).abs().max() > TOLERANCE * wanted.abs().max():
        raise ValueError(
            f"layers {list(layers)}: alone they do not compute what they do in the teacher. A layer of "
            f"{type(teacher.config).__name__} depends on its number here, as with GPT-2's "
            "scale_attn_by_inverse_layer_idx, so it cannot be copied"
        )


@contextmanager
def _only(model: Any, layers: tuple[int, ...]) -> Iterator[None]:
    """The other layers hand on what they get."""
    others = [model.get_submodule(path) for i, (path, _) in enumerate(transformer_blocks(model)) if i + 1 not in layers]
    for block in others:
        block.forward = _hand_on(block)
    try:
        yield
    finally:
        for block in others:
            del block.forward


def _hand_on(block: nn.Module) -> Any:
    own = block.forward

    def forward(hidden_states, *args, **kwargs):
        out = own(hidden_states, *args, **kwargs)
        return (hidden_states, *out[1:]) if isinstance(out, tuple) else hidden_states

    return forward


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
