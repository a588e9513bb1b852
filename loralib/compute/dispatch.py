"""Which implementation a layer runs: plain torch, or a Triton kernel where a measurement on this very GPU says that it wins.

`kernels/measured.json` holds the measurements, `python -m kernels.bench all --remember` on a GPU makes them: for each GPU, dtype
and operation, with and without backward, the ratio of the kernel's time to torch's at several shapes, r = 16. A layer goes by
the nearest shape. A GPU that was never measured runs plain torch: a kernel that nobody timed is a guess. `explain(model)` says
what runs and why, `use_kernels` overrules it.
"""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch

import kernels

MEASURED = Path(kernels.__path__[0]) / "measured.json"
WINS = 0.98
"""the kernel is taken where it needs at most this share of torch's time"""
MODES = ("auto", "triton", "torch")
LARGEST_RANK = 64
MEASUREMENTS: dict[str, dict[str, dict[str, list[list[float]]]]] = json.loads(MEASURED.read_text())
"""GPU → dtype → operation and mode → rows of M, N, K and the kernel's time over torch's, at r = 16"""
TRITON_IS_HERE = find_spec("triton") is not None
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
Shape = tuple[int, int, int]
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


def choose(operation: str, device: torch.device, dtype: torch.dtype, shape: Shape, r: int = 0, mode: str = "forward") -> Choice:
    """The path for an (M, K) by (K, N) matmul; `shape` is (M, N, K), `mode` forward or both (with the backward).

    Operations: "lora"; "nf4", a matmul with a 4-bit weight; "nf4_lora", both; "grouped", an adapter for every row.
    """
    if _mode == "torch":
        return Choice("torch", 'use_kernels("torch")')
    obstacle = cannot_run(device, dtype, r)
    if obstacle:
        return Choice("torch", obstacle)
    if _mode == "triton":
        return Choice("triton", 'use_kernels("triton")')
    if device.type != "cuda":
        return Choice("torch", "the kernels are for GPUs; the interpreter is for checking them")
    return by_measurement(f"{operation} {mode}", gpu(device)[0], dtype, shape)


def by_measurement(what: str, gpu_name: str, dtype: torch.dtype, shape: Shape) -> Choice:
    """What the nearest measured shape says."""
    M, N, K = shape
    rows = nearest_rows(what, gpu_name, str(dtype).removeprefix("torch."), N, K)
    if not rows:
        return Choice("torch", f"no measurement of {what} in {dtype} on {gpu_name}: run `python -m kernels.bench all` there")
    for most, path, reason in rows:
        if most >= M:  # comparisons alone: a compiled model with a changing M is compiled once for each of these ranges
            return Choice(path, reason)
    return Choice(*rows[-1][1:])


@torch.compiler.assume_constant_result
def nearest_rows(what: str, gpu_name: str, dtype: str, N: int, K: int) -> tuple[tuple[float, str, str], ...]:
    """(largest M, path, why) of the measured layer whose N and K are nearest, in rising M: borders half way, in logarithms."""
    rows = MEASUREMENTS.get(gpu_name, {}).get(dtype, {}).get(what, [])
    if not rows:
        return ()
    n, k = min({(row[1], row[2]) for row in rows}, key=lambda nk: abs(math.log(nk[0] / N)) + abs(math.log(nk[1] / K)))
    here = sorted((row[0], row[3]) for row in rows if (row[1], row[2]) == (n, k))
    borders = [math.sqrt(m * after) for (m, _), (after, _) in pairwise(here)] + [math.inf]
    reason = "at M={} N={} K={} the kernel took {:.2f} of torch's time on {}"
    return tuple(
        (most, "triton" if ratio <= WINS else "torch", reason.format(m, n, k, ratio, gpu_name))
        for most, (m, ratio) in zip(borders, here, strict=True)
    )


def mode_of(*tensors: torch.Tensor | None) -> str:
    """Mode "both" where a backward can follow, else "forward"."""
    return "both" if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors) else "forward"


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
        return f"rank {r} is above {LARGEST_RANK}: its tiles do not fit into registers and shared memory"
    return None


@torch.compiler.assume_constant_result
def gpu(device: torch.device) -> tuple[str, tuple[int, int]]:
    """Name and compute capability; a compiled model need not ask again."""
    return torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
