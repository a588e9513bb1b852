"""What this machine can do at best: bytes per second of a copy, and operations per second of the library's own product.

A kernel's floor is the larger of its bytes over the one and its operations over the other. Both are measured here, first, with
random data (zeros run faster: fewer bits change, less power is drawn), not taken from a data sheet.
"""

from dataclasses import dataclass

import torch

from kernels.bench.gpu_timing import time_contenders


@dataclass(frozen=True)
class Ceilings:
    bandwidth: float
    """bytes per second, read and written, of a large copy"""
    flops: float
    """operations per second of torch's product of two large matrices"""

    def floor(self, flops: float, moved: float) -> float:
        """Seconds below which nothing can do this."""
        return max(flops / self.flops, moved / self.bandwidth)


def measure_ceilings(device: str, dtype: torch.dtype, size: int = 8192) -> Ceilings:
    g = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, generator=g, device=device).to(dtype) for _ in range(2))
    target = torch.empty_like(a)
    source = torch.randn(4 * size, size, generator=g, device=device).to(dtype)
    copy = torch.empty_like(source)
    times = time_contenders(
        {"product": lambda: torch.mm(a, b, out=target), "copy": lambda: copy.copy_(source)}, rounds=20, device=device
    )
    moved = 2 * source.numel() * source.element_size()
    return Ceilings(moved / times["copy"].median, 2 * size**3 / times["product"].median)
