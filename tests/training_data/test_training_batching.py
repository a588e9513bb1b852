"""The stream of training steps: every row once an epoch, the same rows for any number of processes, exact continuation."""

from itertools import chain
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.batching import Steps, batches, pad
from training.data.ignored import IGNORE

TOKENIZER = SimpleNamespace(pad_token_id=7)


def rows(count):
    return [{"input_ids": [i] * (1 + i % 5), "attention_mask": [1] * (1 + i % 5), "labels": 0} for i in range(count)]


def taken(window):
    """The rows of one step, by number."""
    return [int(first) for batch in window for first in batch["input_ids"][:, 0]]


def epoch(stream):
    return [taken(next(stream)) for _ in range(stream.steps_per_epoch)]


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
def test_an_epoch_has_every_row_once_and_processes_share_the_steps_of_one(count, size, accumulation, processes, seed):
    parts = [Steps(rows(count), TOKENIZER, size, seed, accumulation, rank, processes) for rank in range(processes)]
    whole = Steps(rows(count), TOKENIZER, size * processes, seed, accumulation)
    for _ in range(2):
        alone, shared = epoch(whole), [epoch(part) for part in parts]
        assert sorted(chain(*alone)) == list(range(count))
        assert [list(chain(*step)) for step in zip(*shared, strict=True)] == alone
        sizes = [[len(rank[i]) for rank in shared] for i in range(len(alone))]
        assert all(max(s) - min(s) <= 1 for s in sizes), "no process has two rows more than another"


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = Steps(rows(30), TOKENIZER, 30, seed=1), Steps(rows(30), TOKENIZER, 30, seed=2)
    orders = [tuple(taken(next(stream))) for stream in (first, first, second)]
    assert len(set(orders)) == 3
    assert orders[0] == tuple(taken(next(Steps(rows(30), TOKENIZER, 30, seed=1))))


def test_a_rank_without_rows_gets_an_empty_step():
    ranks = [Steps(rows(5), TOKENIZER, 2, rank=r, processes=2) for r in range(2)]
    assert [len(next(s)) for s in ranks] == [1, 1]
    assert sorted(len(next(s)) for s in ranks) == [0, 1]  # one row was left for two


@pytest.mark.parametrize("done", [0, 3, 4, 9])
def test_a_stream_goes_on_where_it_was(done):
    stream = Steps(rows(11), TOKENIZER, 3)
    for _ in range(done):
        next(stream)
    again = Steps(rows(11), TOKENIZER, 3)
    again.load_state_dict(stream.state_dict())
    assert [taken(next(again)) for _ in range(8)] == [taken(next(stream)) for _ in range(8)]


def test_other_rows_are_not_gone_on_with():
    changed, relabelled = rows(11), rows(11)
    changed[4]["input_ids"] = [99]
    relabelled[4]["labels"] = 1
    for other in (rows(12), changed, relabelled):
        with pytest.raises(ValueError, match="has changed since"):
            Steps(other, TOKENIZER, 3).load_state_dict(Steps(rows(11), TOKENIZER, 3).state_dict())


def test_padding():
    batch = pad([{"input_ids": [1, 2], "labels": [1, 2], "x": 1.5}, {"input_ids": [3], "labels": [3], "x": 2.5}], 7)
    assert batch["input_ids"].tolist() == [[1, 2], [3, 7]] and batch["labels"].tolist() == [[1, 2], [3, IGNORE]]
    assert batch["x"].tolist() == [1.5, 2.5]
    assert [len(b["labels"]) for b in batches(rows(5), TOKENIZER, 2)] == [2, 2, 1]
