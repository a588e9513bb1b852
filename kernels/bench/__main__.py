"""`python -m kernels.bench COMMAND`: tables, rows and plots. `--help` lists the commands; the options are in options.py.

On a CPU it times the torch paths (ours, peft, bitsandbytes); on a GPU the kernels, after measuring the machine's own limits.
"""

import os
import shlex
import sys
import time
from pathlib import Path

from kernels.bench.options import parse

STARTED = time.monotonic()


def main() -> None:
    settings = parse(sys.argv[1:])
    if settings.out is not None and settings.out.exists() and not settings.out.is_dir():
        sys.exit(f"--out {settings.out}: found a file, expected a folder or a new name")
    if settings.out is not None:
        settings.out.mkdir(parents=True, exist_ok=True)
    if settings.command == "builds":
        sys.exit(builds(settings))
    from torch import cuda  # here and below: the command line was read, and torch takes seconds

    here = cuda.is_available()
    if settings.command == "session":
        sys.exit(session(settings, here))
    if settings.command == "vocabulary" and settings.device == "cuda":
        sys.exit("vocabulary --device cuda: it is measured on a CPU; expected --device cpu, or no --device")
    device = settings.device if settings.device != "auto" else ("cuda" if here and settings.command != "vocabulary" else "cpu")
    if device == "cuda" and not here:
        sys.exit("--device cuda: found no GPU that torch can use; expected one, or --device cpu for the torch paths")
    if device == "cuda" and settings.threads:
        sys.exit(f"--threads {shlex.join(map(str, settings.threads))}: found a GPU, expected --device cpu; or leave it out")
    on_gpu = device == "cuda" and settings.command not in ("dora", "vocabulary")
    sys.exit(kernels_on_gpu(settings) if on_gpu else torch_paths(settings, device))


def torch_paths(settings, device: str) -> int:
    """The torch paths (and `dora`, which has no kernel of its own, on any device): tables, and a report with the command."""
    import torch
    from rich.console import Console

    from kernels.bench import cpu, machine

    console = Console(soft_wrap=True)
    threads = settings.threads or ([torch.get_num_threads()] if device == "cuda" else [1, 2])
    dtype = getattr(settings, "dtype", "auto").replace("auto", "fp32")
    where = f"{machine.device_name(device)}, torch {torch.__version__}, revision {machine.revision()}"
    console.print(f"{where}: the torch paths" + ("" if device == "cuda" else "; the Triton kernels need a GPU"))
    page = [f"`python -m kernels.bench {shlex.join(sys.argv[1:])}`", where]
    page += [f"- not compared: {text}" for text in machine.not_compared()]
    console.print("\n".join(page[2:]), markup=False)
    for name in ("lora", "dora", "nf4", "grouped", "vocabulary") if settings.command == "all" else (settings.command,):
        table = cpu.run(name, cpu.Plan(tuple(threads), dtype, settings.rounds, settings.tiny, device), settings.out, console)
        console.print(table, markup=False)
        page += [f"## {name}", table]
        (settings.out / "report.md").write_text("\n\n".join(page) + "\n")
    console.print(f"report, and the plot and rows of `lora`: {settings.out}")
    return 0


def kernels_on_gpu(settings) -> int:
    """Every case of the chosen operations on this GPU."""
    from kernels.bench.gpu.measure import OPERATIONS
    from kernels.bench.gpu.session import Session
    from loralib.compute.dispatch import MEASURED

    run = Session(setup_of(settings, "cuda"), settings.out, MEASURED if settings.remember else None)
    return measure(run, list(OPERATIONS) if settings.command == "all" else [settings.command])


def session(settings, gpu: bool) -> int:
    """The whole run on a rented machine: tests first, then every case until the time is over."""
    if not gpu and not settings.tiny:
        sys.exit("session: found no GPU, expected one. `session --tiny` rehearses it on a CPU, in Triton's interpreter")
    import torch

    if not gpu:
        os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when a kernel is defined, below
        torch.set_num_threads(1)  # several would wait for each other longer than these small shapes take
    from kernels.bench import machine
    from kernels.bench.gpu.measure import OPERATIONS
    from kernels.bench.gpu.session import Session
    from loralib.compute.dispatch import MEASURED

    device = "cuda" if gpu else "cpu"
    name = machine.device_name(device).lower().replace(" ", "-")
    out = settings.out or (Path("build/bench/session") if settings.tiny else Path("kernels/results") / name)
    measured = out / "measured.json" if settings.tiny else MEASURED
    run = Session(setup_of(settings, device), out, measured, STARTED + 60 * settings.minutes)
    print(f"{settings.minutes:g} minutes on {machine.device_name(device)}; tests of the kernels first", flush=True)
    print(*run.run_tests(Path("build/bench/tests") if not settings.tiny else out).lines(), sep="\n", flush=True)
    return measure(run, list(OPERATIONS))


def setup_of(settings, device: str):
    import torch

    from kernels.bench.gpu.measure import Setup

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "auto": torch.bfloat16 if device == "cuda" else torch.float32}
    return Setup(device, dtype[settings.dtype], settings.rounds, not settings.tiny)


def measure(run, operations: list[str]) -> int:
    """Measures, prints the report, and gives the exit status."""
    from rich.console import Console
    from rich.progress import track

    from kernels.bench.gpu.worker import WorkerFailed

    console = Console(soft_wrap=True)
    try:
        run.run_cases(operations, lambda cases: track(cases, console=console, description="timing"))
    except WorkerFailed as error:
        sys.exit(f"the hardware limits could not be measured, so nothing was: {error}")
    console.print((run.out / "report.md").read_text(), markup=False)
    console.print(f"rows, report and plots: {run.out}")
    if run.results.left_out:
        console.print(f"{len(run.results.left_out)} cases were left out: the time was over. The report names them")
    for text in run.problems():
        print(f"{text}; the report names them", file=sys.stderr)
    return 1 if run.problems() else 0


def builds(settings) -> int:
    from rich.console import Console
    from rich.progress import track

    from kernels.bench import builds
    from kernels.triton_kernels.ahead_of_time import TABLE, read_table

    console = Console(soft_wrap=True)
    lines = [builds.line(spec) for spec in track(builds.all_specs(settings.sm), console=console, description="building")]
    path = settings.out / "ahead_of_time.csv"
    builds.write(lines, path)
    changed = builds.differences(lines, read_table())
    for text in changed or [f"the same as {TABLE.name}"]:
        console.print(text, markup=False)
    console.print(f"{len(lines)} builds in {path}; copy it to {TABLE.parent.name}/ where a change is meant")
    return 1 if changed else 0


if __name__ == "__main__":
    main()
