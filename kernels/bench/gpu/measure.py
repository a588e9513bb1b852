"""One measurement: the hardware limits, or one case with all its contenders. Nothing here knows of files or of time budgets."""

import math
from dataclasses import dataclass

import torch

from kernels.bench.gpu.ceilings import measure_ceilings
from kernels.bench.gpu.contenders import grouped, lora, nf4
from kernels.bench.gpu.contenders.nf4 import BITS
from kernels.bench.gpu.contest import GpuCase, Line, hold
from kernels.roofline import Ceilings

OPERATIONS = {"lora": lora, "nf4": nf4, "grouped": grouped}
CACHE = 160e6
"""bytes of weights that the runs of one graph walk through: more than twice the L2 cache of an H200"""


@dataclass(frozen=True)
class Setup:
    """How everything in one run is measured. `full` False: small shapes, with which times mean nothing."""

    device: str
    dtype: torch.dtype
    rounds: int
    full: bool = True


def limits(setup: Setup) -> Ceilings:
    """What this machine can do at best."""
    return measure_ceilings(setup.device, setup.dtype, 8192 if setup.full else 128)


def measure(setup: Setup, ceilings: Ceilings, name: str, case: GpuCase) -> Line:
    """Raises whatever a contender raises, and RuntimeError where ours is wrong."""
    weight_bytes = case.N * case.K * (BITS if name == "nf4" else 16) / 8
    copies = 1 if case.M >= 4096 or not setup.full else min(16, max(2, math.ceil(CACHE / weight_bytes)))
    contest = OPERATIONS[name].contest(case, setup.device, setup.dtype, copies)
    return hold(contest, ceilings, setup.rounds, setup.device)
