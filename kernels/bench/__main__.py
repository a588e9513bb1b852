"""`python -m kernels.bench lora|dora|nf4 --device cpu`: a table; for lora also CSV rows and a plot in build/bench."""

import csv
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from matplotlib import pyplot as plt
from rich.console import Console
from rich.progress import track

from kernels.bench import dora, nf4
from kernels.bench.lora import RANKS, SHAPES, Case, Result, measure
from training.records import COLOURS, markdown_table, save_figure, use_style

HEADER = ("shape", "r", "threads", "ours ms", "peft / ours", "ceiling (peft / bare)", "GFLOP/s", "saved ours", "saved peft")

COLUMNS = ("device", "torch", "git", "dtype", "M", "K", "N", "r", "threads", "contender")
COLUMNS += ("median_s", "low_s", "high_s", "flops", "saved_bytes")


@dataclass(frozen=True)
class BenchSettings:
    """Time one layer, forward + backward, or a weight's way to 4 bits and back, against peft and bitsandbytes."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    rounds: int = 30
    threads: tuple[int, ...] = (1, 2)
    """CPU only"""
    dtype: Literal["fp32", "bf16"] = "fp32"
    out: Path = Path("build/bench")


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in ("lora", "dora", "nf4"):
        sys.exit("usage: python -m kernels.bench lora|dora|nf4 [--device cpu|cuda] [--help]")
    settings = tyro.cli(BenchSettings, prog=f"python -m kernels.bench {sys.argv[1]}", args=sys.argv[2:])
    device = settings.device if settings.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    console = Console(soft_wrap=True)
    console.print(
        f"device: {device_name(device)}, torch {torch.__version__}" + ("" if device == "cuda" else ", no GPU kernels here")
    )
    if sys.argv[1] == "dora":
        return bench_dora(settings, device, console)
    if sys.argv[1] == "nf4":
        return bench_nf4(settings, device, console)
    results = []
    plan = [
        (t, Case(*shape, r, settings.dtype))
        for t in (settings.threads if device == "cpu" else (0,))
        for shape in SHAPES
        for r in RANKS
    ]
    for threads, case in track(plan, console=console, description="timing"):
        torch.set_num_threads(threads or torch.get_num_threads())
        results.append((threads, measure(case, settings.rounds, device)))
    console.print(markdown_table(HEADER, [row(t, r) for t, r in results]), markup=False)
    settings.out.mkdir(parents=True, exist_ok=True)
    write_csv(results, device, settings.out / f"lora_{device}_{settings.dtype}.csv")
    draw(results, device, settings.out / f"lora_{device}_{settings.dtype}.png")
    console.print(f"rows and plot: {settings.out}/lora_{device}_{settings.dtype}.csv, .png")


def bench_dora(settings: BenchSettings, device: str, console: Console) -> None:
    plan = [(t, Case(*s, dora.RANK)) for t in (settings.threads if device == "cpu" else (0,)) for s in dora.SHAPES]
    lines = []
    for threads, case in track(plan, console=console, description="timing"):
        torch.set_num_threads(threads or torch.get_num_threads())
        lines.append(dora.row(threads, dora.measure(case, settings.rounds, device)))
    console.print(markdown_table(dora.HEADER, lines), markup=False)


def bench_nf4(settings: BenchSettings, device: str, console: Console) -> None:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[settings.dtype]
    lines = []
    for threads in track(settings.threads if device == "cpu" else (0,), console=console, description="timing"):
        torch.set_num_threads(threads or torch.get_num_threads())
        lines += nf4.rows(threads, dtype, nf4.measure(dtype, settings.rounds, device))
    console.print(markdown_table(nf4.HEADER, lines), markup=False)


def row(threads: int, result: Result) -> tuple[str, ...]:
    case, ours = result.case, result.times["ours"]
    return (
        case.name,
        str(case.r),
        str(threads or "-"),
        f"{1e3 * ours.median:.2f} ({1e3 * ours.low:.2f}–{1e3 * ours.high:.2f})",
        f"{result.peft_over_ours:.2f}",
        f"{result.ceiling:.2f}",
        f"{case.flops / ours.median / 1e9:.0f}",
        f"{result.saved['ours'] / 2**20:.2f} MiB",
        f"{result.saved['peft'] / 2**20:.2f} MiB",
    )


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"{platform.processor() or platform.machine()} CPU"


def write_csv(results: list[tuple[int, Result]], device: str, path: Path) -> None:
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for threads, result in results:
            case = result.case
            for name, time in result.times.items():
                head = (device_name(device), torch.__version__, revision, case.dtype, case.M, case.K, case.N, case.r, threads)
                writer.writerow((*head, name, time.median, time.low, time.high, case.flops, result.saved[name]))


def draw(results: list[tuple[int, Result]], device: str, path: Path) -> None:
    use_style()
    figure, axis = plt.subplots(figsize=(9, 3.8))
    places = range(len(results))
    axis.bar(places, [r.peft_over_ours for _, r in results], color=COLOURS["lora"], width=0.55, label="peft / ours")
    axis.plot(
        places,
        [r.ceiling for _, r in results],
        "_",
        color=COLOURS["ceiling"],
        ms=22,
        mew=2.5,
        label="ceiling: a free LoRA branch",
    )
    axis.axhline(1, color=COLOURS["full"], lw=1)
    labels = [f"{r.case.name}\nr={r.case.r}" + (f", {t} thr." if t else "") for t, r in results]
    axis.set_xticks(list(places), labels, fontsize=7, rotation=35, ha="right")
    least = min(r.peft_over_ours for _, r in results)
    axis.set(
        ylabel="times faster than peft", title=f"LoRA layer, forward + backward on {device}: at least {least:.2f}× peft's speed"
    )
    axis.legend(loc="upper right", ncols=2)
    axis.set_ylim(0, 1.25 * max(max(r.ceiling, r.peft_over_ours) for _, r in results))
    save_figure(figure, path)


main()
