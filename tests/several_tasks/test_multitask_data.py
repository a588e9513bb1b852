"""The data manager: what is drawn, whether every row comes, and that nothing is lost on the way."""

from collections import Counter
from types import SimpleNamespace

import multi
import pytest
import torch
from scipy.stats import chisquare

from multitask.data.data_manager import MultitaskDataManager
from multitask.data.mixed_batches import labels_of, tasks_in
from training.loop.checkpoint import load_checkpoint, save_checkpoint
from training.loop.processes import make_accelerator


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_defect_21_the_seed_and_the_step_decide():
    a, b, c = (multi.manager(seed=seed) for seed in (1, 1, 2))
    torch.manual_seed(0)
    first = [next(a)[0] for _ in range(5)]
    torch.manual_seed(99)
    assert all(same(x, next(b)[0]) for x in first)
    assert not all(same(x, next(c)[0]) for x in first)
    assert isinstance(a.sample_task(), str) and type(a.sample_task()) is str


@pytest.mark.fault
def test_defect_22_an_empty_task_is_refused_and_a_short_one_starts_again():
    rows = multi.features(count=3)
    with pytest.raises(ValueError, match="without examples"):
        MultitaskDataManager(rows | {"qa": []}, multi.TASKS, multi.TOKENIZER)
    with pytest.raises(ValueError, match="the same, in the same order"):
        MultitaskDataManager({"qa": rows["qa"]}, multi.TASKS, multi.TOKENIZER)
    with pytest.raises(ValueError, match="no pad token"):
        MultitaskDataManager(rows, multi.TASKS, SimpleNamespace(pad_token_id=None))
    manager = MultitaskDataManager(rows, multi.TASKS, multi.TOKENIZER, batch_size=7)
    before = [dict(row) for row in rows["topic"]]
    for _ in range(5):
        assert len(manager.get_batch("topic")["input_ids"]) == 7  # from three rows
    assert rows["topic"] == before
    with pytest.raises(KeyError, match="no task 'sst2'"):
        manager.get_batch("sst2")


@pytest.mark.parametrize("mixed", [True, False])
def test_defect_23_every_row_comes_once_in_a_pass(mixed):
    """Count the rows of the smallest task over the steps that hold one pass of it, in mixed batches."""
    rows = multi.features(count=30)
    for task in rows:  # a token of its own marks each row
        for i, row in enumerate(rows[task]):
            row["input_ids"] = [i + 1] * len(row["input_ids"])
    manager = MultitaskDataManager(rows, multi.TASKS, multi.TOKENIZER, 16, mixed)
    visited: dict[int, list[int]] = {k: [] for k in range(5)}
    drawn = 0
    while min(map(len, visited.values())) < 30:
        [batch] = next(manager)
        drawn += len(batch["task_ids"])
        for k in tasks_in(batch):
            visited[k] += batch["input_ids"][batch["task_ids"] == k][:, 0].tolist()
    assert sum(map(len, visited.values())) == drawn, "a row that was drawn is used"
    for k, (task, own) in enumerate(zip(rows, visited.values(), strict=True)):
        size = len(rows[task])
        for start in range(0, len(own) - size + 1, size):
            assert sorted(own[start : start + size]) == list(range(1, size + 1)), (k, task)


def test_defect_24_a_mixed_batch_has_as_many_rows_as_asked_of_all_tasks():
    manager = multi.manager(kind="equal")
    for size in (8, 1, 40):
        batch = manager.get_mixed_batch(size)
        assert len(batch["input_ids"]) == size == sum(len(next(iter(labels_of(batch, k).values()))) for k in tasks_in(batch))
    assert len(tasks_in(batch)) == 5
    shares = [float(batch[f"{k}.share"]) for k in tasks_in(batch)]
    assert sum(shares) == pytest.approx(1)


def test_defect_25_rows_of_unequal_length_are_padded_to_one_block():
    batch = multi.manager().get_mixed_batch(30)
    lengths = batch["attention_mask"].sum(1)
    assert lengths.min() < lengths.max() == batch["input_ids"].shape[1]
    tags = batch["3.labels"]
    assert tags.shape[1] == batch["input_ids"].shape[1] and (tags[:, 0] == -100).all()


@pytest.mark.parametrize(("cap", "steps"), [(None, 7), (40, 6), (1, 1)])
def test_defect_26_the_steps_of_an_epoch_follow_from_the_rows(cap, steps):
    manager = multi.manager(batch_size=37, cap=cap)  # 40 + 45 + 50 + 55 + 60 rows
    assert manager.steps_per_epoch == steps == len(list(manager.get_epoch_iterator()))
    assert multi.manager(batch_size=1000).steps_per_epoch == 1


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("kind", ["proportional", "equal", "temperature"])
def test_the_rows_that_come_pass_a_chi_square_test(kind, mixed):
    manager = multi.manager(count=4, kind=kind, temperature=3.0, batch_size=10, mixed=mixed, seed=4)
    counts: Counter = Counter()
    steps = 2000
    for _ in range(steps):
        ids = next(manager)[0]["task_ids"]
        counts.update(ids.tolist() if mixed else [int(ids[0])])
    total = sum(counts.values())
    wanted = [p * total for p in manager.sampler.probabilities().values()]
    assert chisquare([counts[k] for k in range(5)], wanted).pvalue > 1e-3


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_and_micro_batches_share_the_rows_of_one(processes):
    whole = multi.manager(batch_size=12)
    ranks = [multi.manager(batch_size=6 // processes, accumulation=2, rank=r, processes=processes) for r in range(processes)]
    for _ in range(4):
        [batch] = next(whole)
        parts = [part for rank in ranks for part in next(rank)]
        assert sum(int(part["leads"]) for part in parts) == 1 and len(parts) == 2 * processes
        rows = [
            ids[mask.bool()].tolist()
            for part in parts
            for ids, mask in zip(part["input_ids"], part["attention_mask"], strict=True)
        ]
        wanted = [ids[m.bool()].tolist() for ids, m in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
        assert sorted(rows) == sorted(wanted)
        for part in parts:
            for k in tasks_in(part):
                assert torch.equal(part[f"{k}.count"], batch[f"{k}.count"]) and torch.equal(
                    part[f"{k}.share"], batch[f"{k}.share"]
                )


@pytest.mark.fault
def test_a_manager_comes_back_from_a_checkpoint_and_refuses_other_rows(tmp_path):
    accelerator = make_accelerator()
    one, other = (multi.manager(kind="annealed", draws=20) for _ in range(2))
    for _ in range(7):
        next(one)
    save_checkpoint(tmp_path / "c", {"data": one}, accelerator)
    load_checkpoint(tmp_path / "c", {"data": other}, accelerator)
    assert all(same(next(one)[0], next(other)[0]) for _ in range(6))
    changed = MultitaskDataManager(multi.features(seed=9), multi.TASKS, multi.TOKENIZER, kind="annealed", draws=20)
    with pytest.raises(ValueError, match="have changed"):
        load_checkpoint(tmp_path / "c", {"data": changed}, accelerator)
