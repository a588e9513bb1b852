"""Puzzle 10: a LoRA layer in two launches, so that x Aᵀ is computed once."""

import triton
import triton.language as tl


@triton.jit
def shrink(x, a, S, scaling, K, R: tl.constexpr, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ranks = tl.arange(0, R)
    low = tl.zeros((BLOCK, R), tl.float32)
    for k in range(0, K, BLOCK):
        depth = k + tl.arange(0, BLOCK)
        x_tile = tl.load(x + rows[:, None] * K + depth[None, :])
        low = tl.dot(x_tile, tl.load(a + ranks[None, :] * K + depth[:, None]), low)
    tl.store(S + rows[:, None] * R + ranks[None, :], low * scaling)


@triton.jit
def expand(x, w, S, b, y, N, K, R: tl.constexpr, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ranks = tl.arange(0, R)
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    for k in range(0, K, BLOCK):
        depth = k + tl.arange(0, BLOCK)
        x_tile = tl.load(x + rows[:, None] * K + depth[None, :])
        acc = tl.dot(x_tile, tl.load(w + columns[None, :] * K + depth[:, None]), acc)
    s_tile = tl.load(S + rows[:, None] * R + ranks[None, :])
    b_tile = tl.load(b + columns[None, :] * R + ranks[:, None])
    acc = tl.dot(s_tile, b_tile, acc)  # one more step of the same accumulator
    tl.store(y + rows[:, None] * N + columns[None, :], acc)


def launch(x, w, a, b, scaling, S, y):
    (M, K), N = x.shape, len(w)
    shrink[(M // 32,)](x, a, S, scaling, K, R=16, BLOCK=32)
    expand[(M // 32, N // 32)](x, w, S, b, y, N, K, R=16, BLOCK=32)
