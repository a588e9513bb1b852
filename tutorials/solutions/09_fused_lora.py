"""Answers to the exercises of lesson 09."""

import triton
import triton.language as tl


def extra_bytes(form: str, M: int, K: int, N: int, element: int = 2) -> int:
    passes = {"eager": K + 6 * N, "in place": K + 2 * N, "fused": K}
    return passes[form] * M * element


def tile_loads(M: int, N: int, K: int, BM: int, BN: int, element: int = 2) -> int:
    programs = (M // BM) * (N // BN)
    return programs * (BM + BN) * K * element


@triton.jit
def add_kernel(x, z, y, scale, n, BLOCK: tl.constexpr):
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = places < n
    result = tl.load(x + places, mask=inside) + scale * tl.load(z + places, mask=inside)
    tl.store(y + places, result, mask=inside)
