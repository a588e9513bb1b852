"""Two gloo processes against one, on tasks of unequal lengths that are not all in every process."""

import json

import pytest
import two_processes_multitask
from command import run_ranks

from training.runs.run_folder import read_result, read_rows


def test_two_processes_equal_one(tmp_path):
    methods = ("equal", "uncertainty", "gradnorm")
    done = run_ranks(
        2, "tests/programs/two_processes_multitask.py", ",".join(methods), 6, 40, tmp_path
    )  # 6 rows of 5 tasks: some are missing
    assert done.returncode == 0, done.stderr[-2000:]
    for method in methods:
        two_processes_multitask.main(method, 6, 40, tmp_path / f"1-{method}.json", teachers=False)
        one, two = (json.loads((tmp_path / f"{count}-{method}.json").read_text()) for count in (1, 2))
        assert two["ranks_equal"] and len(one["rows"]) == len(two["rows"]) == 40, method
        for a, b in zip(one["rows"], two["rows"], strict=True):
            assert a.keys() == b.keys() and a["tokens"] == b["tokens"]
            for name in a.keys() - {"seconds"}:
                assert a[name] == pytest.approx(b[name], abs=1e-9), (method, a["step"], name)
        assert one["weights"] == pytest.approx(two["weights"], abs=1e-9), method


def test_the_command_under_two_processes_gives_the_scores_of_one(tmp_path):
    """In float32, with the run folder, the report and the saved model."""
    words = ["--tasks", "topic,nli", "--steps", "20", "--eval-every", "10", "--eval-rows", "31", "--dropout", "0"]
    for count in (1, 2):
        options = ("--batch-size", 8 // count, "--out", tmp_path / str(count))
        done = run_ranks(count, "-m", "multitask", *words, *options)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("an average step moves along") == 1, "only the main process speaks"
    a, b = (read_rows(tmp_path / str(count) / "rows.jsonl") for count in (1, 2))
    for name in ("loss", "loss/nli", "topic/eval_loss", "nli/accuracy"):
        assert [r[name] for r in a if name in r] == pytest.approx([r[name] for r in b if name in r], abs=1e-5)
    results = [read_result(tmp_path / str(count)) for count in (1, 2)]
    assert results[0]["file_bytes"] == results[1]["file_bytes"] > 0
