"""Weights that learn or follow the losses: uncertainty, GradNorm, DWA; the optimizer, and going on."""

import contextlib
import copy
import json
import math

import multi
import pytest
import torch

from multitask.balancing.balancing import DynamicWeightAverage, GradNorm, Uncertainty, make_balancing
from multitask.data.mixed_batches import tasks_in
from multitask.runs.settings import MultitaskSettings
from multitask.runs.steps import OBJECTIVE, MultitaskSteps
from multitask.runs.trainer import MultitaskTrainer
from several_tasks.test_multitask_steps import KINDS, backward, learner
from training.data.tasks import find_task
from training.loop import loop
from training.loop.checks import NoGradientError


def test_defect_3_uncertainty_settles_where_kendalls_formulas_do():
    """At a fixed loss L: s = log 2L for a cross-entropy, log L for a squared error; both weights are then 1 / 2L."""
    result = Uncertainty(["classification", "regression"])
    losses = torch.tensor([0.3, 7.0])
    optimizer = torch.optim.Adam(result.parameters(), lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        sum(result.term(k, losses[k], 1.0) for k in range(2)).backward()
        optimizer.step()
    assert result.log_vars.tolist() == pytest.approx([math.log(0.6), math.log(7.0)], abs=1e-3)
    assert [result.weight(k) for k in range(2)] == pytest.approx([1 / 0.6, 1 / 14], rel=1e-3)
    assert float(sum(result.term(k, losses[k] / 100, 1.0) for k in range(2))) < float(
        sum(result.term(k, losses[k], 1.0) for k in range(2))
    )


def test_defect_3_its_parameters_reach_the_optimizer_without_decay_and_only_tasks_of_the_step_move():
    one = learner("uncertainty", torch.float32)
    data = multi.manager(mixed=False, batch_size=4)
    steps = MultitaskSteps(
        one, data, OBJECTIVE, loop.LoopSettings(steps=3, weight_decay=0.5, learning_rate=1e-3, warmup_share=0.0)
    )
    [group] = [g for g in steps.optimizer.param_groups if any(p is one.balancing.log_vars for p in g["params"])]
    assert len(group["params"]) == 1 and group["weight_decay"] == 0.0 and group["lr"] == Uncertainty.learning_rate
    assert sum(len(g["params"]) for g in steps.optimizer.param_groups) == len([p for p in one.parameters() if p.requires_grad])
    window = next(data)
    [k] = tasks_in(window[0])
    steps.step(1, window)
    moved = (one.balancing.log_vars != 0).tolist()
    assert moved == [i == k for i in range(5)], "Σ s runs over the tasks of the step"


@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_terms_of_a_step_add_up_whatever_the_batches(accumulation):
    one, other = learner("uncertainty"), learner("uncertainty")
    for each in (one, other):
        each.balancing.double().log_vars.data.copy_(torch.tensor([0.3, -0.5, 0.1, 0.8, -1.0]))
    backward(one, next(multi.manager(batch_size=24)))
    backward(other, next(multi.manager(batch_size=24 // accumulation, accumulation=accumulation)))
    torch.testing.assert_close(one.balancing.log_vars.grad, other.balancing.log_vars.grad)


def test_defect_4_gradnorm_keeps_its_sum_and_follows_the_paper():
    balancing = GradNorm(["classification"] * 3, alpha=0.0)
    norms = torch.tensor([1.0, 4.0, 0.5], dtype=torch.float64)
    G = torch.diag(norms**2)
    for step in range(400):
        used = balancing.solve(G, G, [0, 1, 2], {0: 1.0, 1: 1.0, 2: 1.0}, step)
        assert float(balancing.weights.sum()) == pytest.approx(3)
    weighed = used * norms  # alpha 0: all gradients get one length
    assert weighed.max() / weighed.min() < 1.25
    strict = GradNorm(["classification"] * 2, alpha=1.5)
    strict.solve(torch.eye(2).double(), torch.eye(2).double(), [0, 1], {0: 1.0, 1: 1.0}, 1)
    strict.solve(torch.eye(2).double(), torch.eye(2).double(), [0, 1], {0: 0.1, 1: 0.9}, 2)
    assert strict.weight(1) > 1 > strict.weight(0), "the task that has learnt less gets more"


def test_defect_4_inverse_norms_do_not_care_how_a_loss_is_scaled():
    window = next(multi.manager())
    rows = [backward(learner("inverse_norm", static=static), window) for static in (None, [1.0, 100.0, 1.0, 1.0, 1.0])]
    one = learner("inverse_norm", static=[1.0, 100.0, 1.0, 1.0, 1.0])
    weights = [[row[f"weight/{t}"] for t in multi.TASKS] for row in rows]
    assert rows[0]["grad_norm"] > 0 and sum(weights[0]) == pytest.approx(5)
    effective = [w[1] / w[0] for w in weights]  # static · solved
    assert effective[1] == pytest.approx(effective[0], rel=1e-4) and one.balancing.static[1] == 100


def test_dwa_is_its_formula_over_periods():
    result = DynamicWeightAverage(["classification"] * 2, period=2)
    for losses in ([4.0, 1.0], [2.0, 1.0], [1.5, 0.9], [0.5, 1.1]):
        result.after(dict(enumerate(losses)))
    ratio = torch.tensor([1.0 / 3.0, 1.0])
    torch.testing.assert_close(result.weights.float(), 2 * (ratio / 2).softmax(0))
    assert result.weight(1) > 1 > result.weight(0)
    fresh = DynamicWeightAverage(["classification"] * 2, period=2)
    for losses in ([4.0, 1.0], [2.0, 1.0], [1.5, 0.9]):
        fresh.after(dict(enumerate(losses)))
    assert fresh.weights.tolist() == [1, 1], "two periods first"


def test_dwa_with_tasks_that_are_not_seen_for_a_whole_period():
    """A task keeps the mean loss of the last period in which it was seen; without two such periods its ratio is 1."""
    result = DynamicWeightAverage(["classification"] * 3, period=2)
    steps = [{0: 5.0, 1: 1.0}, {0: 3.0}, {0: 2.0, 2: 3.0}, {0: 2.0}, {0: 1.0, 1: 0.5}, {2: 3.0}]
    ratios = [None, [2 / 4, 1, 1], [1 / 2, 0.5 / 1, 3 / 3]]  # task 1 is absent from period 2, task 2 from period 1
    for period, wanted in enumerate(ratios):
        for losses in steps[2 * period : 2 * period + 2]:
            result.after(losses)
        exponentials = [math.exp(ratio / 2) for ratio in wanted or [1, 1, 1]]
        assert result.weights.tolist() == pytest.approx([3 * e / sum(exponentials) for e in exponentials])


@pytest.mark.parametrize("words", ["uncertain", ""])
def test_an_unknown_method_is_refused(words):
    with pytest.raises(ValueError, match="there are equal, uncertainty"):
        make_balancing(words, KINDS)
    with pytest.raises(ValueError, match="expected 5 numbers"):
        make_balancing("equal", KINDS, [1.0, 2.0])
    with pytest.raises(ValueError, match="not all 0"):
        make_balancing("equal", KINDS, [0.0] * 5)


# ---------------------------------------------------------------- the optimizer, and going on


def test_defect_27_decay_for_matrices_alone_and_a_schedule():
    one = learner(dtype=torch.float32)
    settings = loop.LoopSettings(steps=40, weight_decay=0.1, learning_rate=1e-2, warmup_share=0.1)
    steps = MultitaskSteps(one, multi.manager(), OBJECTIVE, settings)
    for group in steps.optimizer.param_groups:
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])
    rates = [steps.step(i + 1, next(multi.manager()))["lr"] for i in range(40)]
    assert rates[0] == 0 < rates[2] < rates[4] == max(rates) == 1e-2 and rates[-1] < rates[20] < rates[4]


@pytest.mark.parametrize("method", ["equal", "pcgrad"])
def test_defect_28_the_head_of_a_task_that_was_not_drawn_rests(method):
    one = learner(method, torch.float32)
    data = multi.manager(mixed=False, batch_size=6, kind="equal")
    steps = MultitaskSteps(
        one, data, OBJECTIVE, loop.LoopSettings(steps=30, weight_decay=0.1, learning_rate=1e-2, warmup_share=0.0)
    )
    visited = set()
    for i in range(12):  # by then every head has momentum
        window = next(data)
        before = copy.deepcopy(one.model.heads.state_dict())
        steps.step(i + 1, window)
        drawn = one.model.names[tasks_in(window[0])[0]]
        visited.add(drawn)
        for task in multi.TASKS:
            own = f"task:{task.replace('.', ':')}."
            same = all(torch.equal(before[n], v) for n, v in one.model.heads.state_dict().items() if own in n)
            assert same == (task != drawn), (drawn, task)
    assert len(visited) > 3


@pytest.mark.parametrize("method", ["equal", "pcgrad"])
def test_a_parameter_that_no_task_reaches_is_named(method):
    one = learner(method, torch.float32)
    one.model.dead = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(NoGradientError, match=r"model\.dead"):
        backward(one, next(multi.manager()))


@pytest.mark.parametrize("method", ["equal", "uncertainty", "dwa", "gradnorm", "pcgrad"])
def test_a_run_that_goes_on_is_the_run_that_never_stopped(method, tmp_path, monkeypatch):
    """Samplers, streams, weights of the method, dropout and optimizer: all come back."""
    monkeypatch.setattr("multitask.runs.settings.DWA_PERIOD", 2)  # DWA refuses a run of its first two periods
    settings = {"tasks": "topic,nli", "steps": 9, "eval_every": 100, "loss_weighting": method, "task_sampling": "annealed"}
    tasks = {"topic": find_task("topic"), "nli": find_task("nli")}

    def run(save_every: int, stop: int | None, folder):
        model = multi.model(tasks=tasks, dropout=0.3)
        trainer = MultitaskTrainer(
            model, multi.TOKENIZER, MultitaskSettings(**settings, save_every=save_every, batch_size=7, learning_rate=1e-2)
        )
        if method == "dwa":
            trainer.balancing.period = 2
        rows = []

        def keep(row):
            rows.append(row)
            if stop is not None and row["step"] == stop:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            trainer.train(multi.features(tasks), on_row=keep, checkpoint=folder / "c")
        return model, rows

    for name in "ab":
        (tmp_path / name).mkdir()
    whole, all_rows = run(100, None, tmp_path / "a")
    run(4, 6, tmp_path / "b")  # dies after step 6: the checkpoint is of step 4
    again, rest = run(4, None, tmp_path / "b")
    assert [r["step"] for r in rest] == [5, 6, 7, 8, 9]
    for a, b in zip(all_rows[4:], rest, strict=True):
        drop = ("seconds",)
        assert json.dumps({k: v for k, v in a.items() if k not in drop}) == json.dumps(
            {k: v for k, v in b.items() if k not in drop}
        )
    for (name, p), q in zip(whole.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q), name
