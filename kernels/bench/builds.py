"""`python -m kernels.bench builds`: every kernel built for four kinds of GPU, none of which need be here.

One line per build: registers, spills, shared memory against the limit, tensor-core and copy instructions, and for the NF4
kernels the instructions of the main loop per decoded weight. `ahead_of_time.csv` is the committed table; a test builds
all again and compares, so that a change which spills or loses its tensor cores shows.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import triton

from kernels.triton_kernels import (
    configs,
    grouped_lora_triton,
    lora_backward_triton,
    lora_matmul_triton,
    nf4_matmul_triton,
    nf4_triton,
)
from kernels.triton_kernels.ahead_of_time import SHARED_LIMIT, Build, build

HEADER: tuple[str, ...] = ("triton", "kernel", "variant", "sm", "warps", "stages", "registers", "spilled", "shared", "limit")
HEADER += ("wgmma", "mma", "tma", "instructions", "loop", "per_weight")
MOST_PER_WEIGHT = 8.0
"""in blocks of 64, which everybody uses"""
UNALIGNED = ("r", "M", "b_row", "threshold", "first")
"""numbers that need not be multiples of 16; the sizes and strides of a real layer are"""


@dataclass(frozen=True)
class Spec:
    """A kernel with its constants, for one capability."""

    kernel: Any
    variant: str
    constants: dict
    tiles: configs.Tiles
    capability: int
    weights: int = 0
    """decoded by one program in a step of its main loop; 0 where nothing is decoded"""

    def build(self) -> Build:
        arguments = {name: self.constants.get(name, self.type_of(name)) for name in self.kernel.arg_names}
        whole = tuple(
            n for n, t in arguments.items() if isinstance(t, str) and n not in UNALIGNED and t != "fp32" and n != "PRECISION"
        )
        return build(self.kernel, arguments, self.capability, self.tiles.warps, self.tiles.stages, whole)

    def type_of(self, name: str) -> str | int:
        """A type by the argument's name: strides along a row are 1."""
        half = "*bf16" if self.capability >= 80 else "*fp16"
        floats = {"ds_parts", "db_parts", "da_parts", "nested", "offset", "dynamic", "middles"}
        known = dict.fromkeys(floats, "*fp32") | {"packed": "*u8", "order": "*i32", "pairs": "*i64", "seed": "*i64"}
        known |= {"tiles": "*i32", "bounds": "*i32", "absmax": "*u8", "inverse": "fp32", "scaling": "fp32"}
        if name.endswith("_col") or name in ("b_rank", "out_rank"):
            return 1
        if name in known:
            return known[name]
        pointers = {"x", "w", "bias", "a", "b", "down", "y", "dy", "ds", "dx", "weight", "out", "g"}
        return half if name in pointers else "i32"


def specs(sm: int) -> Iterator[Spec]:
    """The builds of one capability: with the tiles that the launchers take there."""
    half, r16 = torch.bfloat16, {"R": 16, "PRECISION": "ieee"}
    for R in (16, 64):
        yield from lora_specs(sm, half, R)
    yield from nf4_specs(sm, half)
    yield from grouped_specs(sm)
    if sm == 90:
        small = configs.gemm_tiles(4096, 4096, torch.float32, sm)
        wide = dict.fromkeys(("x", "w", "bias", "down", "b", "y"), "*fp32")
        yield Spec(lora_matmul_triton.expand_kernel, "fp32", wide | r16 | gemm(small) | {"HAS_BIAS": True}, small, sm)


def lora_specs(sm: int, dtype: torch.dtype, R: int) -> Iterator[Spec]:
    f, b, constants = lora_matmul_triton, lora_backward_triton, {"R": R, "PRECISION": "ieee"}
    large, middle, one = (configs.gemm_tiles(M, 4096, dtype, sm) for M in (8192, 512, 16))
    thin, rank = configs.shrink_tiles(8192, 4096, dtype, sm), configs.rank_tiles(8192, 4096, R, dtype, sm)
    wide = constants | {"HAS_BIAS": True}
    one_launch = wide | {"DROPOUT": False, "R": max(R, f.FASTEST_RANK), "S_WIDTH": R}
    yield Spec(f.one_launch_kernel, f"r={R}", one_launch | gemm(one, group=False), one, sm)
    yield Spec(f.expand_kernel, f"M=8192 r={R}", wide | gemm(large), large, sm)
    if large != middle:
        yield Spec(f.expand_kernel, f"M=512 r={R}", wide | gemm(middle), middle, sm)
    if sm == 90:
        yield Spec(f.expand_persistent_kernel, f"M=8192 r={R}", wide | gemm(large) | {"PROGRAMS": 132}, large, sm)
    for dropout in (False, True):
        name = f"r={R}" + (" dropout" if dropout else "")
        drop = constants | {"DROPOUT": dropout}
        yield Spec(f.shrink_kernel, name, drop | {"BM": thin.M, "BK": thin.K, "SPLIT": 1}, thin, sm)
        yield Spec(b.grad_a_kernel, name, drop | {"BM": rank.M, "BK": rank.N, "SPLIT": rank.split}, rank, sm)
        yield Spec(b.grad_x_kernel, name, drop | gemm(large), large, sm)
    yield Spec(b.grad_rank_kernel, f"r={R}", constants | {"BM": rank.M, "BN": rank.N, "SPLIT": rank.split}, rank, sm)


