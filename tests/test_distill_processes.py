"""Two gloo processes against one: losses on logits and states, projections, rows without labels, a rank without a row."""

import json

import pytest
import two_processes_multitask
from test_training_processes import launch


def test_two_processes_equal_one(tmp_path):
    found = []
    for count in (1, 2):
        out = tmp_path / f"{count}.json"
        done = launch(count, "tests/two_processes_distill.py", 4, 24, out)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads(out.read_text()))
    one, two = found
    assert two["ranks_equal"] and len(one["rows"]) == len(two["rows"]) == 24
    for a, b in zip(one["rows"], two["rows"], strict=True):
        assert a.keys() == b.keys() and a["tokens"] == b["tokens"]
        for name in a.keys() - {"seconds", "teacher_seconds"}:
            assert a[name] == pytest.approx(b[name], abs=1e-9), (a["step"], name)
    assert any("loss/hard" not in row for row in one["rows"]) and any("loss/hard" in row for row in one["rows"])
    assert one["weights"] == pytest.approx(two["weights"], abs=1e-9)


def test_a_student_of_many_teachers_is_the_same_in_two_processes(tmp_path):
    """Gradients of each task are joined; the share of the labels moves from 0 to 1."""
    two_processes_multitask.main("pcgrad", 6, 12, tmp_path / "1.json", teachers=True)
    done = launch(2, "tests/two_processes_multitask.py", "pcgrad", 6, 12, tmp_path / "2.json", "teachers")
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = (json.loads((tmp_path / f"{count}.json").read_text()) for count in (1, 2))
    assert two["ranks_equal"] and one["weights"] == pytest.approx(two["weights"], abs=1e-9)
    for a, b in zip(one["rows"], two["rows"], strict=True):
        assert {n: a[n] for n in a if n != "seconds"} == pytest.approx({n: b[n] for n in b if n != "seconds"}, abs=1e-9)
