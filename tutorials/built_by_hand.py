"""Kernels of lessons 09 and 10 that are compiled, not interpreted: `python -m tutorials.built_by_hand` prints what they became.

Two ways to add LoRA's product to a full accumulator, and three ways to decode 4 bits. A process of its own, because Triton
decides when a kernel is defined whether it will be interpreted.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import triton
import triton.language as tl

from kernels.triton_kernels.ahead_of_time import build
from kernels.triton_kernels.tiles_triton import load_tile


@triton.jit
def lora_gemm(
    x, w, s, b, y, M, N, K, r, scaling, x_row, w_row, s_row, b_row,
    INSIDE: tl.constexpr, R: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """As `expand_kernel`. INSIDE: the rank-r product is a step of the accumulator; else it is scaled and added to it."""
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
    if INSIDE:
        acc = tl.dot(s_tile, b_tile, acc)
    else:
        acc += tl.dot(s_tile, b_tile) * scaling
    inside = (rows[:, None] < M) & (columns[None, :] < N)
    tl.store(y + rows.to(tl.int64)[:, None] * N + columns[None, :], acc.to(y.dtype.element_ty), mask=inside)


@triton.jit
def level_by_comparing(nibble):
    """One of the 16 levels by 15 questions: what a kernel without a table does."""
    low = tl.where(nibble < 2, tl.where(nibble < 1, -1.0, -0.6961928), tl.where(nibble < 3, -0.52507305, -0.3949175))
    high = tl.where(nibble < 6, tl.where(nibble < 5, -0.28444138, -0.18477343), tl.where(nibble < 7, -0.091050036, 0.0))
    below = tl.where(nibble < 4, low, high)
    low = tl.where(nibble < 10, tl.where(nibble < 9, 0.0795803, 0.1609302), tl.where(nibble < 11, 0.2461123, 0.33791524))
    high = tl.where(nibble < 14, tl.where(nibble < 13, 0.44070983, 0.562617), tl.where(nibble < 15, 0.72295684, 1.0))
    above = tl.where(nibble < 12, low, high)
    return tl.where(nibble < 8, below, above)


@triton.jit
def decode_kernel(packed, absmax, table, out, n_bytes, HOW: tl.constexpr, BLOCKS: tl.constexpr):
    """Blocks of 64 weights, one float32 scale each. HOW 0: comparisons; 1: a table of 16; 2: a table of 256 pairs."""
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    place = block[:, None] * 32 + tl.arange(0, 32)[None, :]
    byte = tl.load(packed + place, mask=place < n_bytes, other=0).to(tl.int32)
    scale = tl.load(absmax + block, mask=block * 32 < n_bytes, other=0.0)[:, None]
    if HOW == 0:
        first, second = level_by_comparing(byte >> 4), level_by_comparing(byte & 15)
    elif HOW == 1:
        first, second = tl.load(table + (byte >> 4)), tl.load(table + (byte & 15))
    else:
        both = tl.load(table + byte)  # 64 bits: the second level in the high half
        first, second = both.to(tl.int32).to(tl.float32, bitcast=True), (both >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    weight = tl.reshape(tl.join(first * scale, second * scale), (BLOCKS, 64))
    place = block[:, None] * 64 + tl.arange(0, 64)[None, :]
    tl.store(out + place, weight.to(out.dtype.element_ty), mask=place < 2 * n_bytes)


WAYS = ("comparisons", "table of 16", "table of 256 pairs")
BLOCKS, WARPS = 128, 4


def builds() -> dict[str, dict[str, float]]:
    """Both kernels in all their forms, for Hopper (sm_90)."""
    found = {}
    sizes = dict.fromkeys(("M", "N", "K", "r", "x_row", "w_row", "s_row", "b_row"), "i32")
    arguments = (
        dict.fromkeys(("x", "w", "s", "b", "y"), "*bf16") | sizes | {"scaling": "fp32", "R": 16, "BM": 128, "BN": 256, "BK": 64}
    )
    whole = ("x", "w", "s", "b", "y", "N", "K", "x_row", "w_row", "s_row", "b_row")
    for inside in (True, False):
        b = build(lora_gemm, arguments | {"INSIDE": inside}, 90, 8, 3, whole)
        name = "inside the accumulator" if inside else "beside the accumulator"
        found[name] = {"registers": b.registers, "spilled": b.spilled, "wgmma": b.wgmma}
    arguments = {"packed": "*u8", "absmax": "*fp32", "out": "*bf16", "n_bytes": "i32", "BLOCKS": BLOCKS}
    for how, name in enumerate(WAYS):
        table = {"table": "*i64" if how == 2 else "*fp32", "HOW": how}
        b = build(decode_kernel, arguments | table, 90, WARPS, 3, ("packed", "absmax", "table", "out", "n_bytes"))
        found[name] = {"registers": b.registers, "spilled": b.spilled, "per weight": b.instructions / (BLOCKS * 64 / 32 / WARPS)}
    return found


def built() -> dict[str, dict[str, float]]:
    """The same, from a process in which kernels are compiled."""
    compiling = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    words = [sys.executable, "-m", "tutorials.built_by_hand"]
    done = subprocess.run(words, env=compiling, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the kernels were not built:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


if __name__ == "__main__":
    print(json.dumps(builds()))
