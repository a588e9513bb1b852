"""The targets of the kernels on an H200 (section 7.1 of the kernel notes). The cases that they need are measured first."""

from collections.abc import Callable
from dataclasses import dataclass

from kernels.bench.gpu.contest import GpuCase, Line


@dataclass(frozen=True)
class Target:
    """`value` must stay at or below `limit` in the cases that are `wanted`."""

    text: str
    limit: float
    wanted: Callable[[GpuCase], bool]
    value: Callable[[Line], float]


def _is(operation: str, mode: str = "forward", **sizes) -> Callable[[GpuCase], bool]:
    def check(case: GpuCase) -> bool:
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


def importance(case: GpuCase) -> int:
    """The order of a run whose time is limited: 0 cases with a target, then 1 what the dispatcher needs, 2 the rest.

    The dispatcher needs rank 16 without dropout, forward and both.
    """
    if any(target.wanted(case) for target in TARGETS):
        return 0
    return 1 if case.r in (0, 16) and not case.dropout else 2
