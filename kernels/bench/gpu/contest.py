"""One line of a GPU benchmark: a case, its contenders, what they got wrong, and how long they took."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from kernels.bench.gpu.timing import time_contenders
from kernels.bench.timing import Timing, ratio
from kernels.roofline import Ceilings


@dataclass(frozen=True)
class GpuCase:
    """M tokens, K = d_in, N = d_out, rank r, L adapters. `mode` is forward, or both (with the backward)."""

    operation: str
    mode: str
    M: int
    N: int
    K: int
    r: int = 0
    dropout: float = 0.0
    adapters: int = 1
    weight_bits: float | None = None
    """None: as the rows, in `element` bytes each"""

    @property
    def flops(self) -> float:
        """Base: 2MKN, twice with backward (dx; W is frozen). LoRA: 2Mr(K + N), three times with backward. Grouped: no base."""
        base, lora = 2 * self.M * self.K * self.N, 2 * self.M * self.r * (self.K + self.N)
        if self.operation == "grouped":
            return lora
        return base + lora if self.mode == "forward" else 2 * base + 3 * lora

    def moved(self, element: int = 2) -> float:
        """Bytes that must be read or written once in each pass. Forward: weight, x, y, factors. Backward: weight, dy, x, dx, the
        factors and their gradients. Grouped has no weight, and reads y too, since it adds to it."""
        weight = self.N * self.K * (8 * element if self.weight_bits is None else self.weight_bits) / 8
        forward = self.M * (self.N * (2 if self.operation == "grouped" else 1) + self.K) * element
        backward = self.M * (self.N + 2 * self.K) * element
        factors = self.adapters * self.r * (self.N + self.K) * element
        return weight + forward + factors if self.mode == "forward" else 2 * weight + forward + backward + 3 * factors

    @property
    def name(self) -> str:
        extra = f" r={self.r}" * bool(self.r) + f" dropout {self.dropout}" * bool(self.dropout)
        return f"{self.mode} {self.M}×{self.K}→{self.N}{extra}" + f" {self.adapters} adapters" * (self.adapters > 1)


@dataclass(frozen=True)
class Contest:
    """Contenders by name, each several runs over other copies of the weight. `ours` is judged against `baseline`."""

    case: GpuCase
    runs: Mapping[str, Sequence[Callable[[], object]]]
    errors: dict[str, float]
    """relative, against float64; ours must be among them"""
    bare: str
    baseline: str
    ours: str
    element: int = 2
    """bytes of a number of x and y"""
    rounding: float = 2**-8
    """the baseline's error where it cannot be computed, because its dropout is not reproducible"""
    tolerance: float = 1e-4


@dataclass(frozen=True)
class Line:
    """What was measured."""

    case: GpuCase
    times: dict[str, Timing]
    errors: dict[str, float]
    floor: float
    """seconds: the roofline"""
    bare: str
    baseline: str
    ours: str
    element: int = 2
    refused: dict[str, float] = field(default_factory=dict)
    """contenders that were not timed because of their error"""

    def over(self, name: str, other: str) -> float:
        """The time of one as a multiple of the other's."""
        return ratio(self.times[name], self.times[other])


def hold(contest: Contest, ceilings: Ceilings, rounds: int, device: str) -> Line:
    """Correctness first: RuntimeError where ours errs by more than 1.1 times the baseline's own error and the tolerance.

    Another contender that errs by more than 4 times the baseline's error (peft rounds four times where addmm rounds twice) is
    refused: the line names it and the others are timed.
    """
    ours, torchs = contest.errors.get(contest.ours, math.nan), contest.errors.get(contest.baseline, contest.rounding)
    if not ours <= 1.1 * torchs + contest.tolerance:  # NaN, or not checked, is not right either
        raise RuntimeError(f"{contest.case.name}: error {ours:.1e} against torch's {torchs:.1e}: nothing was timed")
    refused = {name: error for name, error in contest.errors.items() if not error <= 4 * torchs + contest.tolerance}
    times = time_contenders({name: runs for name, runs in contest.runs.items() if name not in refused}, rounds, device)
    floor = ceilings.floor(contest.case.flops, contest.case.moved(contest.element))
    names = (contest.bare, contest.baseline, contest.ours)
    return Line(contest.case, times, contest.errors, floor, *names, contest.element, refused)


def worst(errors: Iterable[float]) -> float:
    """The largest; NaN where one is NaN, which `max` may pass over."""
    return float(torch.tensor([*errors], dtype=torch.float64).max())


def relative_error(measured: torch.Tensor, wanted: torch.Tensor) -> float:
    measured, wanted = measured.detach().double(), wanted.detach()
    return float((measured - wanted).norm() / wanted.norm())
