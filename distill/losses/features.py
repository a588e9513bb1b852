"""What a student learns from its teacher's hidden states: one number for each token, or for each row.

    states h (B, T, D) of both, one width  ─▶  (B, T): mean squared difference, or 1 - cos
                                           ─▶  (B,): the normalised states of one token of each row

A student of another width is projected first (TinyBERT's W_h), or learns relations (`relations.py`). Values at padding are
there too, and mean nothing: `losses.masked_mean` or the loop leaves them out. Every teacher is detached here.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

States = Float[Tensor, "B T D"]
TeacherStates = Float[Tensor, "..."]  # of the student's shape: the error of `_pair` says more than a type
Mask = Int[Tensor, "..."] | Bool[Tensor, "..."]  # (B, T), 0 at padding


def hidden_mse(student: States, teacher: TeacherStates) -> Float[Tensor, "B T"]:
    """The mean over D of (h_S - h_T)² (Jiao et al. 2020, TinyBERT, section 3.1). Embeddings have the same loss.

    ValueError for different shapes.
    """
    h, t = _pair(student, teacher)
    return (h - t).square().mean(-1)


def cosine(student: States, teacher: TeacherStates) -> Float[Tensor, "B T"]:
    """1 - cos(h_S, h_T), from 0 to 2 (Sanh et al. 2019, DistilBERT, section 2): lengths do not count.

    Computed as ½ ‖h_S/‖h_S‖ - h_T/‖h_T‖‖², which is the same number, and exact where both nearly agree.
    ValueError for different shapes.
    """
    return 0.5 * _between_directions(*_pair(student, teacher))


def patient(student: States, teacher: TeacherStates, mask: Mask, at: Int[Tensor, "..."] | None = None) -> Float[Tensor, "B"]:
    """‖h_S/‖h_S‖ - h_T/‖h_T‖‖² of one token of each row (Sun et al. 2019, PKD, section 3.2); their sum over layers is L_PT.

    at (B,): the token's place; by default the first real one ([CLS]), on whichever side the padding stands.
    ValueError for different shapes, and for a place that is padding or outside the row.
    """
    h, t = _pair(student, teacher)
    rows, T = torch.arange(len(h), device=h.device), h.shape[1]
    if mask.shape != h.shape[:2]:
        raise ValueError(f"mask {tuple(mask.shape)}: expected {tuple(h.shape[:2])}, one number for each token")
    at = (mask != 0).long().argmax(1) if at is None else at
    if at.shape != rows.shape or not ((at >= 0) & (at < T)).all() or (mask[rows, at] == 0).any():
        raise ValueError(f"at={at.tolist()}: expected {len(h)} places of real tokens, each from 0 to {T - 1} and not padding")
    return _between_directions(h[rows, at], t[rows, at])


def _between_directions(h: Tensor, t: Tensor) -> Tensor:
    return (F.normalize(h, dim=-1) - F.normalize(t, dim=-1)).square().sum(-1)


def _pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both at least in float32, the teacher detached."""
    if student.shape != teacher.shape:
        raise ValueError(
            f"hidden states of the student {tuple(student.shape)} and of the teacher {tuple(teacher.shape)} differ: "
            "expected one shape. "
            "Another width: project the student's hidden states first, or use `relations`. Other tokens: give both one batch"
        )
    wide = torch.promote_types(student.dtype, torch.float32)
    return student.to(wide), teacher.detach().to(wide)
