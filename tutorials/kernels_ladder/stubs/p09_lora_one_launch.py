"""Puzzle 09: a LoRA layer in one launch. Check it with  python -m tutorials ladder 09"""

import triton
import triton.language as tl


@triton.jit
def lora(x, w, a, b, y, scaling, N, K, R: tl.constexpr, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ranks = tl.arange(0, R)
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    for k in range(0, K, BLOCK):
        depth = k + tl.arange(0, BLOCK)
        x_tile = tl.load(x + rows[:, None] * K + depth[None, :])
        acc = tl.dot(x_tile, tl.load(w + columns[None, :] * K + depth[:, None]), acc)
        # your code: a second accumulator, of shape (BLOCK, R), for x Aᵀ
    # your code: scale it, multiply it with a tile of Bᵀ, and add the result to acc
    tl.store(y + rows[:, None] * N + columns[None, :], acc)


def launch(x, w, a, b, scaling, y):
    (M, K), N = x.shape, len(w)
    lora[(M // 32, N // 32)](x, w, a, b, y, scaling, N, K, R=16, BLOCK=32)
