"""Do tasks help or hurt each other? Three answers, from cheap to true.

cosines      cos(g_i, g_j) of the tasks' gradients in what they share: below 0 a step for one raises the other's loss, to first
             order (Yu et al. 2020)
affinity     Z_ij = 1 - L_j(θ - η g_i) / L_j(θ): what a real step on task i alone does to task j's loss on the same rows
             (lookahead, Fifty et al. 2021, section 3)
gains        (score of j after i - score of j alone) / score of j alone, by training (Vu et al. 2020)
"""

from typing import Any

import torch
from torch import Tensor

from multitask.balancing.task_gradients import add_gradients, gram, no_gradients
from multitask.data.data_manager import MultitaskDataManager
from multitask.data.mixed_batches import MixedBatch
from multitask.runs.steps import Learner
from training.loop.randomness import seeded

ROWS_PER_TASK = 32
STEP = 1e-2  # of the lookahead: the same in every run, so that matrices can be compared


def cosines(G: Tensor) -> Tensor:
    """Of the angles between gradients, from their inner products G (K, K); 0 where a gradient is zero."""
    norms = G.diagonal().clamp(min=0).sqrt()
    lengths = norms[:, None] * norms[None, :]
    return torch.where(lengths > 0, G / lengths, 0.0)


def task_gram(learner: Learner, batch: MixedBatch) -> Tensor:
    """The inner products of all tasks' gradients (K, K) on one batch that has rows of every task. Gradients of the model stay."""
    shared = list(learner.model.shared_parameters().values())
    if not shared:
        raise ValueError("the tasks share no parameter that trains, so their gradients cannot meet")
    J = no_gradients(len(learner.model.names), shared)
    add_gradients(J, {k: loss for k, (loss, _, _) in learner.losses(batch).items()}, shared)
    return gram(J)


def affinity(learner: Learner, batch: MixedBatch, rate: float) -> Tensor:
    """Z (K, K): row i is a plain gradient step of length `rate` for task i. The weights come back to the bit."""
    shared = list(learner.model.shared_parameters().values())
    before = _losses(learner, batch)
    Z = torch.zeros(len(before), len(before), dtype=torch.float64)
    originals = [p.detach().clone() for p in shared]
    for i in range(len(before)):
        loss = learner.losses(batch)[i][0]
        gradients = torch.autograd.grad(loss, shared, allow_unused=True)
        with torch.no_grad():
            for p, g in zip(shared, gradients, strict=True):
                if g is not None:
                    p -= rate * g
        Z[i] = 1 - _losses(learner, batch) / before
        with torch.no_grad():
            for p, old in zip(shared, originals, strict=True):
                p.copy_(old)
    return Z


def transfer_gains(alone: dict[str, float], after: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """{(source, target): relative gain} from the scores of targets trained alone, and after a source."""
    return {(source, target): (score - alone[target]) / alone[target] for (source, target), score in after.items()}


class Interference:
    """Measures on the same rows of every task, again and again while a model trains."""

    def __init__(self, learner: Learner, features: dict[str, list[dict]], tokenizer: Any, seed: int):
        few = {task: rows[:ROWS_PER_TASK] for task, rows in features.items()}
        manager = MultitaskDataManager(few, learner.model.tasks, tokenizer, seed=seed)
        [self.batch] = manager.step({task: len(rows) for task, rows in few.items()}, 1)
        self.learner = learner

    def measure(self) -> dict[str, float]:
        """{cosine/A~B for each pair, affinity/A>B for each order}: without dropout, and without a trace in the model."""
        learner, names = self.learner, self.learner.model.names
        device = next(learner.parameters()).device
        batch = {name: value.to(device) for name, value in self.batch.items()}
        was, losses_before, shares = learner.training, dict(learner.step_losses), dict(learner.shares)
        with seeded(0):
            learner.eval()
            angles, Z = cosines(task_gram(learner, batch)), affinity(learner, batch, STEP)
        learner.train(was)
        learner.step_losses, learner.shares = losses_before, shares
        pairs = [(i, j) for i in range(len(names)) for j in range(len(names))]
        values = {f"cosine/{names[i]}~{names[j]}": float(angles[i, j]) for i, j in pairs if i < j}
        return values | {f"affinity/{names[i]}>{names[j]}": float(Z[i, j]) for i, j in pairs}


def mean_matrices(rows: list[dict], names: list[str]) -> tuple[Tensor, Tensor] | None:
    """(cosines, affinities) (K, K), means over the evaluations that a run's rows tell of; None where they tell of none."""
    measured = [row for row in rows if f"affinity/{names[0]}>{names[0]}" in row]
    if not measured:
        return None
    angle = lambda row, i, j: 1.0 if i == j else row[f"cosine/{names[min(i, j)]}~{names[max(i, j)]}"]  # noqa: E731
    places = [(i, j) for i in range(len(names)) for j in range(len(names))]
    angles = torch.tensor([[angle(row, i, j) for i, j in places] for row in measured], dtype=torch.float64)
    affinities = torch.tensor(
        [[row[f"affinity/{names[i]}>{names[j]}"] for i, j in places] for row in measured], dtype=torch.float64
    )
    K = len(names)
    return angles.mean(0).view(K, K), affinities.mean(0).view(K, K)


@torch.no_grad()
def _losses(learner: Learner, batch: MixedBatch) -> Tensor:
    return torch.tensor([float(loss) for loss, _, _ in learner.losses(batch).values()], dtype=torch.float64)
