"""Puzzle 06: a matrix multiplication of any size, in tiles. Check it with  python -m tutorials ladder 06"""

import triton
import triton.language as tl


@triton.jit
def matmul(x, w, y, M, N, K, BLOCK: tl.constexpr):
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    for k in range(0, K, BLOCK):
        depth = k + tl.arange(0, BLOCK)
        # your code: a masked tile of x, a masked tile of Wᵀ, and acc = tl.dot(..., acc)
    # your code: store acc with a mask


def launch(x, w, y):
    (M, K), N = x.shape, len(w)
    matmul[(triton.cdiv(M, 16), triton.cdiv(N, 16))](x, w, y, M, N, K, BLOCK=16)
