"""Adapters made into one: exact sums, best approximations, the papers' rules, and the identity that every method must keep."""

import math

import pytest
import tiny
import torch
from torch import nn

import loralib as lora
from loralib.combining import merging
from loralib.combining.combine import PRUNING
from loralib.layers.lora_layer import lora_layers

METHODS = ("cat", "svd", "linear", *PRUNING)


def options(method, density=1.0):
    result = {} if method not in PRUNING else {"density": density}
    return result | ({"seed": 0} if method.startswith("dare") else {})


def model_with(configs, make=tiny.llama):
    """Several random adapters, `a`, `b`, ..., in one model."""
    model = make()
    names = [chr(ord("a") + i) for i in range(len(configs))]
    for i, (name, config) in enumerate(zip(names, configs, strict=True)):
        settings = {"r": 4, "target_modules": ["q_proj", "up_proj"], "modules_to_save": [], **config}
        lora.add_adapter(model, lora.LoraConfig(init_lora_weights=False, **settings), name, seed=i)
    return model, names


def delta(model, name):
    """{path: update} in float64."""
    return {path: layer.delta_weight(name).double() for path, layer in lora_layers(model).items() if name in layer.variants}


MIXED = [{"r": 4, "lora_alpha": 6}, {"r": 4, "lora_alpha": 3, "use_rslora": True}, {"r": 7, "rank_pattern": {"up_proj": 2}}]


@pytest.mark.parametrize(("method", "tolerance"), [("cat", 1e-6), ("svd", 1e-5)])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, -2.0, 0.25), (1.0, 0.0, -1.0)])
def test_pt14_pt15_cat_and_full_svd_are_the_weighted_sum(method, tolerance, weights):
    model, names = model_with(MIXED)
    report = lora.combine_adapters(model, names, list(weights), "new", method)
    parts = [delta(model, n) for n in names]
    for path, result in delta(model, "new").items():
        wanted = sum(w * part[path] for w, part in zip(weights, parts, strict=True))
        assert (result - wanted).abs().max() <= tolerance * max(1.0, float(wanted.abs().max())), path
    assert report.error < 1e-5 and report.rank == 15
    assert all(layer.variants["new"].scaling == 1 for layer in lora_layers(model).values())


@pytest.mark.parametrize("k", [1, 3, 6])
def test_pt15_truncated_svd_is_the_best_of_its_rank(k):
    model, names = model_with([{}, {}])
    report = lora.combine_adapters(model, names, [1.0, 0.5], "new", "svd", rank=k)
    parts, squared, total = [delta(model, n) for n in names], 0.0, 0.0
    for path, result in delta(model, "new").items():
        aim = parts[0][path] + 0.5 * parts[1][path]
        S = torch.linalg.svdvals(aim)
        torch.testing.assert_close((result - aim).norm(), S[k:].norm(), atol=1e-5, rtol=1e-5)
        squared, total = squared + float((result - aim).square().sum()), total + float(aim.square().sum())
    assert math.isclose(report.error, math.sqrt(squared / total), rel_tol=1e-4)


def test_pt16_the_rules_are_pefts_tensor_by_tensor():
    peft = pytest.importorskip("peft.utils.merge_utils")
    torch.manual_seed(0)
    tensors, weights = [torch.randn(9, 7) for _ in range(3)], [0.5, -1.0, 2.0]
    w = torch.tensor(weights)
    close = lambda a, b: torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)  # noqa: E731
    close(merging.weighted_sum(tensors, weights), peft.task_arithmetic(tensors, w))
    close(merging.ties(tensors, weights, 0.4), peft.ties(tensors, w, 0.4))
    close(merging.magnitude_prune(tensors, weights, 0.4), peft.magnitude_prune(tensors, w, 0.4))
    for ours, other in ((merging.dare_linear, peft.dare_linear), (merging.dare_ties, peft.dare_ties)):
        torch.manual_seed(3)
        wanted = other(tensors, w, 0.5)
        close(ours(tensors, weights, 0.5, torch.Generator().manual_seed(3)), wanted)


