"""What a sweep leaves behind, written after every case: rows.csv, and the table by which layers choose their kernel."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import torch
import triton

from kernels.bench.gpu.contest import Line
from kernels.bench.machine import driver, revision
from loralib.files.save_and_load import write_atomic

COLUMNS = ("device", "driver", "torch", "triton", "git", "dtype", "operation", "mode", "M", "N", "K", "r", "dropout", "adapters")
COLUMNS += ("contender", "median_us", "low_us", "high_us", "floor_us", "flops", "bytes", "error", "tflops", "gb_per_s", "graph")


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class RowFile:
    """A CSV that is complete after every case. A new one replaces an older file."""

    def __init__(self, path: Path, device: str, dtype: torch.dtype):
        self.path = path
        self.head = (device, driver(), torch.__version__, triton.__version__, revision(), dtype_name(dtype))
        self._write("w", [COLUMNS])

    def append(self, line: Line) -> None:
        self._write("a", [(*self.head, *row) for row in rows_of(line)])

    def _write(self, mode: str, rows: list[tuple]) -> None:
        with self.path.open(mode, newline="") as file:  # closing it flushes
            csv.writer(file, lineterminator="\n").writerows(rows)


def rows_of(line: Line) -> Iterator[tuple]:
    """One row per contender."""
    case = line.case
    shape = (case.operation, case.mode, case.M, case.N, case.K, case.r, case.dropout, case.adapters)
    for name, time in line.times.items():
        seconds = (time.median, time.low, time.high, line.floor)
        rates = f"{case.flops / time.median / 1e12:.1f}", f"{case.moved(line.element) / time.median / 1e9:.0f}"
        error = f"{line.errors[name]:.1e}" if name in line.errors else ""
        micro = (f"{1e6 * value:.2f}" for value in seconds)
        yield (*shape, name, *micro, f"{case.flops:.4g}", f"{case.moved(line.element):.4g}", error, *rates, time.captured)


def remember(line: Line, device: str, dtype: torch.dtype, path: Path) -> None:
    """Adds to kernels/measured.json: for this GPU, dtype, operation and mode one row M, N, K, our time over torch's, at r = 16.

    An older row of the same shape is replaced; shapes that this run did not reach keep theirs.
    """
    case = line.case
    if case.operation == "nf4_decode" or case.dropout or case.r not in (0, 16):
        return
    known = json.loads(path.read_text()) if path.exists() else {}
    table = known.setdefault(device, {}).setdefault(dtype_name(dtype), {})
    name, shape = f"{case.operation} {case.mode}", [case.M, case.N, case.K]
    rows = [row for row in table.get(name, []) if row[:3] != shape]
    table[name] = sorted([*rows, [*shape, round(line.over(line.ours, line.baseline), 3)]])
    write_atomic(path, (json.dumps(known, indent=1) + "\n").encode())
