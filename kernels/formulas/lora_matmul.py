"""The LoRA matmul  y = x Wᵀ + b + s · (x̃ Aᵀ) Bᵀ  and its gradients, in plain PyTorch (Hu et al. 2021, section 4.1).

x̃ is x, or x ⊙ m with dropout's mask m; then s holds the factor 1 / P(m = 1) (`dropout.py`). The weight W is frozen as a
rule, so the rank-r path is all that needs care:

    S  = x̃ Aᵀ                      (M, r)   saved for the backward pass
    dB = s · dyᵀ S                 (N, r)
    dS = s · dy B                  (M, r)
    dA = dSᵀ x̃                     (r, K)
    dx = dS A + dy W               (M, K)   dropout's mask on dS A alone

`parts` are column ranges of y, one for each stacked (A_i, B_i): several low-rank updates inside one wide projection,
as in GPT-2's `c_attn` = [q | k | v]. A plain layer has one part, all of y.

Letters: M tokens, K = d_in, N = d_out, r rank, p parts.
"""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

Parts = tuple[tuple[int, int], ...]


def lora_matmul_reference(x, weight, bias, lora_A, lora_B, scaling: float, parts: Parts | None = None) -> Tensor:
    """The definition, one operation a line and no reuse: what everything else is judged by (use float64)."""
    y = F.linear(x, weight, bias)
    update = torch.zeros_like(weight)
    for (low, high), A, B in _stacks(lora_A, lora_B, parts or ((0, len(weight)),)):
        update[low:high] = scaling * (B @ A).to(weight.dtype)
    return y + F.linear(x, update)


def lora_forward(
    x: Float[Tensor, "M K"],
    weight: Float[Tensor, "N K"],
    bias: Float[Tensor, " N"] | None,
    lora_A: Float[Tensor, "pr K"],
    lora_B: Float[Tensor, "width r"],
    scaling: float,
    parts: Parts,
    dropped: Float[Tensor, "M K"] | None = None,
) -> tuple[Float[Tensor, "M N"], Float[Tensor, "M pr"]]:
    """Returns (y, S). Three operations for one part: the scale and the sum ride in the second matmul (`addmm`)."""
    y = F.linear(x, weight, bias)
    S = F.linear(x if dropped is None else dropped, lora_A)  # (M, p·r)
    for (low, high), s_i, B in _stacks(S.T, lora_B, parts):
        y[:, low:high].addmm_(s_i.T, B.T, alpha=scaling)
    return y, S


def lora_backward(
    dy: Float[Tensor, "M N"],
    x: Float[Tensor, "M K"],
    weight: Float[Tensor, "N K"],
    lora_A: Float[Tensor, "pr K"],
    lora_B: Float[Tensor, "width r"],
    S: Float[Tensor, "M pr"],
    scaling: float,
    parts: Parts,
    keep: UInt8[Tensor, "M K"] | Bool[Tensor, "M K"] | None,
    need: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Returns (dx, dA, dB), each None where `need` says so. `keep` is the dropout mask."""
    need_x, need_A, need_B = need
    stacks = list(_stacks(S.T, lora_B, parts))
    # Sᵀ dy, then transposed: dyᵀ S would read the large dy against its rows, which is much slower on a CPU
    dB = _join([_scaled(s_i, dy[:, a:b], scaling) for (a, b), s_i, _ in stacks], 1).T if need_B else None
    if not (need_x or need_A):
        return None, None, dB
    dS = _join([_scaled(dy[:, a:b], B, scaling) for (a, b), _, B in stacks], 1)  # (M, p·r)
    dA = dS.T @ (x if keep is None else x * keep) if need_A else None
    if not need_x:
        return None, dA, dB
    dx = dS @ lora_A  # the small matmul first: the large one then adds to it in place, without a pass of its own
    if keep is not None:
        dx *= keep
    return dx.addmm_(dy, weight), dA, dB


def _scaled(a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """scaling · a b in one operation."""
    return a.new_empty(a.shape[0], b.shape[1]).addmm_(a, b, beta=0, alpha=scaling)  # beta=0 never reads what was there


def _join(pieces: list[Tensor], dim: int) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)  # a plain layer has one part: no copy


def _stacks(stacked_A: Tensor, stacked_B: Tensor, parts: Parts):
    """Yield (column range, A_i, B_i); B's rows lie part after part, A's too, r rows each."""
    r, row = stacked_B.shape[1], 0
    if len(parts) == 1:  # the plain layer: no slices of its factors
        yield parts[0], stacked_A, stacked_B
        return
    for i, (low, high) in enumerate(parts):
        yield (low, high), stacked_A[i * r : (i + 1) * r], stacked_B[row : row + high - low]
        row += high - low
