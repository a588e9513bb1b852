"""What a student learns from how its teacher's tokens look at each other: one number for each query token, the mean over heads.

    scores (B, H, T, T)             ─▶  softmax over the real keys  ─▶  KL(teacher ‖ student)  ─▶  (B, T)
    vectors X (B, H, T, d)          ─▶  scores X Xᵀ / √d, then the same
    states (B, T, D)                ─▶  split into A_r heads of width D / A_r, then the same

No width has to be equal: each model makes its own (T, T) scores. Padding counts neither as a key nor as a query, where the value
is 0; what stands there may be anything. `causal=True` leaves out keys after their query: a decoder's attention never uses those
scores, so to match them is to learn noise. Every teacher is detached here.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from distill.losses.losses import kl, log_probabilities

Scores = Float[Tensor, "B H T T"]
Heads = Float[Tensor, "B H T d"]
States = Float[Tensor, "B T D"]
Mask = Int[Tensor, "..."] | Bool[Tensor, "..."]  # (B, T), 0 at padding
Teacher = Float[Tensor, "..."]  # as the student, but for the width: `_pair` says more than a type


def attention_scores_mse(student: Scores, teacher: Teacher, mask: Mask, causal: bool = False) -> Float[Tensor, "B T"]:
    """The mean over real keys and heads of (A_S - A_T)², A = Q Kᵀ / √d before the softmax (Jiao et al. 2020, TinyBERT, 3.1).

    ValueError for different shapes; other numbers of heads need `relations`.
    """
    a, t = _pair(student, teacher, mask, same_heads=True)
    real = _real_pairs(mask, causal)  # (B, 1, T, T)
    squares = (a.masked_fill(~real, 0) - t.masked_fill(~real, 0)).square()
    return squares.mean(1).sum(-1) / real.sum(-1)[:, 0].clamp(min=1)


def attention_kl(student: Scores, teacher: Teacher, mask: Mask, causal: bool = False) -> Float[Tensor, "B T"]:
    """KL(A_T ‖ A_S) of attention rows (Wang et al. 2020, MiniLM, section 3.1; Sun et al. 2020, MobileBERT).

    Takes scores, before the softmax, and not the probabilities that transformers returns: those of a student in training have
    gone through dropout, their zeros would make the loss infinite. `probabilities.log()` does where there is no dropout.
    ValueError for different shapes; other numbers of heads need `relations`.
    """
    a, t = _pair(student, teacher, mask, same_heads=True)
    return _rows_kl(a, t, mask, causal)


def value_relation(student: Heads, teacher: Teacher, mask: Mask, causal: bool = False) -> Float[Tensor, "B T"]:
    """KL between the rows of softmax(V Vᵀ / √d), head by head (Wang et al. 2020, MiniLM, section 3.2). d may differ.

    ValueError for other rows, tokens or numbers of heads; `relations` matches any numbers of heads.
    """
    x, t = _pair(student, teacher, mask, same_heads=True)
    return _rows_kl(_scores(x, mask), _scores(t, mask), mask, causal)


def relations(student: States, teacher: Teacher, mask: Mask, heads: int, causal: bool = False) -> Float[Tensor, "B T"]:
    """MiniLM v2 (Wang et al. 2021, section 3.1): the same for queries, keys or values with their heads joined, (B, T, D).

    Each model's D is split anew into `heads` relation heads, so neither D nor the models' own numbers of heads need agree.
    The paper adds this loss for Q, for K and for V. With heads = H of both models it is `value_relation`.
    ValueError for other rows or tokens, and where `heads` does not divide a width.
    """
    x, t = _pair(student, teacher, mask, same_heads=False)
    x, t = _split(x, heads, "student"), _split(t, heads, "teacher")
    return _rows_kl(_scores(x, mask), _scores(t, mask), mask, causal)


def attention_transfer(student: States, teacher: Teacher, mask: Mask) -> Float[Tensor, "B"]:
    """‖Q_S/‖Q_S‖ - Q_T/‖Q_T‖‖² of a row's map Q_t = Σ_d h_td², over its real tokens (Zagoruyko & Komodakis 2017, section 3.1).

    Where on the text the activations are large; widths may differ. The paper takes the norm itself, which has no gradient at
    0; the authors' code the mean of the squares, which is smaller for a longer text. This is their sum, from 0 to 2.
    """
    h, t = _pair(student, teacher, mask, same_heads=False)
    h, t = (F.normalize(_real(x, mask).square().sum(-1), dim=-1) for x in (h, t))  # (B, T), 0 at padding
    return (h - t).square().sum(-1)


def _rows_kl(student: Tensor, teacher: Tensor, mask: Tensor, causal: bool) -> Tensor:
    """KL between rows of attention, the keys as classes: (B, T). A query at padding has no key, in both models: 0."""
    pairs = _real_pairs(mask, causal)
    q, p = (log_probabilities(x.masked_fill(~pairs, -torch.inf)) for x in (student, teacher))
    return kl(p, q).mean(1)


def _real_pairs(mask: Tensor, causal: bool) -> Tensor:
    """Which query (third place) may look at which key (fourth): (B, 1, T, T)."""
    real = mask != 0
    pairs = real[:, None, :, None] & real[:, None, None, :]
    return pairs.tril() if causal else pairs


def _scores(x: Tensor, mask: Tensor) -> Tensor:
    """X Xᵀ / √d (B, H, T, T) of vectors (B, H, T, d)."""
    x = _real(x.transpose(1, 2), mask).transpose(1, 2)
    return x @ x.mT / x.shape[-1] ** 0.5


def _split(x: Tensor, heads: int, whose: str) -> Tensor:
    """(B, T, D) to (B, heads, T, D / heads)."""
    width = x.shape[-1]
    if heads < 1 or width % heads:
        raise ValueError(f"heads={heads} does not divide the {whose}'s width {width}: take a common divisor of both widths")
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _real(x: Tensor, mask: Tensor) -> Tensor:
    """x (B, T, ...) with 0 at padding."""
    return x.masked_fill((mask == 0).view(*mask.shape, *[1] * (x.ndim - 2)), 0)


def _pair(student: Tensor, teacher: Tensor, mask: Tensor, same_heads: bool) -> tuple[Tensor, Tensor]:
    """Both at least in float32, the teacher detached: (B, H, T, ·) with same_heads, else (B, T, D)."""
    shapes = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}, mask {tuple(mask.shape)}"
    if student.ndim != (4 if same_heads else 3) or teacher.ndim != student.ndim:
        raise ValueError(f"{shapes}: expected {'(B, H, T, ·), heads apart' if same_heads else '(B, T, D), heads joined'}")
    if same_heads and student.shape[1] != teacher.shape[1]:
        raise ValueError(
            f"the student has {student.shape[1]} heads, the teacher {teacher.shape[1]}: expected as many. "
            "`relations` (MiniLM v2) joins the heads and splits them anew, so the numbers may differ"
        )
    if not (student.shape[0], student.shape[-2]) == (teacher.shape[0], teacher.shape[-2]) == tuple(mask.shape):
        raise ValueError(f"{shapes}: expected the same rows and tokens in all three")
    wide = torch.promote_types(student.dtype, torch.float32)
    return student.to(wide), teacher.detach().to(wide)
