"""Structured pruning: heads and units cut out change no output that they had no part in; scores against finite differences."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import FAMILIES, bert, ids
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from distill.compression.compressed_files import CompressedFileError, load_compressed, save_compressed
from distill.compression.int8 import quantize_int8
from distill.compression.sites import Part, find_sites, widths
from distill.compression.structured import StructuredPruner, choose, importance, shrink
from distill_students.test_distill_pruning import KINDS, batches, logits, loss_sum, train
from loralib.layers.heads import replace_module


def columns(model, site, unit):
    """A view of what `out` reads of a unit, (width, d_out)."""
    layer = model.get_submodule(site.out.path)
    index = slice(unit * site.out.width, (unit + 1) * site.out.width)
    return layer.weight[index] if isinstance(layer, Conv1D) else layer.weight[:, index].T


def randomised(kind):
    """A float64 model whose biases are no zeros, so that a bias that is cut wrongly shows."""
    model = FAMILIES[kind]().double()
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    for path, module in list(model.named_modules()):
        if type(module).__name__ == "LlamaRMSNorm":  # it rounds to float32 on its way
            norm = nn.RMSNorm(24, module.variance_epsilon, dtype=torch.float64)
            norm.weight = module.weight
            replace_module(model, path, norm)
    return model


@pytest.mark.parametrize("part", ["heads", "ffn"])
@pytest.mark.parametrize("kind", KINDS)
def test_cutting_what_nobody_reads_changes_nothing(kind, part):
    """Only the order of sums changes: < 100 terms, < 100 operations deep, of size < 100: 1e6 · 2⁻⁵³ ≈ 1e-10."""
    model = randomised(kind)
    remaining = {}
    for n, site in enumerate(find_sites(model, part)):
        remaining[site.path] = [u for u in range(site.units) if u % 3 != n % 2][: site.units - 1]
        for unit in set(range(site.units)) - set(remaining[site.path]):
            columns(model, site, unit).data.zero_()
    wanted, before = logits(model), sum(p.numel() for p in model.parameters())
    wrong = copy.deepcopy(model)
    shrink(model, remaining)
    torch.testing.assert_close(logits(model), wanted, atol=1e-10, rtol=0)
    removed = 0
    for site in find_sites(model, part):
        assert site.units == len(remaining[site.path])
        for p in (*site.ins, site.out):
            layer = model.get_submodule(p.path)
            sizes = (layer.nf, layer.nx) if isinstance(layer, Conv1D) else (layer.out_features, layer.in_features)
            assert sizes == (layer.weight.T.shape if isinstance(layer, Conv1D) else layer.weight.shape)
    for site in find_sites(wrong, part):
        gone = site.units - len(remaining[site.path])
        for p in site.ins:
            layer = wrong.get_submodule(p.path)
            d_in = layer.weight.shape[0] if isinstance(layer, Conv1D) else layer.weight.shape[1]
            removed += gone * p.width * p.sections * (d_in + (layer.bias is not None))
        removed += gone * columns(wrong, site, 0).numel()
    assert before - sum(p.numel() for p in model.parameters()) == removed
    others = {
        path: [(u + 1) % site.units for u in units]
        for (path, units), site in zip(remaining.items(), find_sites(wrong, part), strict=True)
    }
    shrink(wrong, {path: sorted(units) for path, units in others.items()})
    assert not torch.allclose(logits(wrong), wanted, atol=1e-4), "other units are read"


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_cut_decoder_generates_with_its_cache(kind):
    """Layers with unlike numbers of heads; with and without the cache of keys the words are the same."""
    model = randomised(kind)
    first, second, *_ = find_sites(model, "heads")
    shrink(model, {first.path: [1], second.path: [0]} if kind == "llama" else {first.path: [1, 3], second.path: [0, 1, 2]})
    texts = [model.generate(ids(), max_new_tokens=6, do_sample=False, use_cache=cache, pad_token_id=0) for cache in (True, False)]
    assert torch.equal(*texts)


@pytest.mark.parametrize("part", ["heads", "ffn"])
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_importance_is_the_slope_of_each_texts_loss(kind, part):
    """Central differences: the columns that read a unit, times 1 ± h, one text at a time. Their error is h² ~ 1e-8."""
    model, data, h = randomised(kind), batches(), 1e-4
    scores = importance(model, find_sites(model, part), data, loss_sum)
    for site in find_sites(model, part):
        for unit in (0, site.units - 1):
            visited = columns(model, site, unit).data
            plain, slopes = visited.clone(), []
            for x, labels in data:
                for n in range(len(x)):
                    losses = []
                    for factor in (1 + h, 1 - h):
                        visited.copy_(plain * factor)
                        with torch.no_grad():
                            losses.append(float(loss_sum(model, (x[n : n + 1], labels[n : n + 1]))))
                    slopes.append(abs(losses[0] - losses[1]) / (2 * h))
            visited.copy_(plain)
            assert float(scores[site.path][unit]) == pytest.approx(np.mean(slopes), rel=1e-5, abs=1e-8)


def test_importance_leaves_no_trace_and_knows_no_batches():
    model = bert().train()
    model.bert.pooler.eval()
    model.requires_grad_(False)
    sites = find_sites(model, "heads")
    together = importance(model, sites, batches(1, 6), loss_sum)
    [(x, y)] = batches(1, 6)
    apart = importance(model, sites, iter([(x[:4], y[:4]), (x[4:], y[4:])]), loss_sum)
    for path, score in together.items():
        torch.testing.assert_close(apart[path], score, rtol=1e-4, atol=1e-9)  # float32 slopes
    assert model.training and not model.bert.pooler.training and all(p.grad is None for p in model.parameters())
    assert not any(m._forward_pre_hooks for m in model.modules())
    with pytest.raises(ValueError, match="no batch came"):
        importance(model, sites, [], loss_sum)
    with pytest.raises(ValueError, match="does not reach"):
        importance(model, sites, batches(), lambda model, batch: model.classifier.weight.clone().requires_grad_().sum())
    with pytest.raises(ValueError, match="runs twice"):
        importance(model, sites, batches(), lambda model, batch: loss_sum(model, batch) + loss_sum(model, batch))


def test_the_best_units_of_all_layers_are_kept():
    scores = {"a": torch.tensor([3.0, 4.0, 0.0]), "b": torch.tensor([0.0, 0.06, 0.08])}  # lengths 5 and 0.1
    assert choose(scores, 2) == {"a": [1], "b": [2]}
    assert choose(scores, 4) == {"a": [0, 1], "b": [1, 2]}
    assert choose({**scores, "b": torch.tensor([0.0, 0.0, 9.0])}, 3) == {"a": [0, 1], "b": [2]}
    assert choose({"a": torch.zeros(3), "b": torch.zeros(2)}, 3) == {"a": [0, 1], "b": [0]}
    assert choose(scores, 6, minimum=3) == {"a": [0, 1, 2], "b": [0, 1, 2]}
    for keep, minimum in ((1, 1), (7, 1), (3, 2), (3, 0)):
        with pytest.raises(ValueError, match="expected"):
            choose(scores, keep, minimum)


@given(width=st.integers(1, 4), sections=st.integers(1, 3), units=st.integers(1, 6), data=st.data())
def test_the_rows_of_units(width, sections, units, data):
    """As a table (sections, units, width) of the row numbers, of which some units are taken."""
    remaining = sorted(data.draw(st.sets(st.integers(0, units - 1), min_size=1)))
    table = np.arange(sections * units * width).reshape(sections, units, width)
    assert Part("x", width, sections).index(remaining, units).tolist() == table[:, remaining].ravel().tolist()


@pytest.mark.parametrize("part", ["heads", "ffn"])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_training_goes_on_with_the_moments_of_what_is_left(kind, part):
    """Cut units that nothing reads and that get no gradient: the other weights move as if nothing had been cut."""
    whole = randomised(kind)
    remaining = {site.path: list(range(1, site.units)) for site in find_sites(whole, part)}
    sites = find_sites(whole, part)
    frozen = lambda model: [columns(model, site, 0) for site in sites]  # noqa: E731

    def close(model):
        for view in frozen(model):
            view.data.zero_()

    close(whole)
    optimizers = [torch.optim.AdamW(whole.parameters(), lr=1e-3, weight_decay=0.1)]
    train(whole, optimizers[0], 3, lambda step: close(whole))
    cut = copy.deepcopy(whole)
    optimizers.append(torch.optim.AdamW(cut.parameters(), lr=1e-3, weight_decay=0.1))
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    shrink(cut, remaining, optimizers[1])
    train(whole, optimizers[0], 2, lambda step: close(whole), first=4)
    train(cut, optimizers[1], 2, first=4)
    assert {id(p) for p in cut.parameters()} == {id(p) for p in optimizers[1].param_groups[0]["params"]}
    shrink(whole, remaining)
    for (name, one), other in zip(whole.named_parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=0, msg=name)  # Adam: 1e-3 · (1e-10 of the sums' order)


def test_forgetting_the_optimizer_is_loud():
    model = bert()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train(model, optimizer, 1)
    shrink(model, {"bert.encoder.layer.0.intermediate": [0, 1, 2]})
    with pytest.raises(RuntimeError, match="size"):
        train(model, optimizer, 1)
    other = bert()
    optimizer = torch.optim.SGD(other.parameters(), lr=1e-3, momentum=0.9)
    train(other, optimizer, 1)
    optimizer.state[other.bert.encoder.layer[0].intermediate.dense.weight]["momentum_buffer"] = torch.zeros(7)
    with pytest.raises(ValueError, match="cannot be cut"):
        shrink(other, {"bert.encoder.layer.0.intermediate": [0, 1, 2]}, optimizer)
    assert widths(other) == widths(bert()), "nothing was changed"


def test_rounds_reach_the_goal_and_a_new_process_goes_on():
    model = bert()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    pruner, left = StructuredPruner(model, "ffn", keep=30, rounds=3), []
    while not pruner.finished:
        train(model, optimizer, 1)
        pruner.step(batches(), loss_sum, optimizer)
        left.append(sum(site.units for site in find_sites(model, "ffn")))
        if pruner.round == 2:
            state, weights, moments = copy.deepcopy((pruner.state_dict(), model.state_dict(), optimizer.state_dict()))
    assert left == [63, 47, 30]
    with pytest.raises(ValueError, match="all 3 rounds are done"):
        pruner.step(batches(), loss_sum)
    other = bert(seed=5)
    again = StructuredPruner(other, "ffn", keep=30, rounds=3)
    again.load_state_dict(state)
    other.load_state_dict(weights)
    optimizer = torch.optim.AdamW(other.parameters(), lr=1e-3)
    optimizer.load_state_dict(moments)
    train(other, optimizer, 1)
    again.step(batches(), loss_sum, optimizer)
    assert again.finished and torch.equal(logits(other), logits(model))
    for keep, rounds in ((80, 1), (1, 1), (30, 0)):
        with pytest.raises(ValueError, match="expected fewer"):
            StructuredPruner(bert(), "ffn", keep=keep, rounds=rounds)


def test_pruning_takes_what_matters_least():
    """Units that were made silent score zero, and are the first to go."""
    model = bert()
    for site in find_sites(model, "ffn"):
        for unit in range(0, site.units, 2):
            columns(model, site, unit).data.zero_()
    wanted = logits(model)
    remaining = StructuredPruner(model, "ffn", keep=40).step(batches(), loss_sum)
    assert all(units == list(range(1, 40, 2)) for units in remaining.values())
    torch.testing.assert_close(logits(model), wanted, atol=1e-5, rtol=0)  # float32, sums of 40 in another order


@pytest.mark.parametrize("in_int8", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_model_comes_back_from_disk_with_the_same_bits(kind, in_int8, tmp_path):
    model = FAMILIES[kind]()
    whole = save_compressed(model, tmp_path)
    for part, keep in (("heads", len(find_sites(model, "heads")) + 1), ("ffn", 50)):
        StructuredPruner(model, part, keep).step([(ids(), torch.tensor([0, 1, 2]))], loss_sum)
    numbers = sum(p.numel() for p in model.parameters())
    if in_int8:
        quantize_int8(model)
    nbytes = save_compressed(model, tmp_path)
    other = FAMILIES[kind](seed=3)
    load_compressed(other, tmp_path)
    assert torch.equal(logits(other), logits(model)) and widths(other) == widths(model)
    assert nbytes < whole - 4 * (sum(p.numel() for p in FAMILIES[kind]().parameters()) - numbers) + 200
    with pytest.raises(CompressedFileError, match=r"in the model, .* in the file"):
        save_compressed(FAMILIES[kind](), tmp_path)
        load_compressed(other, tmp_path)


def test_the_work_falls_by_what_was_cut():
    """Two operations for each weight and token: counted by torch, on the real layers."""
    model, x = bert(), ids()

    def operations():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(x)
        return counter.get_total_flops()

    before = operations()
    shrink(model, {"bert.encoder.layer.0.intermediate": list(range(8)), "bert.encoder.layer.1.attention.self": [2]})
    heads, T = 3, x.shape[1]
    linear = 2 * x.numel() * (2 * 24 * (40 - 8) + 4 * 24 * 6 * heads)
    attention = 2 * len(x) * heads * 2 * T * T * 6
    assert before - operations() in (linear + attention, linear), "torch may leave fused attention on a CPU uncounted"
