"""The report of a GPU sweep: a table, three plots, and the targets, each met or missed."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt

from kernels.bench import machine
from kernels.bench.gpu.contenders.lora import LORAFUSION, UNSLOTH
from kernels.bench.gpu.contest import GpuCase, Line
from kernels.bench.gpu.sweep import Sweep
from kernels.bench.gpu.targets import TARGETS
from training.reports.records import COLOURS, markdown_table, save_figure, use_style

HEADER = ("case", "ours µs", "20–80 %", "floor µs", "share of floor", "ours / baseline", "ours / bare", "others / ours")


def report(sweep: Sweep, folder: Path, tests: Sequence[str] = (), plots: bool = True) -> str:
    """Markdown; `tests`: what the tests of the kernels said. The plots are written beside it, or left out while a run goes on."""
    text = [f"# Kernels on {sweep.device}", ""]
    if tests:
        text += ["## Tests of the kernels", "", *tests, ""]
    text += ["## Times", "", *_limits(sweep), ""]
    text += [markdown_table(HEADER, [_row(line) for line in sweep.lines]), ""]
    wrong = [(line.case, name, error) for line in sweep.lines for name, error in line.refused.items()]
    refused = [f"{_name(case)}: {name}: error {error:.1e}, not timed" for case, name, error in wrong]
    sections = {
        "Not compared": [*machine.not_compared(), *refused],
        "Failed": [f"{_name(case)}: {reason}" for case, reason in sweep.failed],
        "Left out: the time was over": [_name(case) for case in sweep.left_out],
    }
    for title, entries in sections.items():
        text += [f"## {title}", "", *(f"- {entry}" for entry in entries), ""] if entries else []
    text += ["## Targets", "", markdown_table(("target", "limit", "measured", ""), list(_targets(sweep))), ""]
    if plots and _panels(sweep):
        text += [f"![{name}]({draw(sweep, name, folder).name})" for name in PLOTS]
    return "\n".join(text) + "\n"


def _limits(sweep: Sweep) -> list[str]:
    if sweep.ceilings is None:
        return ["Nothing was measured."]
    bandwidth, flops = sweep.ceilings.bandwidth / 1e12, sweep.ceilings.flops / 1e12
    return [
        f"Measured first: copy {bandwidth:.2f} TB/s, matmul {flops:.1f} TFLOP/s. `floor` is the larger of a case's bytes over",
        "the one and its operations over the other. Times are medians; * marks what is not a replayed CUDA graph.",
    ]


def _name(case: GpuCase) -> str:
    return f"{case.operation} {case.name}"


def _row(line: Line) -> tuple[str, ...]:
    ours = line.times[line.ours]
    others = ", ".join(f"{name} {line.over(name, line.ours):.2f}{mark(line, name)}" for name in line.times if name != line.ours)
    return (
        _name(line.case),
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
        lines = [line for line in sweep.lines if target.wanted(line.case)]
        if not lines:
            yield target.text, f"{target.limit:.2f}", "not measured", ""
            continue
        try:
            value = max(target.value(line) for line in lines)
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
    "bottleneck": (LORAFUSION,),
    "fusion": (UNSLOTH,),
}
PALETTE = {name: COLOURS[shade] for shade, names in SHADES.items() for name in names}


def _panels(sweep: Sweep) -> dict[tuple, list[Line]]:
    """The lines of each operation and shape: forward alone, rank 16."""
    panels: dict[tuple, list[Line]] = {}
    for line in sweep.lines:
        case = line.case
        if case.mode == "forward" and case.r in (0, 16) and case.operation != "nf4_decode":
            panels.setdefault((case.operation, case.K, case.N), []).append(line)
    return panels


def draw(sweep: Sweep, name: str, folder: Path) -> Path:
    """A panel for each operation and shape, a line for each contender, over the tokens M."""
    use_style()
    panels = _panels(sweep)
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
