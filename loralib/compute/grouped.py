"""A mixed batch on the grouped kernels: every row's own adapter in one launch pair, whatever their number (`mixed_batch`).

The adapters of a layer are stacked to (L, R, K) and (L, N, R), shorter ranks with zeros behind. In training the stacking is a
part of the graph, so that each adapter's factors get their own gradient; in inference it is done once. The tile table is made
once per batch and serves every layer.
"""

from functools import lru_cache
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.formulas.grouped_lora import TileTable, stack_adapters, tile_table
from loralib.compute.casting import cast, compute_dtype
from loralib.compute.dispatch import choose, mode_of
from loralib.compute.rows import Rows

Factors = dict[str, tuple[Tensor, Tensor]]
"""adapter → (A, B)"""


def grouped_rows(layer, input: Tensor, rows: Rows) -> Tensor | None:
    """The output of a projection for a mixed batch, or None where the loop over adapters is to run: by choice of `dispatch.py`,
    or because an adapter is not a plain matmul (DoRA, (IA)³, dropout in training)."""
    names = [name for name in dict.fromkeys(rows.names) if name is not None and name in layer.variants]
    variants = [layer.variants[name] for name in names]
    if not names or any(not v.is_low_rank or (v.dropout and layer.training) for v in variants):
        return None
    factors = {name: variant.factors(layer, name) for name, variant in zip(names, variants, strict=True)}
    rank = max(len(A) for A, _ in factors.values())
    shape = input.shape[:-1].numel(), *layer.matrix_shape()
    mode = mode_of(input, *(A for A, _ in factors.values()))
    if choose("grouped", input.device, compute_dtype(input), shape, rank, mode).path == "torch":
        return None
    rows = rows.fitted(input, type(layer).__name__)
    return grouped_update(layer, layer.base_forward(input), input, factors, [variant.scaling for variant in variants], rows)


def grouped_update(
    layer, y: Tensor, x: Tensor, factors: dict[str, tuple[Tensor, Tensor]], scales: list[float], rows: Rows
) -> Tensor:
    """y (*batch, N) plus every row's own s (x Aᵀ) Bᵀ; `factors` are (A, B) by adapter, `scales` in the same order."""
    from kernels.triton_kernels.grouped_lora_triton import HEIGHT
    from kernels.triton_kernels.tiles_triton import padded_rank

    per_row = x.shape[1:-1].numel()
    table = batch_table(rows, tuple(factors), per_row, HEIGHT, x.device)
    stacked = stack_of(layer, factors, padded_rank(max(len(A) for A, _ in factors.values())), compute_dtype(x))
    flat = y.reshape(-1, y.shape[-1]), x.reshape(-1, x.shape[-1])
    return GroupedLoraFunction.apply(*flat, *stacked, scales_on(tuple(scales), x.device), table).view(y.shape)


def stack_of(layer, factors: Factors, rank: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The factors as (L, rank, K) and (L, N, rank). Without gradients the layer keeps them until an adapter changes."""
    every = [factor for pair in factors.values() for factor in pair]
    cacheable = not (torch.is_grad_enabled() or torch.compiler.is_compiling() or any(f.is_inference() for f in every))
    now = (
        (dtype, rank, *((name, A.data_ptr(), A._version, B.data_ptr(), B._version) for name, (A, B) in factors.items()))
        if cacheable
        else None
    )
    if cacheable and layer in STACKS and STACKS[layer][0] == now:
        return STACKS[layer][1]
    As, Bs = ([cast(pair[i], dtype) for pair in factors.values()] for i in (0, 1))
    stacked = stack_adapters(As, Bs, rank)
    if cacheable:
        STACKS[layer] = (now, stacked, every)  # the factors are held, so that their addresses cannot be given to others
    return stacked


STACKS: WeakKeyDictionary = WeakKeyDictionary()
"""layer → (what the stack was made of, the stack, the factors)"""


@lru_cache(maxsize=64)
def batch_table(rows: Rows, adapters: tuple[str, ...], per_row: int, height: int, device: torch.device) -> TileTable:
    """The tile table of a batch whose rows hold `per_row` tokens each; rows of adapters that are not here are base rows."""
    number: dict[str | None, int] = {name: i for i, name in enumerate(adapters)}
    ids = torch.tensor([number.get(name, -1) for name in rows.names for _ in range(rows.repeats * per_row)], dtype=torch.long)
    with torch.inference_mode(False):  # the next batch may train with it
        return tile_table(ids, len(adapters), height).to(device)


@lru_cache(maxsize=64)
def scales_on(scales: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(scales, device=device, dtype=dtype)


class GroupedLoraFunction(torch.autograd.Function):
    """A copy of y with every row's update added. (In place on y itself would break torch.compile and layers that give views.)"""

    @staticmethod
    def forward(ctx, y, x, stacked_A, stacked_B, scaling, table: TileTable):
        from kernels.triton_kernels import ops

        dtype = stacked_A.dtype
        out, rows = y.to(dtype, copy=True, memory_format=torch.contiguous_format), cast(x, dtype)
        S = ops.grouped_forward(out, rows, stacked_A, stacked_B, scaling, table.order, table.tiles, table.bounds)
        ctx.save_for_backward(x, stacked_A, stacked_B, S, scaling)
        ctx.table, ctx.y_dtype = table, y.dtype
        return cast(out, y.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy):  # pyright: ignore[reportIncompatibleMethodOverride]
        from kernels.triton_kernels import ops

        x, A, B, S, scaling = ctx.saved_tensors
        t, grads, rows = ctx.table, cast(dy, S.dtype), cast(x, S.dtype)
        dx = torch.zeros(x.shape, dtype=S.dtype, device=x.device)
        dA, dB = ops.grouped_backward(grads, dx, rows, A, B, S, scaling, t.order, t.tiles, t.bounds)
        return cast(dy, ctx.y_dtype), cast(dx, x.dtype), cast(dA, A.dtype), cast(dB, B.dtype), None, None
