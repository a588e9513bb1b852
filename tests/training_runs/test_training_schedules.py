"""The learning rates over the steps are those of transformers' `get_scheduler`."""

import pytest
import torch
import transformers
from torch.optim.lr_scheduler import LambdaLR

from training.loop.schedules import SCHEDULES, make_schedule


def rates(make, name, warmup, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.003)
    schedule, visited = make(name, optimizer, warmup, steps), []
    for _ in range(steps):
        visited += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    return visited


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup, steps", [(0, 1), (0, 10), (3, 50), (18, 300), (5, 5), (36, 600)])
def test_every_step_has_the_learning_rate_that_transformers_gives_it(name, warmup, steps):
    assert rates(make_schedule, name, warmup, steps) == rates(transformers.get_scheduler, name, warmup, steps)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"schedule='linaer': expected one of linear, cosine"):
        make_schedule("linaer", torch.optim.SGD([torch.ones(1)], lr=1.0), 0, 1)


def test_a_schedule_put_back_goes_on(tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.003)
    first, second = (make_schedule("cosine", optimizer, 2, 9) for _ in range(2))
    for _ in range(4):
        optimizer.step()
        first.step()
    second.load_state_dict(first.state_dict())
    first.step(), second.step()
    assert isinstance(second, LambdaLR) and first.get_last_lr() == second.get_last_lr() != [0.003]
