"""Distillations from settings to a folder: stopped and continued, by several teachers, and by one that reads other tokens."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_folder
import torch
from distilling import hurry, make_teacher, quick, stopped_after, trace

from distill.losses.terms import LABELLED
from distill.runs import fidelity
from distill.runs.pair import build_pair
from distill.runs.run import run_distillation
from distill.teacher.rows import load_rows
from training.data.data import load_task
from training.data.tasks import find_task
from training.models.base_models import load_base
from training.models.trained import load_trained
from training.runs.run_folder import RunError, read_rows

STATES = ("kd:T=4..2,a=1..0.3", "hidden:1->2", "relations:1->2,heads=2")
WHOLE = {
    "live": {"losses": STATES, "student": "copy:2,hidden=32,heads=2", "teacher_dropout": True, "transfer_rows": 10},
    "cached": {"cache": "cache", "cache_top": 1, "keep": "best", "accumulation": 2, "transfer_rows": 10},
}


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    """Its students have dropout, so a run that goes on needs the random states."""
    return make_teacher(tmp_path_factory.mktemp("teacher") / "a", dropout=0.2)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> str:
    return make_teacher(tmp_path_factory.mktemp("teacher") / "b", seed=1)


# ---------------------------------------------------------------- going on


@pytest.mark.parametrize("way", WHOLE)
@pytest.mark.fault
def test_a_run_that_goes_on_is_the_run_that_never_stopped(way, teacher, tmp_path):
    changes = dict(WHOLE[way])
    for name in ("whole", "parts"):
        if "cache" in changes:
            changes["cache"] = str(tmp_path / name / "cache")
        settings = quick(tmp_path / name / "run", teacher, **changes)
        if name == "parts":
            stopped_after(2, settings)  # before the first checkpoint
            stopped_after(5, settings)  # the checkpoint is of step 3
            stopped_after(7, settings)  # of step 6
        run_distillation(settings)
    whole, parts = (trace(tmp_path / name / "run") for name in ("whole", "parts"))
    assert [row["step"] for row in parts[1]] == list(range(9)) and parts[1] == whole[1]
    assert parts[0] == whole[0] and parts[2] == whole[2]


@pytest.mark.fault
def test_a_finished_folder_answers_and_another_run_is_refused_there(teacher, tmp_path):
    own, data = shutil.copytree(teacher, tmp_path / "teacher"), tmp_path / "data"
    data.mkdir()
    rows = load_task(find_task("sentiment"))["test"][:40]
    columns = {name: rows[name] for name in ("sentence", "label")}
    for split in ("train", "validation"):
        (data / f"{split}.json").write_text(lines(columns))
    settings = quick(tmp_path / "run", str(own), data_dir=str(data))
    text: list[str] = []
    result = run_distillation(settings)
    assert run_distillation(settings, text.append) == result and "is finished already" in text[-1]
    for changes, records in (({"steps": 9}, "steps was 8 and is 9"), ({"losses": ("hard",)}, "losses was")):
        with pytest.raises(RunError, match=records):
            run_distillation(replace(settings, **changes))
    (data / "train.json").write_text(lines(columns | {"label": [1 - y for y in rows["label"]]}))
    with pytest.raises(RunError, match="train_checksum was"):
        run_distillation(settings)
    (data / "train.json").write_text(lines(columns))
    shutil.rmtree(own)
    make_teacher(own, seed=7)
    with pytest.raises(RunError, match="teacher_checksum was"):
        run_distillation(settings)


def lines(columns: dict) -> str:
    """Rows of a .json file, one a line."""
    return "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in zip(*columns.values(), strict=True))


# ---------------------------------------------------------------- what a run does


def test_the_teacher_is_the_same_after_a_run_and_the_student_comes_back(teacher, tmp_path):
    files = lambda: {path.name: path.read_bytes() for path in Path(teacher).iterdir()}  # noqa: E731
    before = files()
    result = run_distillation(quick(tmp_path / "run", teacher, losses=STATES))
    assert files() == before
    again = load_trained(tmp_path / "run" / "adapter")
    held_out = load_rows(again.spec, None, 0, (24, 0), 12, *[(again.base.tokenizer, 128)] * 2)
    own = fidelity.answers_of(again.base.model, held_out.teachers, again.base.tokenizer, "classification", torch.device("cpu"))
    labels = torch.tensor([f["labels"] for f in held_out.teachers])
    assert float((torch.cat(own).argmax(-1) == labels).double().mean()) == result["metric"]
    assert fidelity.calibration_error(torch.cat(own), labels) == pytest.approx(result["ece"])
    assert result["parameters"] == sum(p.numel() for p in again.base.model.parameters()) < result["teacher_parameters"]
    rows = read_rows(tmp_path / "run" / "rows.jsonl")
    for row in rows[1:]:
        parts = sum(row[f"weight/{name.removeprefix('loss/')}"] * row[name] for name in row if name.startswith("loss/"))
        assert row["loss"] == pytest.approx(parts, rel=1e-6) and row["teacher_seconds"] <= row["seconds"]
    assert result["teacher_seconds"] < result["train_seconds"]


def test_equal_teachers_are_one_and_unequal_ones_are_not(teacher, other, tmp_path):
    losses = {}
    for name, folders in (("one", teacher), ("same", f"{teacher},{teacher}"), ("two", f"{teacher},{other}")):
        for word in ("kd:T=2,a=0.9", "mse:a=0.5"):
            run_distillation(quick(tmp_path / name / word[:2], folders, losses=(word,), steps=3))
            losses[name, word[:2]] = [row.get("loss") for row in read_rows(tmp_path / name / word[:2] / "rows.jsonl")][1:]
    for word in ("kd", "ms"):
        assert losses["same", word] == pytest.approx(losses["one", word], rel=1e-4)
        assert losses["two", word] != pytest.approx(losses["one", word], rel=1e-2)


@pytest.mark.parametrize("cache", [False, True])
def test_a_teacher_with_another_tokenizer_reads_its_own_tokens(cache, tmp_path):
    other = make_teacher(tmp_path / "t", model=tiny_folder.encoder(tmp_path / "base", window=512))
    spec, own = find_task("sentiment"), load_trained(other).base
    student = load_base(spec, "encoder")
    rows = load_rows(spec, None, 0, (24, 0), 12, (student.tokenizer, 96), (own.tokenizer, 512))
    texts = load_task(spec, None, 0, 24)["train"]["sentence"]
    assert [row["teacher.input_ids"] for row in rows.train] == own.tokenizer(list(texts))["input_ids"]
    assert [row["input_ids"] for row in rows.train] == student.tokenizer(list(texts))["input_ids"]
    changes = {"cache": str(tmp_path / "cache")} if cache else {}
    settings = quick(
        tmp_path / "run", other, student="encoder", losses=("kd:T=1,a=1",), **changes, steps=1, batch_size=24, max_length=512
    )
    result = run_distillation(settings)
    [_, row] = read_rows(tmp_path / "run" / "rows.jsonl")
    with torch.no_grad():
        p, q = (
            torch.cat([base.model.eval()(**base.tokenizer(t, return_tensors="pt")).logits for t in texts]).log_softmax(-1)
            for base in (own, student)
        )
    expected = (p.exp() * (p - q)).sum(-1).mean()
    assert row["loss/kd"] == pytest.approx(float(expected), rel=1e-3 if cache else 1e-4)
    answers = fidelity.answers_of(own.model, rows.teachers, own.tokenizer, spec.kind, torch.device("cpu"))
    right = (torch.cat(answers).argmax(-1) == torch.tensor([f["labels"] for f in rows.teachers])).double().mean()
    assert result["teacher_metric"] == pytest.approx(float(right))


def test_losses_on_states_alone_say_what_stays_as_it_is(teacher, tmp_path):
    text: list[str] = []
    run_distillation(quick(tmp_path / "run", teacher, student="copy:1,2", losses=("hidden:1->2",)), text.append)
    [line] = [line for line in text if "no loss reaches" in line]
    assert "student.bert.encoder.layer.1." in line
    before, after = (load_trained(where).base.model.state_dict() for where in (teacher, tmp_path / "run" / "adapter"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("embeddings" in name or "layer.0." in name for name in changed)
    assert int(re.search(r"reaches (\d+) of", line)[1]) == sum(
        "layer.1." in n or "pooler" in n or "classifier" in n for n in before
    )


@pytest.mark.parametrize(("sizes", "labelled"), [((6, 4), 6), ((None, 4), None), ((10, 0), 10), ((None, 0), None)])
def test_transfer_rows_have_no_labels_whatever_the_default(sizes, labelled):
    tokenizer = load_base(find_task("sentiment"), "encoder").tokenizer
    rows = load_rows(find_task("sentiment"), None, 0, sizes, 3, (tokenizer, 96), (tokenizer, 50))
    usual = len(load_task(find_task("sentiment"))["train"])
    assert rows.labelled == (labelled or usual) and rows.unlabelled == sizes[1]
    assert [row[LABELLED] for row in rows.train] == [1] * rows.labelled + [0] * sizes[1]
    assert max(len(row["input_ids"]) for row in rows.train) <= 50, "one batch for both fits into the smaller window"
    plain = load_task(find_task("sentiment"), None, 0, rows.labelled)["train"]
    assert [row["labels"] for row in rows.train[: rows.labelled]] == plain["label"], (
        "the labelled ones are those without transfer"
    )


@pytest.mark.parametrize("task", ["nli", "tagging", "qa", "data2text"])
def test_every_kind_of_task_runs_with_a_live_teacher_and_a_cached_one(task, tmp_path):
    """The same run but for the half precision of the cache, on examples with and without labels, and on hidden states too."""
    asked = make_teacher(tmp_path / "t", task)
    rows = {}
    for way in ("live", "cached"):
        changes = {"cache": str(tmp_path / "cache")} if way == "cached" else {}
        losses = ("kd:T=2,a=0.7", "hidden:1->1", "attention:1->2", "patient:1->2")
        result = run_distillation(quick(tmp_path / way, asked, losses=losses, transfer_rows=10, steps=4, **changes))
        rows[way] = read_rows(tmp_path / way / "rows.jsonl")[1:]
        assert result["transfer_rows"] == 10 and result["labelled_rows"] == 24
    for name in ("loss", "loss/kd", "loss/hard", "loss/attention:1->2", "eval_loss"):
        live, cached = ([row[name] for row in rows[way] if name in row] for way in ("live", "cached"))
        assert len(live) >= 1 and live == pytest.approx(cached, rel=1e-3), name


def test_a_decoder_that_classifies_is_a_decoder(teacher, tmp_path):
    """Its losses on attention leave out the keys behind a query, as its mask does (`test_distill_terms` has the numbers)."""
    asked = make_teacher(tmp_path / "t", "sentiment", model="decoder")
    assert build_pair(quick(tmp_path / "run", asked)).causal and not build_pair(quick(tmp_path / "run", teacher)).causal
    result = run_distillation(quick(tmp_path / "run", asked, losses=("kd", "scores:1->1", "attention:1->2"), steps=3))
    assert result["steps"] == 3


@pytest.mark.long
def test_every_flag_changes_the_run(teacher, other, tmp_path):
    """The losses of runs that differ in one flag differ; a flag without effect would be a lie."""
    changes = [
        {},
        {"teacher": other},
        {"student": "copy:1,intermediate=100"},
        {"student": "encoder"},
        {"student": "encoder", "method": "lora"},
        {"losses": ("kd:T=2,a=0.9..0.8",)},
        {"losses": ("kd:T=2,a=0.9", "hidden:1->2,w=2")},
        {"losses": ("kd:T=2,a=0.9", "relations:1->2,heads=2")},
        {"random_weights": True},
        {"train_rows": 20},
        {"transfer_rows": 9},
        {"cache": str(tmp_path / "full")},
        {"cache": str(tmp_path / "top"), "cache_top": 1},
        {"batch_size": 6},
        {"accumulation": 2},
        {"max_length": 20},
        {"learning_rate": 1e-2},
        {"schedule": "cosine"},
        {"warmup_share": 0.5},
        {"weight_decay": 0.5},
        {"max_grad_norm": 0.01},
        {"seed": 1},
    ]
    result = []
    for i, change in enumerate(changes):
        run_distillation(quick(tmp_path / str(i), **{"teacher": teacher, "steps": 4, **change}))
        result.append(tuple(row.get("loss") for row in read_rows(tmp_path / str(i) / "rows.jsonl")))
    equal = [(changes[i], changes[j]) for i in range(len(result)) for j in range(i) if result[i] == result[j]]
    assert not equal
