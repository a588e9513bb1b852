"""The LoRA matmul on a GPU: ours in Triton, and what it competes with.

bare       the frozen layer alone: the limit
addmm      ours in torch, the baseline
augmented  one wider cuBLAS matmul (kernels/formulas/lora_augmented.py)
peft       its layer, where it is installed
lorafusion form, unsloth form: the published algorithms, written by us (lorafusion_triton.py, unsloth.py)
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.bench import machine
from kernels.bench.gpu.contenders import lorafusion_triton, unsloth
from kernels.bench.gpu.contest import Contest, GpuCase, relative_error, worst
from kernels.formulas import dropout, lora_augmented, lora_matmul
from kernels.triton_kernels import lora_backward_triton, lora_matmul_triton, philox

SHAPES = ((4096, 4096), (14336, 4096), (4096, 14336))
"""(N, K) of Llama-8B: attention projections, up and gate, down"""
TOKENS = (1, 16, 64, 512, 4096, 8192)
RANKS = (8, 16, 64)
SCALING = 0.5
LORAFUSION, UNSLOTH = "lorafusion form, ours", "unsloth form, ours"


def cases(full: bool = True) -> list[GpuCase]:
    """Every shape, M and rank; ranks beside 16, and dropout, at large M alone."""
    cases = []
    for N, K in SHAPES if full else ((40, 48),):
        for M in TOKENS if full else (2, 40):
            for r in RANKS if M in (1, 8192) else (16,):
                cases += [GpuCase("lora", mode, M, N, K, r) for mode in ("forward", "both")]
        cases.append(GpuCase("lora", "both", 8192 if full else 40, N, K, 16, dropout=0.1))
    return cases


def contest(case: GpuCase, device: str, dtype: torch.dtype, copies: int) -> Contest:
    """The contenders for a case: several runs each, over `copies` weights in turn, and their errors against float64."""
    g = torch.Generator(device).manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, device=device).to(dtype)  # noqa: E731
    x, dy = draw(case.M, case.K), draw(case.M, case.N)
    A, B = draw(case.r, case.K) / case.K**0.5, draw(case.N, case.r)
    weights = [draw(case.N, case.K) / case.K**0.5 for _ in range(copies)]
    runs = {name: [make(case, x, dy, W, A, B) for W in weights] for name, make in makers(case).items()}
    errors = check(case, runs, x, dy, weights[0], A, B)
    return Contest(case, runs, errors, "bare", "addmm", "triton", x.element_size(), rounding_of(dtype))


def makers(case: GpuCase) -> dict[str, Callable]:
    """The contenders for a case: two of the forms have no dropout, and peft may be missing here."""
    known = {"bare": bare, "triton": triton_form, "addmm": addmm_form, "augmented": augmented_form, "peft": peft_form}
    known |= {LORAFUSION: lorafusion_form, UNSLOTH: unsloth_form}
    left_out = {name for name in ("augmented", UNSLOTH) if case.dropout} | ({"peft"} if machine.obstacle("peft") else set())
    return {name: make for name, make in known.items() if name not in left_out}


def bare(case: GpuCase, x: Tensor, dy: Tensor, W: Tensor, A: Tensor, B: Tensor):
    """The frozen layer alone: what a LoRA of no cost would take."""
    if case.mode == "forward":
        return lambda: F.linear(x, W)
    return lambda: (F.linear(x, W), dy @ W)


def triton_form(case: GpuCase, x, dy, W, A, B):
    p, seed = case.dropout, torch.tensor([7], device=x.device)
    forward = lambda: lora_matmul_triton.lora_forward(x, W, None, A, B, SCALING, seed, p)  # noqa: E731
    if case.mode == "forward":
        return forward

    def both():
        y, S = forward()
        return y, *lora_backward_triton.lora_backward(dy, x, W, A, B, S, SCALING, seed, p)

    return both


def addmm_form(case: GpuCase, x, dy, W, A, B):
    """Ours in torch: scale and sum inside the second matmul, in place. The honest baseline."""
    p, parts = case.dropout, ((0, case.N),)
    scaling = SCALING / dropout.keep_probability(p) if p else SCALING

    def forward():
        mask = dropout.keep_mask(x.shape, p, x.device) if p else None
        dropped = None if mask is None else x * mask
        return lora_matmul.lora_forward(x, W, None, A, B, scaling, parts, dropped), mask

    def both():
        (y, S), mask = forward()
        return y, *lora_matmul.lora_backward(dy, x, W, A, B, S, scaling, parts, mask, (True, True, True))

    return (lambda: forward()[0]) if case.mode == "forward" else both


def augmented_form(case: GpuCase, x, dy, W, A, B):
    wide_x, wide_W = lora_augmented.room_behind(x, case.r), lora_augmented.augment_weight(W, B)
    forward = lambda: lora_augmented.augmented_forward(wide_x, wide_W, A, SCALING)  # noqa: E731
    if case.mode == "forward":
        return lambda: (forward(),)
    return lambda: (forward(), *lora_augmented.augmented_backward(dy, wide_x, wide_W, A, SCALING))


def lorafusion_form(case: GpuCase, x, dy, W, A, B):
    """With dropout the mask comes last in the result: it is random, and `check` needs it."""
    p = case.dropout

    def run():
        y, S, dropped, mask = lorafusion_triton.forward(x, W, A, B, SCALING, p)
        back = lorafusion_triton.backward(dy, dropped, mask, W, A, B, S, SCALING, p) if case.mode == "both" else ()
        return (y, *back) if mask is None else (y, *back, mask)

    return run


def unsloth_form(case: GpuCase, x, dy, W, A, B):
    def run():
        y = unsloth.forward(x, W, A, B, SCALING)
        return (y, *unsloth.backward(dy, x, W, A, B, SCALING)) if case.mode == "both" else (y,)

    return run


def peft_form(case: GpuCase, x, dy, W, A, B):
    """peft's own layer, with autograd, as its users run it."""
    from peft import LoraConfig, get_peft_model

    base = nn.Sequential(nn.Linear(case.K, case.N, bias=False, device=x.device, dtype=x.dtype))
    base[0].weight = nn.Parameter(W, requires_grad=False)  # no copy: the same weight as the others
    config = LoraConfig(
        r=case.r, lora_alpha=int(SCALING * case.r), lora_dropout=case.dropout, target_modules=["0"], init_lora_weights=False
    )
    model = get_peft_model(base, config).to(x.dtype).train()
    factors = [p for n, p in model.named_parameters() if "lora_" in n]
    for factor, value in zip(factors, (A, B), strict=True):
        factor.data.copy_(value)
    if case.mode == "forward":

        def forward():
            with torch.no_grad():
                return (model(x),)

        return forward
    leaf = x.detach().requires_grad_()

    def both():
        y = model(leaf)
        return y, *torch.autograd.grad(y, (leaf, *factors), dy)

    return both


