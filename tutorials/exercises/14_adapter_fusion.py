"""Exercises of lesson 14. Write the functions, then run `python -m tutorials check 14`."""

from torch import Tensor


def fusion_parameters(width: int, places: int, members: int, dynamic: bool) -> int:
    """★ How many parameters a fusion trains in all. Static: V and one score for each adapter at each insertion point.

    Two lines.
    """
    raise NotImplementedError("fusion_parameters")


def fused_output(x: Tensor, outputs: Tensor, query: tuple, key: tuple, V: Tensor) -> Tensor:
    """★★ The fusion (T × D) of hidden states x (T × D) and adapter outputs (T × N × D). query and key: (weight, bias).

    Four lines. There is no division by the root of D.
    """
    raise NotImplementedError("fused_output")


def penalty_gradient(V: Tensor, factor: float) -> Tensor:
    """★★ The gradient of factor · ‖V − I‖² for V, without autograd.

    One line.
    """
    raise NotImplementedError("penalty_gradient")
