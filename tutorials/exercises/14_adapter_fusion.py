"""Exercises of lesson 14. Write the functions, then run `python -m tutorials check 14`."""

from torch import Tensor


def fusion_parameters(width: int, places: int, members: int, dynamic: bool) -> int:
    """★ How many parameters a fusion trains in all. Static: V and one score for each member at each place.

    Two lines.
    """
    raise NotImplementedError("fusion_parameters")


def fuse_changes(seen: Tensor, changes: Tensor, query: tuple, key: tuple, V: Tensor) -> Tensor:
    """★★ The attended change (T × D) of seen (T × D) and changes (T × N × D). query and key are (weight, bias) each.

    Four lines. There is no division by the root of D.
    """
    raise NotImplementedError("fuse_changes")


def pull_gradient(V: Tensor, pull: float) -> Tensor:
    """★★ The gradient of pull · ‖V − I‖² for V, without autograd.

    One line.
    """
    raise NotImplementedError("pull_gradient")
