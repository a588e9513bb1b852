"""How much each task's loss counts. A step minimises

    Σ_k share_k · static_k · term_k(L_k)        share_k: task k's part of the step's rows; L_k: the mean loss of its answers

so sampling and weights multiply: over many steps the update is Σ p_k · w_k · ∇L_k (`expected_update`). `equal` has term = L and
is the default: with a tuned learning rate and enough regularisation nothing here beats it reliably (Kurin et al. 2022; Xin et
al. 2022). Some methods look at losses alone; GradNorm and those of `gradients.py` look at each task's gradient.
"""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from multitask.balancing.gradients import GRADIENT_METHODS
from multitask.balancing.weightings import DWA_PERIOD, METHODS, OPTIONS


class Balancing(nn.Module):
    """The base class of all methods: what a method says about the tasks' losses or gradients.

    A method has `term` and `weight` (it looks at the losses), or `looks_at_gradients` and `solve` (it looks at each task's
    gradient).
    """

    looks_at_gradients = False
    learning_rate: float | None = None
    """of the method's own parameters, if it has any"""

    def __init__(self, kinds: list[str], static: list[float] | None = None):
        super().__init__()
        weights = [1.0] * len(kinds) if static is None else static
        if len(weights) != len(kinds) or min(weights) < 0 or not any(weights):
            raise ValueError(f"task weights {weights}: expected {len(kinds)} numbers of at least 0, not all 0")
        self.static = [float(w) for w in weights]

    def weight(self, k: int) -> float:
        """The factor on L_k at present; for a method that looks at gradients, on the gradient of the head of task k."""
        raise NotImplementedError(f"{type(self).__name__} does not say its weights")

    def term(self, k: int, loss: Tensor, part: float) -> Tensor:
        """What stands for task k in the step's loss, before static weight and share. `loss` may be a part of its mean loss, over
        `part` of its answers; the terms of all parts add up."""
        return self.weight(k) * loss

    def solve(self, G: Tensor, last: Tensor, tasks: list[int], losses: dict[int, float], step: int) -> Tensor:
        """Weights (K,) of the gradients of `tasks`, from their Gram matrix G (K, K); `last`: that of the last shared matrix."""
        raise NotImplementedError(f"{type(self).__name__} does not look at gradients")

    def after(self, losses: dict[int, float]) -> None:
        """A step is done; its mean losses, of the tasks that took part."""


class Equal(Balancing):
    """Every task as it is, times its static weight."""

    def weight(self, k: int) -> float:
        return 1.0


class Uncertainty(Balancing):
    """Kendall et al. 2018, equations 7 to 10: with s_k = log σ_k² learned, the term is

        ½ e^-s L + ½ s     for a squared error (regression)
          e^-s L + ½ s     for a cross-entropy

    At a fixed loss s settles at log L and log 2L, where the weight is 1/(2L): tasks with a small loss count more, and the total
    may be negative. s has a learning rate of its own, and no decay: it would pull every σ to 1.
    """

    learning_rate = 1e-2

    def __init__(self, kinds: list[str], static: list[float] | None = None):
        super().__init__(kinds, static)
        self.log_vars = nn.Parameter(torch.zeros(len(kinds)))
        self.factors = [0.5 if kind == "regression" else 1.0 for kind in kinds]

    def term(self, k: int, loss: Tensor, part: float) -> Tensor:
        s = self.log_vars[k]
        return self.factors[k] * torch.exp(-s) * loss + 0.5 * s * part

    def weight(self, k: int) -> float:
        return self.factors[k] * float(torch.exp(-self.log_vars[k].detach()))


