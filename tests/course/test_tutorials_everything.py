"""`python -m tutorials everything`, which is `make demo` too: every method trains, is timed and reported."""

import json
import statistics

import pytest

from tutorials import everything, everything_command
from tutorials.everything import METHODS, Measured, measure, normalized_scores


@pytest.mark.long
def test_the_command_measures_and_reports_every_method(tmp_path, monkeypatch, capsys):
    short = {"steps": 2, "eval_every": 2, "eval_rows": 40, "trackers": ""}
    monkeypatch.setattr(everything, "_settings", lambda task, seed: short | {"seed": seed})
    monkeypatch.setitem(METHODS["distilled"], "transfer_rows", 20)
    monkeypatch.setattr(everything_command, "ROUNDS", 5)
    assert everything_command.everything(["sentiment"], 1, tmp_path) == 0
    remaining = json.loads((tmp_path / "results.json").read_text())
    result = [Measured(**run) for run in remaining["runs"]]
    assert [m.method for m in result] == list(METHODS)
    assert all(len(remaining["step_seconds"]["sentiment"][method]) == 5 for method in METHODS if method != "untouched")
    assert "sentiment, seed 0: fusion:" in capsys.readouterr().out
    by_method = {m.method: m for m in result}
    assert (
        by_method["untouched"].trained
        == 0
        < by_method["head alone"].trained
        < by_method["prompt"].trained
        < by_method["full"].trained
    )
    assert by_method["QLoRA"].trained == by_method["LoRA"].trained < by_method["DoRA"].trained < by_method["rsLoRA r=32"].trained
    assert by_method["head alone"].saved_bytes < by_method["bottleneck"].saved_bytes < by_method["full"].saved_bytes
    assert by_method["distilled"].file_bytes < by_method["full"].file_bytes
    page = (tmp_path / "report.md").read_text()
    assert all(f"\n| {method} |" in page for method in METHODS) and (tmp_path / "everything.png").stat().st_size > 10_000


def test_the_normalized_score_is_0_for_untouched_and_1_for_the_ceiling_of_the_same_seed():
    rows = [("untouched", 0, 0.5, 0.9), ("LoRA", 0, 0.7, 0.9), ("untouched", 1, 0.6, 1.0), ("LoRA", 1, 0.6, 1.0)]
    result = [Measured("t", method, seed, metric, ceiling, 1, 1, 1) for method, seed, metric, ceiling in rows]
    assert (
        normalized_scores(result, "LoRA") == pytest.approx([0.5, 0.0])
        and statistics.mean(normalized_scores(result, "untouched")) == 0
    )


def test_unknown_methods_and_tasks_without_a_ceiling_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected some of untouched"):
        measure("sentiment", ["lora"], 1, tmp_path)
