"""Exercises of lesson 04. Write the functions, then run `python -m tutorials check 04`."""

from torch import Tensor


def speed_up(products: float) -> float:
    """★ How many times as fast a step of LoRA is, when `products` is the share of its matrix multiplications in full's time.

    LoRA leaves out one product of three, and saves nothing else. One line.
    """
    raise NotImplementedError("speed_up")


def rank_for(change: Tensor, share: float) -> int:
    """★★ The smallest rank whose best part holds at least `share` of the energy of `change`: of its sum of squares.

    Three lines, with `torch.linalg.svdvals`.
    """
    raise NotImplementedError("rank_for")


def verdict(a: list[float], b: list[float]) -> str:
    """★★ "a", "b" or "no difference that counts": higher is better, the scores are paired, the limit is two standard errors.

    Five lines.
    """
    raise NotImplementedError("verdict")


def forgotten_at(points: list[tuple[float, float]], task_loss: float) -> float:
    """★★★ The loss on stories of a method at `task_loss`, from its runs: points (task loss, loss on stories), in any order.

    A straight line between the two neighbours; ValueError outside of the points, since nobody measured there. About six lines.
    """
    raise NotImplementedError("forgotten_at")
