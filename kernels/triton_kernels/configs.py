"""Which tile sizes a kernel runs with: a small table instead of a search at every start.

For Hopper, the sizes for up to 512 tokens are the fastest of 342 combinations that were timed on an H200; the others are
starting points from published kernels and from the ahead-of-time builds (`ahead_of_time.csv`: registers, shared memory).
`python -m kernels.bench all` on a GPU says what they reach there. An unknown GPU gets the tiles of the nearest older one, never
an error. `capability` is 90 for Hopper, 89 for Ada, 80 for Ampere, 75 for Turing.
"""

from dataclasses import dataclass
from functools import cache

import torch

SMALL_M = 32  # tokens: up to here the LoRA operation is one launch


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


def gemm_tiles(M: int, N: int, dtype: torch.dtype, capability: int = 90) -> Tiles:
    """For an (M, N) matmul. Small M takes small tiles, so that there are enough of them for every SM."""
    if capability < 80:  # no tensor-core code in this Triton: sums in ordinary registers
        return Tiles(16, 32, 32, stages=2)
    if dtype == torch.float32:  # nor without TF32
        return Tiles(32 if M > 16 else 16, 64, 32, stages=2)
    hopper = capability >= 90  # it has 227 KB of shared memory, others 99 or 163
    if M <= 16:
        return Tiles(16, 32, 256, stages=3) if hopper else Tiles(16, 32, 128, stages=4)
    if M <= 128:
        BM = 32 if M <= 32 else 64
        return Tiles(BM, 64, 128, stages=5) if hopper else Tiles(BM, 64, 64, stages=4)
    if not hopper:
        return Tiles(128, 128, 32, warps=8, stages=3)
    if M * N <= 132 * 128 * 256:  # fewer large tiles than SMs
        return Tiles(128, 128, 128, warps=8, stages=3)
    return Tiles(128, 256, 64, warps=8, stages=3)


def shrink_tiles(M: int, K: int, dtype: torch.dtype, capability: int = 90) -> Tiles:
    """For S = x Aᵀ: bound by the read of x, so every SM must read. Few rows: K is split."""
    if dtype == torch.float32 or capability < 80:
        return Tiles(32, 0, 32, stages=2, split=_split(M, K, 32, 32))
    BM = 64 if M >= 4096 else 32 if M >= 1024 else 16
    return Tiles(BM, 0, 128, stages=4 if capability >= 90 else 3, split=_split(M, K, BM, 128))


def rank_tiles(M: int, width: int, R: int, dtype: torch.dtype, capability: int = 90) -> Tiles:
    """For dS, dB (one read of dy) and dA (one read of x): bound by that read. Tall tiles keep the planes of dB few."""
    if dtype == torch.float32 or capability < 80:
        BM, BN = 32, 32
    else:
        BM, BN = 128 if M >= 1024 and (R <= 32 or capability >= 90) else 64, 64
    programs = -(-M // BM)
    return Tiles(BM, BN, 0, stages=3, split=max(1, min(264 // max(programs, 1), -(-width // BN), 8)))


def grouped_tiles(dtype: torch.dtype, capability: int = 90) -> Tiles:
    """A tile of a few rows against wide tiles of the factors."""
    if dtype == torch.float32 or capability < 80:
        return Tiles(0, 64, 64, warps=4, stages=2)
    return Tiles(0, 128, 128, warps=8, stages=3)


def nf4_gemv_tiles(blocksize: int, columns: int, capability: int = 90) -> Tiles:
    """1 to 4 tokens: enough programs for every SM, and at least 16 bytes a load. `columns` of the weight: a row, K."""
    if capability >= 90 and blocksize <= 1024 and columns % 1024 == 0:  # else the last step would decode what is not there
        return Tiles(1, 8, 1024, warps=2, stages=3)
    K = max(512, blocksize)
    return Tiles(1, max(2, 8192 // K), K, stages=3)


def nf4_gemm_tiles(M: int, N: int, K: int, dtype: torch.dtype, capability: int = 90) -> Tiles:
    """5 to 256 tokens. The weight is walked once per BM tokens, so BM covers M where registers allow; K is split to fill SMs."""
    if dtype == torch.float32 or capability < 80:
        BM, BN, BK = 16, 32, 32
    else:
        largest = 128 if capability >= 90 else 64
        BM = next(size for size in (16, 32, 64, 128) if size >= M or size == largest)
        BN, BK = 128 if BM == 128 or (BM == 64 and capability >= 90) else 64, 128
    programs = -(-N // BN) * -(-M // BM)
    split = max(1, min(8, 4 * 132 // programs, K // (8 * BK)))
    return Tiles(BM, BN, BK, warps=4 if BM < 128 else 8, stages=3, split=split)


def _split(M: int, K: int, BM: int, BK: int) -> int:
    """Parts of K: as many as give every SM a program, each with at least two steps."""
    return max(1, min(132 * BM // max(M, 1), K // (2 * BK), 16))


@cache
def capability(device: torch.device) -> int:
    """Compute capability as one number; the interpreter is taken for a Hopper."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 89 if major >= 12 else 10 * major + minor  # consumer Blackwell has Ada's shared memory


@cache
def multiprocessors(device: torch.device) -> int:
    """SMs of the GPU; in the interpreter a small number, so that a program walks several tiles."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3
