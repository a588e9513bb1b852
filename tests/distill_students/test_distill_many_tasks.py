"""One student, a teacher for each task: what a task's loss is, how λ moves, what the teachers read, and that runs go on."""

import contextlib
import functools
import json
from pathlib import Path
from typing import ClassVar

import multi
import pairs
import pytest
import tiny_folder
import torch
from command import run_module
from distilling import BUILD, make_teacher
from torch.nn import functional as F

import multitask.runs.run as multitask_run
from distill.commands.tasks_command import TasksSettings
from distill.runs.many_tasks import DistilledLearner, DistilledSteps, DistilledTrainer, load_teacher
from distill.teacher.teacher import Teacher
from multitask.balancing.balancing import make_balancing
from multitask.data.mixed_batches import collate, measure
from multitask.model.files import load_multitask
from multitask.runs.run import TRAINED, run_multitask
from multitask.runs.settings import MultitaskSettings
from multitask.runs.steps import OBJECTIVE, Learner
from training.data import world_tasks
from training.evaluation.metrics import answer_count
from training.loop import loop

NAMES, KINDS = list(multi.TASKS), [spec.kind for spec in multi.TASKS.values()]
T = 2.0
QUICK = {
    "tasks": "sentiment,nli",
    "steps": 6,
    "eval_every": 3,
    "eval_rows": 12,
    "train_rows": "24",
    "batch_size": 6,
    "threads": 1,
}


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(world_tasks, "build", BUILD)
    monkeypatch.setattr(multitask_run, "write_report", lambda *parts: None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """Teachers of the small world, not trained, with large heads."""
    where = tmp_path_factory.mktemp("teachers")
    return {task: make_teacher(where / task, task, seed=4) for task in ("sentiment", "nli")}


def teachers(kinds=KINDS) -> dict[str, Teacher]:
    return {name: Teacher([pairs.model(kind, 9)], kind) for name, kind in zip(NAMES, KINDS, strict=True) if kind in kinds}


def learner(share, method: str = "equal", kinds=KINDS) -> DistilledLearner:
    balancing = make_balancing(method, KINDS).double()
    return DistilledLearner(multi.model(dtype=torch.float64), balancing, teachers(kinds), T, share)


def step_rows(each: int = 3) -> list[tuple[int, dict]]:
    """Rows of every task, the second half of each text of the second kind."""
    rows = [(k, row) for k, result in enumerate(multi.features().values()) for row in result[:each]]
    types = lambda n: [int(i >= n // 2) for i in range(n)]  # noqa: E731
    return [(k, row | {"token_type_ids": types(len(row["input_ids"]))}) for k, row in rows]


def step_batches(count: int = 1, each: int = 3) -> list[dict]:
    rows = step_rows(each)
    result = [collate(rows[i::count], KINDS, 0) for i in range(count)]
    answers = {k: sum(answers_of(row, KINDS[k]) for n, row in rows if n == k) for k in range(len(NAMES))}
    measure(result, answers, dict.fromkeys(range(len(NAMES)), each))
    return result


def answers_of(row: dict, kind: str) -> int:
    return answer_count(kind, {n: torch.tensor([v]) for n, v in row.items()})


def by_hand(model, asked: dict[str, Teacher], labels: float) -> dict[str, float]:
    """Each task's λ · hard + (1 - λ) · soft, row by row without padding, from the definitions."""
    sums, counts = dict.fromkeys(NAMES, 0.0), dict.fromkeys(NAMES, 0)
    for k, row in step_rows():
        one = {name: torch.tensor([value]) for name, value in row.items()}
        text = {name: one[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        hard = model(**one, task_name=NAMES[k]).loss
        student, teacher = model(**text, task_name=NAMES[k]), asked[NAMES[k]].models[0](**text)
        kind, answers = KINDS[k], answers_of(row, KINDS[k])
        if kind == "qa":
            soft = (kl(student.start_logits, teacher.start_logits) + kl(student.end_logits, teacher.end_logits)) / 2
        elif kind == "tagging":
            known = one["labels"] != -100
            soft = kl(student.logits[known], teacher.logits[known])
        elif kind == "multilabel":
            z, v = student.logits / T, (teacher.logits / T).sigmoid()
            entropy = F.binary_cross_entropy(v, v, reduction="none")
            soft = T**2 * (F.binary_cross_entropy_with_logits(z, v, reduction="none") - entropy).mean()
        else:
            soft = kl(student.logits, teacher.logits) if kind == "classification" else F.mse_loss(student.logits, teacher.logits)
        sums[NAMES[k]] += float((labels * hard * answers + (1 - labels) * soft).detach())
        counts[NAMES[k]] += answers
    return {name: sums[name] / counts[name] for name in NAMES}


def kl(student, teacher):
    return T**2 * F.kl_div((student / T).log_softmax(-1), (teacher / T).log_softmax(-1), log_target=True, reduction="sum")


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("parts", [1, 2])
def test_each_kinds_loss_is_the_mix_of_labels_and_teacher_whatever_the_padding(progress, parts):
    one = learner((0.2, 0.8))
    one.progress = progress
    expected = by_hand(one.model, one.teachers, 0.2 + 0.6 * progress)
    result = dict.fromkeys(NAMES, 0.0)
    for batch in step_batches(parts):
        for k, (loss, _, share) in one.losses(batch).items():
            result[NAMES[k]] += float(loss.detach())
            assert share == pytest.approx(1 / len(NAMES), rel=1e-12)
    assert result == pytest.approx(expected, rel=1e-9)


def test_a_teacher_reads_which_text_is_which_and_one_that_knows_no_types_gets_none():
    one = learner((0.0, 0.0), kinds=["classification"])
    [batch] = step_batches()
    blind = {name: value for name, value in batch.items() if name != "token_type_ids"}
    model = one.teachers["topic"].models[0]
    with_types, without = (float(one.losses(b)[0][0]) for b in (batch, blind))
    original, asked = model.forward, []

    def forward(input_ids, attention_mask):
        asked.append(True)
        return original(input_ids=input_ids, attention_mask=attention_mask)

    model.forward = forward
    typeless = float(one.losses(batch)[0][0])
    assert asked and len({with_types, without, typeless}) == 3  # student and teacher with types, neither, the student alone


def test_tasks_without_a_teacher_and_a_share_of_one_are_the_plain_learner_to_the_bit():
    [batch] = step_batches()
    plain = Learner(multi.model(dtype=torch.float64), make_balancing("equal", KINDS).double()).losses(batch)
    partly, whole = learner((0.0, 0.0), kinds=["qa", "tagging"]).losses(batch), learner((1.0, 1.0)).losses(batch)
    for k, kind in enumerate(KINDS):
        assert torch.equal(whole[k][0], plain[k][0])
        assert torch.equal(partly[k][0], plain[k][0]) == (kind not in ("qa", "tagging")), kind
    with pytest.raises(ValueError, match="expected some of the tasks topic"):
        DistilledLearner(multi.model(), make_balancing("equal", KINDS), {"nli": teachers()["topic"]}, T, (0.0, 1.0))


def test_pcgrad_joins_the_gradients_of_the_distilled_losses():
    """Two tasks, written out: each gradient loses its part along the other where they conflict (Yu et al. 2020)."""
    tasks = {name: multi.TASKS[name] for name in ("topic", "qa")}
    kinds = [spec.kind for spec in tasks.values()]

    def made() -> DistilledLearner:
        asked = {name: Teacher([pairs.model(spec.kind, 9)], spec.kind) for name, spec in tasks.items()}
        balancing = make_balancing("pcgrad", kinds).double()
        return DistilledLearner(multi.model(tasks=tasks, dtype=torch.float64), balancing, asked, T, (0.3, 1.0))

    window = multi.manager(tasks, 6).step({"topic": 3, "qa": 3}, 1)
    one, by_hand_ = made(), made()
    shared = by_hand_.model.shared_parameters()
    g = [
        torch.cat([x.flatten() for x in torch.autograd.grad(share * loss, list(shared.values()), retain_graph=True)])
        for loss, _, share in by_hand_.losses(window[0]).values()
    ]
    dot = g[0] @ g[1]
    cut = [a - (min(float(dot), 0.0) / float(b @ b)) * b for a, b in ((g[0], g[1]), (g[1], g[0]))]
    steps = DistilledSteps(one, iter([]), OBJECTIVE, loop.LoopSettings(steps=5, max_grad_norm=1e9))
    steps.step(1, window, update=False)
    result = torch.cat([p.grad.flatten() for p in one.model.shared_parameters().values()])
    torch.testing.assert_close(result, cut[0] + cut[1], rtol=1e-9, atol=1e-12)


class Observed(DistilledSteps):
    progress_values: ClassVar[list[float]] = []

    def step(self, step, batches, update=True):
        row = super().step(step, batches, update)
        self.progress_values.append(self.learner.progress)
        return row


class ObservedTrainer(DistilledTrainer):
    steps_type = Observed


def options(folders, share=(0.0, 1.0)) -> dict:
    tokenizer = multitask_run.build_model(MultitaskSettings(**QUICK))[1]
    return {"teachers": {t: load_teacher(t, where, tokenizer) for t, where in paths(folders)}, "temperature": T, "share": share}


def paths(folders) -> list[tuple[str, Path]]:
    return [(task, Path(folder)) for task, folder in folders.items()]


def trace(out) -> tuple:
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    return (out / TRAINED / "weights.safetensors").read_bytes(), [{k: v for k, v in r.items() if k != "seconds"} for r in rows]


@pytest.mark.parametrize("steps", [1, 6])
def test_the_share_starts_at_the_first_step_ends_at_the_last_and_teachers_stay_as_they_are(steps, folders, tmp_path):
    how = options(folders)
    before = {task: teacher.checksum() for task, teacher in how["teachers"].items()}
    Observed.progress_values = []
    run_multitask(
        MultitaskSettings(**QUICK | {"steps": steps}, out=str(tmp_path)), make_trainer=functools.partial(ObservedTrainer, **how)
    )
    assert Observed.progress_values == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1] if steps == 6 else [0])
    assert {task: teacher.checksum() for task, teacher in how["teachers"].items()} == before
    assert not any(p.requires_grad for teacher in how["teachers"].values() for p in teacher.models[0].parameters())
    assert not any(teacher.models[0].training for teacher in how["teachers"].values())


@pytest.mark.parametrize("changes", [{}, {"loss_weighting": "pcgrad"}, {"loss_weighting": "uncertainty", "batching": "one_task"}])
@pytest.mark.fault
def test_a_stopped_run_goes_on_to_the_same_bits(changes, folders, tmp_path, monkeypatch):
    def run(name):
        settings = MultitaskSettings(**QUICK | changes, save_every=2, out=str(tmp_path / name))
        return run_multitask(settings, make_trainer=functools.partial(DistilledTrainer, **options(folders)))

    run("whole")
    keep = multitask_run.RunFolder.keep

    def dies(folder, row):
        keep(folder, row)
        if row["step"] == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(multitask_run.RunFolder, "keep", dies)
        run("stopped")
    assert not (tmp_path / "stopped" / "result.json").exists()
    run("stopped")
    assert trace(tmp_path / "stopped") == trace(tmp_path / "whole")


def test_a_multitask_model_teaches_one_of_its_tasks_with_its_own_answers(folders, tmp_path):
    run_multitask(MultitaskSettings(**QUICK, out=str(tmp_path / "first")))
    model, tokenizer, _ = load_multitask(tmp_path / "first" / TRAINED)
    teacher = load_teacher("nli", tmp_path / "first" / TRAINED, tokenizer)
    text = dict(tokenizer(["anna is in paris ."], ["anna is in rome ."], return_tensors="pt"))
    assert int(text["token_type_ids"].max()) == 1
    with torch.no_grad():
        assert torch.equal(teacher.answers(text), model(**text, task_name="nli").logits)
    with pytest.raises(ValueError, match="does not know topic"):
        load_teacher("topic", tmp_path / "first" / TRAINED, tokenizer)


@pytest.mark.fault
def test_teachers_that_cannot_teach_are_refused_before_any_work(folders, tmp_path):
    tokenizer = multitask_run.build_model(MultitaskSettings(**QUICK))[1]
    nli, sentiment = (dict(paths(folders))[task] for task in ("nli", "sentiment"))
    other = make_teacher(tmp_path / "bytes", model=tiny_folder.encoder(tmp_path / "base"))
    for task, where, records, limit in (
        ("nli", sentiment, "trained for sentiment, expected a teacher of nli", None),
        ("sentiment", tmp_path / "bytes", "has another tokenizer", None),
        ("nli", nli, "fewer than max_length=1000", 1000),
    ):
        with pytest.raises(ValueError, match=records):
            load_teacher(task, where, tokenizer, limit)
    assert other
    for wrong, records in (
        ({"labels_from": 1.5}, "a share, 0 to 1"),
        ({"labels_from": 1.0}, "nothing is left to the teachers"),
        ({"kd_temperature": 0.0}, "more than 0"),
        ({"kd_temperature": float("nan")}, "more than 0"),
    ):
        with pytest.raises(ValueError, match=records):
            TasksSettings(**wrong)


@pytest.mark.long
def test_the_command_says_what_is_wrong_in_one_line_and_makes_a_run(folders, tmp_path):
    words = ["--tasks", "sentiment,nli", "--steps", "3", "--eval-rows", "12", "--train-rows", "24", "--out", tmp_path / "run"]
    for wrong, records in ((f"topic={folders['nli']}", "expected TASK=FOLDER"), (f"nli={tmp_path}/no", "is no folder")):
        done = run_module("distill", "tasks", *words, "--teachers", wrong)
        assert done.returncode != 0 and records in done.stderr and "Traceback" not in done.stderr, done.stderr
        assert not (tmp_path / "run").exists()
    given = ",".join(f"{task}={folder}" for task, folder in folders.items())
    done = run_module("distill", "tasks", *words, "--teachers", given)
    assert done.returncode == 0 and (tmp_path / "run" / "result.json").exists(), done.stderr
    done = run_module("distill", "tasks", *words, "--teachers", given, "--labels-to", "0.5")
    assert done.returncode != 0 and "labels was [0.0, 1.0] and is [0.0, 0.5]" in done.stderr
