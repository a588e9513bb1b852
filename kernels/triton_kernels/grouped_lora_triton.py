"""Many adapters in one launch: y[i] += s · (x[i] Aᵀ) Bᵀ with the A and B of row i's own adapter. The definition and the tile
table are kernels/formulas/grouped_lora.py.

1. A loop over the adapters (the definition): three launches each, most of them with a handful of rows.
2. Three kernels here, whatever the number of adapters; forward and backward are six uses of them:

       shrink   S  = s · x Aᵀ       dS = s · dy B        a gathered tile of rows times a thin matrix
       expand   y += S Bᵀ           dx += dS A           a thin tile times a matrix, added to rows in place
       outer    dB = dyᵀ S          dAᵀ = xᵀ dS          a sum over the rows of one adapter

Each tile holds rows of one adapter. `outer` gives each adapter's columns to one program, which walks its rows in order: no
atomic additions, the same bits every time. S lies in the order of the table, so that the third kernel reads it
in a line. Letters as in lora_matmul_triton.py; the kernels call the pointer to S `down`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.formulas.grouped_lora import TileTable
from kernels.triton_kernels.configs import capability, grouped_tiles
from kernels.triton_kernels.launching import check_dtypes, check_shapes, options, strides
from kernels.triton_kernels.tiles_triton import load_tile, precision

HEIGHT = 32
"""rows of a tile: most serving batches have few rows per adapter"""


@triton.jit
def grouped_shrink_kernel(
    x, a, down, scaling, order, tiles, K, x_row, x_col, a_adapter, a_rank, a_col,
    R: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    adapter, first, count = read_tile(tiles)
    if adapter < 0:
        return
    places, ranks = tl.arange(0, BM), tl.arange(0, R)
    rows = tl.load(order + first + places, mask=places < count, other=0).to(tl.int64)
    acc = tl.zeros((BM, R), tl.float32)
    for k in range(0, K, BK):
        depth = k + tl.arange(0, BK)
        inside = (places[:, None] < count) & (depth[None, :] < K)
        x_tile = tl.load(x + rows[:, None] * x_row + depth[None, :] * x_col, mask=inside, other=0.0)
        a_tile = load_tile(a + adapter.to(tl.int64) * a_adapter, depth, ranks, a_col, a_rank, K, R)
        acc = tl.dot(x_tile, a_tile, acc, input_precision=PRECISION)
    acc *= tl.load(scaling + adapter)
    place = (first + places).to(tl.int64)[:, None] * R + ranks[None, :]
    tl.store(down + place, acc.to(down.dtype.element_ty), mask=places[:, None] < count)


@triton.jit
def grouped_expand_kernel(
    down, b, y, order, tiles, N, y_row, b_adapter, b_row, b_rank,
    R: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    adapter, first, count = read_tile(tiles)
    if adapter < 0:
        return
    places, ranks = tl.arange(0, BM), tl.arange(0, R)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    down_tile = load_tile(down, first + places, ranks, R, 1, first + count, R)
    b_tile = load_tile(b + adapter.to(tl.int64) * b_adapter, ranks, columns, b_rank, b_row, R, N)
    acc = tl.dot(down_tile, b_tile, input_precision=PRECISION)
    rows = tl.load(order + first + places, mask=places < count, other=0).to(tl.int64)
    target = y + rows[:, None] * y_row + columns[None, :]
    inside = (places[:, None] < count) & (columns[None, :] < N)
    acc += tl.load(target, mask=inside, other=0.0).to(tl.float32)
    tl.store(target, acc.to(y.dtype.element_ty), mask=inside)


@triton.jit
def grouped_outer_kernel(
    g, down, out, order, bounds, N, g_row, g_col, out_adapter, out_row, out_rank,
    R: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """out[a] (N, R) = Σ over a's rows of g[row]ᵀ S[place]: one program per adapter and BN columns; without rows, zeros."""
    adapter = tl.program_id(0)
    low, high = tl.load(bounds + adapter), tl.load(bounds + adapter + 1)
    columns, ranks = tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, R)
    acc = tl.zeros((BN, R), tl.float32)
    for first in range(low, high, BM):
        places = first + tl.arange(0, BM)
        rows = tl.load(order + places, mask=places < high, other=0).to(tl.int64)
        inside = (columns[:, None] < N) & (places[None, :] < high)
        g_tile = tl.load(g + rows[None, :] * g_row + columns[:, None] * g_col, mask=inside, other=0.0)  # (BN, BM)
        down_tile = load_tile(down, places, ranks, R, 1, high, R)
        acc = tl.dot(g_tile, down_tile, acc, input_precision=PRECISION)
    place = adapter.to(tl.int64) * out_adapter + columns.to(tl.int64)[:, None] * out_row + ranks[None, :] * out_rank
    tl.store(out + place, acc, mask=columns[:, None] < N)


