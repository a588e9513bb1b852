"""The multitask step. Oracle: the plain loop, autograd of the written-out sum, and a run that was never stopped."""

import math

import multi
import pytest
import torch

from multitask.balancing.balancing import METHODS, Equal, expected_update, make_balancing
from multitask.balancing.task_gradients import add_gradients
from multitask.data.data_manager import MultitaskDataManager
from multitask.data.mixed_batches import tasks_in
from multitask.runs.steps import OBJECTIVE, Learner, MultitaskSteps
from training.data.tasks import find_task
from training.evaluation.evaluation import objective_of
from training.loop import loop

KINDS = [spec.kind for spec in multi.TASKS.values()]
ROWS = [f"loss/{task}" for task in multi.TASKS]


def learner(method: str = "equal", dtype=torch.float64, static=None, **options) -> Learner:
    return Learner(multi.model(dtype=dtype, **options), make_balancing(method, KINDS, static))


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def backward(one: Learner, window, step: int = 1, clip: float = 1e9) -> dict:
    settings = loop.LoopSettings(steps=10, max_grad_norm=clip)
    return MultitaskSteps(one, iter([]), OBJECTIVE, settings).step(step, window, update=False)


def by_hand(one: Learner, batch, weights: dict[int, float] | None = None) -> torch.Tensor:
    """Σ share · weight · mean loss, each task in a pass of its own."""
    model, total = one.model, torch.zeros((), dtype=torch.float64)
    for k in tasks_in(batch):
        own, task = batch["task_ids"] == k, model.names[k]
        labels = {
            n.split(".")[1]: v for n, v in batch.items() if n.startswith(f"{k}.") and n.split(".")[1] not in ("count", "share")
        }
        answer = model(batch["input_ids"][own], batch["attention_mask"][own], task_name=task, **labels)
        total = total + int(own.sum()) / len(own) * (weights or {}).get(k, 1.0) * answer.loss
    return total


# ---------------------------------------------------------------- the sum


def test_one_task_through_the_multitask_step_is_the_plain_loop_bit_for_bit():
    tasks = {"topic": find_task("topic")}
    settings = loop.LoopSettings(steps=12, learning_rate=1e-2, weight_decay=0.1)
    one, other = (multi.model(tasks=tasks, dropout=0.3) for _ in range(2))
    rows, plain = [], []
    for model, remaining in ((one, rows), (other, plain)):
        data = multi.manager(tasks, batch_size=8, accumulation=2)
        torch.manual_seed(5)
        if model is one:
            steps = MultitaskSteps(Learner(model, Equal(["classification"])), data, OBJECTIVE, settings)
            loop.run(steps, on_row=remaining.append)
        else:
            flat = (
                [{"labels": b["0.labels"], **{k: v for k, v in b.items() if "." not in k}} for b in window] for window in data
            )
            loop.train(model.for_task("topic"), flat, objective_of("classification"), settings, dict, remaining.append)
    assert [r["loss"] for r in rows] == [r["loss"] for r in plain]
    assert [r["grad_norm"] for r in rows] == [r["grad_norm"] for r in plain]
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert [r["loss/topic"] for r in rows] == pytest.approx([r["loss"] for r in rows], rel=1e-6)


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("static", [None, [1.0, 0.5, 2.0, 0.0, 3.0]])
def test_a_mixed_batch_is_the_weighted_sum_of_its_tasks(static, accumulation):
    one = learner(static=static)
    window = next(multi.manager(batch_size=24 // accumulation, accumulation=accumulation))
    [whole] = next(multi.manager(batch_size=24))
    row = backward(one, window)
    result = gradients(one.model)
    one.model.zero_grad()
    wanted = by_hand(one, whole, dict(enumerate(one.balancing.static)))
    wanted.backward()
    assert row["loss"] == pytest.approx(float(wanted), rel=1e-12)
    for name, gradient in gradients(one.model).items():
        torch.testing.assert_close(result[name], gradient, msg=name)
    assert set(row) >= set(ROWS) and len(window) == accumulation


def test_defect_2_the_expected_gradient_over_draws_is_the_weighted_sum():
    """Sampling and weights multiply. 1,500 draws of 8 rows; each task's own gradient is that of all its rows."""
    tasks = {name: multi.TASKS[name] for name in ("topic", "glue.stsb", "keys")}
    static = [1.0, 0.5, 2.0]
    model = multi.model(tasks=tasks, dtype=torch.float64)
    one = Learner(model, make_balancing("equal", [s.kind for s in tasks.values()], static))
    rows = multi.features(tasks, 4)
    p = model.heads["topic"].classifier.weight, model.backbone.get_input_embeddings().weight

    def gradient(loss):
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, p, allow_unused=True) if g is not None])

    draws = MultitaskDataManager(rows, tasks, multi.TOKENIZER, 8, kind="temperature", temperature=2.0)
    chances = draws.sampler.probabilities()
    whole = {
        task: MultitaskDataManager({task: rows[task]}, {task: tasks[task]}, multi.TOKENIZER, len(rows[task])) for task in tasks
    }
    wanted = 0
    for k, task in enumerate(tasks):
        batch = whole[task].get_batch()
        answer = model(batch["input_ids"], batch["attention_mask"], task_name=task, labels=batch["0.labels"])
        part = torch.autograd.grad(answer.loss, p[1])[0]
        wanted = wanted + chances[task] * static[k] * part
    sums = [torch.autograd.grad(one.total(draws.get_mixed_batch()), p[1])[0] for _ in range(1500)]
    stacked = torch.stack(sums)
    mean, error = stacked.mean(0), stacked.std(0) / math.sqrt(len(sums))
    assert ((mean - wanted).abs() <= 5 * error + 1e-12).all()  # streams without replacement are closer than that
    assert (mean - wanted).norm() < 0.02 * wanted.norm()
    update = expected_update(chances, dict(zip(tasks, static, strict=True)))
    assert sum(update.values()) == pytest.approx(1) and update["keys"] / update["topic"] == pytest.approx(
        2 * chances["keys"] / chances["topic"]
    )


