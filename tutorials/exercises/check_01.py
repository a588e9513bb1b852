"""The checks of lesson 01's exercises, for your answers and for ours."""

import torch


def check_largest_rank(answers) -> None:
    for shapes, budget, expected in (
        ([(2304, 768)] * 12, 294_912, 8),
        ([(2304, 768)] * 12, 294_911, 7),
        ([(64, 64), (256, 64)], 100, 0),
    ):
        found = answers.largest_rank(shapes, budget)
        assert found == expected, f"{len(shapes)} layers, budget {budget:,}: {found}, expected {expected}"


def check_gradients(answers) -> None:
    torch.manual_seed(0)
    x, W, G = (torch.randn(*shape, dtype=torch.float64) for shape in ((7, 5), (6, 5), (7, 6)))
    A, B = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 5), (6, 2)))
    y = x @ W.T + 1.5 * (x @ A.T) @ B.T
    y.backward(G)
    dA, dB = answers.gradients(x, G, A.detach(), B.detach(), 1.5)
    for name, found, expected in (("A", dA, A.grad), ("B", dB, B.grad)):
        assert found.shape == expected.shape, f"gradient of {name} is {tuple(found.shape)}, expected {tuple(expected.shape)}"
        assert torch.allclose(found, expected), f"gradient of {name} differs from autograd's: where does the scale go?"


def check_best_factors(answers) -> None:
    torch.manual_seed(0)
    change = torch.randn(12, 9, dtype=torch.float64)
    sigma = torch.linalg.svdvals(change)
    for r in (1, 3, 9):
        A, B = answers.best_factors(change, r)
        assert A.shape == (r, 9) and B.shape == (12, r), f"r = {r}: A {tuple(A.shape)}, B {tuple(B.shape)}"
        assert _close((change - B @ A).square().sum(), sigma[r:].square().sum()), f"r = {r}: not the best B A of this rank"
        assert _close(A.norm(), B.norm()), "A and B should have the same norm: share the singular values between them"


def check_join(answers) -> None:
    torch.manual_seed(0)
    adapters = [(torch.randn(2, 9), torch.randn(12, 2), scaling) for scaling in (0.5, 2.0)]
    change = sum(scaling * B @ A for A, B, scaling in adapters)
    A, B = answers.join(adapters, 4)
    assert torch.allclose(B @ A, change, atol=1e-4), "rank 2 + 2 fits into rank 4 exactly: are both scales in it?"
    A, B = answers.join(adapters, 3)
    left = torch.linalg.svdvals(change)[3:].square().sum()
    assert A.shape == (3, 9), f"A is {tuple(A.shape)}, expected (3, 9)"
    assert _close((change - B @ A).square().sum(), left, 1e-3), "another adapter of rank 3 comes closer"


def _close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-8) -> bool:
    return abs(float(found) - float(expected)) <= tolerance * max(1.0, float(expected))
