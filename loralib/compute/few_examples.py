"""A mixed batch with many adapters and few tokens for each: all updates in two batched matrix multiplications.

    S = x_sorted Aᵀ    (L, c, K) · (L, K, R)          update = s · S Bᵀ    (L, c, R) · (L, R, N)

for L adapters with at most c tokens each. A loop makes four small operations for each adapter, which takes longer than their
arithmetic as long as c is small. The factors are stacked once and remain stacked until an adapter changes (`grouped.py`).
Stacking costs more than one loop. So training, and a layer that got other adapters in its last batch, run the loop: the stack
is made when a batch repeats the adapters of the one before, as each step of text generation does.
"""

from functools import lru_cache
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from loralib.compute.casting import cast, compute_dtype
from loralib.compute.grouped import scales_on, stack_of
from loralib.compute.rows import Rows, row_numbers

FEWEST_ADAPTERS, MOST_TOKENS = 4, 4
"""at least so many adapters, with at most so many tokens each: measured on two CPU cores with `kernels.bench grouped`"""


def batched_rows(layer, input: Tensor, rows: Rows) -> Tensor | None:
    """The output of a projection for a mixed batch, or None where the loop over adapters is to run."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return None
    rows = rows.fitted(input, type(layer).__name__)
    groups = {name: index for name, index in row_numbers(rows, input.device).items() if name in layer.variants}
    variants = [layer.variants[name] for name in groups]
    tokens = input.shape[1:-1].numel() * max((len(index) for index in groups.values()), default=0)
    if len(groups) < FEWEST_ADAPTERS or tokens > MOST_TOKENS:
        return None
    if any(not v.is_low_rank or (v.dropout and layer.training) for v in variants):
        return None
    factors = {name: variant.factors(layer, name) for name, variant in zip(groups, variants, strict=True)}
    if LAST.get(layer) != tuple(groups) or not all(_can_be_stacked(f) for pair in factors.values() for f in pair):
        LAST[layer] = tuple(groups)
        return None
    A, B = stack_of(layer, factors, max(len(A) for A, _ in factors.values()), compute_dtype(input))  # (L, R, K), (L, N, R)
    scales = scales_on(tuple(variant.scaling for variant in variants), input.device, A.dtype)
    y = layer.base_forward(input)
    taken, places, valid = places_of(rows, tuple(groups), input.device)
    x = cast(input[taken], A.dtype).reshape(len(A), -1, input.shape[-1])  # (L, c, K)
    update = torch.bmm(torch.bmm(x, A.mT) * scales[:, None, None], B.mT)
    update = update.view(len(taken), *y.shape[1:-1], update.shape[-1])[valid]
    return y.index_add(0, places, cast(update, y.dtype))


LAST: WeakKeyDictionary = WeakKeyDictionary()
"""layer → the adapters of its last batch"""


def _can_be_stacked(factor: Tensor) -> bool:
    """A factor that is computed anew in each call (`enable_lora`) would be stacked anew in each call."""
    return isinstance(factor, nn.Parameter) and not factor.is_inference()


@lru_cache(maxsize=64)
def places_of(rows: Rows, adapters: tuple[str, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(examples, the same number for each adapter; the real ones of these; which of them are real), made once for a batch.

    An adapter with fewer examples than another repeats its first one, whose additional results are left out.
    """
    groups = row_numbers(rows, device)
    most = max(len(groups[name]) for name in adapters)
    with torch.inference_mode(False):
        taken = torch.cat([groups[name][torch.arange(most, device=device) % len(groups[name])] for name in adapters])
        valid = torch.cat([torch.arange(most, device=device) < len(groups[name]) for name in adapters])
        return taken, taken[valid], valid
