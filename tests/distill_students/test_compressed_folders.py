"""A folder in int8 cannot be misread by transformers, and `evaluate` and `generate` read every student."""

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from distill import DistillSettings, run_distillation
from distill.compression.compressed_files import CARD, OLDER_WEIGHTS, WEIGHTS, load_compressed
from distill.student.student_files import load_student
from training.commands.evaluate_command import EvaluateSettings, evaluate_trained, load_any
from training.runs.run import train_model

QUICK = {"trackers": "", "train_rows": 40, "eval_rows": 20, "batch_size": 8}


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    root = tmp_path_factory.mktemp("students")
    teacher = train_model("topic", method="full", steps=30, eval_every=30, out=str(root / "t"), **QUICK)
    result = {}
    for name, changes in {"int8": {"bits": "int8"}, "cut": {"keep_units": 0.5}, "nf4": {"bits": "nf4"}}.items():
        out = root / name
        run_distillation(
            DistillSettings(
                teacher=str(teacher.folder / "adapter"), student="copy:1,2", steps=20, out=str(out), **QUICK, **changes
            )
        )
        result[name] = out / "adapter"
    return result


@pytest.mark.parametrize("name", ["int8", "cut"])
def test_transformers_finds_no_weights_instead_of_wrong_ones(name, students):
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModelForSequenceClassification.from_pretrained(students[name])


@pytest.mark.parametrize("name", ["int8", "cut", "nf4"])
def test_evaluate_reads_them(name, students, capsys):
    evaluate_trained(EvaluateSettings(adapter=str(students[name]), rows=20))
    text = capsys.readouterr().out
    assert "compressed" in text and "| accuracy |" in text and "said music" in text and "| test | 20 |" in text
    with pytest.raises(ValueError, match="leave --model and --task out"):
        load_any(str(students[name]), "sst2", None)


def test_a_folder_that_was_written_earlier_is_read(students, tmp_path):
    import shutil

    folder = tmp_path / "old"
    shutil.copytree(students["cut"], folder)
    (folder / WEIGHTS).rename(folder / OLDER_WEIGHTS)
    assert (folder / CARD).exists()
    model = load_student(students["cut"]).base.model
    fresh = type(model)(type(model.config).from_pretrained(students["cut"]))
    assert load_compressed(fresh, folder).endswith("tensors loaded")


@pytest.mark.long
def test_the_command_too(students):
    words = [sys.executable, "-m", "training", "evaluate", "--adapter", str(students["int8"]), "--rows", "20"]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0 and "| accuracy |" in done.stdout, done.stderr[-800:]
