"""Cross-entropy over a large vocabulary from hidden states, without a matrix of all logits.

    z = h Wᵀ + b    (N, V)        loss = Σ_n ( log Σ_v exp z_nv - z_n,y(n) )
    dz = softmax(z) - onehot(y)   dh = dz W    (N, D)     dW = dzᵀ h    (V, D)     db = Σ_n dz    (V,)

The logits of N = 1,000 tokens over 150,000 words take 600 MB in float32, and their gradient as much again. A chunk of rows needs
only its own part. Forward computes loss and gradients chunk by chunk, as in Liger's kernel (Hsu et al. 2024, section 3.2), and
keeps dh (and dW, db where they are needed). Backward multiplies them by the gradient of the loss.

Letters: N tokens, D hidden size, V words.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK_BYTES = 2**25
"""of a chunk of logits in float32"""


def plain_vocabulary_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    """The definition: all logits, then the summed cross-entropy."""
    return F.cross_entropy(_wide(F.linear(hidden, weight, bias)), labels, reduction="sum")


def vocabulary_loss(
    hidden: Float[Tensor, "N D"],
    weight: Float[Tensor, "V D"],
    bias: Float[Tensor, " V"] | None,
    labels: Int[Tensor, " N"],
    chunk_bytes: int = CHUNK_BYTES,
) -> Float[Tensor, ""]:
    """The same in chunks: a sum in float32 (float64 for float64), 0 for no token. Every label must be a word, from 0 to V - 1."""
    rows = max(1, chunk_bytes // (4 * len(weight)))
    return VocabularyLossFunction.apply(hidden, weight, bias, labels, rows)


class VocabularyLossFunction(torch.autograd.Function):
    """Loss and gradients in one pass over the chunks."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, labels, rows: int):
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        total = hidden.new_zeros((), dtype=wide)
        dh = torch.empty_like(hidden) if need_hidden else None
        dW = torch.zeros_like(weight, dtype=wide) if need_weight else None
        db = torch.zeros_like(bias, dtype=wide) if need_bias else None
        for start in range(0, len(hidden), rows):
            here = slice(start, start + rows)
            z = _wide(F.linear(hidden[here], weight, bias))  # (rows, V)
            y = labels[here, None]
            largest = z.logsumexp(-1, keepdim=True)
            total += (largest - z.gather(-1, y)).sum()
            if not (need_hidden or need_weight or need_bias):
                continue
            dz = z.sub_(largest).exp_().scatter_add_(-1, y, torch.full_like(largest, -1.0))
            if db is not None:
                db += dz.sum(0)
            dz = dz.to(hidden.dtype)
            if dh is not None:
                torch.mm(dz, weight, out=dh[here])
            if dW is not None:
                _add_product(dW, dz.T, hidden[here])
        ctx.save_for_backward(dh, None if dW is None else dW.to(weight.dtype), None if db is None else db.to(bias.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):  # pyright: ignore[reportIncompatibleMethodOverride]
        return *(None if t is None else t * gradient.to(t.dtype) for t in ctx.saved_tensors), None, None


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b; half precision is multiplied as it is, and added up wide."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


def _wide(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
