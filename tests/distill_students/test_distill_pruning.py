"""Pruning: zeros that stay zeros, units whose removal changes no output, scores against finite differences, real bytes."""

import copy
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import bert, ids, llama
from torch import nn
from torch.nn.functional import cross_entropy
from transformers.pytorch_utils import Conv1D

from distill.compression.fake_quant import fake_quantize
from distill.compression.int8 import quantize_int8
from distill.compression.magnitude import CubicSchedule, MagnitudePruner
from distill.compression.sparse_size import pack, stored_bytes, unpack
from distill.compression.structured import shrink
from training.loop.checkpoint import load_checkpoint, save_checkpoint
from training.loop.processes import make_accelerator

KINDS = ("bert", "roberta", "distilbert", "gpt2", "llama")


def loss_sum(model, batch):
    """A loss of its own for each text, summed."""
    x, labels = batch
    out = model(x).logits
    out = out if out.ndim == 2 else out.mean(1)
    return cross_entropy(out, labels, reduction="sum")


def batches(count: int = 2, size: int = 3):
    generator = torch.Generator().manual_seed(4)
    return [(ids(seed, size), torch.randint(0, 3, (size,), generator=generator)) for seed in range(count)]


@torch.no_grad()
def logits(model):
    return model(ids()).logits


def train(model, optimizer, steps: int, after=lambda step: None, first: int = 1):
    for step in range(first, first + steps):
        loss_sum(model, batches()[step % 2]).backward()
        optimizer.step()
        optimizer.zero_grad()
        after(step)


# ---------------------------------------------------------------- magnitude


def test_the_schedule_is_the_papers_formula():
    schedule = CubicSchedule(final=0.8, start=10, end=110, every=20, initial=0.1)
    assert schedule.share(9) == 0 and schedule.share(10) == pytest.approx(0.1)
    assert schedule.share(60) == schedule.share(50) == pytest.approx(0.8 - 0.7 * 0.6**3)
    assert schedule.share(110) == schedule.share(10**6) == 0.8
    shares = [schedule.share(step) for step in range(120)]
    assert shares == sorted(shares)
    for wrong in (
        {"final": 1.0},
        {"final": 0.2, "initial": 0.3},
        {"final": 0.5, "start": 5, "end": 5},
        {"final": 0.5, "every": 0},
    ):
        with pytest.raises(ValueError, match="expected"):
            CubicSchedule(**wrong)


@given(seed=st.integers(0, 10**6), final=st.floats(0.05, 0.95))
def test_the_smallest_go_and_exactly_so_many(seed, final):
    torch.manual_seed(seed)
    model = nn.ModuleList([nn.Linear(9, 11), Conv1D(7, 5)])
    before = [layer.weight.detach().clone() for layer in model]
    MagnitudePruner(model, CubicSchedule(final, end=1)).step(1)
    for layer, old in zip(model, before, strict=True):
        zero = layer.weight == 0
        assert int(zero.sum()) == round(final * old.numel())
        assert torch.equal(layer.weight.detach()[~zero], old[~zero])
        assert not zero.any() or zero.all() or old[zero].abs().max() <= old[~zero].abs().min()


def test_living_zeros_do_not_wake_masked_weights():
    """A weight may be 0 by chance: as small as a masked one, and yet the masked ones come first."""
    layer = nn.Linear(40, 40)
    layer.weight.data[torch.rand(40, 40, generator=torch.Generator().manual_seed(0)) < 0.8] = 0
    pruner = MagnitudePruner(nn.ModuleList([layer]), CubicSchedule(0.6, end=9))
    old = pruner.masks["0"]
    for step in range(1, 10):
        pruner.step(step)
        assert (pruner.masks["0"] <= old).all()
        old = pruner.masks["0"]
    assert pruner.sparsity == 0.6


@pytest.mark.parametrize("kind", ["adamw", "momentum"])
def test_zeros_stay_through_momentum_and_masks_only_grow(kind):
    model = bert()
    optimizer = (
        torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
        if kind == "adamw"
        else torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    )
    pruner = MagnitudePruner(model, CubicSchedule(0.7, start=2, end=8, every=2))
    masks, shares = [], []

    def after(step):
        shares.append(pruner.step(step))
        masks.append({path: mask.clone() for path, mask in pruner.masks.items()})
        for path, mask in pruner.masks.items():
            assert not model.get_submodule(path).weight[~mask].any()

    train(model, optimizer, 12, after)
    for old, new in itertools.pairwise(masks):
        assert all((new[path] <= old[path]).all() for path in old)
    numbers = sum(mask.numel() for mask in pruner.masks.values())
    assert shares[0] == 0 and shares[-1] == pytest.approx(0.7, abs=len(pruner.masks) / numbers)
    assert not any(path.startswith("classifier") for path in pruner.masks)