class DynamicWeightAverage(Balancing):
    """DWA (Liu et al. 2019, section 3.2): tasks whose loss falls slowly count more, w = K softmax(r / T).

    r_k is the mean loss of one period over that of the period before; in the first two all weights are 1.
    """

    weights: Tensor
    before: Tensor
    sums: Tensor
    """(2, K): of the losses, and how many"""
    steps: Tensor

    def __init__(self, kinds: list[str], static: list[float] | None = None, period: float = DWA_PERIOD, temperature: float = 2.0):
        super().__init__(kinds, static)
        period = int(period)
        if period < 1 or temperature <= 0:
            raise ValueError(f"period={period}, temperature={temperature}: expected at least 1, and above 0")
        self.period, self.temperature = period, temperature
        K = len(kinds)
        self.register_buffer("weights", torch.ones(K, dtype=torch.float64))
        self.register_buffer("before", torch.full((K,), torch.nan, dtype=torch.float64))
        self.register_buffer("sums", torch.zeros(2, K, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def weight(self, k: int) -> float:
        return float(self.weights[k])

    def after(self, losses: dict[int, float]) -> None:
        for k, loss in losses.items():
            self.sums[0, k] += loss
            self.sums[1, k] += 1
        self.steps += 1
        if self.steps % self.period:
            return
        now = torch.where(self.sums[1] > 0, self.sums[0] / self.sums[1], self.before)
        ratio = torch.nan_to_num(now / self.before, nan=1.0)  # not seen in both periods: as if it stood still
        if not torch.isnan(self.before).all():
            self.weights.copy_(len(ratio) * (ratio / self.temperature).softmax(0))
        self.before.copy_(now)
        self.sums.zero_()


class GradNorm(Balancing):
    """GradNorm (Chen et al. 2018, algorithm 1): weights w_k, of sum K, that bring the gradient norms G_k = w_k ‖∇L_k‖ in the last
    shared matrix to their mean times (relative loss)^α: a task that has learnt less than the others gets a longer gradient.

    w moves against the sign of G_k - target by `step_size` times the task's norm over the mean norm, so that the unit of the
    losses does not matter; the paper steps along the same gradient with its own learning rate.
    """

    looks_at_gradients = True
    weights: Tensor
    first: Tensor

    def __init__(self, kinds: list[str], static: list[float] | None = None, alpha: float = 1.5, step_size: float = 0.025):
        super().__init__(kinds, static)
        self.alpha, self.step_size = alpha, step_size
        self.register_buffer("weights", torch.ones(len(kinds), dtype=torch.float64))
        self.register_buffer("first", torch.full((len(kinds),), torch.nan, dtype=torch.float64))

    def weight(self, k: int) -> float:
        return float(self.weights[k])

    def solve(self, G: Tensor, last: Tensor, tasks: list[int], losses: dict[int, float], step: int) -> Tensor:
        weights, first = self.weights.cpu(), self.first.cpu().clone()  # G is on the CPU, whatever the model is on
        used, norms = weights[tasks], last.diagonal().clamp(min=0).sqrt()
        now = torch.tensor([losses[k] for k in tasks], dtype=torch.float64)
        first[tasks] = torch.where(torch.isnan(first[tasks]), now, first[tasks])
        relative = now / first[tasks].clamp(min=1e-12)
        target = (used * norms).mean() * (relative / relative.mean().clamp(min=1e-12)) ** self.alpha
        slope = torch.sign(used * norms - target) * norms / norms.mean().clamp(min=1e-30)
        weights = weights.index_copy(0, torch.tensor(tasks), (used - self.step_size * slope).clamp(min=1e-3))
        self.weights.copy_(weights * len(weights) / weights.sum())
        self.first.copy_(first)
        return used


class FromGradients(Balancing):
    """One of `gradients.GRADIENT_METHODS` on the shared parameters; heads keep their own gradients.

    A method that draws at random has a `generator` argument; the step decides what it draws, so that a resumed run draws the
    same.
    """

    looks_at_gradients = True

    def __init__(self, kinds: list[str], static: list[float] | None = None, method: str = "pcgrad", **options: float):
        super().__init__(kinds, static)
        self.method, self.options = GRADIENT_METHODS[method], options
        self.is_random = "generator" in inspect.signature(self.method).parameters

    def weight(self, k: int) -> float:
        return 1.0

    def solve(self, G: Tensor, last: Tensor, tasks: list[int], losses: dict[int, float], step: int) -> Tensor:
        random = {"generator": torch.Generator().manual_seed(step)} if self.is_random else {}
        return self.method(G, **self.options, **random)


BALANCING: dict[str, Callable[..., Balancing]] = {
    "equal": Equal,
    "uncertainty": Uncertainty,
    "dwa": DynamicWeightAverage,
    "gradnorm": GradNorm,
}
"""the methods that are classes; those of `gradients.GRADIENT_METHODS` are functions of the Gram matrix"""


def make_balancing(method: str, kinds: list[str], static: list[float] | None = None, **options: float) -> Balancing:
    """A method by its name. options: those in `weightings.OPTIONS`. ValueError for an unknown name or option."""
    unknown = sorted(set(options) - set(OPTIONS.get(method, {}))) if method in METHODS else []
    if unknown:
        raise ValueError(
            f"loss weighting {method!r} has no option {unknown[0]!r}; it has {', '.join(OPTIONS.get(method, {})) or 'none'}"
        )
    if method in GRADIENT_METHODS:
        return FromGradients(kinds, static, method, **options)
    if method not in BALANCING:
        raise ValueError(f"loss weighting {method!r} is unknown; there are {', '.join((*BALANCING, *GRADIENT_METHODS))}")
    return BALANCING[method](kinds, static, **options)


def expected_update(probabilities: dict[str, float], weights: dict[str, float]) -> dict[str, float]:
    """The coefficient of each task's mean gradient in the update that a step makes on average: p_k · w_k, scaled to sum 1."""
    products = {task: p * weights[task] for task, p in probabilities.items()}
    total = sum(products.values())
    return {task: value / total for task, value in products.items()}
