"""Two gloo processes against one: losses on logits and states, projections, rows without labels, a rank without a row."""

import json

import pytest
import two_processes_distill
import two_processes_multitask
from command import run_ranks
from distilling import make_teacher, quick, trace

from distill.runs.run import run_distillation


def test_two_processes_equal_one(tmp_path):
    two_processes_distill.main(4, 24, tmp_path / "1.json")
    done = run_ranks(2, "tests/programs/two_processes_distill.py", 4, 24, tmp_path / "2.json")
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (json.loads((tmp_path / f"{count}.json").read_text()) for count in (1, 2))
    assert two["ranks_equal"] and len(one["rows"]) == len(two["rows"]) == 24
    for a, b in zip(one["rows"], two["rows"], strict=True):
        assert a.keys() == b.keys() and a["tokens"] == b["tokens"]
        for name in a.keys() - {"seconds", "teacher_seconds"}:
            assert a[name] == pytest.approx(b[name], abs=1e-9), (a["step"], name)
    assert any("loss/hard" not in row for row in one["rows"]) and any("loss/hard" in row for row in one["rows"])
    assert one["weights"] == pytest.approx(two["weights"], abs=1e-9)


def test_two_processes_cut_the_same_units_and_export_the_same_student(tmp_path):
    """Rounding to int8 magnifies the last bits of a sum in another order, so only the steps before it are compared closely."""
    teacher = make_teacher(tmp_path / "teacher", seed=3)
    options = {"keep_heads": 0.5, "keep_units": 0.5, "bits": "int8", "steps": 16, "train_rows": 30, "eval_every": 16}
    run_distillation(quick(tmp_path / "1", teacher, student="copy:1,2", batch_size=8, **options))
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    words += ["--student", "copy:1,2", "--batch-size", 4, "--eval-rows", 12, "--save-every", 3, "--out", tmp_path / "2"]
    done = run_ranks(2, "-m", "distill", "--teacher", teacher, *words)
    assert done.returncode == 0, done.stderr[-2000:]
    (_, a, one), (_, b, two) = (trace(tmp_path / count) for count in "12")
    assert [r["loss"] for r in a[1:9]] == pytest.approx([r["loss"] for r in b[1:9]], rel=1e-5)
    assert one["parameters"] == two["parameters"]
    cut = [json.loads((tmp_path / count / "adapter" / "compressed.json").read_text()) for count in "12"]
    assert cut[0] == cut[1]


def test_a_student_of_many_teachers_is_the_same_in_two_processes(tmp_path):
    """Gradients of each task are joined; the share of the labels moves from 0 to 1."""
    two_processes_multitask.main("pcgrad", 6, 12, tmp_path / "1-pcgrad.json", teachers=True)
    done = run_ranks(2, "tests/programs/two_processes_multitask.py", "pcgrad", 6, 12, tmp_path, "teachers")
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (json.loads((tmp_path / f"{count}-pcgrad.json").read_text()) for count in (1, 2))
    assert two["ranks_equal"] and one["weights"] == pytest.approx(two["weights"], abs=1e-9)
    for a, b in zip(one["rows"], two["rows"], strict=True):
        assert {n: a[n] for n in a if n != "seconds"} == pytest.approx({n: b[n] for n in b if n != "seconds"}, abs=1e-9)
