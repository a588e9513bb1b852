"""A run takes the threads that it wants, and leaves torch as it found it."""

import pytest
import torch
from distilling import make_teacher, quick

from distill.runs.run import run_distillation
from multitask.runs.run import run_multitask
from multitask.runs.settings import MultitaskSettings
from training import train_model
from training.models.threads import threads_restored, use_threads


@pytest.fixture
def two():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_small_model_has_one_thread_unless_more_are_wanted(two):
    small, large = torch.nn.Linear(2, 2), torch.nn.Linear(5000, 1001, device="meta")
    with threads_restored():
        for wanted, model, expected in ((None, large, 2), (None, small, 1), (2, small, 2)):
            use_threads(wanted, model)
            assert torch.get_num_threads() == expected
        torch.set_num_threads(1)
    assert torch.get_num_threads() == 2


def test_every_run_puts_them_back(two, tmp_path):
    teacher = make_teacher(tmp_path / "teacher")
    assert torch.get_num_threads() == 2
    train_model("topic", steps=1, eval_rows=10, trackers="", samples=0, out=str(tmp_path / "one"))
    assert torch.get_num_threads() == 2
    run_multitask(MultitaskSettings(tasks="topic,nli", steps=1, eval_rows=10, trackers="", out=str(tmp_path / "many")))
    assert torch.get_num_threads() == 2
    run_distillation(quick(tmp_path / "student", teacher, steps=1))
    assert torch.get_num_threads() == 2
