"""What a run reports about its cost; examples grouped by length; the fused optimizer."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training import train_model
from training.data.batching import Steps, grouped_by_length
from training.loop.costs import PARTS, Costs, costs_line

SHORT = {"steps": 4, "train_rows": 40, "eval_rows": 20, "eval_every": 4, "trackers": ""}


class Tokenizer:
    pad_token_id, padding_side = 0, "right"


def features(lengths: list[int]) -> list[dict]:
    return [{"input_ids": [i + 1] * n, "attention_mask": [1] * n, "labels": 0} for i, n in enumerate(lengths)]


def test_a_run_reports_its_parts_and_its_padding(tmp_path):
    result = train_model("sentiment", out=str(tmp_path), **SHORT)
    assert set(result.seconds_by_part) == set(PARTS) and all(seconds > 0 for seconds in result.seconds_by_part.values())
    assert sum(result.seconds_by_part.values()) >= 0.8 * result.seconds, "data is loaded outside of a step"
    assert 0 < result.padding < 0.5
    report = (tmp_path / "report.md").read_text()
    assert "time of the steps" in report and "with padding" in report and "of the trained tokens" in report


def test_costs_add_up_over_steps_and_come_back_from_a_checkpoint():
    costs = Costs(torch.device("cpu"))
    for _ in range(2):
        costs.start()
        for part in PARTS:
            costs.mark(part)
        costs.finish(30, 40)
    again = Costs(torch.device("cpu"))
    again.load_state_dict(costs.state_dict())
    assert again.padding == 0.25 and again.seconds == costs.seconds and again.real_tokens == 60
    again.finish(0, 20)
    assert again.padding == 0.4


def test_a_result_of_an_older_version_has_no_line():
    assert costs_line({}) == "" == costs_line({"seconds_by_part": dict.fromkeys(PARTS, 0.0)})
    line = costs_line({"seconds_by_part": {"forward": 1.0, "backward": 3.0}, "padding": 0.1})
    assert line == "Time of the steps: forward 25%, backward 75%. 10% of the trained tokens were padding.\n"


@given(st.lists(st.integers(1, 90), min_size=1, max_size=300), st.integers(1, 9), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_grouping_is_an_order_of_the_same_examples(lengths, per_step, seed):
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(lengths))
    grouped = grouped_by_length(order, np.array(lengths), per_step, generator)
    assert sorted(grouped) == list(range(len(lengths)))
    whole = len(lengths) // per_step * per_step
    if whole and len(lengths) <= 50 * per_step:
        steps = [sorted(lengths[i] for i in grouped[j : j + per_step]) for j in range(0, whole, per_step)]
        ranges = sorted((step[0], step[-1]) for step in steps)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ranges)), "steps do not overlap in length"
        assert max(lengths) in steps[0], "the longest text comes first"


def test_less_padding_and_the_same_stream_after_an_interruption():
    lengths = np.random.default_rng(0).integers(1, 60, 96).tolist()

    def stream(grouped: bool) -> Steps:
        return Steps(features(lengths), Tokenizer(), 8, seed=3, group_by_length=grouped)

    def padding(steps: Steps, count: int) -> float:
        batches = [next(steps)[0] for _ in range(count)]
        return float(1 - sum(b["attention_mask"].sum() for b in batches) / sum(b["attention_mask"].numel() for b in batches))

    assert padding(stream(True), 12) < 0.3 * padding(stream(False), 12)
    steps, again = stream(True), stream(True)
    for _ in range(14):
        next(steps)
    again.load_state_dict(steps.state_dict())
    assert torch.equal(next(steps)[0]["input_ids"], next(again)[0]["input_ids"])


def test_each_epoch_has_other_steps():
    steps = Steps(features(list(range(1, 65))), Tokenizer(), 8, group_by_length=True)
    first, second = ([next(steps)[0]["input_ids"][:, 0].sum().item() for _ in range(8)] for _ in range(2))
    assert first != second


def test_grouping_in_a_run_lowers_its_padding(tmp_path):
    plain, grouped = (
        train_model("topic", out=str(tmp_path / str(g)), **SHORT | {"group_by_length": g, "steps": 10, "train_rows": 160})
        for g in (False, True)
    )
    assert grouped.padding < plain.padding


def test_the_fused_optimizer_differs_by_rounding_alone(tmp_path):
    plain, fused = (
        train_model("sentiment", out=str(tmp_path / name), **SHORT | {"optimizer": name}) for name in ("adamw", "adamw_fused")
    )
    losses = [[row["loss"] for row in result.rows if "loss" in row] for result in (plain, fused)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
