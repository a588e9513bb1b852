"""4-bit weights on a GPU: decoding, and products with a packed weight, against bitsandbytes and against 16 bits."""

import torch
from torch.nn import functional as F

from kernels import nf4, nf4_matmul_triton, nf4_triton
from kernels.bench.contest import Contest, GpuCase, relative_error
from kernels.bench.gpu_lora import SHAPES

TOKENS = (1, 4, 16, 64, 256, 512, 4096)
BITS = 4 + 8 / 64 + 32 / (64 * 256)


def cases(full: bool = True) -> list[GpuCase]:
    found = []
    for N, K in SHAPES if full else ((40, 128),):
        found.append(GpuCase("nf4_decode", "forward", 0, N, K, weight_bits=16 + BITS))
        found += [GpuCase("nf4", "forward", M, N, K, weight_bits=BITS) for M in (TOKENS if full else (2, 20))]
    return found


def contest(case: GpuCase, device: str, dtype: torch.dtype, copies: int) -> Contest:
    g = torch.Generator(device).manual_seed(0)
    dense = [torch.randn(case.N, case.K, generator=g, device=device).to(dtype) for _ in range(copies)]
    packed = [nf4_triton.quantize(weight, double_quant=True) for weight in dense]
    theirs = bitsandbytes_copies(dense) if device == "cuda" else None
    if case.operation == "nf4_decode":
        return decoding(case, dense, packed, theirs, dtype)
    x = torch.randn(case.M, case.K, generator=g, device=device).to(dtype)
    runs = {
        "bf16": [lambda W=W: F.linear(x, W) for W in dense],
        "decode + linear": [lambda q=q: F.linear(x, nf4_triton.dequantize(q, dtype)) for q in packed],
    }
    runs["torch decode + linear"] = [lambda q=q: F.linear(x, nf4.dequantize(q, dtype)) for q in packed[:2]]
    if nf4_matmul_triton.fits(x, packed[0]):
        runs["packed"] = [lambda q=q: nf4_matmul_triton.nf4_matmul(x, q) for q in packed]
    if theirs:
        runs["bitsandbytes"] = [lambda b=b, s=s: _bnb_linear(x, b, s) for b, s in theirs]
    exact = x.double() @ nf4.dequantize(packed[0], dtype).double().T
    errors = {name: relative_error(several[0](), exact) for name, several in runs.items() if name != "bf16"}
    return Contest(case, runs, errors, "bf16", "decode + linear", "packed" if "packed" in runs else "decode + linear")


def _bnb_linear(x, packed, state):
    from bitsandbytes.autograd._functions import matmul_4bit

    return matmul_4bit(x, packed.t(), quant_state=state)


def decoding(case: GpuCase, dense, packed, theirs, dtype) -> Contest:
    """The decoded weight is compared to the definition's, to the bit."""
    if not torch.equal(nf4_triton.dequantize(packed[0], dtype), nf4.dequantize(packed[0], dtype)):
        raise RuntimeError(f"{case.name}: the decoded weight differs from the definition's")
    target = torch.empty_like(dense[0])
    runs = {
        "copy": [lambda W=W: target.copy_(W) for W in dense],
        "torch": [lambda q=q: nf4.dequantize(q, dtype) for q in packed[:2]],
        "triton": [lambda q=q: nf4_triton.dequantize(q, dtype) for q in packed],
    }
    if theirs:
        from bitsandbytes.functional import dequantize_4bit

        runs["bitsandbytes"] = [lambda b=b, s=s: dequantize_4bit(b, s) for b, s in theirs]
    return Contest(case, runs, {}, "copy", "torch", "triton")


def bitsandbytes_copies(dense) -> list | None:
    """The same weights as bitsandbytes packs them; None where it is not installed."""
    try:
        from bitsandbytes.functional import quantize_4bit
    except ImportError:
        return None
    return [quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True) for weight in dense]
