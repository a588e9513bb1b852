"""The teacher has no influence

Symptom: With labels and a teacher, the student is as good as with labels alone.

Question: Over what does the loss take the mean?

Cause: `kl_div` with its default takes the mean over texts *and* classes. With 4 classes, the
gradient is 4 times too small; with a vocabulary of 50,000 tokens, 50,000 times. Use
`reduction="batchmean"`.

Lesson: 17
"""

import torch
from torch import nn


def wrong() -> float:
    """The size of the gradient, relative to the correct one."""
    torch.manual_seed(0)
    z, v = torch.randn(64, 4, requires_grad=True), torch.randn(64, 4)
    p, log_q = v.softmax(-1), z.log_softmax(-1)
    expected = (p * (p.log() - log_q)).sum(-1).mean()
    loss = nn.functional.kl_div(log_q, p)
    norms = [torch.autograd.grad(x, z, retain_graph=True)[0].norm() for x in (loss, expected)]
    return float(norms[0] / norms[1])


def fixed() -> float:
    """The size of the gradient, relative to the correct one."""
    torch.manual_seed(0)
    z, v = torch.randn(64, 4, requires_grad=True), torch.randn(64, 4)
    p, log_q = v.softmax(-1), z.log_softmax(-1)
    expected = (p * (p.log() - log_q)).sum(-1).mean()
    loss = nn.functional.kl_div(log_q, p, reduction="batchmean")
    norms = [torch.autograd.grad(x, z, retain_graph=True)[0].norm() for x in (loss, expected)]
    return float(norms[0] / norms[1])


def is_right(value: float) -> bool:
    return abs(value - 1) < 1e-4
