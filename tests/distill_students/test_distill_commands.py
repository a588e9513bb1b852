"""What a distillation refuses, before any work; how the command says it; and a run that was killed."""

import re
import signal

import distilling
import pytest
import tiny_folder
from command import SERVER, run_module
from distilling import hurry, make_teacher, quick, trace

from distill.runs.run import run_distillation
from distill.runs.settings import DistillSettings
from training.runs.run_folder import read_rows


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    return make_teacher(tmp_path_factory.mktemp("teacher") / "a")


WRONG = [
    ({"teacher": ""}, "needs --teacher FOLDER"),
    ({"teacher": ","}, "needs --teacher FOLDER"),
    ({"teacher": "runs/nothing/adapter"}, "'runs/nothing/adapter' is no folder"),
    ({"student": "copy:3"}, r"layers \[3\]: the teacher has 2"),
    ({"student": "nowhere"}, "cannot be loaded"),
    ({"losses": ()}, "expected at least one"),
    ({"losses": ("hidden:2->2",)}, "layer 2; the student has 0 to 1"),
    ({"losses": ("attention:1->0",)}, "layer 0; the teacher has 1 to 2"),
    ({"losses": ("kd", "relations:1->1,heads=5")}, "heads=5 does not divide the student's width 64"),
    ({"losses": ("kd", "scores:1->1"), "student": "copy:1,hidden=32,heads=2"}, "the student has 2 heads, the teacher 4"),
    ({"losses": ("jsd:beta=1",)}, "beta=1 is outside"),
    ({"losses": ("hard",), "transfer_rows": 9}, "transfer_rows have no labels"),
    ({"losses": ("hard",), "transfer_rows": 9}, "transfer_rows have no labels"),
    ({"losses": ("hard",), "cache": "x"}, "leave --cache out"),
    ({"cache_top": 1}, "give --cache FOLDER"),
    ({"cache": "x", "cache_top": 1, "losses": ("mse",)}, "mse compares logits"),
    ({"cache": "x", "teacher_dropout": True}, "a cache keeps one answer for each row"),
    ({"method": "lora"}, "take full, or save the copy first"),
    ({"task": "topic"}, r"cannot teach topic \(classification, 4 labels\)"),
    ({"task": "tagging"}, "cannot teach tagging"),
    ({"steps": 0}, "steps"),
    ({"learning_rate": 0.0}, "learning_rate=0.0: expected more than 0"),
    ({"schedule": "steep"}, "there are linear, cosine"),
    ({"warmup_share": 1.0}, "expected 0 or more and less than 1"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_mistakes_are_told_before_any_work(changes, message, teacher, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_distillation(quick(tmp_path / "run", **{"teacher": teacher, **changes}))
    assert not (tmp_path / "run").exists()


def test_models_that_do_not_go_together_are_refused(teacher, tmp_path):
    bytes_ = make_teacher(tmp_path / "t", model=tiny_folder.encoder(tmp_path / "base"))
    tags = make_teacher(tmp_path / "tags", task="tagging", model=str(tmp_path / "base"))
    topic = make_teacher(tmp_path / "topic", task="topic")
    cases = [
        ({"teacher": f"{teacher},{bytes_}"}, "the teachers have different tokenizers"),
        ({"teacher": f"{teacher},{topic}"}, r"a teacher for topic \(classification, 4 labels\) cannot teach sentiment"),
        ({"teacher": bytes_, "student": "encoder", "losses": ("kd", "hidden:1->1")}, "tokens' hidden states cannot be compared"),
        ({"teacher": tags, "student": "encoder"}, "has an answer for every token: expected one tokenizer"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=message):
            run_distillation(quick(tmp_path / "run", **{"teacher": teacher, **changes}))
        assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_the_command_says_what_is_wrong_in_one_line_and_what_is_right_in_a_table(teacher, tmp_path):
    words = ("--student", "copy:1", "--train-rows", 12, "--eval-rows", 9, "--steps", 2, "--out", tmp_path / "run")
    wrong = [
        (("--teacher", teacher, *words, "--losses", "kd:x=1"), "kd takes T=NUMBER, a=NUMBER"),
        (("--teacher", tmp_path, *words), "neither training.json nor adapter_config.json"),
        (("--teacher", teacher, *words, "--losses", "relations:1->1,heads=7"), "heads=7 does not divide"),
        ((*words,), "needs --teacher FOLDER"),
        (("train", "--teacher", teacher, *words), "train"),
    ]
    for line, records in wrong:
        done = run_module("distill", *line)
        assert done.returncode != 0 and records in re.sub(r"[│\s]+", " ", done.stderr), done.stderr
        assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()
    done = run_module("distill", "--teacher", teacher, *words)
    assert done.returncode == 0 and "12 rows with labels, 0 without" in done.stdout, done.stderr
    assert f"run folder: {tmp_path / 'run'}" in done.stdout and (tmp_path / "run" / "terms.png").stat().st_size > 1000
    assert DistillSettings(teacher="t", student="copy:1").folder().name == "distill-task"


@pytest.mark.long
def test_a_killed_run_goes_on_too(teacher, tmp_path):
    process = SERVER.Process(target=distilling.killed_after, args=(5, quick(tmp_path / "killed", teacher)))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL and not (tmp_path / "killed" / "result.json").exists()
    assert [row["step"] for row in read_rows(tmp_path / "killed" / "rows.jsonl")] == list(range(6))
    for name in ("killed", "whole"):
        run_distillation(quick(tmp_path / name, teacher))
    assert trace(tmp_path / "killed") == trace(tmp_path / "whole")
