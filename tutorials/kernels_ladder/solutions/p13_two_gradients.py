"""Puzzle 13: two gradients of LoRA from one read of dy."""

import triton
import triton.language as tl


@triton.jit
def two_gradients(dy, b, S, dS, parts, scaling, N, R: tl.constexpr, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ranks = tl.arange(0, R)
    own_part = parts + tl.program_id(0) * N * R
    s_tile = tl.load(S + rows[:, None] * R + ranks[None, :])
    acc = tl.zeros((BLOCK, R), tl.float32)
    for n in range(0, N, BLOCK):
        columns = n + tl.arange(0, BLOCK)
        dy_tile = tl.load(dy + rows[:, None] * N + columns[None, :])
        b_tile = tl.load(b + columns[:, None] * R + ranks[None, :])
        acc = tl.dot(dy_tile, b_tile, acc)
        tl.store(own_part + columns[:, None] * R + ranks[None, :], tl.dot(tl.trans(dy_tile), s_tile))
    tl.store(dS + rows[:, None] * R + ranks[None, :], acc * scaling)


def launch(dy, b, S, scaling, dS, parts):
    M, N = dy.shape
    two_gradients[(M // 32,)](dy, b, S, dS, parts, scaling, N, R=16, BLOCK=32)
