"""The command line of `python -m kernels.bench`. argparse alone, so that `--help` and a wrong word answer without torch."""

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path

COMMANDS = {
    "lora": "one LoRA layer",
    "dora": "one DoRA layer (it has no kernel of its own; runs in torch on any device)",
    "nf4": "4-bit weights: quantize, dequantize, matmul",
    "grouped": "many adapters in one batch",
    "vocabulary": "cross-entropy over a large vocabulary (torch on a CPU)",
    "all": "lora, nf4 and grouped on a GPU; on a CPU also dora and vocabulary",
    "builds": "compile every kernel for four kinds of GPU, without a GPU",
    "session": "everything for a rented GPU, within a time budget: tests, hardware limits, comparisons, report",
}
EXAMPLES = """examples:
  python -m kernels.bench session --minutes 9     # on a rented GPU machine: all of it, results in kernels/results/
  python -m kernels.bench session --tiny          # its rehearsal without a GPU
  python -m kernels.bench lora --device cpu --threads 1
  python -m kernels.bench builds
"""


def positive(kind: type) -> Callable[[str], float]:
    """A number above zero; argparse says which option had another one."""

    def read(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise ValueError(text)
        return value

    read.__name__ = f"positive {kind.__name__}"
    return read


def parse(words: Sequence[str]):
    """The chosen command and its options. Exits with a message for anything that a command does not use."""
    parser = ArgumentParser(
        prog="python -m kernels.bench",
        description="Time the kernels and layers against torch, peft and bitsandbytes.",
        epilog=EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        add_options(command, name)
    settings, unknown = parser.parse_known_args(words)
    if unknown:
        used = commands.choices[settings.command].format_usage().split(maxsplit=4)[-1]
        parser.error(f"{settings.command} does not use {' '.join(unknown)}; expected {' '.join(used.split())}")
    return settings


def add_options(command: ArgumentParser, name: str) -> None:
    """The options that this command uses, in three groups: what is measured, how long, and where results go."""
    what, time, results = (command.add_argument_group(title) for title in ("what is measured", "time", "results"))
    out = "folder for the results (default: build/bench)"
    if name == "session":
        out = "folder for the results (default: kernels/results/<name of the GPU>, with --tiny build/bench/session)"
        time.add_argument("--minutes", type=positive(float), default=9.0, help="time budget of the whole command (default: 9)")
    results.add_argument("--out", type=Path, default=None if name == "session" else Path("build/bench"), help=out)
    if name == "builds":
        which = "compute capabilities (default: all four)"
        what.add_argument("--sm", type=int, nargs="+", choices=(90, 89, 80, 75), default=(90, 89, 80, 75), help=which)
        return
    time.add_argument("--rounds", type=positive(int), default=30, help="timed rounds per case (default: 30)")
    what.add_argument("--tiny", action="store_true", help="small shapes, to try the command: its times mean nothing")
    if name not in ("dora", "vocabulary"):
        half = "number format (default: bf16 on a GPU, fp32 on a CPU)"
        what.add_argument("--dtype", choices=("auto", "fp32", "bf16"), default="auto", help=half)
    if name == "session":
        return
    what.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: the GPU if there is one")
    threads = "on a CPU: numbers of torch threads to time with (default: 1 2)"
    what.add_argument("--threads", type=positive(int), nargs="+", help=threads)
    if name not in ("dora", "vocabulary"):
        table = "on a GPU: write the ratios to kernels/measured.json, from which layers choose between Triton and torch"
        results.add_argument("--remember", action="store_true", help=table)