@triton.jit
def read_tile(tiles):
    entry = tiles + tl.program_id(0) * 3
    return tl.load(entry), tl.load(entry + 1), tl.load(entry + 2)


# ---------------------------------------------------------------- launching


def grouped_forward(y: Tensor, x: Tensor, stacked_A: Tensor, stacked_B: Tensor, scaling: Tensor, table: TileTable) -> Tensor:
    """Adds every row's own update to y (M, N) in place. Returns S (M, R), in the table's order, for backward."""
    S = grouped_shrink(x, stacked_A, scaling, table)
    grouped_expand(S, stacked_B, y, table)
    return S


def grouped_backward(
    dy: Tensor, dx: Tensor, x: Tensor, stacked_A: Tensor, stacked_B: Tensor, S: Tensor, scaling: Tensor, table: TileTable
) -> tuple[Tensor, Tensor]:
    """Adds the adapters' part to dx (M, K), which holds dy W. Returns dA (L, R, K) and dB (L, N, R) in float32."""
    (L, R, K), N = stacked_A.shape, stacked_B.shape[1]
    dS = grouped_shrink(dy, stacked_B.transpose(1, 2), scaling, table)
    grouped_expand(dS, stacked_A.transpose(1, 2), dx, table)
    dA = torch.empty(L, R, K, dtype=torch.float32, device=x.device)
    dB = torch.empty(L, N, R, dtype=torch.float32, device=x.device)
    grouped_outer(dy, S, dB, table)
    grouped_outer(x, dS, dA.transpose(1, 2), table)
    return dA, dB


def grouped_shrink(x: Tensor, stacked_A: Tensor, scaling: Tensor, table: TileTable) -> Tensor:
    """S (M, R), row after row of `table.order`: s · x Aᵀ. `stacked_A` is (L, R, K), of any strides."""
    check_shapes("x M K, stacked_A L R K, scaling L, order M", x=x, stacked_A=stacked_A, scaling=scaling, order=table.order)
    check_dtypes(x, stacked_A)
    R, K = stacked_A.shape[1:]
    check_rank(R)
    S = x.new_zeros(len(x), R)
    t = grouped_tiles(x.dtype, capability(x.device))
    grouped_shrink_kernel[(len(table.tiles),)](
        x, stacked_A, S, scaling, table.order, table.tiles, K=K, **strides(x=x), **_strides_3d("a", stacked_A, "rank", "col"),
        R=R, BM=HEIGHT, BK=t.K, PRECISION=precision(x.dtype), **options(t),
    )  # fmt: skip
    return S


def grouped_expand(S: Tensor, stacked_B: Tensor, y: Tensor, table: TileTable) -> None:
    """y[row] += S Bᵀ in place, rows of adapters alone. `stacked_B` is (L, N, R), of any strides."""
    check_shapes("S M R, stacked_B L N R, y M N", S=S, stacked_B=stacked_B, y=y)
    check_dtypes(S, stacked_B, y)
    N, R = stacked_B.shape[1:]
    if y.stride(1) != 1:
        raise ValueError(f"y has strides {y.stride()}: expected contiguous rows, since it is changed in place")
    t = grouped_tiles(y.dtype, capability(y.device))
    grouped_expand_kernel[len(table.tiles), triton.cdiv(N, t.N)](
        S, stacked_B, y, table.order, table.tiles, N=N, y_row=y.stride(0), **_strides_3d("b", stacked_B, "row", "rank"),
        R=R, BM=HEIGHT, BN=t.N, PRECISION=precision(y.dtype), **options(t),
    )  # fmt: skip


def grouped_outer(g: Tensor, S: Tensor, out: Tensor, table: TileTable) -> None:
    """out[a] (N, R) = g_aᵀ S_a, into a tensor of any strides."""
    N, BN = g.shape[1], 64
    grouped_outer_kernel[table.adapters, triton.cdiv(N, BN)](
        g, S, out, table.order, table.bounds, N=N, **strides(g=g), **_strides_3d("out", out, "row", "rank"),
        R=S.shape[1], BM=HEIGHT, BN=BN, PRECISION=precision(g.dtype), num_warps=4, num_stages=3,
    )  # fmt: skip


def _strides_3d(name: str, stacked: Tensor, *axes: str) -> dict[str, int]:
    """The strides of matrices that are stacked by adapter, under the kernels' names."""
    names = (f"{name}_adapter", *(f"{name}_{axis}" for axis in axes))
    return dict(zip(names, stacked.stride(), strict=True))


def check_rank(R: int) -> None:
    if R < 16 or R & (R - 1):
        raise ValueError(f"adapters stacked to rank {R}: expected a power of two from 16 on, as `padded_rank` gives")
