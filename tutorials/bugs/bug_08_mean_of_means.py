"""Micro-batches give another result

Symptom: With 4 micro-batches, the training gives another result than with one batch of the same
examples.

Question: Which weight does one token get?

Cause: Each micro-batch takes its own mean, and then the means are averaged. Tokens of short
texts get a larger weight. Add up the sums, and divide once by the number of all tokens.

Lesson: 02
"""

import torch


def wrong() -> float:
    """The difference between the gradient of one batch and of micro-batches."""
    torch.manual_seed(0)
    w, lengths = torch.randn(5, requires_grad=True), (2, 3, 10, 30)
    texts = [torch.randn(n, 5) for n in lengths]
    (expected,) = torch.autograd.grad((torch.cat(texts) @ w).square().mean(), w)
    total = torch.zeros(5)
    for text in texts:
        loss = (text @ w).square().mean() / len(texts)
        total += torch.autograd.grad(loss, w)[0]
    return float((total - expected).norm() / expected.norm())


def fixed() -> float:
    """The difference between the gradient of one batch and of micro-batches."""
    torch.manual_seed(0)
    w, lengths = torch.randn(5, requires_grad=True), (2, 3, 10, 30)
    texts = [torch.randn(n, 5) for n in lengths]
    (expected,) = torch.autograd.grad((torch.cat(texts) @ w).square().mean(), w)
    total = torch.zeros(5)
    for text in texts:
        loss = (text @ w).square().sum() / sum(lengths)
        total += torch.autograd.grad(loss, w)[0]
    return float((total - expected).norm() / expected.norm())


def is_right(value: float) -> bool:
    return value < 1e-5