def test_masked_weights_have_no_part_in_the_gradient_norm():
    model = bert()
    pruner = MagnitudePruner(model, CubicSchedule(0.5, end=1))
    pruner.step(1)
    loss_sum(model, batches()[0]).backward()
    for path, mask in pruner.masks.items():
        grad = model.get_submodule(path).weight.grad
        assert not grad[~mask].any() and grad[mask].any()
    pruner.remove()
    model.zero_grad()
    loss_sum(model, batches()[0]).backward()
    assert any(model.get_submodule(path).weight.grad[~mask].any() for path, mask in pruner.masks.items())
    with pytest.raises(ValueError, match="has been removed"):
        pruner.step(2)


def test_before_its_start_the_pruner_changes_no_bit():
    plain, pruned = bert(), bert()
    pruner = MagnitudePruner(pruned, CubicSchedule(0.5, start=50, end=60))
    for model, after in ((plain, lambda step: None), (pruned, pruner.step)):
        train(model, torch.optim.AdamW(model.parameters(), lr=1e-2), 3, after)
    for one, other in zip(plain.parameters(), pruned.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    def parts(model):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        return optimizer, MagnitudePruner(model, CubicSchedule(0.6, end=8))

    whole = bert()
    optimizer, pruner = parts(whole)
    train(whole, optimizer, 4, pruner.step)
    accelerator = make_accelerator()
    save_checkpoint(tmp_path / "c", {"pruner": pruner, "optimizer": optimizer}, accelerator)
    other = copy.deepcopy(whole)
    train(whole, optimizer, 6, pruner.step, first=5)
    optimizer, pruner = parts(other)
    load_checkpoint(tmp_path / "c", {"pruner": pruner, "optimizer": optimizer}, accelerator)
    train(other, optimizer, 6, pruner.step, first=5)
    for one, two in zip(whole.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    with pytest.raises(ValueError, match="do not fit"):
        MagnitudePruner(llama(), CubicSchedule(0.5)).load_state_dict(pruner.state_dict())


def test_zeros_survive_int8_and_its_training():
    model = bert()
    fake_quantize(model)
    pruner = MagnitudePruner(model, CubicSchedule(0.5, end=2))
    train(model, torch.optim.AdamW(model.parameters(), lr=1e-2), 3, pruner.step)
    quantize_int8(model)
    for path, mask in pruner.masks.items():
        assert not model.get_submodule(path).weight[~mask].any()


def test_a_cut_under_the_masks_is_noticed():
    model = bert()
    pruner = MagnitudePruner(model, CubicSchedule(0.5, end=1))
    shrink(model, {"bert.encoder.layer.0.intermediate": [0, 1]})
    with pytest.raises(ValueError, match="changed its shape"):
        pruner.step(1)


@given(
    seed=st.integers(0, 10**6),
    share=st.floats(0, 1),
    shape=st.lists(st.integers(0, 9), min_size=0, max_size=3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.int8]),
)
def test_bitmap_and_values_are_the_tensor(seed, share, shape, dtype):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=generator) * 50).to(dtype)
    x = x * (torch.rand(shape, generator=generator) > share).to(dtype)
    content = pack(x)
    assert len(content) == (x.numel() + 7) // 8 + int((x != 0).sum()) * x.element_size()
    assert torch.equal(unpack(content, tuple(shape), dtype), x)
    with pytest.raises(ValueError, match="damaged"):
        unpack(content + b"\0", tuple(shape), dtype)


def test_zeros_save_no_dense_byte():
    model = bert()
    before = stored_bytes(model)
    assert before.dense == sum(p.nbytes for p in model.parameters())
    pruner = MagnitudePruner(model, CubicSchedule(0.75, end=1))
    pruner.step(1)
    after = stored_bytes(model)
    numbers = sum(mask.numel() for mask in pruner.masks.values())
    masked = sum(int((~mask).sum()) for mask in pruner.masks.values())
    assert after.dense == before.dense
    already = before.dense - before.bitmap  # zeros that an untrained model has: its biases
    bits = sum((mask.numel() + 7) // 8 for mask in pruner.masks.values())
    assert after.dense - after.bitmap == already + 4 * masked - bits and masked == pytest.approx(0.75 * numbers, abs=13)
    assert after.gzip < 0.6 * before.gzip and after.zeros > before.zeros
    with pytest.raises(ValueError, match="no tensors"):
        stored_bytes(nn.Identity())