def check(case: GpuCase, runs: dict, x, dy, W, A, B) -> dict[str, float]:
    """The largest relative error of each contender against float64. With dropout, of the two whose mask is known."""
    p = case.dropout
    keep = philox.keep_mask(torch.tensor([7], device=x.device), case.M, case.K, p) if p else None
    x, dy, W, A, B = (t.double() for t in (x, dy, W, A, B))
    wanted, errors = exact(case, x, dy, W, A, B, keep), {}
    for name in ("triton", LORAFUSION) if p else [name for name in runs if name != "bare"]:
        outputs = runs[name][0]()
        right = exact(case, x, dy, W, A, B, outputs[-1]) if p and name == LORAFUSION else wanted
        errors[name] = worst(relative_error(a, b) for a, b in zip(outputs, right, strict=False))
    return errors


def exact(case: GpuCase, x: Tensor, dy: Tensor, W: Tensor, A: Tensor, B: Tensor, keep: Tensor | None) -> list[Tensor]:
    """y, and in mode both dx, dA, dB, by the formulas in float64; `keep` is the dropout mask."""
    scaled_mask = 1.0 if keep is None else keep.double() / (1 - case.dropout)
    S = SCALING * (x * scaled_mask) @ A.T
    results = [F.linear(x, W) + S @ B.T]
    if case.mode == "both":
        dS = SCALING * dy @ B
        results += [dy @ W + dS @ A * scaled_mask, dS.T @ (x * scaled_mask), dy.T @ S]
    return results


def rounding_of(dtype: torch.dtype) -> float:
    """Of one number: 2^-8 in bf16, 2^-24 in float32."""
    return torch.finfo(dtype).eps / 2
