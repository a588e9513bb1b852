"""The report of a GPU sweep: a table, three plots, and the targets, each met or missed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib import pyplot as plt

from kernels.bench.contest import Line
from kernels.bench.gpu_sweep import Sweep
from training.records import COLOURS, markdown_table, save_figure, use_style

HEADER = ("case", "ours µs", "20–80 %", "floor µs", "share of floor", "ours / baseline", "ours / bare", "others / ours")


@dataclass(frozen=True)
class Target:
    """A figure of section 7.1 of the kernel notes: `value` must stay at or below `limit`."""

    text: str
    limit: float
    wanted: Callable[[Line], bool]
    value: Callable[[Line], float]


def _is(operation: str, mode: str = "forward", **sizes) -> Callable[[Line], bool]:
    def check(line: Line) -> bool:
        case = line.case
        return (case.operation, case.mode) == (operation, mode) and all(getattr(case, k) == v for k, v in sizes.items())

    return check


def _over(first: str, second: str) -> Callable[[Line], float]:
    return lambda line: line.over(first, second)


def _share(name: str) -> Callable[[Line], float]:
    """Time over the floor."""
    return lambda line: line.times[name].median / line.floor


TARGETS = [
    Target("2 forward / bare, 4096→4096, M=8192", 1.10, _is("lora", M=8192, N=4096, K=4096, r=16), _over("triton", "bare")),
    Target("2 forward / bare, 4096→14336, M=8192", 1.06, _is("lora", M=8192, N=14336, r=16), _over("triton", "bare")),
    Target("2 forward / bare, 14336→4096, M=8192", 1.09, _is("lora", M=8192, K=14336, r=16), _over("triton", "bare")),
    Target(
        "3 both / peft, dropout, 4096→4096",
        1 / 1.22,
        _is("lora", "both", N=4096, K=4096, dropout=0.1),
        _over("triton", "peft"),
    ),
    Target("3 both / peft, dropout, 4096→14336", 1 / 1.15, _is("lora", "both", N=14336, dropout=0.1), _over("triton", "peft")),
    Target("4 forward / addmm, 4096→4096", 1 / 1.02, _is("lora", M=8192, N=4096, K=4096, r=16), _over("triton", "addmm")),
    Target("4 forward / addmm, 4096→14336", 1 / 1.02, _is("lora", M=8192, N=14336, r=16), _over("triton", "addmm")),
    Target("4 forward / addmm, 14336→4096", 1 / 0.98, _is("lora", M=8192, K=14336, r=16), _over("triton", "addmm")),
    Target("5 decode / floor, 4096×4096", 1 / 0.7, _is("nf4_decode", N=4096, K=4096), _share("triton")),
    Target("5 decode / floor, 14336×4096", 1 / 0.7, _is("nf4_decode", N=14336), _share("triton")),
    Target("6 GEMV M=1 / floor, 14336×4096", 1 / 0.4, _is("nf4", M=1, N=14336), _share("packed")),
    Target("7 GEMM M=16 / decode + linear, 4096×4096", 0.5, _is("nf4", M=16, N=4096, K=4096), _over("packed", "decode + linear")),
    Target("7 GEMM M=64 / decode + linear, 4096×4096", 0.5, _is("nf4", M=64, N=4096, K=4096), _over("packed", "decode + linear")),
    Target("7 GEMM M=64 / bitsandbytes, 4096×4096", 1.0, _is("nf4", M=64, N=4096, K=4096), _over("packed", "bitsandbytes")),
    Target(
        "8 eight adapters × 64 rows / one adapter",
        1.25,
        _is("grouped", M=512, N=4096, adapters=8),
        _over("grouped", "one adapter"),
    ),
]


def report(sweep: Sweep, folder: Path) -> str:
    """Markdown; the plots are written beside it."""
    bandwidth, flops = sweep.ceilings.bandwidth / 1e12, sweep.ceilings.flops / 1e12
    text = [f"# Kernels on {sweep.device}", ""]
    text += [
        f"Measured first: copy {bandwidth:.2f} TB/s, product {flops:.1f} TFLOP/s. `floor` is the larger of a case's bytes over"
    ]
    text += ["the one and its operations over the other. Times are medians; * marks what is not a replayed CUDA graph.", ""]
    text += [markdown_table(HEADER, [_row(line) for line in sweep.lines]), ""]
    if sweep.failed:
        text += ["## Failed", "", *(f"- {case.name}: {reason}" for case, reason in sweep.failed), ""]
    text += ["## Targets", "", markdown_table(("target", "limit", "measured", ""), list(_targets(sweep))), ""]
    text += [f"![{name}]({draw(sweep, name, folder).name})" for name in PLOTS if sweep.lines]
    return "\n".join(text) + "\n"


def _row(line: Line) -> tuple[str, ...]:
    ours = line.times[line.ours]
    others = ", ".join(f"{name} {line.over(name, line.ours):.2f}{mark(line, name)}" for name in line.times if name != line.ours)
    return (
        f"{line.case.operation} {line.case.name}",
        f"{1e6 * ours.median:.1f}{mark(line, line.ours)}",
        f"{1e6 * ours.low:.1f}–{1e6 * ours.high:.1f}",
        f"{1e6 * line.floor:.1f}",
        f"{line.floor / ours.median:.0%}",
        f"{line.over(line.ours, line.baseline):.2f}",
        f"{line.over(line.ours, line.bare):.2f}",
        others,
    )


def mark(line: Line, name: str) -> str:
    """Python's time is in what could not be captured in a graph."""
    return "" if line.times[name].captured else "*"


