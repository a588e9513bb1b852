"""`--check` goes the whole way of a run in small; reports say what was read, and which labels are mistaken for which."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import families
import pytest
import torch

from distill import DistillSettings
from distill.runs.dry_run import check_distillation
from multitask.runs.dry_run import check_multitask
from multitask.runs.report import page as multitask_page
from multitask.runs.settings import MultitaskSettings
from training.data.data import load_task, some_rows
from training.data.encoding import Encoded
from training.data.tasks import find_task
from training.reports.read_counts import confusion, counts_of, counts_table
from training.runs import dry_run
from training.runs.dry_run import check_training, compare, refuse_unwritable
from training.runs.run import train_model
from training.runs.settings import TrainSettings

QUICK = {"trackers": "", "train_rows": 30, "batch_size": 8}


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "nli", "method": "full", "keep": "best", "patience": 3},
        {"task": "qa", "method": "bottleneck"},
        {"task": "data2text", "method": "prefix", "num_virtual_tokens": 4, "score_texts": 5},
        {"task": "tagging", "method": "lora", "gradient_checkpointing": True},
    ],
)
def test_a_run_of_each_kind_can_be_tried_out(changes, tmp_path):
    text = []
    check_training(TrainSettings(**QUICK, steps=5000, out=str(tmp_path / "run"), **changes), text.append)
    assert "30 train examples were read" in text[0] and "saving and loading work" in text[0]
    assert list(tmp_path.iterdir()) == []  # nothing is left


def test_what_would_fail_at_the_end_fails_now(tmp_path, monkeypatch):
    settings = TrainSettings(**QUICK, task="topic", out=str(tmp_path / "run"))

    real = dry_run.load_trained
    monkeypatch.setattr(dry_run, "load_trained", lambda *args: _changed(real(*args)))
    with pytest.raises(RuntimeError, match="saved and loaded again answers differently"):
        check_training(settings, print)


def _changed(trained):
    with torch.no_grad():
        for name, p in trained.base.model.named_parameters():
            if "classifier" in name:
                p.add_(1e-3)
    return trained


@pytest.mark.fault
def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        refuse_unwritable(tmp_path / "file" / "run")
    monkeypatch.setattr(dry_run.os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="cannot be written"):
        refuse_unwritable(tmp_path / "run")


def test_the_comparison_sees_one_bit():
    a = torch.randn(3)
    compare([a], [a.clone()])
    with pytest.raises(RuntimeError, match="answers differently"):
        compare([a], [torch.nextafter(a, torch.tensor(9.0))])


def test_the_other_trainers_too(tmp_path):
    texts = []
    settings = MultitaskSettings(tasks="topic,nli", loss_weighting="dwa", steps=900, batch_size=8, train_rows="40", trackers="")
    check_multitask(settings, texts.append)
    teacher = train_model("topic", method="full", steps=2, eval_rows=8, out=str(tmp_path / "t"), **QUICK)
    student = DistillSettings(teacher=str(teacher.folder / "adapter"), student="copy:1", bits="int8", trackers="", train_rows=40)
    check_distillation(replace(student, out=str(tmp_path / "s")), texts.append)
    assert sum("saving and loading work" in text for text in texts) == 2 and not (tmp_path / "s").exists()


@pytest.mark.long
def test_the_option_is_one_of_the_commands(tmp_path):
    for words in (["training", "--task", "topic"], ["multitask", "--tasks", "topic,nli"]):
        done = subprocess.run(
            [sys.executable, "-m", *words, "--check"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert done.returncode == 0 and "checked in" in done.stdout, done.stderr[-800:]
        assert list(tmp_path.iterdir()) == []
    refused = subprocess.run(
        [sys.executable, "-m", "training", "compare", "--check"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert refused.returncode == 2 and "--check" in refused.stderr + refused.stdout


def test_a_report_says_what_was_read(tmp_path):
    run = train_model("topic", steps=2, eval_every=1, keep="best", max_length=6, eval_rows=50, out=str(tmp_path / "run"), **QUICK)
    train, test = run.data["train"], run.data["test"]
    assert (
        train["examples"] == 30
        and sum(train["labels"].values()) == 30
        and list(train["labels"]) == list(find_task("topic").labels)
    )
    assert test["examples"] == 50 and 0 < test["truncated"] <= 50
    counts = torch.tensor(run.confusion)
    assert counts.sum() == 50 and counts.diagonal().sum() / 50 == pytest.approx(run.metric)
    assert counts.sum(1).tolist() == list(test["labels"].values())
    page = (tmp_path / "run" / "report.md").read_text()
    assert "What was read" in page and "said music" in page and f"| {test['truncated']} |" in page
    remaining = json.loads((tmp_path / "run" / "result.json").read_text())
    assert remaining["data"] == run.data and remaining["confusion"] == run.confusion


def test_counts_of_every_kind():
    tags, many = find_task("tagging"), replace(find_task("topic"), kind="multilabel")
    features = [{"labels": [-100, 0, 1, 1]}, {"labels": [0, -100, -100, -100]}]
    result = counts_of(tags, 2, Encoded(features, 1), 1)
    assert (result["truncated"], result["skipped"]) == (1, 1) and list(result["labels"].values())[:3] == [2, 2, 0]
    assert counts_of(many, 1, Encoded([{"labels": [1.0, 0.0, 1.0, 0.0]}], 0))["labels"]["food"] == 1
    assert counts_of(find_task("stsb"), 1, Encoded([{"labels": 1.5}], 0))["labels"] == {}
    assert "| 1 | 1 |" in counts_table({"train": result})
    assert confusion(find_task("sst2"), [1, 1, 0], [{"labels": 1}, {"labels": 0}, {"labels": 0}]) == [[1, 1], [0, 1]]
    assert confusion(tags, [], []) is None


def test_a_part_of_a_sorted_file_has_all_its_classes(tmp_path):
    data = families.write_data(tmp_path)
    spec, rows = find_task("sst2"), [{"sentence": f"text {i}", "label": int(i > 50)} for i in range(100)]
    for split in ("train", "validation"):
        (Path(data["sst2"]) / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = load_task(spec, data["sst2"])["validation"]
    some = some_rows(split, 30, spec, data["sst2"])
    assert 5 < sum(some["label"]) < 25 and len(some) == 30
    numbers = [int(text.split()[1]) for text in some["sentence"]]
    assert numbers == sorted(set(numbers)) and some_rows(split, 30, spec, data["sst2"])["sentence"][:] == some["sentence"][:]
    assert len(some_rows(split, None, spec, data["sst2"])) == len(some_rows(split, 500, spec, data["sst2"])) == 100
    world = load_task(find_task("topic"))["test"]
    assert some_rows(world, 5, find_task("topic"), None)["label"][:] == world["label"][:5]


def test_a_task_in_no_step_is_remarked():
    row = {"metric_name": "accuracy", "start_metric": 0.5, "metric": 0.5, "loss": 1.0, "ceiling": None, "train_rows": 9}
    tasks = {"nli": row | {"expected_update": 0.0, "steps": 0}, "topic": row | {"expected_update": 1.0, "steps": 4}}
    result = {"tasks": tasks, "steps": 4, "learning_rate": 1e-3, "seed": 0, "train_seconds": 1.0, "parameters": 9}
    text = multitask_page(result | {"head_parameters": 1, "trained": 9, "file_bytes": 10})
    assert "**nli was in no step**" in text and "topic was" not in text


@pytest.mark.fault
def test_a_weight_of_zero_has_no_gradient_to_join():
    with pytest.raises(ValueError, match=r"nli=0.*no gradient|nli=0.*none to join"):
        MultitaskSettings(tasks="topic,nli", task_weights="nli=0", loss_weighting="cagrad")
    MultitaskSettings(tasks="topic,nli", task_weights="nli=0")


def test_a_trial_evaluates_two_examples_and_writes_one_text(tmp_path, monkeypatch):
    """However many the run asks for; and not more than it asks for."""
    asked = []

    def stop(task, settings, *rest):
        asked.append(settings)
        raise InterruptedError

    monkeypatch.setattr(dry_run, "train_model", stop)
    for rows, samples, score_texts in ((500, 8, 40), (None, 3, None), (1, 0, 0)):
        settings = TrainSettings(
            **QUICK, task="data2text", eval_rows=rows, samples=samples, score_texts=score_texts, out=str(tmp_path / "run")
        )
        with pytest.raises(InterruptedError):
            check_training(settings, print)
    assert [(s.eval_rows, s.samples, s.score_texts, s.steps) for s in asked] == [(2, 1, 1, 1), (2, 1, 1, 1), (1, 0, 0, 1)]
