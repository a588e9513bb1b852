"""Run by test_kernels_builds.py, without the interpreter: does the gate see a kernel that spills? The bug is planted."""

import sys

import triton
import triton.language as tl

from kernels.ahead_of_time import build
from kernels.configs import gemm_tiles
from kernels.tiles_triton import load_tile


@triton.jit
def two_accumulators(
    x, w, s, b, y, M, N, K, r, scaling, x_row, w_row, s_row, b_row,
    RIGHT: tl.constexpr, R: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """As `expand_kernel`; without RIGHT it scales the rank-r product outside of the accumulator."""
    rows, columns, ranks = tl.program_id(0) * BM + tl.arange(0, BM), tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, R)
    x_tiles = x + (rows % M).to(tl.int64)[:, None] * x_row + tl.arange(0, BK)[None, :]
    w_tiles = w + (columns % N).to(tl.int64)[None, :] * w_row + tl.arange(0, BK)[:, None]
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        inside_k = k + tl.arange(0, BK) < K
        x_tile = tl.load(x_tiles, mask=inside_k[None, :], other=0.0)
        w_tile = tl.load(w_tiles, mask=inside_k[:, None], other=0.0)
        acc = tl.dot(x_tile, w_tile, acc)
        x_tiles += BK
        w_tiles += BK
    s_tile = load_tile(s, rows, ranks, s_row, 1, M, r)
    b_tile = load_tile(b, ranks, columns, 1, b_row, r, N)
    if RIGHT:
        acc = tl.dot(s_tile, b_tile, acc)
    else:
        acc += tl.dot(s_tile, b_tile) * scaling
    inside = (rows[:, None] < M) & (columns[None, :] < N)
    tl.store(y + rows.to(tl.int64)[:, None] * N + columns[None, :], acc.to(y.dtype.element_ty), mask=inside)


def main() -> None:
    import torch

    t = gemm_tiles(8192, 4096, torch.bfloat16)
    arguments = dict.fromkeys(("x", "w", "s", "b", "y"), "*bf16") | {"scaling": "fp32", "R": 16, "BM": t.M, "BN": t.N, "BK": t.K}
    arguments |= dict.fromkeys(("M", "N", "K", "r", "x_row", "w_row", "s_row", "b_row"), "i32")
    whole = ("x", "w", "s", "b", "y", "N", "K", "x_row", "w_row", "s_row", "b_row")
    for right in (True, False):
        found = build(two_accumulators, arguments | {"RIGHT": right}, 90, t.warps, t.stages, whole)
        print("right" if right else "planted", found.spilled, found.registers, found.wgmma)


if __name__ == "__main__":
    sys.exit(main())
