"""The checks of lesson 19's exercises, for your answers and for ours."""

import torch

from distill.losses.losses import reverse_kl


def check_reverse_by_hand(answers) -> None:
    generator = torch.Generator().manual_seed(0)
    z, v = (torch.randn(2, 3, 7, generator=generator, dtype=torch.float64).mul(3).requires_grad_(True) for _ in range(2))
    found, wanted = answers.reverse_by_hand(z, v), reverse_kl(z, v)
    assert found.shape == wanted.shape, f"one number for each token, found {tuple(found.shape)}"
    assert torch.allclose(found, wanted), "the average is over the student's words: Σ q (log q - log p)"
    mine, its = torch.autograd.grad(found.sum(), (z, v), allow_unused=True)
    assert torch.allclose(mine, torch.autograd.grad(wanted.sum(), z)[0]), "the student's gradient goes through both q"
    assert its is None, "the teacher learns nothing: detach its logits"


def check_texts_of(answers) -> None:
    found = answers.texts_of([{"in oslo": 0.4, "": 0.6}, {"anna sang": 1.0}, {"": 0.5, "in oslo": 0.25, "again": 0.25}])
    assert set(found) == {
        "in oslo anna sang",
        "in oslo anna sang in oslo",
        "in oslo anna sang again",
        "anna sang",
        "anna sang in oslo",
        "anna sang again",
    }, f"one space between pieces, none for an empty one; found {sorted(found)}"
    assert abs(found["anna sang"] - 0.3) < 1e-12, "independent choices multiply: 0.6 · 1 · 0.5"
    twice = answers.texts_of([{"a": 0.5, "a b": 0.5}, {"b c": 0.5, "c": 0.5}])
    assert abs(sum(twice.values()) - 1) < 1e-12, f"the sum must be 1, found {sum(twice.values()):g}: one text has two ways here"
    assert abs(twice["a b c"] - 0.5) < 1e-12, "'a' + 'b c' and 'a b' + 'c' are the same text: add their chances"


def check_coverage(answers) -> None:
    truth = {"a": 0.5, "b": 0.3, "c": 0.2}
    right, seen = answers.coverage(["a", "a", "x", "c"], truth)
    assert abs(right - 0.75) < 1e-12, f"three of four samples are right, found {right}"
    assert abs(seen - 0.7) < 1e-12, f"a and c were seen: 0.5 + 0.2, and a counts once; found {seen}"
    right, seen = answers.coverage(["x", "y"], truth)
    assert (right, seen) == (0, 0), "nothing right is no error"
