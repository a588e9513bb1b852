"""`python -m kernels.bench lora|dora|nf4|grouped|all|builds`: tables, rows and plots in build/bench.

On a CPU it times the torch paths (ours, peft, bitsandbytes); on a GPU the kernels, after measuring the machine's own ceilings.
"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console
from rich.progress import track

COMMANDS = ("lora", "dora", "nf4", "grouped", "all", "builds")


@dataclass(frozen=True)
class BenchSettings:
    """Time kernels and layers against peft, bitsandbytes and cuBLAS, or build all kernels for GPUs that are not here."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    rounds: int = 30
    threads: tuple[int, ...] = (1, 2)
    """CPU only"""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: fp32 on a CPU, bf16 on a GPU"""
    out: Path = Path("build/bench")
    remember: bool = False
    """GPU: write the ratios into kernels/measured.json, by which layers choose between Triton and torch"""


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(
            f"usage: python -m kernels.bench {'|'.join(COMMANDS)} [options]; `python -m kernels.bench all --help` lists them"
        )
    command = sys.argv[1]
    settings = tyro.cli(BenchSettings, prog=f"python -m kernels.bench {command}", args=sys.argv[2:])
    device = settings.device if settings.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    console = Console(soft_wrap=True)
    unused = [name for name in ("device", "rounds", "threads", "dtype", "remember") if given(settings, name)]
    if command == "builds" and unused:
        sys.exit(f"builds times nothing: it takes --out, and not {', '.join('--' + name for name in unused)}")
    settings.out.mkdir(parents=True, exist_ok=True)
    if command == "builds":
        return builds(settings, console)
    dtype = settings.dtype if settings.dtype != "auto" else ("bf16" if device == "cuda" else "fp32")
    if device == "cuda" and command != "dora":
        return gpu(command, settings, dtype, console)
    on_cpu(command, settings, dtype, device, console)


def given(settings: BenchSettings, name: str) -> bool:
    return getattr(settings, name) != getattr(BenchSettings, name)


def on_cpu(command: str, settings: BenchSettings, dtype: str, device: str, console: Console) -> None:
    """The torch paths (and `dora`, which has no kernel of its own, on any device): tables, and a report with the command."""
    from kernels.bench import cpu

    threads = (torch.get_num_threads(),) if device == "cuda" else settings.threads
    where = f"{cpu.device_name()}, torch {torch.__version__}, revision {cpu.revision()}"
    console.print(f"{where}: the torch paths; the Triton kernels need a GPU")
    page = [f"`python -m kernels.bench {shlex.join(sys.argv[1:])}`", where]
    for name in ("lora", "dora", "nf4", "grouped") if command == "all" else (command,):
        table = cpu.run(name, threads, dtype, settings.rounds, settings.out, console, device)
        console.print(table, markup=False)
        page += [f"## {name}", table]
    (settings.out / "report.md").write_text("\n\n".join(page) + "\n")
    console.print(f"report, and the plot and rows of `lora`: {settings.out}")


def gpu(command: str, settings: BenchSettings, dtype: str, console: Console) -> None:
    from kernels.bench import gpu_report, gpu_sweep
    from loralib.dispatch import MEASURED

    operations = list(gpu_sweep.OPERATIONS) if command == "all" else [command]
    half = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    bar = lambda cases: track(cases, console=console, description="timing")  # noqa: E731
    found = gpu_sweep.sweep(operations, "cuda", half, settings.rounds, track=bar)
    gpu_sweep.write_rows(found, half, settings.out / "rows.csv")
    text = gpu_report.report(found, settings.out)
    (settings.out / "report.md").write_text(text)
    console.print(text, markup=False)
    if settings.remember:
        gpu_sweep.write_measured(found, half, MEASURED)
    console.print(f"rows, plots and report: {settings.out}")
    if found.failed:
        sys.exit(f"{len(found.failed)} cases failed; the report names them")


def builds(settings: BenchSettings, console: Console) -> None:
    from kernels.ahead_of_time import TABLE, read_table
    from kernels.bench import builds

    lines = [builds.line(spec) for spec in track(builds.all_specs(), console=console, description="building")]
    path = settings.out / "ahead_of_time.csv"
    builds.write(lines, path)
    changed = builds.differences(lines, read_table())
    for text in changed or [f"the same as {TABLE.name}"]:
        console.print(text, markup=False)
    console.print(f"{len(lines)} builds in {path}; copy it to {TABLE.parent.name}/ where a change is meant")
    if changed:
        sys.exit(1)


main()
