"""Many adapters in one batch on a GPU: one launch for all, against the loop over adapters, and one adapter for all rows."""

import torch

from kernels.bench.gpu.contest import Contest, GpuCase, relative_error
from kernels.formulas.grouped_lora import grouped_lora_reference, tile_table
from kernels.triton_kernels import grouped_lora_triton
from kernels.triton_kernels.tiles_triton import padded_rank

SHAPES = ((4096, 4096), (14336, 4096))


def cases(full: bool = True) -> list[GpuCase]:
    """(adapters, rows each): serving with a few long prompts, a full batch, and decode with an adapter per row."""
    plans = ((8, 64), (8, 512), (64, 1), (64, 16)) if full else ((3, 5),)
    shapes = SHAPES if full else ((40, 48),)
    return [GpuCase("grouped", "forward", L * each, N, K, 16, adapters=L, weight_bits=0) for N, K in shapes for L, each in plans]


def contest(case: GpuCase, device: str, dtype: torch.dtype, copies: int) -> Contest:
    """The update alone, added to y in place: the base is the same for all of them."""
    g = torch.Generator(device).manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, device=device).to(dtype)  # noqa: E731
    L, R = case.adapters, padded_rank(case.r)
    x, A, B = draw(case.M, case.K), draw(L, R, case.K) / case.K**0.5, draw(L, case.N, R)
    y, scaling = draw(case.M, case.N), torch.full((L,), 0.5, device=device)
    ids = torch.arange(case.M) % L  # neighbours in the batch ask for different adapters
    table = tile_table(ids, L, grouped_lora_triton.HEIGHT).to(device)
    rows = [(ids == a).nonzero().view(-1).to(device) for a in range(L)]
    same = tile_table(torch.zeros(case.M, dtype=torch.long), 1, grouped_lora_triton.HEIGHT).to(device)

    def loop():
        for a in range(L):
            y.index_add_(0, rows[a], (x[rows[a]] @ A[a].T) @ (0.5 * B[a]).T)

    def one_addmm():
        y.addmm_(x @ A[0].T, B[0].T, alpha=0.5)

    runs = {
        "one adapter, addmm": [one_addmm],
        "one adapter": [lambda: grouped_lora_triton.grouped_forward(y, x, A[:1], B[:1], scaling[:1], same)],
        "loop": [loop],
        "grouped": [lambda: grouped_lora_triton.grouped_forward(y, x, A, B, scaling, table)],
    }
    start = torch.zeros_like(y)
    exact = grouped_lora_reference(start.double(), x.double(), A.double(), B.double(), scaling.double(), ids.to(device))
    ours, torchs = start.clone(), start.clone()
    grouped_lora_triton.grouped_forward(ours, x, A, B, scaling, table)
    for a in range(L):
        torchs.index_add_(0, rows[a], (x[rows[a]] @ A[a].T) @ (0.5 * B[a]).T)
    errors = {"grouped": relative_error(ours, exact), "loop": relative_error(torchs, exact)}
    return Contest(case, runs, errors, "one adapter", "loop", "grouped", x.element_size())
