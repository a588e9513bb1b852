"""Build a kernel for a GPU that is not here, and read what the compiler made of it: the second gate of every kernel.

`triton.compile` needs no GPU. The interpreter says whether the numbers are right; the build says whether the kernel fits:
registers, spills to memory, shared memory, tensor-core instructions, and how many instructions its main loop has.
"""

import csv
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TABLE = Path(__file__).with_name("ahead_of_time.csv")
"""what `python -m kernels.bench builds` found with the pinned Triton"""
SHARED_LIMIT = {75: 65_536, 80: 166_912, 89: 101_376, 90: 232_448}
"""bytes of shared memory that one program may take, by compute capability (CUDA programming guide, table of limits)"""


@dataclass(frozen=True)
class Build:
    """What one kernel became on one architecture."""

    registers: int
    spilled: int
    """bytes of stack per thread: values that found no register"""
    shared: int
    """bytes per program"""
    wgmma: int
    """Hopper's asynchronous tensor-core instructions, reading shared memory"""
    mma: int
    """the older tensor-core instructions, one warp each"""
    tma: int
    """bulk tensor copies"""
    instructions: int
    loop: tuple[str, ...]
    """the instructions of the main loop: the longest one that has no loop inside"""


def build(kernel, arguments: dict, capability: int, warps: int = 4, stages: int = 3, whole: tuple[str, ...] = ()) -> Build:
    """Compile. `arguments` gives each argument a type ("*bf16", "i32", "fp32"), or its value where it is a constant.

    `whole` names those that are known to be multiples of 16, as the launcher finds for aligned tensors and strides.
    """
    constants = {name: value for name, value in arguments.items() if not isinstance(value, str) or name == "PRECISION"}
    signature = {name: "constexpr" if name in constants else arguments[name] for name in kernel.arg_names}
    attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in whole}
    source = ASTSource(kernel, signature, constants, attributes)
    compiled = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps, "num_stages": stages}
    )
    usage, code = _read(compiled.asm["cubin"])
    registers, stack = (int(re.findall(rf"{word}:(\d+)", usage)[0]) for word in ("REG", "STACK"))
    lines = _instructions(code)
    count = lambda pattern: sum(bool(re.match(pattern, line)) for _, line in lines)  # noqa: E731
    return Build(
        registers, stack, compiled.metadata.shared, count("HGMMA"), count("[HI]MMA"), count("UTMALDG|UTMASTG"), len(lines),
        tuple(_main_loop(lines)),
    )  # fmt: skip


def read_table(path: Path = TABLE) -> list[dict[str, str]]:
    """The lines of a table of builds."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _read(cubin: bytes) -> tuple[str, str]:
    """What `cuobjdump`, which comes with Triton, says of a binary: its resources and its machine code."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        ask = lambda word: subprocess.run([tool, word, file.name], capture_output=True, text=True, check=True).stdout  # noqa: E731
        return ask("-res-usage"), ask("-sass")


def _instructions(code: str) -> list[tuple[int, str]]:
    """(address, text) of each instruction; the predicate in front is taken off."""
    instructions = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z][^;]*);", code)
    return [(int(address, 16), text.strip()) for address, text in instructions]


def _main_loop(lines: list[tuple[int, str]]) -> list[str]:
    """A loop ends with a branch to an earlier address."""
    loops = []
    for address, text in lines:
        target = re.match(r"BRA\S*\s.*?0x([0-9a-f]+)", text)
        if target and int(target[1], 16) < address:
            loops.append((int(target[1], 16), address))
    inner = [(a, b) for a, b in loops if not any((c, d) != (a, b) and a <= c and d <= b for c, d in loops)]
    if not inner:
        return []
    first, last = max(inner, key=lambda loop: loop[1] - loop[0])
    return [text for address, text in lines if first <= address <= last and not text.startswith("NOP")]
