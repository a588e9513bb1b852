"""Combine the gradients of K tasks into one: every method as weights w on the Gram matrix G = J Jᵀ, so that d = Jᵀ w.

J (K, n) holds the gradients g_i of the tasks' losses with respect to the *shared* parameters; heads keep their own. G (K, K) is
all that the methods look at, so each costs K backward passes and some small algebra, in float64, whatever n is.

    conflict: G_ij < 0: a step along one task's gradient raises the other's loss.
"""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from multitask.balancing.weightings import LARGEST_MGDA

Gram = Float[Tensor, "K K"]
Weights = Float[Tensor, "K"]


def equal(G: Gram) -> Weights:
    """The sum of the losses: w = 1. Xin et al. 2022 and Kurin et al. 2022 find it hard to beat."""
    return torch.ones(len(G), dtype=G.dtype)


def inverse_norm(G: Gram) -> Weights:
    """Each gradient divided by its length; the weights sum to K."""
    w = 1 / _norms(G)
    return w * len(G) / w.sum()


def pcgrad(G: Gram, generator: torch.Generator | None = None) -> Weights:
    """Project each gradient off those that it conflicts with, in random order; then the sum (Yu et al. 2020, algorithm 1).

    A projected gradient is a mix of the given ones, g'_i = Σ_j C_ij g_j, so G gives all its inner products.
    """
    K = len(G)
    C = torch.eye(K, dtype=G.dtype)
    for i in range(K):
        for j in torch.randperm(K, generator=generator).tolist():
            product = C[i] @ G[:, j]  # g'_i · g_j
            if j != i and product < 0:
                C[i, j] -= product / G[j, j]
    return C.sum(0)


def mgda(G: Gram) -> Weights:
    """The shortest vector in the hull of the gradients: min ‖Σ w_i g_i‖² over the simplex (Sener & Koltun 2018, section 3.2).

    Exact: the best w of every face that a set of tasks spans; of those with no negative weight, the shortest. There are 2^K - 1
    faces, so ValueError for more than 12 tasks.
    """
    if len(G) > LARGEST_MGDA:
        raise ValueError(
            f"mgda tries all {2 ** len(G) - 1:,} subsets of {len(G)} tasks: expected at most {LARGEST_MGDA} tasks. "
            "Take cagrad, which looks for the same minimum step by step"
        )
    G = G / G.diagonal().max().clamp(min=torch.finfo(G.dtype).tiny)  # beside large entries the condition Σ w = 1 would be lost
    K, best, shortest = len(G), torch.full((len(G),), 1 / len(G), dtype=G.dtype), torch.inf
    for face in itertools.chain.from_iterable(itertools.combinations(range(K), size) for size in range(1, K + 1)):
        at = list(face)
        w = torch.zeros(K, dtype=G.dtype)
        w[at] = _affine_minimum(G[at][:, at])
        length = w @ G @ w
        if (w >= -1e-12).all() and length < shortest:
            best, shortest = w.clamp(min=0), length
    return best / best.sum()


def cagrad(G: Gram, c: float = 0.5, steps: int = 500) -> Weights:
    """The update within c‖g_0‖ of the mean g_0 that helps the worst task most (Liu et al. 2021, section 3).

    min over the simplex of g_w · g_0 + c ‖g_0‖ ‖g_w‖, by projected gradient; then d = g_0 + c ‖g_0‖ / ‖g_w‖ · g_w, not rescaled.
    """
    _refuse_zeros(G)
    K = len(G)
    mean = torch.full((K,), 1 / K, dtype=G.dtype)
    radius = c * (mean @ G @ mean).sqrt()
    value = lambda w: w @ G @ mean + radius * (w @ G @ w).clamp(min=1e-300).sqrt()  # noqa: E731
    w, step = mean, 1 / G.diagonal().max()
    for _ in range(steps):
        slope = G @ mean + radius * (G @ w) / (w @ G @ w).clamp(min=1e-300).sqrt()
        while step > 1e-30:
            new = _onto_simplex(w - step * slope)
            if value(new) <= value(w) - 1e-4 * (w - new) @ slope:
                break
            step = step / 2
        if (new - w).abs().max() < 1e-12 or value(w) - value(new) < 1e-15 * value(w).abs():  # as flat as float64 can tell
            break
        w, step = new, 2 * step
    return mean + radius / (w @ G @ w).clamp(min=1e-300).sqrt() * w


