"""Cross-entropy over a large vocabulary, forward + backward: chunks from hidden states against all logits, time and peak memory.

The peak is that of a process of its own, above the process before the loss: hidden states and head are there already.
"""

import subprocess
import sys

import torch

from kernels.bench.timing import Timing, interleaved, ratio
from kernels.formulas.vocabulary_loss import plain_vocabulary_loss, vocabulary_loss

SHAPES = ((1024, 576, 49152), (1024, 896, 151936))
"""(tokens, hidden size, words): the heads of SmolLM2-135M and of Qwen2.5-0.5B"""
TINY = ((8, 16, 300),)
HEADER = ("tokens × hidden size × words", "threads", "ours ms", "all logits / ours", "peak MB, ours", "peak MB, all logits")
LOSSES = {"ours": vocabulary_loss, "all logits": plain_vocabulary_loss}
PEAK = """
import sys, torch
from kernels.bench.vocabulary import LOSSES, inputs, step
from kernels.measure import peak_bytes
name, shape = sys.argv[1], tuple(map(int, sys.argv[2:5]))
torch.set_num_threads(1)
tensors = inputs(*shape)
before = peak_bytes(torch.device("cpu"))
step(LOSSES[name], *tensors)
print(peak_bytes(torch.device("cpu")) - before)
"""


def inputs(N: int, D: int, V: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states that need a gradient, a frozen head, labels."""
    g = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(N, D, generator=g).requires_grad_(), torch.randn(V, D, generator=g)
    return hidden, weight.div_(D**0.5), torch.randint(V, (N,), generator=g)


def step(loss, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The gradient of the hidden states."""
    return torch.autograd.grad(loss(hidden, weight, None, labels), hidden)[0]


def measure(shape: tuple[int, int, int], rounds: int) -> dict[str, Timing]:
    """RuntimeError where the two gradients differ by more than rounding."""
    tensors = inputs(*shape)
    ours, plain = (step(loss, *tensors) for loss in LOSSES.values())
    error = float((ours - plain).norm() / plain.norm())
    if not error <= 1e-5:
        raise RuntimeError(f"the gradients differ by {error:.1e}, expected at most 1e-5: nothing was timed")
    return interleaved({name: lambda loss=loss: step(loss, *tensors) for name, loss in LOSSES.items()}, rounds, "cpu")


def peak(name: str, shape: tuple[int, int, int]) -> int:
    """Bytes above what the process had before the loss."""
    command = [sys.executable, "-c", PEAK, name, *map(str, shape)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def row(threads: int, shape: tuple[int, int, int], times: dict[str, Timing]) -> tuple[str, ...]:
    ours = times["ours"]
    return (
        " × ".join(f"{size:,}" for size in shape),
        str(threads),
        f"{1e3 * ours.median:.0f} ({1e3 * ours.low:.0f}–{1e3 * ours.high:.0f})",
        f"{ratio(times['all logits'], ours):.2f}",
        *(f"{peak(name, shape) / 1e6:.0f}" for name in LOSSES),
    )
