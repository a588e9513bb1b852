"""The checks of lesson 04's exercises, for your answers and for ours."""

import torch


def check_speed_up(answers) -> None:
    for products, expected in ((1.0, 1.5), (0.0, 1.0), (0.6, 1.25)):
        found = answers.speed_up(products)
        assert abs(found - expected) < 1e-9, f"products {products:.0%} of the time: {found}, expected {expected}"


def check_rank_for(answers) -> None:
    change = torch.diag(torch.tensor([2.0, 1.0, 1.0, 0.0]))  # energies 4, 1, 1, 0
    for share, expected in ((0.5, 1), (0.8, 2), (1.0, 3)):
        found = answers.rank_for(change, share)
        assert found == expected, f"share {share}: rank {found}, expected {expected} (squares of the singular values: 4, 1, 1, 0)"


def check_verdict(answers) -> None:
    none = "no difference that counts"
    for a, b, expected in (
        ([0.90, 0.91, 0.92], [0.80, 0.82, 0.81], "a"),
        ([0.80, 0.82, 0.81], [0.90, 0.91, 0.92], "b"),
        ([0.854, 0.788, 0.853], [0.851, 0.855, 0.846], none),
        ([0.5, 0.7, 0.9], [0.4, 0.6, 0.8], "a"),  # far apart as groups they are not, but every pair says the same
        ([0.91, 0.93, 0.95], [0.9, 0.9, 0.9], "a"),  # mean 0.03, standard error 0.0115 = 0.02 / √3
        ([0.901, 0.921, 0.941], [0.9, 0.9, 0.9], none),  # mean 0.021, twice the standard error is 0.0231
    ):
        found = answers.verdict(a, b)
        hint = "did you pair the seeds, and divide the sample's standard deviation (n - 1) by √n?"
        assert found == expected, f"{a} and {b}: {found!r}, expected {expected!r}; {hint}"


def check_forgotten_at(answers) -> None:
    points = [(0.4, 9.0), (1.0, 3.0), (0.6, 5.0)]
    for task_loss, expected in ((0.6, 5.0), (0.5, 7.0), (0.7, 4.5)):
        found = answers.forgotten_at(list(points), task_loss)
        assert abs(found - expected) < 1e-9, f"at a task loss of {task_loss}: {found}, expected {expected} (between neighbours)"
    for task_loss in (0.3, 1.1):
        assert _refuses(answers, points, task_loss), f"{task_loss} lies outside of all points: raise ValueError, do not guess"


def _refuses(answers, points, task_loss: float) -> bool:
    try:
        answers.forgotten_at(list(points), task_loss)
    except ValueError:
        return True
    return False
