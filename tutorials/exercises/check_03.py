"""The checks of lesson 03's exercises, for your answers and for ours."""

import torch


def check_head_size(answers) -> None:
    for width, labels, expected in ((64, 2, 130), (768, 3, 2307), (384, 1, 385)):
        found = answers.head_size(width, labels)
        assert found == expected, f"width {width}, {labels} labels: {found}, expected {expected}"


def check_floor_accuracy(answers) -> None:
    found = answers.floor_accuracy([1, 1, 0], [0, 0, 1, 0])
    assert found == 0.25, f"the training set says 1, and a quarter of the test set is 1: {found}"
    assert answers.floor_accuracy([2, 2, 0], [2, 1]) == 0.5, "labels may be more than two"


def check_f1_by_hand(answers) -> None:
    found = answers.f1_by_hand([1] * 100, [1] * 70 + [0] * 30)
    assert abs(found - 140 / 170) < 1e-9, f"always 1 on 70 of 100: {found}, expected {140 / 170:.4f}"
    assert answers.f1_by_hand([0, 0], [1, 1]) == 0.0, "no hit: 0, and no division by zero"
    assert answers.f1_by_hand([1, 0, 1], [1, 0, 1]) == 1.0, "all right is 1"


def check_head_from_means(answers) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(30) % 3
    centres = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [5.0, 5.0, 0.0, 0.0]])  # lengths differ: b matters
    h = centres[labels] + 0.3 * torch.randn(30, 4, generator=generator)
    W, b = answers.head_from_means(h, labels)
    assert W.shape == (3, 4) and b.shape == (3,), f"W {tuple(W.shape)}, b {tuple(b.shape)}, expected (3, 4) and (3,)"
    means = torch.stack([h[labels == c].mean(0) for c in range(3)])
    new = torch.randn(200, 4, generator=generator) * 3
    nearest = torch.cdist(new, means).argmin(1)
    same = int(((new @ W.T + b).argmax(1) == nearest).sum())
    assert same == 200, f"{same} of 200 new vectors get the label of the nearest mean: is ||m||² in b, and halved?"
