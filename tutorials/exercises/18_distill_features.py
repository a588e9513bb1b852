"""Exercises of lesson 18. Write the functions, then run `python -m tutorials check 18`."""

from torch import Tensor


def patient_loss(h_s: Tensor, h_t: Tensor, mask: Tensor) -> Tensor:
    """★ ‖h_S/‖h_S‖ - h_T/‖h_T‖‖² of the first real token of each text: (B,). Hidden states (B, T, D), mask (B, T).

    Padding (0 in the mask) may stand on the left or on the right. Four lines.
    """
    raise NotImplementedError("patient_loss")


def transfer_loss(h_s: Tensor, h_t: Tensor, mask: Tensor) -> Tensor:
    """★★ ‖q_S/‖q_S‖ - q_T/‖q_T‖‖² of each text: (B,). q_t = Σ_d h_td² for each token, (T,), and 0 at padding.

    h_s (B, T, D) and h_t (B, T, D') may have different widths. Three lines.
    """
    raise NotImplementedError("transfer_loss")


def best_projection(h_s: Tensor, h_t: Tensor, mask: Tensor) -> Tensor:
    """★★ The W (D', D) for which the sum over real tokens of ‖W h_S - h_T‖² is smallest. h_s (B, T, D), h_t (B, T, D').

    No loop, no training. Two lines.
    """
    raise NotImplementedError("best_projection")