def test_pt16_linear_is_pefts_with_its_cross_terms_measured():
    peft = pytest.importorskip("peft")
    model, names = model_with([{"target_modules": ["q_proj"]}] * 2)
    others = peft.get_peft_model(tiny.llama(), peft.LoraConfig(r=4, target_modules=["q_proj"]), "a")
    others.add_adapter("b", peft.LoraConfig(r=4, target_modules=["q_proj"]))
    for path, layer in lora_layers(model).items():
        other = others.base_model.model.get_submodule(path)
        for name in names:
            other.lora_A[name].weight.data = layer.lora_A[name].data.clone()
            other.lora_B[name].weight.data = layer.lora_B[name].data.clone()
    others.add_weighted_adapter(names, [0.7, -0.4], "new", combination_type="linear")
    report = lora.combine_adapters(model, names, [0.7, -0.4], "new", "linear")
    for path, layer in lora_layers(model).items():
        result = others.base_model.model.get_submodule(path).get_delta_weight("new")
        torch.testing.assert_close(layer.delta_weight("new"), result, atol=1e-6, rtol=1e-5)
    assert 0.3 < report.error < 3  # two thirds and more of it is what nobody trained


@pytest.mark.parametrize(
    "config", [{}, {"lora_alpha": 3}, {"use_rslora": True}, {"rank_pattern": {"up_proj": 2}}, {"init_lora_weights": "pissa"}]
)
@pytest.mark.parametrize("method", METHODS)
def test_pt17_one_adapter_with_weight_one_is_itself(method, config):
    model = tiny.llama()
    lora.add_adapter(
        model, lora.LoraConfig(**{"r": 4, "target_modules": ["q_proj", "up_proj"], "init_lora_weights": False} | config), "a"
    )
    tiny.randomise_lora(model)
    lora.combine_adapters(model, ["a"], [1.0], "new", method, **options(method))
    lora.set_active(model, "a")
    alone = model(tiny.ids()).logits
    lora.set_active(model, "new")
    torch.testing.assert_close(model(tiny.ids()).logits, alone, atol=1e-5, rtol=1e-5)
    for path, wanted in delta(model, "a").items():
        torch.testing.assert_close(delta(model, "new")[path], wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [tiny.gpt2, tiny.bert], ids=lambda m: m.__name__)
def test_identity_with_conv1d_embeddings_biases_and_heads(method, make, tmp_path):
    targets = ["c_attn", "wte"] if make is tiny.gpt2 else ["query", "word_embeddings"]
    model = make()
    lora.inject(model, lora.LoraConfig(r=3, lora_alpha=5, target_modules=targets, bias="all"), "a")
    tiny.randomise_lora(model)
    for p in model.__dict__["lora_biases"].copies["a"].values():
        p.data.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    lora.combine_adapters(model, ["a"], [1.0], "new", method, **options(method))
    lora.set_active(model, "a")
    alone = model(tiny.ids()).logits
    lora.set_active(model, "new")
    torch.testing.assert_close(model(tiny.ids()).logits, alone, atol=1e-5, rtol=1e-5)
    lora.save_adapter(model, tmp_path, "new")  # and it is an adapter like any other
    again = make()
    lora.load_adapter(again, tmp_path, trainable=False)
    torch.testing.assert_close(again(tiny.ids()).logits, alone, atol=1e-5, rtol=1e-5)


def test_cat_of_convolutions_and_of_parts():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3))
    for i, name in enumerate("ab"):
        lora.add_adapter(model, lora.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False), name, seed=i)
    lora.combine_adapters(model, ["a", "b"], [2.0, -1.0], "new")
    wanted = 2 * delta(model, "a")["0"] - delta(model, "b")["0"]
    torch.testing.assert_close(delta(model, "new")["0"], wanted, atol=1e-6, rtol=1e-6)
    gpt = tiny.gpt2()
    parts = {"enable_lora": {"c_attn": [True, False, True]}}
    for i, (name, more) in enumerate((("a", parts), ("b", {}))):
        lora.add_adapter(gpt, lora.LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=False, **more), name, seed=i)
    lora.combine_adapters(gpt, ["a", "b"], [1.0, 1.0], "new")
    for path, result in delta(gpt, "new").items():
        torch.testing.assert_close(result, delta(gpt, "a")[path] + delta(gpt, "b")[path], atol=1e-6, rtol=1e-6)


