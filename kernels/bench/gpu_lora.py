"""The LoRA product on a GPU: ours in Triton, ours in torch, the K-augmented cuBLAS form, peft, and the bare frozen layer."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels import lora_augmented, lora_backward_triton, lora_matmul, lora_matmul_triton
from kernels.bench.contest import Contest, GpuCase, relative_error, worst
from kernels.philox import keep_mask

SHAPES = ((4096, 4096), (14336, 4096), (4096, 14336))
"""(N, K) of Llama-8B: attention projections, up and gate, down"""
TOKENS = (1, 16, 64, 512, 4096, 8192)
RANKS = (8, 16, 64)
SCALING = 0.5


def cases(full: bool = True) -> list[GpuCase]:
    """Every shape, M and rank; ranks beside 16, and dropout, at large M alone."""
    found = []
    for N, K in SHAPES if full else ((40, 48),):
        for M in TOKENS if full else (2, 40):
            for r in RANKS if M in (1, 8192) else (16,):
                found += [GpuCase("lora", mode, M, N, K, r) for mode in ("forward", "both")]
        if full:
            found.append(GpuCase("lora", "both", 8192, N, K, 16, dropout=0.1))
    return found


def contest(case: GpuCase, device: str, dtype: torch.dtype, copies: int) -> Contest:
    """The contenders for a case: several runs each, over `copies` weights in turn, and their errors against float64."""
    g = torch.Generator(device).manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, device=device).to(dtype)  # noqa: E731
    x, dy = draw(case.M, case.K), draw(case.M, case.N)
    A, B = draw(case.r, case.K) / case.K**0.5, draw(case.N, case.r)
    weights = [draw(case.N, case.K) / case.K**0.5 for _ in range(copies)]
    makers = {"bare": bare, "triton": triton_form, "addmm": addmm_form, "augmented": augmented_form, "peft": peft_form}
    if case.dropout:
        del makers["augmented"]
    runs = {name: [make(case, x, dy, W, A, B) for W in weights] for name, make in makers.items()}
    errors = check(case, runs, x, dy, weights[0], A, B)
    return Contest(case, runs, errors, "bare", "addmm", "triton", x.element_size(), rounding_of(dtype))


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
    """Ours in torch: scale and sum inside the second product, in place. The honest baseline."""
    p, parts = case.dropout, ((0, case.N),)
    keep = keep_mask(torch.tensor([7], device=x.device), case.M, case.K, p) if p else None

    def forward():
        mask = None if keep is None else torch.empty_like(keep).bernoulli_(1 - p)
        dropped = None if mask is None else lora_matmul.drop(x, mask, p)
        return lora_matmul.lora_forward(x, W, None, A, B, SCALING, parts, dropped), mask

    def both():
        (y, S), mask = forward()
        return y, *lora_matmul.lora_backward(dy, x, W, A, B, S, SCALING, parts, mask, p, (True, True, True))

    return (lambda: forward()[0]) if case.mode == "forward" else both


def augmented_form(case: GpuCase, x, dy, W, A, B):
    wide_x, wide_W = lora_augmented.room_behind(x, case.r), lora_augmented.augment_weight(W, B)
    forward = lambda: lora_augmented.augmented_forward(wide_x, wide_W, A, SCALING)  # noqa: E731
    if case.mode == "forward":
        return lambda: (forward(),)
    return lambda: (forward(), *lora_augmented.augmented_backward(dy, wide_x, wide_W, A, SCALING))


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
    """The largest relative error of each contender against float64. With dropout only ours can be told: its mask is known."""
    x, dy, W, A, B = (t.double() for t in (x, dy, W, A, B))
    p = case.dropout
    keep = keep_mask(torch.tensor([7], device=x.device), case.M, case.K, p) / (1 - p) if p else 1.0
    S = SCALING * (x * keep) @ A.T
    wanted = [F.linear(x, W) + S @ B.T]
    if case.mode == "both":
        dS = SCALING * dy @ B
        wanted += [dy @ W + dS @ A * keep, dS.T @ (x * keep), dy.T @ S]
    errors = {}
    for name in ("triton",) if p else [name for name in runs if name != "bare"]:
        found = runs[name][0]()
        errors[name] = worst(relative_error(a, b) for a, b in zip(found, wanted, strict=False))
    return errors


def rounding_of(dtype: torch.dtype) -> float:
    """Of one number: 2^-8 in bf16, 2^-24 in float32."""
    return torch.finfo(dtype).eps / 2
