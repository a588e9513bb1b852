"""The loss of a language model without its logits: from the hidden states in front of the head (`vocabulary_loss.py`).

Only positions with a label are multiplied by the head. A model may change its logits behind the head (a scale, a soft limit). So
the first batch is computed in both ways for a few tokens, and a model whose losses differ goes on with all logits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.formulas.vocabulary_loss import vocabulary_loss
from training.data.batching import Batch
from training.data.ignored import IGNORE
from training.models.compiling import is_compiled

LEAST_WORDS = 8192
"""with fewer words the logits are small, and one multiplication is faster than several"""
TOLERANCE = 1e-3
"""relative, between the two losses of a few tokens: half precision rounds the logits to 8 bits"""
CHECKED: WeakKeyDictionary = WeakKeyDictionary()
"""model → whether its logits are those of the head"""


def large_head(model: nn.Module) -> nn.Linear | None:
    """The head of a language model with many words, if it is a plain layer and the model is not compiled."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    plain = type(head) is nn.Linear and head.out_features >= LEAST_WORDS and not head._forward_hooks
    return head if plain and not (torch.compiler.is_compiling() or is_compiled(model)) else None  # pyright: ignore[reportReturnType]


def loss_from_hidden(model: nn.Module, inputs: Batch, labels: Tensor) -> Tensor | None:
    """The summed loss of the next tokens (N sequences, T tokens), or None where all logits must be computed."""
    head = large_head(model)
    if head is None or not _checked(model, head, inputs):
        return None
    with input_of(head) as captured:
        model(**inputs)
    hidden, targets = scored(captured[0], labels)
    weight, bias = head.weight, head.bias
    device = hidden.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    with torch.autocast(device, enabled=False):
        return vocabulary_loss(hidden, weight, bias, targets)


def scored(states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(states, next tokens) of the positions that have a label: (N, D) and (N,). Virtual tokens in front are left out."""
    states, labels = states[:, -labels.shape[1] :][:, :-1], labels[:, 1:]
    return states[labels != IGNORE], labels[labels != IGNORE]


@contextmanager
def input_of(head: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, the head multiplies nothing: what it is given is put into the list, and is its output."""
    captured: list[Tensor] = []

    def store(states: Tensor) -> Tensor:
        captured.append(states)
        return states

    head.forward = store
    try:
        yield captured
    finally:
        del head.forward


def _checked(model: nn.Module, head: nn.Linear, inputs: Batch) -> bool:
    if model not in CHECKED:
        CHECKED[model] = _same_logits(model, head, {name: value[:1, :8] for name, value in inputs.items()})
    return CHECKED[model]


@torch.no_grad()
def _same_logits(model: nn.Module, head: nn.Linear, inputs: Batch) -> bool:
    """Whether the model's logits are what its head makes of its input, on a few tokens."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with input_of(head) as captured:
            model(**inputs)
        expected = F.linear(captured[0], head.weight, head.bias).float()
        logits = model(**inputs).logits.float()
    finally:
        for module, mode in modes:
            module.training = mode
    if len(captured) != 1 or logits.shape != expected.shape:
        return False
    return bool((logits - expected).abs().max() <= TOLERANCE * expected.abs().max())
