"""Many adapters in one batch: every row names its adapter, or None for the base.

The base runs once for all rows; each adapter adds its update to its own rows. The outputs are those of running each row
alone with its adapter (to the rounding of a batched matmul).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from loralib.compute.rows import Rows
from loralib.injection.merge_weights import merged_adapters
from loralib.layers.biases import model_biases
from loralib.layers.heads import SavedModule, saved_modules
from loralib.layers.lora_layer import LoraLayer, lora_layers


@contextmanager
def mixed_batch(model: nn.Module, names: Sequence[str | None], repeats: int = 1) -> Iterator[None]:
    """Inside, row i of every batch uses adapter `names[i]`, with its head; None is the base. What is active does not matter.

    repeats: rows that stand for one, as beams of `generate` do. Call `backward()` inside too: gradient checkpointing runs the
    forward a second time there.
    Raises KeyError for an unknown adapter, RuntimeError while something is merged, ValueError for an adapter with biases of its
    own (a bias is added to all rows alike), and at the first forward when the batch has another number of rows.
    """
    layers, heads = lora_layers(model), saved_modules(model)
    known = {name for layer in layers.values() for name in layer.variants}
    unknown = sorted({n for n in names if n is not None} - known)
    if unknown or not names:
        raise KeyError(f"no adapter {unknown} for a row; there are {sorted(known)}, and None for the base")
    if merged_adapters(model):
        raise RuntimeError(f"adapters {merged_adapters(model)} are merged, so every row would get them: unmerge(model) first")
    with_biases = sorted(set(model_biases(model).copies) & set(names))
    if with_biases or model_biases(model).active:
        raise ValueError(f"adapters {with_biases or [model_biases(model).active]} train biases, which all rows of a batch share")
    rows = Rows(tuple(names), repeats)
    users = [*layers.values(), *heads.values()]
    before = [user.rows for user in users]
    for user in users:
        user.rows = rows
    handle = model.register_forward_pre_hook(partial(_count_tokens, users, rows), with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
        for user, rows_before in zip(users, before, strict=True):
            if isinstance(user, LoraLayer | SavedModule):  # not a layer whose last adapter was deleted inside
                user.rows = rows_before


def _count_tokens(users: list, rows: Rows, model: nn.Module, args: tuple, kwargs: dict) -> None:
    """Before a forward: how many tokens a row has, for layers that get rows and tokens in one dimension."""
    if torch.compiler.is_compiling():
        return
    given = kwargs.get("input_ids", kwargs.get("inputs_embeds", args[0] if args else None))
    count = len(rows.names)
    if isinstance(given, Tensor) and given.ndim >= 2 and len(given) in (count, count * rows.repeats):
        for user in users:
            if user.rows is not None and user.rows.names == rows.names:  # not switched off, nor in a batch of its own
                user.rows = replace(rows, tokens=given.shape[1])
