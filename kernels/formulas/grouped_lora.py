"""Many adapters in one batch: row i of x goes through adapter ids[i], and -1 is the base alone. The definition, in PyTorch.

Adapters of different ranks are stacked with zeros behind their own rows, which add nothing: A (L, R, K), B (L, N, R).
The kernels do not sort x. A tile table says which rows belong together: each tile holds up to BM rows of one adapter.

Letters: M rows, K = d_in, N = d_out, L adapters, R the largest rank, padded.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


def grouped_lora_reference(
    y: Float[Tensor, "M N"],
    x: Float[Tensor, "M K"],
    stacked_A: Float[Tensor, "L R K"],
    stacked_B: Float[Tensor, "L N R"],
    scaling: Float[Tensor, " L"],
    ids: Int[Tensor, " M"],
) -> Float[Tensor, "M N"]:
    """y + s_a (x A_aᵀ) B_aᵀ, a = ids[i] for row i: a loop over the adapters."""
    check_ids(ids, len(x), len(stacked_A))
    y = y.clone()
    for a, (A, B) in enumerate(zip(stacked_A, stacked_B, strict=True)):
        rows = (ids == a).nonzero().view(-1)
        y = y.index_add(0, rows, scaling[a] * (x[rows] @ A.T @ B.T))
    return y


def stack_adapters(As: list[Tensor], Bs: list[Tensor], rank: int) -> tuple[Float[Tensor, "L R K"], Float[Tensor, "L N R"]]:
    """A_i (r_i, K) and B_i (N, r_i), of any ranks up to `rank`, with zeros behind."""
    if any(len(A) > rank for A in As):
        raise ValueError(f"adapters of rank {[len(A) for A in As]}: expected at most {rank}")
    pad = torch.nn.functional.pad
    stacked_A = torch.stack([pad(A, (0, 0, 0, rank - len(A))) for A in As])
    return stacked_A, torch.stack([pad(B, (0, rank - B.shape[1])) for B in Bs])


@dataclass(frozen=True)
class TileTable:
    """Which rows each program takes. Made once per batch, used by every layer."""

    order: Int[Tensor, " M"]
    """the rows, sorted by adapter; those of the base come first"""
    tiles: Int[Tensor, "tiles 3"]
    """(adapter, first place in `order`, number of rows); padded with adapter -1 to a number that M and L fix"""
    bounds: Int[Tensor, "L_1"]
    """places [bounds[a], bounds[a + 1]) of `order` are adapter a's"""

    def to(self, device: torch.device | str) -> "TileTable":
        return TileTable(self.order.to(device), self.tiles.to(device), self.bounds.to(device))

    @property
    def adapters(self) -> int:
        return len(self.bounds) - 1


def tile_table(ids: Int[Tensor, " M"], adapters: int, height: int) -> TileTable:
    """Made on the host, from ids that lie there: no waiting for the GPU. The table has one size for a given M and L,
    so that a captured CUDA graph fits every batch. Rows of -1 are in no tile: nothing is added to them, not even a zero.
    """
    check_ids(ids, len(ids), adapters)
    counts = torch.bincount(ids + 1, minlength=adapters + 1)
    bounds = counts.cumsum(0)
    order = torch.argsort(ids, stable=True)
    tiles = []
    for a in range(adapters):
        low, high = int(bounds[a]), int(bounds[a + 1])
        tiles += [(a, first, min(height, high - first)) for first in range(low, high, height)]
    most = len(ids) // height + adapters  # all full tiles there can be, and one that is not full for each adapter
    tiles += [(-1, 0, 0)] * (most - len(tiles))
    return TileTable(order.int(), torch.tensor(tiles, dtype=torch.int32).view(-1, 3), bounds.int())


def check_ids(ids: Tensor, rows: int, adapters: int) -> None:
    """ValueError unless there is one id per row, each -1 (base alone) or the number of an adapter."""
    if ids.shape != (rows,):
        raise ValueError(f"ids {tuple(ids.shape)} for {rows} rows: expected one adapter number per row")
    if len(ids) and not -1 <= int(ids.min()) <= int(ids.max()) < adapters:
        raise ValueError(f"ids from {int(ids.min())} to {int(ids.max())}: expected -1 (base alone) to {adapters - 1}")
