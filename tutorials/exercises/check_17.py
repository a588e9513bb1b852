"""The checks of lesson 17's exercises, for your answers and for ours."""

import torch
from torch.nn import functional as F

from distill.losses.losses import soft_targets


def logits(seed: int, rows: int = 6, classes: int = 5) -> torch.Tensor:
    return 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check_soft_gradient(answers) -> None:
    z, v = logits(0).requires_grad_(True), logits(1)
    for T in (1.0, 2.0, 7.0):
        (wanted,) = torch.autograd.grad(soft_targets(z, v, T).sum(), z)
        found = answers.soft_gradient(z.detach(), v, T)
        assert found.shape == wanted.shape, f"one number for each logit, found {tuple(found.shape)}"
        assert torch.allclose(found, wanted), f"T = {T}: the gradient of KL is (q - p) / T, and T² stands in front"


def check_mixed_loss(answers) -> None:
    z, v, labels = logits(0), logits(1), torch.tensor([0, -100, 3, -100, -100, 1])
    seen, soft = labels != -100, soft_targets(z, v, 2.0).mean()
    found, wanted = answers.mixed_loss(z, v, labels, 2.0, 0.9), 0.1 * F.cross_entropy(z[seen], labels[seen]) + 0.9 * soft
    assert torch.allclose(found, wanted), "the teacher's part is a mean over all 6 rows, the labels' over the 3 labelled ones"
    found = answers.mixed_loss(z, v, torch.full((6,), -100), 2.0, 0.9)
    assert torch.allclose(found, 0.9 * soft), f"no label at all: found {float(found):.3f}, not a · T² KL (an empty mean is NaN)"


def check_in_order(answers) -> None:
    stored, keys = logits(2), torch.tensor([90, 17, 2**62, 5, 3, 44])
    found = answers.in_order(stored, keys, torch.tensor([5, 90, 5, 2**62]))
    assert torch.equal(found, stored[[3, 0, 3, 2]]), "look each key up; a row may come twice, and keys are no places"
    try:
        answers.in_order(stored, keys, torch.tensor([90, 18]))
        raise AssertionError("key 18 is not stored: raise KeyError, never answer for a text that the teacher did not see")
    except KeyError:
        pass
