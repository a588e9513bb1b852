"""The gradients of each task's loss with respect to what tasks share: a row of J for each."""

from collections.abc import Sequence

import torch
from torch import Tensor


def add_gradients(
    J: Tensor,
    losses: dict[int, Tensor],
    shared: Sequence[Tensor],
    own: Sequence[Tensor] = (),
    heads: dict[int, float] | None = None,
) -> set[int]:
    """Add ∇L_k with respect to `shared` to row k of J (K, n); and to `own` parameters' `.grad` theirs, times `heads[k]`.

    Losses come from one pass; a parameter that a loss does not reach counts as a gradient of zero in J, and none in `own`.
    Returns the places of the `shared` parameters that some loss reaches.
    """
    sizes, reached = [p.numel() for p in shared], set()
    for i, (k, loss) in enumerate(losses.items()):
        gradients = torch.autograd.grad(loss, [*shared, *own], retain_graph=i + 1 < len(losses), allow_unused=True)
        for place, (part, gradient) in enumerate(zip(J[k].split(sizes), gradients, strict=False)):
            if gradient is not None:
                part += gradient.flatten().to(part.dtype)
                reached.add(place)
        for p, gradient in zip(own, gradients[len(shared) :], strict=True):
            if gradient is not None:
                gradient = gradient * (heads or {}).get(k, 1.0)
                p.grad = gradient if p.grad is None else p.grad + gradient
    return reached


def no_gradients(count: int, shared: Sequence[Tensor]) -> Tensor:
    """J (count, n) of zeros, in the widest dtype among `shared` and float32."""
    dtype = torch.float32
    for p in shared:
        dtype = torch.promote_types(dtype, p.dtype)
    return torch.zeros(count, sum(p.numel() for p in shared), dtype=dtype, device=shared[0].device)


def gram(J: Tensor) -> Tensor:
    """All inner products g_i · g_j (K, K), in float64."""
    J = J.double()
    return (J @ J.T).cpu()


def set_gradients(d: Tensor, shared: Sequence[Tensor]) -> None:
    """The flat vector d (n,) as the gradients of `shared`."""
    for p, part in zip(shared, d.split([p.numel() for p in shared]), strict=True):
        p.grad = part.view_as(p).to(p.dtype).clone()
