"""The benchmarks on a CPU: the torch paths of ours, peft and bitsandbytes, as tables; for LoRA also rows and a plot."""

import csv
import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from rich.console import Console
from rich.progress import track

from kernels.bench import dora, grouped, lora, nf4, vocabulary
from kernels.bench.lora import DROPOUTS, RANKS, Case, Result, measure
from kernels.bench.machine import device_name, revision
from kernels.bench.timing import ratio
from training.reports.records import COLOURS, markdown_table, save_figure, use_style

HEADER = (
    "shape",
    "r",
    "dropout",
    "threads",
    "ours ms",
    "peft / ours",
    "ceiling (peft / bare)",
    "GFLOP/s",
    "saved ours",
    "saved peft",
)

COLUMNS = ("device", "torch", "git", "dtype", "M", "K", "N", "r", "dropout", "threads", "contender")
COLUMNS += ("median_s", "low_s", "high_s", "flops", "saved_bytes")


@dataclass(frozen=True)
class Plan:
    """How one command measures. `tiny`: small shapes, with which times mean nothing."""

    threads: tuple[int, ...]
    dtype: str
    rounds: int
    tiny: bool = False
    device: str = "cpu"


def run(name: str, plan: Plan, out: Path, console: Console) -> str:
    """The table of one benchmark as Markdown. `dora` has no kernel of its own, so it alone can be timed on a GPU here."""
    if name == "lora":
        return bench_lora(plan, out, console)
    header, lines = {"dora": dora, "nf4": nf4, "grouped": grouped, "vocabulary": vocabulary}[name].HEADER, []
    for count in track(plan.threads, console=console, description=f"timing {name}"):
        torch.set_num_threads(count)
        if name == "dora":
            cases = [Case(*shape, dora.RANK) for shape in (dora.TINY if plan.tiny else dora.SHAPES)]
            lines += [dora.row(count, dora.measure(case, plan.rounds, plan.device)) for case in cases]
        elif name == "nf4":
            kind, size = lora.DTYPES[plan.dtype], nf4.TINY if plan.tiny else nf4.SIZE
            lines += nf4.rows(count, kind, nf4.measure(size, kind, plan.rounds, "cpu"))
        elif name == "vocabulary":
            shapes = vocabulary.TINY if plan.tiny else vocabulary.SHAPES
            lines += [vocabulary.row(count, shape, vocabulary.measure(shape, min(plan.rounds, 5))) for shape in shapes]
        else:
            batches = grouped.TINY if plan.tiny else grouped.PLANS
            lines += [grouped.row(count, batch, grouped.measure(*batch, plan.rounds)) for batch in batches]
    return markdown_table(header, lines)


def bench_lora(plan: Plan, out: Path, console: Console) -> str:
    results, shapes = [], lora.TINY if plan.tiny else lora.SHAPES
    several = itertools.product(plan.threads, DROPOUTS, shapes, RANKS)
    cases = [(t, Case(*shape, r, plan.dtype, dropout)) for t, dropout, shape, r in several]
    for count, case in track(cases, console=console, description="timing lora"):
        torch.set_num_threads(count)
        results.append((count, measure(case, plan.rounds, "cpu")))
    write_csv(results, out / f"lora_cpu_{plan.dtype}.csv")
    if "peft" in results[0][1].times:
        draw(results, out / f"lora_cpu_{plan.dtype}.png")
    return markdown_table(HEADER, [row(t, r) for t, r in results])


def row(threads: int, result: Result) -> tuple[str, ...]:
    case, ours = result.case, result.times["ours"]
    return (
        case.name,
        str(case.r),
        f"{case.dropout:g}",
        str(threads or "-"),
        f"{1e3 * ours.median:.2f} ({1e3 * ours.low:.2f}–{1e3 * ours.high:.2f})",
        result.over("peft", "ours"),
        result.over("peft", "bare"),
        f"{case.flops / ours.median / 1e9:.0f}",
        f"{result.saved['ours'] / 2**20:.2f} MiB",
        f"{result.saved['peft'] / 2**20:.2f} MiB" if "peft" in result.saved else "–",
    )


def write_csv(results: list[tuple[int, Result]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for threads, result in results:
            case = result.case
            for name, time in result.times.items():
                head = (
                    device_name("cpu"),
                    torch.__version__,
                    revision(),
                    case.dtype,
                    case.M,
                    case.K,
                    case.N,
                    case.r,
                    case.dropout,
                )
                writer.writerow((*head, threads, name, time.median, time.low, time.high, case.flops, result.saved[name]))


def draw(results: list[tuple[int, Result]], path: Path) -> None:
    use_style()
    figure, axis = plt.subplots(figsize=(11, 4.2))
    places = range(len(results))
    ours = [ratio(r.times["peft"], r.times["ours"]) for _, r in results]
    limits = [ratio(r.times["peft"], r.times["bare"]) for _, r in results]
    axis.bar(places, ours, color=COLOURS["lora"], width=0.55, label="peft / ours")
    axis.plot(places, limits, "_", color=COLOURS["ceiling"], ms=22, mew=2.5, label="ceiling: a free LoRA branch")
    axis.axhline(1, color=COLOURS["full"], lw=1)
    labels = [f"{r.case.name}, r={r.case.r}\ndropout {r.case.dropout:g}, {t} threads" for t, r in results]
    axis.set_xticks(list(places), labels, fontsize=7, rotation=35, ha="right")
    title = f"LoRA layer, forward + backward on a CPU: at least {min(ours):.2f} times peft's speed"
    axis.set(ylabel="times faster than peft", title=title)
    axis.legend(loc="upper right", ncols=2)
    axis.set_ylim(0, 1.25 * max(*limits, *ours))
    save_figure(figure, path)
