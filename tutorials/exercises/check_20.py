"""The checks of lesson 20's exercises, for your answers and for ours."""

import torch

from distill.compression.int8_product import quantize_rows


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def check_to_int8(answers) -> None:
    w = normal(0, 5, 40) * torch.tensor([1.0, 100.0, 0.01, 0.0, 3.0])[:, None]
    q, scale = answers.to_int8(w)
    assert q.dtype == torch.int8 and q.shape == w.shape, f"whole numbers in int8 of w's shape, found {q.dtype} {tuple(q.shape)}"
    assert scale.shape == (5, 1), f"one scale for each row, found {tuple(scale.shape)}"
    assert (scale > 0).all() and not q[3].any(), "a row of zeros: with scale 0 it is 0 / 0, which is NaN, no whole number"
    alive = [0, 1, 2, 4]
    assert (q[alive].abs().amax(1) == 127).all(), "the largest number of a row is 127 (or -127) steps"
    assert torch.equal(q[alive], quantize_rows(w)[0][alive]), "round to the nearest; to(torch.int8) alone cuts towards zero"
    assert torch.allclose(q * scale, w, atol=float(scale.max()) / 2 * 1.001), "w is q · scale, off by half a step"


def check_smallest_storage(answers) -> None:
    cases = {(3200, 0, 32): ("plain", 12800), (3200, 100, 32): ("plain", 12800), (3200, 101, 32): ("bitmap", 12796)}
    cases |= {(3200, 3000, 32): ("bitmap", 1200), (3200, 3150, 32): ("index", 400)}
    cases |= {(3200, 401, 8): ("bitmap", 3199), (3200, 400, 8): ("plain", 3200)}
    for (numbers, zeros, bits), wanted in cases.items():
        way, size = answers.smallest_storage(numbers, zeros, bits)
        told = f"{zeros} zeros of {numbers} numbers of {bits} bits"
        assert (way, size) == wanted, f"{told}: {wanted[0]} with {wanted[1]} bytes, found {way} with {size}"


def check_head_scores(answers) -> None:
    x, w = normal(1, 6, 5, 12).double(), normal(2, 12).double()

    def loss(x):
        return ((x @ w).sum(1).tanh() ** 2).sum()

    gates = torch.ones(6, 3, dtype=torch.float64, requires_grad=True)
    (of_gates,) = torch.autograd.grad(loss(x * gates.repeat_interleave(4, 1)[:, None]), gates)
    x.requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(x), x)
    found = answers.head_scores(x.detach(), slope, 3)
    assert found.shape == (3,), f"one number for each head, found {tuple(found.shape)}"
    assert not torch.allclose(found, of_gates.sum(0).abs() / 6), "|·| comes before the mean over texts: else they cancel"
    assert torch.allclose(found, of_gates.abs().mean(0)), "a gate multiplies all numbers of its head: sum x · slope over them"


def check_straight_through(answers) -> None:
    v = torch.tensor([-3.0, -1.0, -0.4, 0.1, 0.3, 0.9, 1.0, 1.2], requires_grad=True)
    found = answers.straight_through(v, 3, 1.0)
    wanted = torch.tensor([-3.0, -3.0, -1.0, 0.0, 1.0, 3.0, 3.0, 3.0]) / 3
    assert torch.allclose(found, wanted, atol=1e-6), f"3 bits have the steps -3 to 3, in thirds of top: found {found.tolist()}"
    (slope,) = torch.autograd.grad((found * torch.arange(1.0, 9.0)).sum(), v)
    assert slope.any(), "no gradient came through: round has none, so hide it with detach"
    assert torch.equal(slope, torch.tensor([0.0, 2, 3, 4, 5, 6, 7, 0])), "1 inside (the edges too), 0 where v was pushed back"
