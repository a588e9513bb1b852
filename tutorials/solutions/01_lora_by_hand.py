"""Solutions of lesson 01's exercises."""

import torch
from torch import Tensor


def largest_rank(shapes: list[tuple[int, int]], budget: int) -> int:
    return budget // sum(d_out + d_in for d_out, d_in in shapes)


def gradients(x: Tensor, G: Tensor, A: Tensor, B: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    return scaling * (G @ B).T @ x, scaling * G.T @ (x @ A.T)


def best_factors(change: Tensor, r: int) -> tuple[Tensor, Tensor]:
    U, sigma, V_t = torch.linalg.svd(change, full_matrices=False)
    root = sigma[:r].sqrt()
    return root[:, None] * V_t[:r], U[:, :r] * root


def join(adapters: list[tuple[Tensor, Tensor, float]], r: int) -> tuple[Tensor, Tensor]:
    change = sum(scaling * B @ A for A, B, scaling in adapters)  # updates of one layer add up
    return best_factors(change, r)
