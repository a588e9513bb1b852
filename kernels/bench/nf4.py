"""NF4: quantise and dequantise 4096 x 4096, ours against bitsandbytes, with a plain copy of the same bytes as the ceiling."""

import torch

from kernels.bench.timing import Timing, interleaved, ratio
from kernels.nf4 import dequantize, quantize

SHAPE = (4096, 4096)
HEADER = ("operation", "dtype", "threads", "ours ms", "ours / bitsandbytes", "ours / copy of the weight")


def measure(dtype: torch.dtype, rounds: int, device: str) -> dict[str, dict[str, Timing]]:
    """{operation: {contender: times}}; packed bytes and values are compared before anything is timed."""
    from bitsandbytes import functional as bnb

    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    ours = quantize(weight)
    theirs, state = bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    if device == "cpu" and not (torch.equal(ours.packed, theirs) and torch.equal(ours.absmax, state.absmax)):
        raise RuntimeError("the packed bytes differ from those of bitsandbytes")
    if not torch.equal(dequantize(ours), bnb.dequantize_4bit(theirs, state)):
        raise RuntimeError("the decoded values differ from those of bitsandbytes")
    target = torch.empty_like(weight)
    contenders = {
        "quantise": {
            "ours": lambda: quantize(weight),
            "bitsandbytes": lambda: bnb.quantize_4bit(weight, blocksize=64, quant_type="nf4"),
            "copy": lambda: target.copy_(weight),
        },
        "dequantise": {
            "ours": lambda: dequantize(ours),
            "bitsandbytes": lambda: bnb.dequantize_4bit(theirs, state),
            "copy": lambda: target.copy_(weight),
        },
    }
    return {name: interleaved(runs, rounds, device) for name, runs in contenders.items()}


def rows(threads: int, dtype: torch.dtype, found: dict[str, dict[str, Timing]]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            str(dtype).removeprefix("torch."),
            str(threads or "-"),
            f"{1e3 * times['ours'].median:.1f} ({1e3 * times['ours'].low:.1f}–{1e3 * times['ours'].high:.1f})",
            f"{ratio(times['ours'], times['bitsandbytes']):.2f}",
            f"{ratio(times['ours'], times['copy']):.1f}",
        )
        for name, times in found.items()
    ]
