"""Exercises of lesson 12. Write the functions, then run `python -m tutorials check 12`."""

from collections.abc import Callable

from torch import Tensor


def adapter_parameters(d: int, m: int, layers: int, placement: str, left_out: int = 0) -> int:
    """★ Parameters of all adapters of a model: `layers` layers of width d, bottleneck m, `left_out` of the layers without one.

    placement is pfeiffer, houlsby or parallel. Two lines.
    """
    raise NotImplementedError("adapter_parameters")


def pfeiffer_sublayer(h: Tensor, residual: Tensor, norm: Callable, adapter: Callable) -> Tensor:
    """★★ The end of a post-norm layer with a pfeiffer adapter: from h and its residual to the output.

    `norm` and `adapter` are functions of a tensor; `adapter` leaves the residual to you. Two lines.
    """
    raise NotImplementedError("pfeiffer_sublayer")


def output_by_example(h: Tensor, names: list[str | None], adapters: dict[str, Callable]) -> Tensor:
    """★★ What BatchSplit adds to h (B, T, d): example i gets the output of adapter names[i], and zeros for None.

    Each adapter that is named runs once, on all its examples together; one that is not named does not run. Five lines.
    """
    raise NotImplementedError("output_by_example")
