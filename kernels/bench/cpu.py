"""The benchmarks on a CPU: the torch paths of ours, peft and bitsandbytes, as tables; for LoRA also rows and a plot."""

import csv
import platform
import subprocess
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from rich.console import Console
from rich.progress import track

from kernels.bench import dora, grouped, nf4
from kernels.bench.lora import RANKS, SHAPES, Case, Result, measure
from training.records import COLOURS, markdown_table, save_figure, use_style

HEADER = ("shape", "r", "threads", "ours ms", "peft / ours", "ceiling (peft / bare)", "GFLOP/s", "saved ours", "saved peft")

COLUMNS = ("device", "torch", "git", "dtype", "M", "K", "N", "r", "threads", "contender")
COLUMNS += ("median_s", "low_s", "high_s", "flops", "saved_bytes")


def run(name: str, threads: tuple[int, ...], dtype: str, rounds: int, out: Path, console: Console, device: str = "cpu") -> str:
    """The table of one benchmark as Markdown. `dora` has no kernel of its own, so it alone can be timed on a GPU here."""
    if name == "lora":
        return bench_lora(threads, dtype, rounds, out, console)
    header, lines = {"dora": (dora.HEADER, []), "nf4": (nf4.HEADER, []), "grouped": (grouped.HEADER, [])}[name]
    for count in track(threads, console=console, description=f"timing {name}"):
        torch.set_num_threads(count)
        if name == "dora":
            lines += [dora.row(count, dora.measure(Case(*s, dora.RANK), rounds, device)) for s in dora.SHAPES]
        elif name == "nf4":
            kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
            lines += nf4.rows(count, kind, nf4.measure(kind, rounds, "cpu"))
        else:
            lines += [grouped.row(count, plan, grouped.measure(*plan, rounds)) for plan in grouped.PLANS]
    return markdown_table(header, lines)


def bench_lora(threads: tuple[int, ...], dtype: str, rounds: int, out: Path, console: Console) -> str:
    results = []
    plan = [(t, Case(*shape, r, dtype)) for t in threads for shape in SHAPES for r in RANKS]
    for count, case in track(plan, console=console, description="timing lora"):
        torch.set_num_threads(count)
        results.append((count, measure(case, rounds, "cpu")))
    write_csv(results, out / f"lora_cpu_{dtype}.csv")
    draw(results, out / f"lora_cpu_{dtype}.png")
    return markdown_table(HEADER, [row(t, r) for t, r in results])


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


def device_name() -> str:
    return f"{platform.processor() or platform.machine()} CPU"


def revision() -> str:
    return subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()


def write_csv(results: list[tuple[int, Result]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for threads, result in results:
            case = result.case
            for name, time in result.times.items():
                head = (device_name(), torch.__version__, revision(), case.dtype, case.M, case.K, case.N, case.r, threads)
                writer.writerow((*head, name, time.median, time.low, time.high, case.flops, result.saved[name]))


def draw(results: list[tuple[int, Result]], path: Path) -> None:
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
        ylabel="times faster than peft", title=f"LoRA layer, forward + backward on a CPU: at least {least:.2f}× peft's speed"
    )
    axis.legend(loc="upper right", ncols=2)
    axis.set_ylim(0, 1.25 * max(max(r.ceiling, r.peft_over_ours) for _, r in results))
    save_figure(figure, path)
