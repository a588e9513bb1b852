"""NF4: quantize and dequantize a square weight, ours against bitsandbytes, with a plain copy of the same bytes as the limit."""

import torch

from kernels.bench.machine import obstacle
from kernels.bench.timing import Timing, interleaved, ratio
from kernels.formulas.nf4 import Quantized, dequantize, quantize

SIZE, TINY = 4096, 128
HEADER = ("operation", "dtype", "threads", "ours ms", "ours / bitsandbytes", "ours / copy of the weight")


def measure(size: int, dtype: torch.dtype, rounds: int, device: str) -> dict[str, dict[str, Timing]]:
    """{operation: {contender: times}}; packed bytes and values are compared before anything is timed."""
    weight = torch.randn((size, size), generator=torch.Generator().manual_seed(0)).to(device, dtype)
    ours, target = quantize(weight), torch.empty_like(weight)
    runs = {
        "quantize": {"ours": lambda: quantize(weight), "copy": lambda: target.copy_(weight)},
        "dequantize": {"ours": lambda: dequantize(ours), "copy": lambda: target.copy_(weight)},
    }
    if not obstacle("bitsandbytes"):
        for name, run in bitsandbytes_runs(weight, ours, device).items():
            runs[name]["bitsandbytes"] = run
    return {name: interleaved(several, rounds, device) for name, several in runs.items()}


def bitsandbytes_runs(weight: torch.Tensor, ours: Quantized, device: str) -> dict:
    """RuntimeError where its bytes or values differ from ours."""
    from bitsandbytes import functional as bnb

    packed, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    if device == "cpu" and not (torch.equal(ours.packed, packed) and torch.equal(ours.absmax, state.absmax)):
        raise RuntimeError("the packed bytes differ from those of bitsandbytes: nothing was timed")
    if not torch.equal(dequantize(ours), bnb.dequantize_4bit(packed, state)):
        raise RuntimeError("the decoded values differ from those of bitsandbytes: nothing was timed")
    return {
        "quantize": lambda: bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4"),
        "dequantize": lambda: bnb.dequantize_4bit(packed, state),
    }


def rows(threads: int, dtype: torch.dtype, timings: dict[str, dict[str, Timing]]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            str(dtype).removeprefix("torch."),
            str(threads or "-"),
            f"{1e3 * times['ours'].median:.1f} ({1e3 * times['ours'].low:.1f}–{1e3 * times['ours'].high:.1f})",
            f"{ratio(times['ours'], times['bitsandbytes']):.2f}" if "bitsandbytes" in times else "–",
            f"{ratio(times['ours'], times['copy']):.1f}",
        )
        for name, times in timings.items()
    ]
