"""Two gloo processes against one, on tasks of unequal lengths that are not all in every process."""

import json

import pytest
from test_training_processes import accelerate, launch

from training.run_folder import read_result, read_rows


@pytest.mark.parametrize("method", ["equal", "uncertainty", "gradnorm"])
def test_two_processes_equal_one(method, tmp_path):
    found = []
    for count in (1, 2):
        out = tmp_path / f"{count}.json"
        done = launch(count, "tests/two_processes_multitask.py", method, 6, 40, out)  # 6 rows of 5 tasks: some are missing
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads(out.read_text()))
    one, two = found
    assert two["ranks_equal"] and len(one["rows"]) == len(two["rows"]) == 40
    for a, b in zip(one["rows"], two["rows"], strict=True):
        assert a.keys() == b.keys() and a["tokens"] == b["tokens"]
        for name in a:
            if name != "seconds":
                assert a[name] == pytest.approx(b[name], abs=1e-9), (a["step"], name)
    assert one["weights"] == pytest.approx(two["weights"], abs=1e-9)


def test_the_command_under_two_processes_gives_the_scores_of_one(tmp_path):
    """In float32, with the run folder, the report and the saved model."""
    words = ["--tasks", "topic,nli", "--steps", "20", "--eval-every", "10", "--eval-rows", "31", "--dropout", "0"]
    for count in (1, 2):
        options = ("--batch-size", 8 // count, "--out", tmp_path / str(count))
        done = (accelerate if count == 2 else launch)(count, "-m", "multitask", *words, *options)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("an average step moves along") == 1, "only the main process speaks"
    a, b = (read_rows(tmp_path / str(count) / "rows.jsonl") for count in (1, 2))
    for name in ("loss", "loss/nli", "topic/eval_loss", "nli/accuracy"):
        assert [r[name] for r in a if name in r] == pytest.approx([r[name] for r in b if name in r], abs=1e-5)
    results = [read_result(tmp_path / str(count)) for count in (1, 2)]
    assert results[0]["file_bytes"] == results[1]["file_bytes"] > 0
