"""Balanced updates against TorchJD's, which were computed in an environment of its own (tests/golden/make_torchjd.py).

Both libraries solve small problems iteratively, so they agree to about 1e-4. The directions are equal. The lengths of Nash-MTL
and Aligned-MTL have another convention in TorchJD: a factor of √K, and of K for K tasks.
"""

import json
from pathlib import Path

import pytest
import torch

from multitask.balancing.gradients import GRADIENT_METHODS, equal

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "torchjd.json").read_text())["cases"]
SHARED = ("equal", "pcgrad", "mgda", "cagrad", "imtl_g", "nash_mtl", "aligned_mtl")
METHODS = {**GRADIENT_METHODS, "equal": equal}
LENGTH = {"nash_mtl": 0.5, "aligned_mtl": 1.0}
"""ours = TorchJD's · K to this power"""
PAIRS = [(case, method) for case, golden in GOLDEN.items() for method in SHARED if method in golden["updates"]]


def ours(case: str, method: str) -> torch.Tensor:
    J = torch.tensor(GOLDEN[case]["J"], dtype=torch.float64)
    return J.T @ METHODS[method](J @ J.T)


@pytest.mark.parametrize(("case", "method"), PAIRS)
def test_directions_are_those_of_torchjd(case, method):
    update, expected = ours(case, method), torch.tensor(GOLDEN[case]["updates"][method], dtype=torch.float64)
    cosine = float(update @ expected / update.norm() / expected.norm())
    assert 1 - cosine < 1e-6, "a cosine of 1 - 1e-6 is an angle of 1e-3"


@pytest.mark.parametrize(("case", "method"), [pair for pair in PAIRS if pair[1] in ("equal", "pcgrad", "mgda", *LENGTH)])
def test_lengths_differ_by_a_known_power_of_the_number_of_tasks(case, method):
    tasks = len(GOLDEN[case]["J"])
    expected = torch.tensor(GOLDEN[case]["updates"][method], dtype=torch.float64) * tasks ** LENGTH.get(method, 0)
    assert torch.allclose(ours(case, method), expected, rtol=1e-3, atol=1e-3 * float(expected.norm()))


def test_all_methods_that_both_libraries_have_are_compared():
    assert {method for _, method in PAIRS} == set(SHARED) and set(SHARED) <= set(METHODS)
    assert len(PAIRS) >= 4 * (len(SHARED) - 1) + 2
