"""Exercises of lesson 09. Write the functions, then run `python -m tutorials check 09`."""

import triton
import triton.language as tl


def extra_bytes(form: str, M: int, K: int, N: int, element: int = 2) -> int:
    """★ Bytes that the forward of LoRA moves beyond the base layer; S, A and B are small and do not count.

    form: "eager" (read x; write the branch; scale it: read, write; add: read both, write), "in place" (read x; add into y: read,
    write) or "fused" (read x). One dictionary.
    """
    raise NotImplementedError("extra_bytes")


def tile_loads(M: int, N: int, K: int, BM: int, BN: int, element: int = 2) -> int:
    """★★ Bytes that all programs of a tiled product (M, K) by (K, N) ask for together; M and N are multiples of the tile.

    Each program computes a tile of BM × BN and loads its rows of x and its columns of Wᵀ. Two lines.
    """
    raise NotImplementedError("tile_loads")


@triton.jit
def add_kernel(x, z, y, scale, n, BLOCK: tl.constexpr):
    """★★★ y = x + scale · z for vectors of n numbers; one program does BLOCK of them. Four lines.

    `tl.program_id(0)` is the program's number, `tl.arange(0, BLOCK)` the places inside its block.
    """
    raise NotImplementedError("add_kernel")