def test_adapters_in_different_modules_are_united():
    model, names = model_with([{"target_modules": ["q_proj"]}, {"target_modules": ["q_proj", "v_proj"]}])
    lora.combine_adapters(model, names, [1.0, 3.0], "new")
    result = delta(model, "new")
    assert {p.rsplit(".", 1)[1] for p in result} == {"q_proj", "v_proj"}
    for path, b in delta(model, "b").items():
        torch.testing.assert_close(result[path], 3 * b + delta(model, "a").get(path, 0), atol=1e-5, rtol=1e-5)


def test_dare_is_seeded_and_pruning_prunes():
    model, names = model_with([{}, {}])
    for name, seed in (("x", 1), ("y", 1), ("z", 2)):
        lora.combine_adapters(model, names, [1.0, 1.0], name, "dare_linear", density=0.5, seed=seed)
    x, y, z = (delta(model, n) for n in "xyz")
    assert all(torch.equal(x[p], y[p]) for p in x) and not any(torch.allclose(x[p], z[p]) for p in x)
    report = lora.combine_adapters(model, names, [1.0, 1.0], "full", "ties", density=0.3, rank=24)
    assert report.error < 1e-5 < lora.combine_adapters(model, names, [1.0, 1.0], "low", "ties", density=0.3).error


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": ["a", "a"]}, "each name once"),
        ({"names": ["a", "nobody"]}, "each name once"),
        ({"weights": [1.0]}, "a weight for each"),
        ({"weights": [1.0, math.nan]}, "finite"),
        ({"method": "mean"}, "unknown"),
        ({"method": "ties"}, "density=None"),
        ({"method": "cat", "density": 0.5}, "the other methods take none"),
        ({"method": "dare_ties", "density": 0.5}, "seed=None"),
        ({"method": "svd", "seed": 1}, "seed=1"),
        ({"method": "cat", "rank": 2}, "take svd"),
        ({"names": ["a"], "weights": [1.0], "method": "ties", "density": 0.5}, "would only damage it"),
        ({"adapter_name": "a"}, "exists already"),
        ({"head_from": "a"}, "brings no head"),
    ],
)
def test_bad_input_is_told_and_changes_nothing(change, words):
    model, names = model_with([{}, {}])
    before = set(model.state_dict())
    settings = {"names": names, "weights": [1.0, 1.0], "adapter_name": "new", "method": "cat"} | change
    with pytest.raises(ValueError, match=words):
        lora.combine_adapters(model, **settings)
    assert set(model.state_dict()) == before


@pytest.mark.parametrize("config", [lora.LoraConfig(r=2, use_dora=True), lora.IA3Config()])
def test_variants_without_a_weighted_sum_raise(config):
    model = tiny.llama()
    lora.inject(model, config, "a")
    with pytest.raises(ValueError, match="a weighted sum is defined"):
        lora.combine_adapters(model, ["a"], [1.0], "new")


def test_two_heads_need_a_choice():
    model = tiny.bert()
    for name in "ab":
        lora.inject(model, lora.LoraConfig(r=2, target_modules=["query"]), name)
        tiny.randomise_lora(model, seed=ord(name))
    with pytest.raises(ValueError, match="choose head_from"):
        lora.combine_adapters(model, ["a", "b"], [1.0, 1.0], "new")
    lora.combine_adapters(model, ["a", "b"], [1.0, 1.0], "new", head_from="b")
    copies = model.classifier.copies
    assert torch.equal(copies["new"].weight, copies["b"].weight) and not torch.equal(copies["new"].weight, copies["a"].weight)
