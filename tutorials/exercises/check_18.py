"""The checks of lesson 18's exercises, for your answers and for ours."""

import torch

from distill.losses.features import patient
from distill.losses.relations import attention_transfer

LEFT_AND_RIGHT = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])


def states(seed: int, width: int) -> torch.Tensor:
    """(3, 6, width), with large numbers at padding."""
    g = torch.Generator().manual_seed(seed)
    h = torch.randn(3, 6, width, generator=g, dtype=torch.float64)
    return h.masked_fill(LEFT_AND_RIGHT[..., None] == 0, 100.0 + seed)


def check_patient_loss(answers) -> None:
    h_s, h_t = states(0, 8), states(1, 8)
    found, wanted = answers.patient_loss(h_s, h_t, LEFT_AND_RIGHT), patient(h_s, h_t, LEFT_AND_RIGHT)
    assert found.shape == (3,), f"one number for each row, found {tuple(found.shape)}"
    assert torch.allclose(found[[0, 2]], wanted[[0, 2]]), "each state is divided by its own length, then a squared distance"
    assert torch.allclose(found, wanted), "row 1 has its padding on the left: its first real token is the third"
    assert torch.allclose(answers.patient_loss(5 * h_s, h_t, LEFT_AND_RIGHT), wanted), "lengths do not count"


def check_transfer_loss(answers) -> None:
    h_s, h_t = states(0, 8), states(1, 20)
    found, wanted = answers.transfer_loss(h_s, h_t, LEFT_AND_RIGHT), attention_transfer(h_s, h_t, LEFT_AND_RIGHT)
    assert found.shape == (3,), f"one number for each row, found {tuple(found.shape)}"
    assert torch.allclose(found[2], wanted[2]), "square the states, sum over the width, bring each map to length 1"
    assert torch.allclose(found, wanted), "padding: 0 in the map before its length is taken"


def check_best_projection(answers) -> None:
    W = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    h_s, noise = states(0, 3), states(1, 5)
    found = answers.best_projection(h_s, (h_s @ W.T).masked_fill(LEFT_AND_RIGHT[..., None] == 0, 7.0), LEFT_AND_RIGHT)
    assert found.shape == (5, 3), f"W brings width 3 to width 5, so (5, 3); found {tuple(found.shape)}"
    assert torch.allclose(found, W), "the teacher's states are W h_S at real tokens; at padding they are 7, which must not count"
    found = answers.best_projection(h_s, noise, LEFT_AND_RIGHT)
    real = LEFT_AND_RIGHT != 0
    left = noise[real] - h_s[real] @ found.T
    assert (left.T @ h_s[real]).abs().max() < 1e-8, "at the smallest sum what is left stands at right angles to the states"
