"""Two gloo processes against one: losses on logits and states, projections, rows without labels, a rank without a row."""

import json

import pytest
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