def grouped_specs(sm: int) -> Iterator[Spec]:
    g, constants = grouped_lora_triton, {"R": 16, "PRECISION": "ieee", "BM": grouped_lora_triton.HEIGHT}
    t = configs.grouped_tiles(torch.bfloat16, sm)
    yield Spec(g.grouped_shrink_kernel, "r=16", constants | {"BK": t.K, "scaling": "*fp32"}, t, sm)
    yield Spec(g.grouped_expand_kernel, "r=16", constants | {"BN": t.N}, t, sm)
    yield Spec(g.grouped_outer_kernel, "r=16", constants | {"BN": 64, "out": "*fp32"}, replace(t, warps=4), sm)


def nf4_specs(sm: int, dtype: torch.dtype) -> Iterator[Spec]:
    decoding = {"NESTED": True, "BLOCKSIZE": 64}
    plain = configs.Tiles(0, 0, 0, warps=4, stages=3)
    yield Spec(nf4_triton.dequantize_kernel, "", decoding | {"BLOCKS": 128}, plain, sm, 128 * 64)
    quantizing = {"BLOCKSIZE": 64, "BLOCKS": 32, "order": "*u8", "absmax": "*fp32"}
    yield Spec(nf4_triton.quantize_kernel, "", quantizing, plain, sm)
    for M, size in ((1, 64), (4, 64), (1, 4096)):
        t = configs.nf4_gemv_tiles(size, 4096, sm)
        constants = decoding | {"BLOCKSIZE": size, "HAS_BIAS": True, "R": 16, "M": M, "BN": t.N, "BLOCKS": t.K // size}
        name = f"M={M} r=16" if size == 64 else f"M={M} r=16 blocks of {size}"
        yield Spec(nf4_matmul_triton.gemv_kernel, name, constants, t, sm, t.N * t.K)
    for M in (16, 64, 256):
        t = configs.nf4_gemm_tiles(M, 14336, 4096, dtype, sm)
        constants = decoding | {"HAS_BIAS": True, "R": 16, "SPLIT": t.split, "PRECISION": "ieee"} | gemm(t, group=False)
        yield Spec(nf4_matmul_triton.gemm_kernel, f"M={M} r=16", constants, t, sm, t.N * t.K)


def gemm(tiles: configs.Tiles, group: bool = True) -> dict:
    sizes = {"BM": tiles.M, "BN": tiles.N, "BK": tiles.K}
    return sizes | ({"GROUP": tiles.group} if group else {})


def line(spec: Spec) -> dict[str, str]:
    """One line of the table."""
    b, per_weight = spec.build(), ""
    if spec.weights:
        length = len(b.loop) if b.loop else b.instructions  # without a loop, all of the kernel
        per_weight = f"{length / (spec.weights / 32 / spec.tiles.warps):.2f}"
    values = (triton.__version__, spec.kernel.__name__, spec.variant, spec.capability, spec.tiles.warps, spec.tiles.stages)
    values += (b.registers, b.spilled, b.shared, SHARED_LIMIT[spec.capability], b.wgmma, b.mma, b.tma)
    return dict(zip(HEADER, map(str, (*values, b.instructions, len(b.loop), per_weight)), strict=True))


CAPABILITIES = (90, 89, 80, 75)


def all_specs(capabilities: Sequence[int] = CAPABILITIES) -> list[Spec]:
    return [spec for sm in capabilities for spec in specs(sm)]


def write(lines: list[dict[str, str]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, HEADER, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def differences(lines: list[dict[str, str]], committed: list[dict[str, str]]) -> list[str]:
    """What changed against the committed table, for the capabilities that were built.

    Another version of Triton compiles differently: then limits alone are judged.
    """
    texts = [text for row in lines for text in problems(row)]
    built = {row["sm"] for row in lines or committed}
    known = {key(row): row for row in committed if row["triton"] == triton.__version__ and row["sm"] in built}
    if not known:
        return texts
    for row in lines:
        old = known.pop(key(row), None)
        changed = [f"{name} {old[name]} → {row[name]}" for name in HEADER if old and old[name] != row[name]]
        if old is None or changed:
            texts.append(f"{' '.join(key(row))}: {', '.join(changed) or 'not in the table'}")
    return texts + [f"{' '.join(missing)}: in the table, not built" for missing in known]


def key(row: dict[str, str]) -> tuple[str, ...]:
    return row["kernel"], row["variant"], f"sm_{row['sm']}"


def problems(row: dict[str, str]) -> list[str]:
    """What no build may have: spills, too much shared memory; on Hopper a large GEMM without wgmma, or slow decoding."""
    name, problems_found = " ".join(key(row)), []
    if int(row["spilled"]):
        problems_found.append(f"{name}: {row['spilled']} bytes spilled")
    if int(row["shared"]) > int(row["limit"]):
        problems_found.append(f"{name}: {row['shared']} bytes of shared memory, {row['limit']} are there")
    if row["sm"] != "90" or row["variant"] == "fp32":
        return problems_found
    large = row["kernel"] in ("gemm_kernel", "grad_x_kernel", "expand_kernel", "expand_persistent_kernel")
    if large and (row["wgmma"] == "0" or row["mma"] != "0"):
        problems_found.append(f"{name}: no wgmma")
    if row["kernel"] == "expand_persistent_kernel" and row["tma"] == "0":
        problems_found.append(f"{name}: no bulk tensor copies")
    if row["per_weight"] and "blocks of" not in row["variant"] and float(row["per_weight"]) > MOST_PER_WEIGHT:
        problems_found.append(f"{name}: {row['per_weight']} instructions per weight")
    return problems_found
