"""Transfer by training every pair: what a cell is, where the target starts, what is refused, and that it goes on."""

import pytest
import torch
from command import run_module
from safetensors.torch import load_file

from multitask.model.files import load_multitask
from multitask.runs.run import TRAINED, build_model
from multitask.runs.settings import MultitaskSettings
from multitask.studies.transfer import BACKBONE, Transfer, measure_transfer
from training.runs.run_folder import read_result

QUICK = {"tasks": "topic,nli", "steps": 6, "eval_every": 3, "eval_rows": 40, "train_rows": "24", "batch_size": 6}


def test_gains_are_relative_means_over_seeds_and_the_verdict_is_against_the_diagonal():
    result = Transfer(
        {"topic": [0.5, 0.4], "nli": [0.5, 0.5]},
        {
            ("topic", "topic"): [0.5, 0.5],
            ("nli", "topic"): [0.6, 0.62],
            ("topic", "nli"): [0.4, 0.41],
            ("nli", "nli"): [0.5, 0.5],
        },
    )
    assert result.gains()["nli", "topic"] == pytest.approx((0.2 + 0.55) / 2)
    assert result.gains()["topic", "nli"] == pytest.approx(-0.19)
    assert result.verdict("nli", "topic") == "helps" and result.verdict("topic", "nli") == "hurts"
    assert result.verdict("topic", "topic") == ""
    one = Transfer({"topic": [0.5]}, {("topic", "topic"): [0.5], ("nli", "topic"): [0.9]})
    assert one.verdict("nli", "topic") == ""  # one seed decides nothing


def test_the_target_starts_from_the_sources_backbone_with_a_new_head_and_a_stopped_study_goes_on(tmp_path):
    records: list[str] = []
    first = measure_transfer(MultitaskSettings(**QUICK), 1, tmp_path, records.append)
    assert [line.split(":")[0] for line in records[:2]] == ["seed-0/topic", "seed-0/nli"] and len(records) == 2 + 4
    source, _, _ = load_multitask(tmp_path / "seed-0" / "topic" / TRAINED)
    start, _, _ = build_model(MultitaskSettings(**QUICK | {"tasks": "nli"}, model=str(tmp_path / "seed-0" / "topic" / BACKBONE)))
    other = dict(source.backbone.named_parameters())
    assert all(torch.equal(p, other[name]) for name, p in start.backbone.named_parameters())
    for (a, b), scores in first.after.items():
        assert scores == [read_result(tmp_path / "seed-0" / f"{a}-{b}")["tasks"][b]["metric"]]
    before = (tmp_path / "seed-0" / "topic-nli" / "rows.jsonl").stat().st_mtime_ns
    assert measure_transfer(MultitaskSettings(**QUICK), 1, tmp_path, records.append) == first
    assert (tmp_path / "seed-0" / "topic-nli" / "rows.jsonl").stat().st_mtime_ns == before


def test_restart_starts_targets_from_the_new_backbone(tmp_path):
    def backbone():
        return load_file(tmp_path / "seed-0" / "topic" / BACKBONE / "model.safetensors")

    settings = MultitaskSettings(**QUICK | {"steps": 2})
    measure_transfer(settings, 1, tmp_path, lambda text: None)
    before = backbone()
    faster = MultitaskSettings(**QUICK | {"steps": 2}, learning_rate=0.01, restart=True)
    measure_transfer(faster, 1, tmp_path, lambda text: None)
    after, source = backbone(), load_multitask(tmp_path / "seed-0" / "topic" / TRAINED)[0].backbone.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(after[name], source[name]) for name in after)


@pytest.mark.long
def test_the_command_writes_a_page_and_refuses_what_cannot_be(tmp_path):
    words = ["--tasks", "topic,nli", "--steps", "4", "--eval-rows", "40", "--seeds", "1", "--out", str(tmp_path / "t")]
    done = run_module("multitask", "transfer", *words)
    assert done.returncode == 0, done.stderr
    assert "| after topic |" in (tmp_path / "t" / "report.md").read_text() and (tmp_path / "t" / "transfer.png").exists()
    for wrong, records in (
        (["--tasks", "topic"], "at least two"),
        (["--task-adapters", "lora"], "task_adapters and members freeze"),
    ):
        done = run_module("multitask", "transfer", *wrong)
        assert done.returncode != 0 and records in done.stderr and "Traceback" not in done.stderr