def _targets(sweep: Sweep):
    for target in TARGETS:
        found = [line for line in sweep.lines if target.wanted(line)]
        if not found:
            yield target.text, f"{target.limit:.2f}", "not measured", ""
            continue
        try:
            value = max(target.value(line) for line in found)
        except KeyError as missing:
            yield target.text, f"{target.limit:.2f}", f"no contender {missing}", ""
            continue
        yield target.text, f"{target.limit:.2f}", f"{value:.2f}", "met" if value <= target.limit else "**missed**"


PLOTS = {"time": "time against the floor", "peak": "share of the machine's own peak", "ratio": "others over ours"}
SHADES = {
    "lora": ("triton", "packed", "grouped"),
    "peft": ("peft",),
    "full": ("bare", "bf16", "bf16, no LoRA", "copy", "one adapter"),
    "head": ("addmm", "torch decode + linear", "loop", "torch"),
    "ceiling": ("augmented", "decode + linear"),
    "ia3": ("bitsandbytes",),
    "random": ("one adapter, addmm",),
}
PALETTE = {name: COLOURS[shade] for shade, names in SHADES.items() for name in names}


def draw(sweep: Sweep, name: str, folder: Path) -> Path:
    """A panel for each operation and shape, a line for each contender, over the tokens M; forward alone, rank 16."""
    use_style()
    panels: dict[tuple, list[Line]] = {}
    for line in sweep.lines:
        case = line.case
        if case.mode == "forward" and case.r in (0, 16) and case.operation != "nf4_decode":
            panels.setdefault((case.operation, case.K, case.N), []).append(line)
    columns = min(3, len(panels))
    height = -(-len(panels) // columns)
    figure, axes = plt.subplots(height, columns, figsize=(4.2 * columns, 3 * height), squeeze=False)
    for axis in list(axes.flat)[len(panels) :]:
        axis.remove()
    for axis, ((operation, K, N), lines) in zip(axes.flat, panels.items(), strict=False):
        _panel(axis, name, sorted(lines, key=lambda line: line.case.M), sweep)
        axis.set(xlabel="tokens M", title=f"{operation} {K}→{N}")
        axis.legend(fontsize=6)
    figure.suptitle(f"{PLOTS[name]}, {sweep.device}")
    return save_figure(figure, folder / f"{name}.png")


def _panel(axis, name: str, lines: list[Line], sweep: Sweep) -> None:
    tokens = [line.case.M for line in lines]
    axis.set_xscale("log", base=2)
    if name == "time":
        axis.set_yscale("log")
        axis.set_ylabel("µs")
        axis.plot(tokens, [1e6 * line.floor for line in lines], "--", color="grey", label="floor")
    elif name == "peak":
        axis.set_ylabel("share of floor's speed")
        axis.set_ylim(0, 1.1)
    else:
        axis.set_ylabel("times ours")
        axis.axhline(1, color="black", lw=1)
    for contender in dict.fromkeys(n for line in lines for n in line.times):
        here = [line for line in lines if contender in line.times]
        if name == "ratio" and contender == here[0].ours:
            continue
        value = {
            "time": lambda line, c=contender: 1e6 * line.times[c].median,
            "peak": lambda line, c=contender: line.floor / line.times[c].median,
            "ratio": lambda line, c=contender: line.over(c, line.ours),
        }[name]
        axis.plot(
            [line.case.M for line in here], [value(line) for line in here], "o-", ms=3, color=PALETTE[contender], label=contender
        )
