"""Interference, comparison numbers, zero-shot: against what mathematics gives on cases that can be worked out."""

import copy

import multi
import pytest
import torch

from multitask.balancing.balancing import Equal
from multitask.model.multitask_model import MultitaskModel
from multitask.model.zero_shot_classes import zero_shot
from multitask.runs.interference import Interference, affinity, cosines, mean_matrices, task_gram, transfer_gains
from multitask.runs.steps import Learner
from multitask.studies.compare import Way, mean_delta
from multitask.studies.comparison import delta_m, gap_closed
from training.data.data import load_task
from training.data.small_world import about
from training.data.tasks import find_task
from training.models.base_models import Source, load_backbone

PAIR = {"topic": multi.TASKS["topic"], "other": multi.TASKS["topic"]}


def pair(flip: bool) -> tuple[Learner, dict]:
    """Two tasks with one head and the same texts: the labels the same, or each other's opposite."""
    model = multi.model(tasks=PAIR, dtype=torch.float64, shared_heads={"other": "topic"})
    batch = multi.manager(PAIR).step({"topic": 12, "other": 12}, 1)[0]
    batch["input_ids"][12:], batch["attention_mask"][12:] = batch["input_ids"][:12], batch["attention_mask"][:12]
    batch["0.labels"] = batch["0.labels"] % 2
    batch["1.labels"] = 1 - batch["0.labels"] if flip else batch["0.labels"]
    return Learner(model, Equal(["classification"] * 2)), batch


def opposed() -> tuple[Learner, dict]:
    """Two labels with equal logits: there the gradient of one label is minus that of the other."""
    learner, batch = pair(flip=True)
    head = learner.model.heads["topic"].classifier
    with torch.no_grad():
        head.weight[2:], head.bias[:2], head.bias[2:] = 0, 0, -60
        head.weight[1] = head.weight[0]
    return learner, batch


def test_cosines_of_the_same_task_twice_and_of_its_opposite():
    learner, batch = pair(flip=False)
    torch.testing.assert_close(cosines(task_gram(learner, batch)), torch.ones(2, 2, dtype=torch.float64))
    learner, batch = opposed()
    G = task_gram(learner, batch)
    assert float(cosines(G)[0, 1]) == pytest.approx(-1, abs=1e-6) and torch.equal(G, G.T)


def test_a_gradient_of_zero_has_no_angle():
    assert torch.equal(cosines(torch.tensor([[4.0, 0.0], [0.0, 0.0]])), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def test_the_gram_matrix_is_autograds_products():
    learner = Learner(multi.model(dtype=torch.float64), Equal([s.kind for s in multi.TASKS.values()]))
    batch = multi.manager().step(dict.fromkeys(multi.TASKS, 5), 1)[0]
    shared = list(learner.model.shared_parameters().values())
    rows = []
    for k, task in enumerate(multi.TASKS):
        own = batch["task_ids"] == k
        labels = {n.split(".")[1]: v for n, v in batch.items() if n.startswith(f"{k}.")}
        labels = {n: v for n, v in labels.items() if n not in ("count", "share")}
        loss = learner.model(batch["input_ids"][own], batch["attention_mask"][own], task_name=task, **labels).loss
        result = torch.autograd.grad(loss, shared, allow_unused=True)
        rows.append(
            torch.cat(
                [torch.zeros(p.numel()).double() if g is None else g.flatten() for p, g in zip(shared, result, strict=True)]
            )
        )
    J = torch.stack(rows)
    torch.testing.assert_close(task_gram(learner, batch), J @ J.T)


def test_affinity_is_a_real_step_and_leaves_no_trace():
    learner, batch = opposed()
    before = {n: p.clone() for n, p in learner.named_parameters()}
    Z = affinity(learner, batch, 1e-3)
    assert all(torch.equal(p, before[n]) for n, p in learner.named_parameters())
    assert Z[0, 0] > 0 and Z[1, 1] > 0 and Z[0, 1] < 0 and Z[1, 0] < 0  # to help one is to hurt the other
    losses = [loss for loss, _, _ in learner.losses(batch).values()]
    G = task_gram(learner, batch)
    first_order = 1e-3 * G / torch.stack([x.detach() for x in losses])[None]  # 1 - (L - η g·g') / L
    torch.testing.assert_close(Z, first_order, rtol=0.05, atol=1e-6)


def test_measuring_changes_nothing_and_the_rows_hold_all_of_it():
    rows = multi.features()
    learner = Learner(multi.model(dropout=0.5), Equal([s.kind for s in multi.TASKS.values()])).train()
    twin = copy.deepcopy(learner.state_dict())
    watcher = Interference(learner, rows, multi.TOKENIZER, 0)
    state = torch.get_rng_state()
    first, second = watcher.measure(), watcher.measure()
    assert torch.equal(state, torch.get_rng_state()) and learner.training
    assert all(torch.equal(v, twin[n]) for n, v in learner.state_dict().items())
    assert first == second and len([n for n in first if n.startswith("cosine/")]) == 10
    assert all(p.grad is None for p in learner.parameters())
    angles, Z = mean_matrices([{"step": 1}, first, second], list(multi.TASKS))
    assert torch.equal(angles, angles.T) and torch.equal(angles.diagonal(), torch.ones(5).double()) and Z.shape == (5, 5)
    assert mean_matrices([{"step": 1}], list(multi.TASKS)) is None


def test_defect_20_scores_of_different_scales_are_compared_with_themselves():
    single, multitask = {"a": 0.5, "b": 20.0, "loss": 2.0}, {"a": 0.6, "b": 18.0, "loss": 1.0}
    assert delta_m(multitask, single, frozenset({"loss"})) == pytest.approx((0.2 - 0.1 + 0.5) / 3)
    with pytest.raises(KeyError, match="the same tasks"):
        delta_m({"a": 1.0}, single)
    with pytest.raises(ValueError, match=r"tasks \['a'\] alone score 0"):
        delta_m({"a": 1.0}, {"a": 0.0})
    ways = [Way("", [[{"tasks": {"a": {"metric": score}}}]], []) for score in (0.1, 0.0)]
    assert mean_delta(*ways, ["a"]) is None, "a page after hours of training must not fail for one score"
    assert gap_closed(0.7, 0.5, 0.9) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no gap"):
        gap_closed(0.7, 0.9, 0.9)
    assert transfer_gains({"t": 0.5}, {("s", "t"): 0.6})["s", "t"] == pytest.approx(0.2)


def test_zero_shot_asks_the_entailment_head_about_every_label():
    backbone, tok = load_backbone(Source("encoder"))
    model = MultitaskModel(backbone, {"nli": find_task("nli"), "topic": find_task("topic")}, 0.5).train()
    texts = load_task(find_task("topic"))["test"]["sentence"][:2]
    result = zero_shot(model, tok, texts, [about(1), about(2)], batch_size=3)
    assert model.training and result.shape == (2, 2) and (result < 0).all()
    model.eval()
    inputs = tok(texts[1], about(2), return_tensors="pt")
    wanted = model(**inputs, task_name="nli")["logits"].log_softmax(-1)[0, 0]
    torch.testing.assert_close(result[1, 1], wanted.detach(), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="needs one named entailment"):
        zero_shot(model, tok, texts, [about(2)], "topic")
    with pytest.raises(ValueError, match="not in the small world's vocabulary"):
        zero_shot(model, tok, ["quantum chromodynamics"], [about(2)])
