"""`python -m kernels.bench.gpu.summary FOLDER [OLDER ...]`: groups of cases with the range of their ratios, in FOLDER/summary.md.

It reads the rows.csv of each folder. A case that stands in several is taken from the first of them.
"""

import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loralib.files.save_and_load import write_atomic
from training.reports.records import markdown_table

Row = dict[str, str]
Case = dict[str, Row]
"""The rows of one case by contender."""
SHAPE = ("operation", "mode", "M", "N", "K", "r", "dropout", "adapters")
SECTIONS = ("LoRA", "NF4", "Many adapters")
HEADER = ("group", "cases", "over torch", "over the library", "over the bare layer", "share of the limit")


@dataclass(frozen=True)
class Group:
    """Cases that one line sums up, and the contenders that ours is divided by: torch's way, the library, the bare layer."""

    text: str
    wanted: Callable[[Row], bool]
    ours: str
    torch: str
    library: str | None
    bare: str


def _lora(mode: str, tokens: tuple[int, ...], dropout: float = 0.0) -> Callable[[Row], bool]:
    def check(row: Row) -> bool:
        kind = row["operation"] == "lora" and row["mode"] == mode and int(row["r"]) == 16
        return kind and int(row["M"]) in tokens and float(row["dropout"]) == dropout

    return check


def _nf4(tokens: tuple[int, ...]) -> Callable[[Row], bool]:
    return lambda row: row["operation"] == "nf4" and int(row["M"]) in tokens


LORA = ("triton", "addmm", "peft", "bare")
DECODE_FIRST = ("decode + linear", "torch decode + linear", "bitsandbytes", "bf16")
GROUPS = (
    Group("LoRA forward, 1 and 16 tokens", _lora("forward", (1, 16)), *LORA),
    Group("LoRA forward, 64 and 512 tokens", _lora("forward", (64, 512)), *LORA),
    Group("LoRA forward, 4096 and 8192 tokens", _lora("forward", (4096, 8192)), *LORA),
    Group("LoRA forward and backward, 1 to 512 tokens", _lora("both", (1, 16, 64, 512)), *LORA),
    Group("LoRA forward and backward, 4096 and 8192 tokens", _lora("both", (4096, 8192)), *LORA),
    Group("LoRA forward and backward with dropout, 8192 tokens", _lora("both", (8192,), dropout=0.1), *LORA),
    Group("NF4, decode a weight", lambda row: row["operation"] == "nf4_decode", "triton", "torch", "bitsandbytes", "copy"),
    Group("NF4, packed weight × 1 token", _nf4((1,)), "packed", *DECODE_FIRST[1:]),
    Group("NF4, 4 tokens (decode, then cuBLAS)", _nf4((4,)), *DECODE_FIRST),
    Group("NF4, 16 to 4096 tokens (decode, then cuBLAS)", _nf4((16, 64, 256, 512, 4096)), *DECODE_FIRST),
    Group(
        "8 adapters × 64 examples in one launch",
        lambda row: row["operation"] == "grouped" and (row["adapters"], row["M"]) == ("8", "512"),
        *("grouped", "loop", None, "one adapter"),
    ),
)


def read(folders: list[Path]) -> list[Case]:
    """Every case once, from the first folder that has it."""
    cases: dict[tuple[str, ...], Case] = {}
    for folder in folders:
        of_folder: dict[tuple[str, ...], Case] = {}
        with (folder / "rows.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                of_folder.setdefault(tuple(row[name] for name in SHAPE), {})[row["contender"]] = row
        cases = of_folder | cases
    return list(cases.values())


def line(group: Group, cases: list[Case]) -> tuple[str, ...]:
    """One line of the table. A dash where no case has the contender."""
    of_group = [case for case in cases if group.ours in case and group.wanted(case[group.ours])]
    ours = [float(case[group.ours]["median_us"]) for case in of_group]
    cells = []
    for name in (group.torch, group.library, group.bare):
        ratios = [time / float(case[name]["median_us"]) for time, case in zip(ours, of_group, strict=True) if name in case]
        cells.append(_range(ratios, ".2f"))
    shares = [float(case[group.ours]["floor_us"]) / time for time, case in zip(ours, of_group, strict=True)]
    return (group.text, str(len(of_group)), *cells, _range(shares, ".0%"))


def _section(group: str) -> str:
    return next((title for title in SECTIONS if group.startswith(title)), SECTIONS[-1])


def _range(values: list[float], form: str) -> str:
    if not values:
        return "–"
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def write(folders: list[Path]) -> str:
    """Writes summary.md into the first folder and returns its text."""
    cases = read(folders)
    lines = [result for group in GROUPS if (result := line(group, cases))[1] != "0"]
    parts = {title: [cells for cells in lines if _section(cells[0]) == title] for title in SECTIONS}
    tables = "\n\n".join(f"## {title}\n\n{markdown_table(HEADER, part)}" for title, part in parts.items() if part)
    text = f"""Made by `python -m kernels.bench.gpu.summary {" ".join(map(str, folders))}`.
Smallest and largest value of each group, r = 16. Times of ours as a multiple of another's: torch's in-place `addmm`, or torch's
decoding for NF4, or a loop over the adapters; the library is peft, for NF4 bitsandbytes; the bare layer has no adapter and is not
quantized (for decoding: a copy; for several adapters: one adapter for all). The limit is the roofline: the bytes or operations of
the case at the speed that this GPU reached.

{tables}
"""
    write_atomic(folders[0] / "summary.md", text.encode())
    return text


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("expected the folder of a run, and then those of older runs; see the first line of this file")
    print(write([Path(argument) for argument in sys.argv[1:]]))
