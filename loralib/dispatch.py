"""Which implementation a layer runs: plain torch, or a Triton kernel where a measurement on this very GPU says that it wins.

`kernels/measured.json` holds the measurements, `python -m kernels.bench all` on a GPU makes them: for each GPU and operation,
shapes with the ratio of the kernel's time to torch's. A layer looks up the nearest shape. A GPU that was never measured runs
plain torch: a kernel that nobody timed is a guess. `explain(model)` says what runs and why, `use_kernels` overrules it.
"""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

import kernels

MEASURED = Path(kernels.__path__[0]) / "measured.json"
WINS = 0.98
"""the kernel is taken where it needs at most this share of torch's time"""
MODES = ("auto", "triton", "torch")
LARGEST_RANK = 128
MEASUREMENTS: dict[str, dict[str, list[list[float]]]] = json.loads(MEASURED.read_text())
"""GPU → operation → rows of M, N, K and the kernel's time over torch's"""
TRITON_IS_HERE = find_spec("triton") is not None
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
_mode = "auto"


@dataclass(frozen=True)
class Choice:
    """`path` is "torch" or "triton"; `reason` is for people."""

    path: str
    reason: str


@contextmanager
def use_kernels(mode: str) -> Iterator[None]:
    """Inside, "triton" runs the kernels wherever they can run, "torch" never does, "auto" goes by the measurements.

    Outside a GPU "triton" works in Triton's interpreter alone (TRITON_INTERPRET=1): right numbers, a thousand times slower.
    """
    global _mode
    if mode not in MODES:
        raise ValueError(f"kernels {mode!r}: expected one of {MODES}")
    before, _mode = _mode, mode
    try:
        yield
    finally:
        _mode = before


def choose(operation: str, device: torch.device, dtype: torch.dtype, M: int, N: int, K: int, r: int = 0) -> Choice:
    """The path for an (M, K) by (K, N) product. Operations: "lora", "nf4" (4-bit weight), "grouped"."""
    if _mode == "torch":
        return Choice("torch", 'use_kernels("torch")')
    obstacle = cannot_run(device, dtype, r)
    if obstacle:
        return Choice("torch", obstacle)
    if _mode == "triton":
        return Choice("triton", 'use_kernels("triton")')
    if device.type != "cuda":
        return Choice("torch", "the kernels are for GPUs; the interpreter is for checking them")
    return by_measurement(operation, gpu(device)[0], M, N, K)


def by_measurement(operation: str, gpu_name: str, M: int, N: int, K: int) -> Choice:
    """What the nearest measured shape says."""
    rows = MEASUREMENTS.get(gpu_name, {}).get(operation, [])
    if not rows:
        return Choice("torch", f"no measurement of {operation} on {gpu_name}: run `python -m kernels.bench all` there")
    distance = lambda row: sum(abs(math.log((a + 1) / (b + 1))) for a, b in zip(row[:3], (M, N, K), strict=True))  # noqa: E731
    m, n, k, ratio = min(rows, key=distance)
    said = f"at M={m} N={n} K={k} the kernel took {ratio:.2f} of torch's time on {gpu_name}"
    return Choice("triton" if ratio <= WINS else "torch", said)


def cannot_run(device: torch.device, dtype: torch.dtype, r: int) -> str | None:
    """Why no kernel can run here, or None."""
    if not TRITON_IS_HERE:
        return "Triton is not installed (it is for Linux)"
    if device.type != "cuda" and not INTERPRETING:
        return f"no Triton on {device.type}"
    if device.type == "cuda" and gpu(device)[1] < (8, 0):
        return "this Triton has no tensor-core code for GPUs older than Ampere"
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"no kernel for {dtype}"
    if dtype == torch.bfloat16 and INTERPRETING:
        return "Triton's interpreter multiplies bfloat16 wrongly"
    if r > LARGEST_RANK:
        return f"rank {r} is above {LARGEST_RANK}: S would not fit beside the accumulator"
    return None


@torch.compiler.assume_constant_result
def gpu(device: torch.device) -> tuple[str, tuple[int, int]]:
    """Name and compute capability; a compiled model need not ask again."""
    return torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
