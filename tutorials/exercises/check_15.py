"""The checks of lesson 15's exercises, for your answers and for ours."""

import math

import torch

from multitask.balancing.balancing import expected_update
from multitask.data.sampling import task_probabilities
from multitask.model.task_heads import pool

SIZES = {"small": 50, "middle": 100, "large": 20_000}


def close(found: dict, wanted: dict) -> bool:
    return found.keys() == wanted.keys() and all(abs(found[task] - wanted[task]) < 1e-9 for task in wanted)


def check_task_chances(answers) -> None:
    for T, cap in ((1.0, 10**9), (2.0, 10**9), (2.0, 200), (5.0, 100)):
        found, wanted = answers.task_chances(SIZES, T, cap), task_probabilities(SIZES, "temperature", T, cap)
        assert close(found, wanted), f"T = {T}, cap {cap}: found {found}, wanted {wanted}; the cap comes before the root"
    found = answers.task_chances(SIZES, math.inf, 10**9)
    assert close(found, dict.fromkeys(SIZES, 1 / 3)), "1 / inf is 0, and anything to the power 0 is 1"


def check_last_real(answers) -> None:
    states = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    for mask in ([[1] * 6, [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]], [[0, 0, 0, 1, 1, 1], [0] * 5 + [1], [0, 1, 1, 0, 0, 0]]):
        mask = torch.tensor(mask)
        found = answers.last_real(states, mask)
        assert found.shape == (3, 4), f"one vector for each example: {tuple(found.shape)}"
        assert torch.equal(found, pool(states, mask, "last")), "padding may stand before the text: counting the 1s is not enough"


def check_weights_for(answers) -> None:
    chances, wanted = {"a": 0.04, "b": 0.36, "c": 0.6}, {"a": 0.5, "b": 0.3, "c": 0.2}
    weights = answers.weights_for(chances, wanted)
    assert close(expected_update(chances, weights), wanted), "p · w must be what was wanted"
    total = sum(chances[task] * weights[task] for task in chances)
    assert abs(total - 1) < 1e-9, f"an average step has the weight {total:.2f}: the learning rate would change with it"