def imtl_g(G: Gram) -> Weights:
    """Weights that sum to 1 and give the update the same projection on every task's direction (Liu et al. 2021, section 3.1)."""
    unit = G / _norms(G)  # column j: g_i · u_j
    M = (unit[0, 0] - unit[0, 1:]) - (unit[1:, :1] - unit[1:, 1:])  # (g_1 - g_i) · (u_1 - u_j)
    rest = torch.linalg.solve(M.T, unit[0, 0] - unit[0, 1:]) if len(G) > 1 else unit.new_zeros(0)
    return torch.cat([(1 - rest.sum())[None], rest])


def nash_mtl(G: Gram, steps: int = 100) -> Weights:
    """The bargain of the tasks: G w = 1 / w, elementwise (Navon et al. 2022, section 3).

    It is where ½ wᵀGw - Σ log w is least, a convex function: Newton's method with halved steps.
    """
    w = 1 / _norms(G)
    value = lambda w: 0.5 * w @ G @ w - w.log().sum()  # noqa: E731
    for _ in range(steps):
        slope = G @ w - 1 / w
        way = torch.linalg.solve(G + torch.diag(w**-2), slope)
        step = 1.0
        while (w - step * way <= 0).any() or value(w - step * way) > value(w) - 1e-4 * step * slope @ way:
            step /= 2
            if step < 1e-12:
                return w
        w = w - step * way
        if slope @ way < 1e-16:  # Newton's decrement: the next step would change nothing
            break
    return w


def aligned_mtl(G: Gram) -> Weights:
    """Turn J into the nearest matrix with orthogonal rows of equal length, then the sum (Senushkin et al. 2023, section 4).

    G = V Λ Vᵀ, B = √λ_min V Λ^-½ Vᵀ over the eigenvalues that are not zero; d = Jᵀ B 1.
    """
    _refuse_zeros(G)
    values, V = torch.linalg.eigh(G)
    nonzero = values > len(G) * torch.finfo(G.dtype).eps * values.max()
    values, V = values[nonzero], V[:, nonzero]
    return values.min().sqrt() * V @ torch.diag(values.rsqrt()) @ V.T.sum(1)


GRADIENT_METHODS = {
    "pcgrad": pcgrad,
    "mgda": mgda,
    "cagrad": cagrad,
    "imtl_g": imtl_g,
    "nash_mtl": nash_mtl,
    "aligned_mtl": aligned_mtl,
    "inverse_norm": inverse_norm,
}


def _norms(G: Gram) -> Weights:
    norms = G.diagonal().sqrt()
    if not (norms > 0).all():
        still = (norms == 0).nonzero().flatten().tolist()
        raise ValueError(f"the gradients of tasks {still} are zero: nothing of theirs reaches the shared parameters")
    return norms


def _refuse_zeros(G: Gram) -> None:
    if not G.any():
        raise ValueError("the gradients of all tasks are zero: nothing of theirs reaches the shared parameters")


def _affine_minimum(G: Gram) -> Weights:
    """argmin wᵀGw with Σ w = 1, the weights of any sign."""
    K = len(G)
    A = torch.zeros(K + 1, K + 1, dtype=G.dtype)  # Lagrange: G w + λ 1 = 0, 1 · w = 1
    A[:K, :K], A[:K, K], A[K, :K] = G, 1, 1
    right = torch.zeros(K + 1, 1, dtype=G.dtype)
    right[K] = 1
    return torch.linalg.lstsq(A, right).solution[:K, 0]


def _onto_simplex(v: Weights) -> Weights:
    """The nearest point with weights of at least 0 that sum to 1 (Held et al. 1974)."""
    ordered = v.sort(descending=True).values
    excess = (ordered.cumsum(0) - 1) / torch.arange(1, len(v) + 1, dtype=v.dtype)
    return (v - excess[(ordered > excess).nonzero()[-1, 0]]).clamp(min=0)
