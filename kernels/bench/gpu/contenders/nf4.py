"""4-bit weights on a GPU: decoding, matmuls with a packed weight, and whole QLoRA layers, against bitsandbytes and 16 bits."""

import torch
from torch.nn import functional as F

from kernels.bench import machine
from kernels.bench.gpu.contenders.lora import SHAPES, rounding_of
from kernels.bench.gpu.contest import Contest, GpuCase, relative_error, worst
from kernels.formulas import nf4
from kernels.triton_kernels import nf4_matmul_triton, nf4_triton
from loralib.compute.dispatch import use_kernels
from loralib.compute.functional import lora_linear

TOKENS = (1, 4, 16, 64, 256, 512, 4096)
TRAINING = (512, 4096)
BITS = 4 + 8 / 64 + 32 / (64 * 256)
SCALING = 0.5


def cases(full: bool = True) -> list[GpuCase]:
    cases = []
    for N, K in SHAPES if full else ((40, 128),):
        cases.append(GpuCase("nf4_decode", "forward", 0, N, K, weight_bits=16 + BITS))
        cases += [GpuCase("nf4", "forward", M, N, K, weight_bits=BITS) for M in (TOKENS if full else (2, 20))]
        for mode, tokens in (("forward", TOKENS), ("both", TRAINING)):
            cases += [GpuCase("nf4_lora", mode, M, N, K, 16, weight_bits=BITS) for M in (tokens if full else (20,))]
    return cases


def contest(case: GpuCase, device: str, dtype: torch.dtype, copies: int) -> Contest:
    g = torch.Generator(device).manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, device=device).to(dtype)  # noqa: E731
    dense = [draw(case.N, case.K) for _ in range(copies)]
    packed = [nf4_triton.quantize(weight, double_quant=True) for weight in dense]
    if case.operation == "nf4_lora":
        return qlora(case, packed, draw(case.M, case.K), draw(case.r, case.K), draw(case.N, case.r), draw(case.M, case.N))
    bitsandbytes_weights = bitsandbytes_copies(dense)
    if case.operation == "nf4_decode":
        return decoding(case, dense, packed, bitsandbytes_weights, dtype)
    x = draw(case.M, case.K)
    runs = {
        "bf16": [lambda W=W: F.linear(x, W) for W in dense],
        "torch decode + linear": [lambda q=q: F.linear(x, nf4.dequantize(q, dtype)) for q in packed[:2]],
        "decode + linear": [lambda q=q: F.linear(x, nf4_triton.dequantize(q, dtype)) for q in packed],
    }
    if nf4_matmul_triton.fits(x, packed[0]):
        runs["packed"] = [lambda q=q: nf4_matmul_triton.nf4_matmul(x, q) for q in packed]
    if bitsandbytes_weights:
        runs["bitsandbytes"] = [lambda b=b, s=s: _bnb_linear(x, b, s) for b, s in bitsandbytes_weights]
    exact = x.double() @ nf4.dequantize(packed[0], torch.float32).double().T  # not rounded to x's dtype: not all contenders do
    errors = {name: relative_error(several[0](), exact) for name, several in runs.items() if name != "bf16"}
    ours = "packed" if "packed" in runs and case.M <= nf4_matmul_triton.PACKED_PAYS else "decode + linear"
    return Contest(case, runs, errors, "bf16", "torch decode + linear", ours, x.element_size(), rounding_of(dtype))


def qlora(case: GpuCase, packed, x, A, B, dy) -> Contest:
    """What a QLoRA layer runs with the kernels and without, autograd included in mode both."""
    leaves = [t.requires_grad_(case.mode == "both") for t in (x, A, B)]

    def layer(q, mode: str):
        def run():
            with use_kernels(mode):
                y = lora_linear(x, q, None, A, B, SCALING)
                return (y, *torch.autograd.grad(y, leaves, dy)) if case.mode == "both" else (y,)

        return run

    runs: dict[str, list] = {"torch": [layer(q, "torch") for q in packed[:2]], "triton": [layer(q, "triton") for q in packed]}
    dense, unrounded = (nf4.dequantize(packed[0], dtype) for dtype in (x.dtype, torch.float32))
    runs["bf16, no LoRA"] = [lambda: (F.linear(x, dense), dy @ dense) if case.mode == "both" else F.linear(x, dense)]
    exact = [t.detach().double().requires_grad_() for t in (x, A, B)]
    y = exact[0] @ unrounded.double().T + SCALING * (exact[0] @ exact[1].T) @ exact[2].T
    wanted = [y, *torch.autograd.grad(y, exact, dy.double())]
    errors = {
        name: worst(relative_error(a, b) for a, b in zip(runs[name][0](), wanted, strict=False)) for name in ("torch", "triton")
    }
    return Contest(case, runs, errors, "bf16, no LoRA", "torch", "triton", x.element_size(), rounding_of(x.dtype))


def _bnb_linear(x, packed, state):
    from bitsandbytes.autograd._functions import matmul_4bit

    return matmul_4bit(x, packed.t(), quant_state=state)


def decoding(case: GpuCase, dense, packed, bitsandbytes_weights, dtype) -> Contest:
    """The decoded weight is compared to the definition's, to the bit."""
    if not torch.equal(nf4_triton.dequantize(packed[0], dtype), nf4.dequantize(packed[0], dtype)):
        raise RuntimeError(f"{case.name}: the decoded weight differs from the definition's")
    target = torch.empty_like(dense[0])
    runs = {
        "copy": [lambda W=W: torch.neg(W, out=target) for W in dense],  # a kernel: copy_ in a graph is a slower memory copy
        "torch": [lambda q=q: nf4.dequantize(q, dtype) for q in packed[:2]],
        "triton": [lambda q=q: nf4_triton.dequantize(q, dtype) for q in packed],
    }
    if bitsandbytes_weights:
        from bitsandbytes.functional import dequantize_4bit

        runs["bitsandbytes"] = [lambda b=b, s=s: dequantize_4bit(b, s) for b, s in bitsandbytes_weights]
    return Contest(case, runs, {"torch": 0.0, "triton": 0.0}, "copy", "torch", "triton")


def bitsandbytes_copies(dense) -> list | None:
    """The same weights as bitsandbytes packs them; None where it cannot be imported."""
    if machine.obstacle("bitsandbytes"):
        return None
    from bitsandbytes.functional import quantize_4bit

    return [quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True) for weight in dense]
