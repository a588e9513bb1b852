"""Puzzle 06: a matrix multiplication of any size, in tiles."""

import triton
import triton.language as tl


@triton.jit
def matmul(x, w, y, M, N, K, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    for k in range(0, K, BLOCK):
        depth = k + tl.arange(0, BLOCK)
        x_inside = (rows[:, None] < M) & (depth[None, :] < K)
        w_inside = (columns[None, :] < N) & (depth[:, None] < K)
        x_tile = tl.load(x + rows[:, None] * K + depth[None, :], mask=x_inside, other=0.0)
        w_tile = tl.load(w + columns[None, :] * K + depth[:, None], mask=w_inside, other=0.0)
        acc = tl.dot(x_tile, w_tile, acc)
    y_inside = (rows[:, None] < M) & (columns[None, :] < N)
    tl.store(y + rows[:, None] * N + columns[None, :], acc, mask=y_inside)


def launch(x, w, y):
    (M, K), N = x.shape, len(w)
    matmul[(triton.cdiv(M, 16), triton.cdiv(N, 16))](x, w, y, M, N, K, BLOCK=16)
