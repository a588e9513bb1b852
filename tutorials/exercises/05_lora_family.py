"""Exercises of lesson 05. Write the functions, then run `python -m tutorials check 05`."""

from torch import Tensor


def alpha_for(r: int, other_r: int, other_alpha: float) -> float:
    """★ The alpha that gives LoRA at rank `r` the scale that `other_alpha` gives at rank `other_r`.

    One line.
    """
    raise NotImplementedError("alpha_for")


def dora_weight(W: Tensor, A: Tensor, B: Tensor, m: Tensor, scaling: float) -> Tensor:
    """★★ The weight that DoRA computes with: rows of W + scaling · B A, with the lengths m. Shapes as in the lesson.

    Two lines.
    """
    raise NotImplementedError("dora_weight")


def principal_part(W: Tensor, r: int) -> tuple[Tensor, float]:
    """★★ (the best rank-r part of W, its distance from W in the Frobenius norm).

    Three lines, with torch.linalg.svd.
    """
    raise NotImplementedError("principal_part")


def plain_lora(A: Tensor, B: Tensor, A_start: Tensor, B_start: Tensor) -> tuple[Tensor, Tensor]:
    """★★★ Factors of a plain LoRA, same scaling, for the unchanged base: their product is B A - B_start A_start.

    A and A_start are (r, d_in), B and B_start (d_out, r); the answer has rank 2r, exactly. One or two lines.
    """
    raise NotImplementedError("plain_lora")
