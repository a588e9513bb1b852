"""Many adapters in one launch, in Triton's interpreter (on a GPU: for real). Oracle: the loop over adapters, in float64."""

import pytest
import torch
from triton_here import DEVICE, DTYPES, ON_GPU, bound, error, needs_triton

from kernels.formulas.grouped_lora import check_ids, grouped_lora_reference, stack_adapters, tile_table
from kernels.triton_kernels import grouped_lora_triton as grouped
from kernels.triton_kernels import lora_matmul_triton
from kernels.triton_kernels.tiles_triton import padded_rank

pytestmark = needs_triton()
CASES = [  # M, N, K, ranks, ids that are used (None: all and -1)
    (70, 90, 50, (4, 8, 16, 1), None),
    (33, 130, 70, (33, 2), None),
    (5, 20, 30, (8,) * 6, None),
    (40, 17, 33, (64, 4, 4), (-1, 2)),
    (100, 40, 16, (8,), (0,)),
    (12, 24, 31, (8, 8), (-1,)),
    (1, 9, 8, (4, 4), (1,)),
    (0, 10, 10, (4,), None),
]


def drawn(M, N, K, ranks, used, dtype):
    g = torch.Generator().manual_seed(M + N)
    choices = torch.tensor(used if used else range(-1, len(ranks)))
    ids = choices[torch.randint(0, len(choices), (M,), generator=g)]
    make = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64).to(DEVICE, dtype)  # noqa: E731
    A, B = stack_adapters([make(r, K) for r in ranks], [make(N, r) for r in ranks], padded_rank(max(ranks)))
    scaling = (torch.rand(len(ranks), generator=g) + 0.5).to(DEVICE)
    return make(M, N), make(M, K), A, B, scaling, ids, make(M, N), make(M, K)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_and_backward_against_the_loop(case, dtype):
    """Mixed ranks, adapters without rows, tiles of one row, base rows untouched, the same bits twice."""
    y, x, A, B, scaling, ids, dy, dx = drawn(*case, dtype)
    xd, Ad, Bd = (t.double().requires_grad_() for t in (x, A, B))
    wanted = grouped_lora_reference(y.double(), xd, Ad, Bd, scaling.double(), ids.to(DEVICE))
    gradients = torch.autograd.grad(wanted, (xd, Ad, Bd), dy.double())
    table = tile_table(ids, len(A), grouped.HEIGHT).to(DEVICE)
    runs = []
    for _ in range(2):
        out, dx_out = y.clone(), dx.clone()
        S = grouped.grouped_forward(out, x, A, B, scaling, table)
        runs.append((out, dx_out, *grouped.grouped_backward(dy, dx_out, x, A, B, S, scaling, table)))
    assert all(map(torch.equal, *runs))
    out, dx_out, dA, dB = runs[0]
    assert torch.equal(out[ids == -1], y[ids == -1]) and torch.equal(dx_out[ids == -1], dx[ids == -1])
    assert error(out, wanted) < 2 * bound(dtype)  # S is rounded, and the sum with y
    assert error(dx_out, gradients[0] + dx.double()) < 2 * bound(dtype)
    assert error(dA, gradients[1]) < 2 * bound(dtype) and error(dB, gradients[2]) < 2 * bound(dtype)
    unused = [a for a in range(len(A)) if a not in ids]
    assert not dA[unused].any() and not dB[unused].any()


def test_one_adapter_is_the_single_kernel():
    y, x, A, B, _, _, _, _ = drawn(45, 40, 30, (8,), (0,), torch.float32)
    table = tile_table(torch.zeros(45, dtype=torch.long), 1, grouped.HEIGHT).to(DEVICE)
    out = torch.zeros_like(y)
    S = grouped.grouped_forward(out, x, A, B, torch.tensor([0.5], device=DEVICE), table)
    assert error(S, lora_matmul_triton.shrink(x, A[0], 0.5)) < 1e-6
    W = torch.zeros(40, 30, device=DEVICE)
    assert error(out, lora_matmul_triton.lora_forward(x, W, None, A[0], B[0], 0.5)[0]) < 1e-6


def test_permuting_the_rows_permutes_the_outputs():
    y, x, A, B, scaling, ids, _, _ = drawn(60, 30, 20, (4, 8, 2), None, torch.float32)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    outs = []
    for rows in (torch.arange(60), order):
        out = y[rows.to(DEVICE)].clone()
        grouped.grouped_forward(out, x[rows.to(DEVICE)], A, B, scaling, tile_table(ids[rows], 3, grouped.HEIGHT).to(DEVICE))
        outs.append(out)
    if ON_GPU:
        assert torch.equal(outs[0][order.to(DEVICE)], outs[1])
    else:  # the interpreter multiplies with BLAS, which may sum a row in another order at another place of the tile
        assert error(outs[1], outs[0][order.to(DEVICE)]) < bound(torch.float32)


def test_the_table_has_one_size_for_every_batch():
    """So that a captured CUDA graph fits: 100 rows, 5 adapters, whatever the rows ask for."""
    g = torch.Generator().manual_seed(0)
    batches = [torch.full((100,), -1), torch.full((100,), 4), torch.randint(-1, 5, (100,), generator=g)]
    tables = [tile_table(ids, 5, 16) for ids in batches]
    assert len({table.tiles.shape for table in tables}) == 1
    for ids, table in zip(batches, tables, strict=True):
        visited = [int(i) for a, low, n in table.tiles.tolist() if a >= 0 for i in table.order[low : low + n]]
        assert sorted(visited) == (ids >= 0).nonzero().view(-1).tolist()
        assert all(ids[table.order[low]] == a for a, low, n in table.tiles.tolist() if n)


def test_bad_ids_and_ranks_are_refused():
    with pytest.raises(ValueError, match="from -2 to 1: expected -1"):
        tile_table(torch.tensor([-2, 1]), 2, 16)
    with pytest.raises(ValueError, match="from 0 to 2"):
        tile_table(torch.tensor([0, 2]), 2, 16)
    with pytest.raises(ValueError, match="for 3 rows"):
        check_ids(torch.zeros(2, dtype=torch.long), 3, 1)
    with pytest.raises(ValueError, match="at most 4"):
        stack_adapters([torch.ones(5, 3)], [torch.ones(2, 5)], 4)
    table = tile_table(torch.zeros(2, dtype=torch.long), 1, 16).to(DEVICE)
    x, A, scaling = (torch.ones(shape, device=DEVICE) for shape in ((2, 4), (1, 12, 4), (1,)))
    with pytest.raises(ValueError, match="power of two"):
        grouped.grouped_shrink(x, A, scaling, table)


def test_an_infinite_gradient_reaches_no_other_adapter():
    """The places behind an adapter's last row read nothing: they stand for row 0, which may hold an infinity."""
    M, N, K, r = 10, 20, 15, 4
    y, x, A, B, scaling, _, dy, dx = drawn(M, N, K, (r, r), (0, 1), torch.float32)
    ids = torch.tensor([0] * 3 + [1] * 7)
    dy[0] = float("inf")
    table = tile_table(ids, 2, grouped.HEIGHT).to(DEVICE)
    S = grouped.grouped_forward(y.clone(), x, A, B, scaling, table)
    dA, dB = grouped.grouped_backward(dy, dx.clone(), x, A, B, S, scaling, table)
    assert not dB[0].isfinite().any() and dA[1].isfinite().all() and dB[1].isfinite().all()
