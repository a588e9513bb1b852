"""A mixed batch on the grouped kernels: every row's own adapter in one launch pair, whatever their number (`mixed_batch`).

The adapters of a layer are stacked to (L, R, K) and (L, N, R), shorter ranks with zeros behind; the stacking is a part of the
graph, so each adapter's factors get their own gradient. The tile table is made once per batch and serves every layer.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.grouped_lora import TileTable, stack_adapters, tile_table
from loralib.casting import cast
from loralib.dispatch import choose
from loralib.rows import Rows


def grouped_rows(layer, input: Tensor, rows: Rows) -> Tensor | None:
    """The output of a projection for a mixed batch, or None where the loop over adapters is to run: by choice of `dispatch.py`,
    or because an adapter is not a plain product (DoRA, (IA)³, dropout in training)."""
    names = [name for name in dict.fromkeys(rows.names) if name is not None and name in layer.slots]
    slots = [layer.slots[name] for name in names]
    if not names or any(slot.kind not in ("lora", "pissa") or (slot.dropout and layer.training) for slot in slots):
        return None
    factors = {name: layer.dense_factors(name) for name in names}
    (d_out, d_in), rank = layer.matrix_shape(), max(len(A) for A, _ in factors.values())
    if choose("grouped", input.device, input.dtype, input.shape[:-1].numel(), d_out, d_in, rank).path == "torch":
        return None
    rows.check(input, type(layer).__name__)
    return grouped_update(layer.plain(input), input, factors, [slot.scaling for slot in slots], rows)


def grouped_update(y: Tensor, x: Tensor, factors: dict[str, tuple[Tensor, Tensor]], scales: list[float], rows: Rows) -> Tensor:
    """y (*batch, N) plus every row's own s (x Aᵀ) Bᵀ; `factors` are (A, B) by adapter, `scales` in the same order."""
    from kernels.grouped_lora_triton import HEIGHT
    from kernels.tiles_triton import padded_rank

    rank = padded_rank(max(len(A) for A, _ in factors.values()))
    As, Bs = ([cast(pair[i], x.dtype) for pair in factors.values()] for i in (0, 1))
    per_row = x.shape[1:-1].numel()
    table = batch_table(rows, tuple(factors), per_row, HEIGHT, x.device)
    scaling = torch.tensor(scales, device=x.device, dtype=torch.float32)
    flat = GroupedLoraFunction.apply(
        y.reshape(-1, y.shape[-1]), x.reshape(-1, x.shape[-1]), *stack_adapters(As, Bs, rank), scaling, table
    )
    return flat.view(y.shape)


@lru_cache(maxsize=64)
def batch_table(rows: Rows, adapters: tuple[str, ...], per_row: int, height: int, device: torch.device) -> TileTable:
    """The tile table of a batch whose rows hold `per_row` tokens each; rows of adapters that are not here are base rows."""
    number: dict[str | None, int] = {name: i for i, name in enumerate(adapters)}
    ids = torch.tensor([number.get(name, -1) for name in rows.names for _ in range(rows.repeats * per_row)], dtype=torch.long)
    with torch.inference_mode(False):  # the next batch may train with it
        return tile_table(ids, len(adapters), height).to(device)


class GroupedLoraFunction(torch.autograd.Function):
    """Adds to y in place: nothing keeps the output of a linear layer for its own backward."""

    @staticmethod
    def forward(ctx, y, x, stacked_A, stacked_B, scaling, table: TileTable):
        from kernels import ops

        ctx.mark_dirty(y)
        S = ops.grouped_forward(y, x, stacked_A, stacked_B, scaling, table.order, table.tiles, table.bounds)
        ctx.save_for_backward(x, stacked_A, stacked_B, S, scaling)
        ctx.table = table
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):  # pyright: ignore[reportIncompatibleMethodOverride]
        from kernels import ops

        x, A, B, S, scaling = ctx.saved_tensors
        dx, t = torch.zeros_like(x), ctx.table
        dA, dB = ops.grouped_backward(dy, dx, x, A, B, S, scaling, t.order, t.tiles, t.bounds)
        return dy, dx, cast(dA, A.dtype), cast(dB, B.dtype), None, None
