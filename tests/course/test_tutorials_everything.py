"""`python -m tutorials everything`, which is `make demo` too: every way trains, is timed and reported."""

import json
import statistics

import pytest

from tutorials import everything, everything_command
from tutorials.everything import WAYS, Measured, measure, share


@pytest.mark.long
def test_the_command_measures_times_and_tells_every_way(tmp_path, monkeypatch, capsys):
    short = {"steps": 2, "eval_every": 2, "eval_rows": 40, "trackers": ""}
    monkeypatch.setattr(everything, "_settings", lambda task, seed: short | {"seed": seed})
    monkeypatch.setitem(WAYS["distilled"], "transfer_rows", 20)
    monkeypatch.setattr(everything_command, "ROUNDS", 5)
    assert everything_command.everything(["sentiment"], 1, tmp_path) == 0
    remaining = json.loads((tmp_path / "results.json").read_text())
    result = [Measured(**run) for run in remaining["runs"]]
    assert [m.way for m in result] == list(WAYS)
    assert all(len(remaining["step_seconds"]["sentiment"][way]) == 5 for way in WAYS if way != "untouched")
    assert "sentiment, seed 0: fusion:" in capsys.readouterr().out
    by_way = {m.way: m for m in result}
    assert by_way["untouched"].trained == 0 < by_way["head alone"].trained < by_way["prompt"].trained < by_way["full"].trained
    assert by_way["QLoRA"].trained == by_way["LoRA"].trained < by_way["DoRA"].trained < by_way["rsLoRA r=32"].trained
    assert by_way["head alone"].saved_bytes < by_way["bottleneck"].saved_bytes < by_way["full"].saved_bytes
    assert by_way["distilled"].file_bytes < by_way["full"].file_bytes
    page = (tmp_path / "report.md").read_text()
    assert all(f"\n| {way} |" in page for way in WAYS) and (tmp_path / "everything.png").stat().st_size > 10_000


def test_the_share_is_of_the_way_from_untouched_to_possible_seed_by_seed():
    rows = [("untouched", 0, 0.5, 0.9), ("LoRA", 0, 0.7, 0.9), ("untouched", 1, 0.6, 1.0), ("LoRA", 1, 0.6, 1.0)]
    result = [Measured("t", way, seed, metric, ceiling, 1, 1, 1) for way, seed, metric, ceiling in rows]
    assert share(result, "LoRA") == pytest.approx([0.5, 0.0]) and statistics.mean(share(result, "untouched")) == 0


def test_unknown_ways_and_tasks_without_a_ceiling_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected some of untouched"):
        measure("sentiment", ["lora"], 1, tmp_path)