# ---------------------------------------------------------------- what looks at gradients


def test_the_path_of_task_gradients_with_equal_weights_is_the_sum():
    class Ones(Equal):
        looks_at_gradients = True

        def solve(self, G, last, tasks, losses, step):
            return torch.ones(len(G), dtype=G.dtype)

    static = [1.0, 0.5, 2.0, 1.0, 3.0]
    one, other = learner(static=static), learner()
    other.balancing = Ones(KINDS, static)
    window = next(multi.manager(batch_size=10, accumulation=2))
    rows = backward(one, window), backward(other, window)
    for name, gradient in gradients(one.model).items():
        torch.testing.assert_close(gradients(other.model)[name], gradient, msg=name)
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-12)
    assert rows[1]["grad_norm"] == pytest.approx(rows[0]["grad_norm"], rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_its_rows_say_what_it_weighs(method):
    rows = []
    one = learner(method, torch.float32)
    settings = loop.LoopSettings(steps=25, learning_rate=3e-3, schedule="constant_with_warmup")
    loop.run(MultitaskSteps(one, multi.manager(batch_size=30), OBJECTIVE, settings), on_row=rows.append)
    assert all(f"weight/{task}" in row for row in rows for task in multi.TASKS)
    assert rows[0].keys() == rows[-1].keys()
    first, last = (sum(sum(row[name] for name in ROWS) for row in part) for part in (rows[:5], rows[-5:]))
    assert last < first, "the sum of all losses falls"


def test_heads_keep_their_own_gradients_under_gradient_methods():
    plain, surgery = learner("equal"), learner("pcgrad")
    window = next(multi.manager())
    backward(plain, window)
    backward(surgery, window)
    a, b = gradients(plain.model), gradients(surgery.model)
    for name in a:
        same = torch.allclose(a[name], b[name], atol=1e-7, rtol=1e-5)
        assert same or "heads" not in name, name
    assert not all(torch.allclose(a[n], b[n], rtol=1e-3) for n in a if "backbone" in n), "surgery changed the shared part"


def test_gradient_methods_need_something_shared():
    from loralib import LoraConfig

    one = learner("pcgrad", torch.float32, task_adapters=LoraConfig(r=2, target_modules="all-linear"))
    with pytest.raises(ValueError, match="share no parameter"):
        MultitaskSteps(one, iter([]), OBJECTIVE, loop.LoopSettings(steps=1))


def test_the_last_shared_matrix_is_the_last_layers_output():
    """GradNorm looks at the last shared weights (Chen et al. 2018, section 3.1); a bias and a LayerNorm come after them."""
    one = learner("gradnorm")
    shared = one.model.shared_parameters()
    steps = MultitaskSteps(one, iter([]), OBJECTIVE, loop.LoopSettings(steps=1))
    everything = torch.cat([p.detach().flatten() for p in shared.values()])
    [wanted] = [p for name, p in shared.items() if name.endswith("layer.1.output.dense.weight")]
    assert torch.equal(everything[steps._last()], wanted.detach().flatten())


def test_the_graph_of_the_losses_is_freed_with_the_last_of_them():
    """What the losses kept for their gradients is memory that the next batch needs."""
    p = torch.randn(3, requires_grad=True)
    losses = {k: (p.exp() * k).sum() for k in (1, 2)}
    J = torch.zeros(3, 3)
    add_gradients(J, losses, [p])
    torch.testing.assert_close(J, torch.stack([k * p.detach().exp() for k in range(3)]))
    with pytest.raises(RuntimeError, match="a second time"):
        torch.autograd.grad(losses[2], p)
