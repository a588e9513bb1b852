"""What this machine can do at best: bytes per second through memory, and operations per second of the library's own matmul.

A kernel's floor is the larger of its bytes over the one and its operations over the other. Both are measured here, first, with
random data (zeros run faster: fewer bits change, less power is drawn), not taken from a data sheet.
"""

import torch

from kernels.bench.gpu.timing import time_contenders
from kernels.roofline import Ceilings


def measure_ceilings(device: str, dtype: torch.dtype, size: int = 8192) -> Ceilings:
    g = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, generator=g, device=device).to(dtype) for _ in range(2))
    target = torch.empty_like(a)
    source = torch.randn(4 * size, size, generator=g, device=device).to(dtype)
    copy = torch.empty_like(source)
    runs = {
        "matmul": lambda: torch.mm(a, b, out=target),
        "copy": lambda: copy.copy_(source),  # a memory copy of the driver: in a graph not the fastest way (H200: 2.6 TB/s)
        "kernel": lambda: torch.neg(source, out=copy),
    }
    times = time_contenders(runs, rounds=20, device=device)
    fastest = min(times["copy"].median, times["kernel"].median)
    moved = 2 * source.numel() * source.element_size()
    return Ceilings(moved / fastest, 2 * size**3 / times["matmul"].median)
