"""Which tile sizes a kernel runs with: a small table instead of a search at every start.

The numbers are starting points from published Hopper kernels and from the ahead-of-time builds (registers, shared memory);
`python -m kernels.bench all` on a GPU says what they reach there. An unknown GPU gets the same, never an error.
"""

from dataclasses import dataclass
from functools import cache

import torch

SMALL_M = 32  # tokens: up to here the LoRA product is one launch


@dataclass(frozen=True)
class Tiles:
    """One launch: tile sizes along M, N and the summed axis K, warps per program, loads in flight."""

    M: int
    N: int
    K: int
    warps: int = 4
    stages: int = 3
    group: int = 8
    """tile rows that are walked together, for the L2 cache"""
    split: int = 1
    """parts of the summed axis, each in a program of its own"""


def gemm_tiles(M: int, N: int, dtype: torch.dtype) -> Tiles:
    """For an (M, N) product. Small M takes small tiles, so that there are enough of them for every SM."""
    if dtype == torch.float32:  # twice the bytes, and no tensor cores without TF32
        return Tiles(64 if M > 32 else 16, 64, 32)
    if M <= 16:
        return Tiles(16, 32, 128, warps=4, stages=4)
    if M <= 128:
        return Tiles(32 if M <= 32 else 64, 64, 64, warps=4, stages=4)
    if M * N <= 1024 * 4096 * 2:  # fewer than 132 tiles of 128 × 256
        return Tiles(128, 128, 64, warps=8, stages=3)
    return Tiles(128, 256, 64, warps=8, stages=3)


def shrink_tiles(M: int, K: int, dtype: torch.dtype) -> Tiles:
    """For S = x Aᵀ: bound by the read of x, so every SM must read. Few rows: K is split."""
    BK = 64 if dtype == torch.float32 else 128
    if M >= 8192:
        return Tiles(64, 0, BK, stages=4)
    BM = 64 if M >= 4096 else 32 if M >= 1024 else 16
    wanted = 132 * BM // max(M, 1)
    return Tiles(BM, 0, BK, stages=4, split=max(1, min(wanted, K // (2 * BK), 16)))


def rank_tiles(M: int, width: int, dtype: torch.dtype) -> Tiles:
    """For dS, dB (one read of dy) and dA (one read of x): bound by that read. Tall tiles keep the planes of dB few."""
    BM, BN = (64, 32) if dtype == torch.float32 else (128, 64) if M >= 1024 else (64, 64)
    programs = -(-M // BM)
    return Tiles(BM, BN, 0, warps=4, stages=3, split=max(1, min(264 // max(programs, 1), -(-width // BN), 8)))


def nf4_gemv_tiles(blocksize: int) -> Tiles:
    """1 to 4 tokens: enough programs for every SM, and at least 16 bytes a load."""
    return Tiles(1, 16, max(512, blocksize), warps=4, stages=3)


def nf4_gemm_tiles(M: int, N: int, K: int) -> Tiles:
    """5 to 256 tokens. The weight is walked once per BM tokens, so BM covers M where registers allow; K is split to fill SMs."""
    BM = next(size for size in (16, 32, 64, 128) if M <= size or size == 128)
    BN, BK = 64 if BM < 128 else 128, 128
    programs = -(-N // BN) * -(-M // BM)
    split = max(1, min(4, 132 // programs, K // (8 * BK)))
    return Tiles(BM, BN, BK, warps=4 if BM < 128 else 8, stages=3, split=split)


@cache
def multiprocessors(device: torch.device) -> int:
    """SMs of the GPU; in the interpreter a small number, so that a program walks several tiles."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3
