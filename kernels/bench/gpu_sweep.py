"""The whole benchmark on a GPU: ceilings first, then every case; a table, rows, plots, targets, and the dispatcher's table.

A case that fails is a line of the report with its reason, and the command ends with an error; the others are still measured.
"""

import csv
import json
import math
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import triton

from kernels.bench import gpu_grouped, gpu_lora, gpu_nf4
from kernels.bench.ceilings import measure_ceilings
from kernels.bench.contest import GpuCase, Line, hold
from kernels.bench.gpu_nf4 import BITS
from kernels.roofline import Ceilings

OPERATIONS = {"lora": gpu_lora, "nf4": gpu_nf4, "grouped": gpu_grouped}
CACHE = 160e6
"""bytes of weights that the runs of one graph walk through: more than twice the L2 cache of an H200"""
COLUMNS = ("device", "driver", "torch", "triton", "git", "dtype", "operation", "mode", "M", "N", "K", "r", "dropout", "adapters")
COLUMNS += ("contender", "median_us", "low_us", "high_us", "floor_us", "flops", "bytes", "error", "tflops", "gb_per_s", "graph")


@dataclass(frozen=True)
class Sweep:
    """All that one run measured."""

    device: str
    ceilings: Ceilings
    lines: list[Line]
    failed: list[tuple[GpuCase, str]]


def plan(operations: list[str], full: bool) -> list[tuple[str, GpuCase]]:
    return [(name, case) for name in operations for case in OPERATIONS[name].cases(full)]


def sweep(operations: list[str], device: str, dtype: torch.dtype, rounds: int, full: bool = True, track=iter) -> Sweep:
    """Run everything. `track` wraps the list of cases: a progress bar."""
    ceilings = measure_ceilings(device, dtype, 8192 if full else 128)
    lines, failed = [], []
    for name, case in track(plan(operations, full)):
        try:
            weight_bytes = case.N * case.K * (BITS if name == "nf4" else 16) / 8
            copies = 1 if case.M >= 4096 or not full else min(16, max(2, math.ceil(CACHE / weight_bytes)))
            contest = OPERATIONS[name].contest(case, device, dtype, copies)
            lines.append(hold(contest, ceilings, rounds, device))
        except Exception as error:  # any failure of a kernel is a result, and must not cost the other results
            failed.append((case, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"))
        if device == "cuda":
            torch.cuda.empty_cache()
    return Sweep(name_of(device), ceilings, lines, failed)


def name_of(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"{platform.processor() or platform.machine()} CPU"


def write_rows(sweep: Sweep, dtype: torch.dtype, path: Path) -> None:
    head = (sweep.device, driver(), torch.__version__, triton.__version__, revision(), str(dtype).removeprefix("torch."))
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for line in sweep.lines:
            writer.writerows((*head, *row) for row in rows_of(line))


def rows_of(line: Line) -> Iterator[tuple]:
    case = line.case
    shape = (case.operation, case.mode, case.M, case.N, case.K, case.r, case.dropout, case.adapters)
    for name, time in line.times.items():
        seconds = (time.median, time.low, time.high, line.floor)
        rates = f"{case.flops / time.median / 1e12:.1f}", f"{case.moved(line.element) / time.median / 1e9:.0f}"
        error = f"{line.errors[name]:.1e}" if name in line.errors else ""
        micro = (f"{1e6 * value:.2f}" for value in seconds)
        yield (*shape, name, *micro, f"{case.flops:.4g}", f"{case.moved(line.element):.4g}", error, *rates, time.captured)


def revision() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def driver() -> str:
    try:
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(ask, capture_output=True, text=True).stdout.split("\n")[0]
    except FileNotFoundError:
        return "none"


def write_measured(sweep: Sweep, dtype: torch.dtype, path: Path) -> None:
    """What the dispatcher goes by: for this GPU, dtype and each operation M, N, K and our time over torch's, at r = 16."""
    table: dict[str, list[list[float]]] = {}
    for line in sweep.lines:
        case = line.case
        if case.operation != "nf4_decode" and not case.dropout and case.r in (0, 16):
            row = [case.M, case.N, case.K, round(line.over(line.ours, line.baseline), 3)]
            table.setdefault(f"{case.operation} {case.mode}", []).append(row)
    known = json.loads(path.read_text())
    gpu = known.setdefault(sweep.device, {})
    name = str(dtype).removeprefix("torch.")
    gpu[name] = gpu.get(name, {}) | table
    path.write_text(json.dumps(known, indent=1) + "\n")
