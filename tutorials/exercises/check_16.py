"""The checks of lesson 16's exercises, for your answers and for ours."""

import torch

from multitask.balancing.balancing import DynamicWeightAverage
from multitask.balancing.gradients import mgda


def check_dwa_weights(answers) -> None:
    before, now = torch.tensor([1.0, 2.0, 0.5]).double(), torch.tensor([0.5, 1.9, 0.1]).double()
    library = DynamicWeightAverage(["classification"] * 3, period=1)
    for losses in (before, now):
        library.after(dict(enumerate(losses.tolist())))
    found = answers.dwa_weights(before, now)
    assert torch.allclose(found.sum(), torch.tensor(3.0).double()), f"the weights sum to K = 3, found {float(found.sum()):.3f}"
    assert torch.allclose(found, library.weights), "softmax of now / before, over the temperature"


def check_mgda_of_two(answers) -> None:
    g = torch.Generator().manual_seed(0)
    cases = [torch.tensor([[-4.0, 1, 1], [6, 1, 1]]), torch.tensor([[1.0, 0], [3, 1]]), torch.randn(2, 5, generator=g)]
    for J in (case.double() for case in cases):
        found = answers.mgda_of_two(J @ J.T)
        assert found.min() >= 0 and abs(float(found.sum()) - 1) < 1e-9, (
            f"weights of at least 0 and of sum 1, found {found.tolist()}"
        )
        assert torch.allclose(found, mgda(J @ J.T), atol=1e-8), "put the slope of |w g1 + (1 - w) g2|² to 0; then clamp"


def check_affinity_to_first_order(answers) -> None:
    """Three losses ½ |θ - c_i|² + i, whose gradients are θ - c_i."""
    theta, centres = torch.tensor([1.0, 2.0]).double(), torch.tensor([[0.0, 0], [3, 1], [1, 5]]).double()
    losses = lambda at: 0.5 * (at - centres).square().sum(1) + torch.arange(3)  # noqa: E731
    J, rate = theta - centres, 1e-5
    true = torch.stack([1 - losses(theta - rate * g) / losses(theta) for g in J])
    found = answers.affinity_to_first_order(J @ J.T, losses(theta), rate)
    assert torch.allclose(found, true, atol=1e-8, rtol=1e-3), "row i steps along g_i; column j is divided by L_j, not by L_i"
