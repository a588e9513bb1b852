"""Puzzle 09: a LoRA layer in one launch."""

import triton
import triton.language as tl


@triton.jit
def lora(x, w, a, b, y, scaling, N, K, R: tl.constexpr, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ranks = tl.arange(0, R)
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    low = tl.zeros((BLOCK, R), tl.float32)
    for k in range(0, K, BLOCK):
        depth = k + tl.arange(0, BLOCK)
        x_tile = tl.load(x + rows[:, None] * K + depth[None, :])
        acc = tl.dot(x_tile, tl.load(w + columns[None, :] * K + depth[:, None]), acc)
        low = tl.dot(x_tile, tl.load(a + ranks[None, :] * K + depth[:, None]), low)
    b_tile = tl.load(b + columns[None, :] * R + ranks[:, None])  # (R, BLOCK): a tile of Bᵀ
    acc = tl.dot(low * scaling, b_tile, acc)
    tl.store(y + rows[:, None] * N + columns[None, :], acc)


def launch(x, w, a, b, scaling, y):
    (M, K), N = x.shape, len(w)
    lora[(M // 32, N // 32)](x, w, a, b, y, scaling, N, K, R=16, BLOCK=32)
