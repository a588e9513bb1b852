"""Merging, unmerging and switching off: sums that are right and undone exactly. Oracle: float64, torch.equal."""

import pytest
import tiny
import torch
from torch import nn

import loralib as lora


def adapted(make=tiny.llama, dtype=torch.float32, **config):
    model = make(dtype=dtype)
    config = {"r": 4, "lora_alpha": 8, **config}
    lora.inject(model, lora.LoraConfig(**config))
    tiny.randomise_lora(model, scale=0.05)
    return model.eval()


@pytest.mark.parametrize("make", [tiny.gpt2, tiny.llama, tiny.bert])
def test_pt6_merged_logits_fp32(make):
    model = adapted(make)
    before = model(tiny.ids()).logits
    lora.merge(model)
    torch.testing.assert_close(model(tiny.ids()).logits, before, atol=1e-5, rtol=0)


def test_pt6_merging_in_bf16_costs_no_more_than_bf16_itself():
    torch.manual_seed(0)
    exact = nn.Sequential(nn.Linear(256, 256)).double()
    lora.inject(exact, lora.LoraConfig(r=8, target_modules=["0"], init_lora_weights=False))
    model = nn.Sequential(nn.Linear(256, 256)).bfloat16()
    model[0].load_state_dict({k: v.bfloat16() for k, v in exact[0].state_dict().items() if "lora" not in k})
    exact[0].load_state_dict({k: v.double() for k, v in model[0].state_dict().items()}, strict=False)
    lora.inject(model, lora.LoraConfig(r=8, target_modules=["0"]))
    for ours, other in ((model[0].lora_A, exact[0].lora_A), (model[0].lora_B, exact[0].lora_B)):
        other["default"].data.copy_(other["default"].float())
        ours["default"].data.copy_(other["default"])
    x = torch.randn(512, 256).bfloat16()
    truth = exact(x.double())
    error = lambda y: float((y.double() - truth).norm() / truth.norm())  # noqa: E731
    unmerged = error(model(x))
    lora.merge(model)
    merged = error(model.eval()(x))
    assert merged <= 4e-3 and merged <= 1.05 * unmerged, (merged, unmerged)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [tiny.gpt2, tiny.llama])
def test_pt7_a_hundred_cycles_restore_every_bit(make, dtype):
    model = adapted(make, dtype)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for _ in range(100):
        lora.merge(model)
        lora.unmerge(model)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


def test_pt8_disabled_is_the_base_model_nested_on_exceptions_with_heads_and_merged():
    plain = tiny.bert()
    base = plain(tiny.ids()).logits
    model = adapted(tiny.bert)
    out = model(tiny.ids()).logits
    assert not torch.allclose(out, base)
    with lora.disable_adapters(model):
        assert torch.equal(model(tiny.ids()).logits, base)
        with lora.disable_adapters(model):
            assert torch.equal(model(tiny.ids()).logits, base)
        assert torch.equal(model(tiny.ids()).logits, base)
    assert torch.equal(model(tiny.ids()).logits, out)
    with pytest.raises(KeyError, match="boom"), lora.disable_adapters(model):
        raise KeyError("boom")
    assert torch.equal(model(tiny.ids()).logits, out)
    lora.merge(model)
    merged = model(tiny.ids()).logits
    with lora.disable_adapters(model):
        assert torch.equal(model(tiny.ids()).logits, base)
    assert torch.equal(model(tiny.ids()).logits, merged) and lora.merged_adapters(model) == ["default"]


def test_merge_and_unload_gives_plain_layers_and_the_adapters_head():
    model = adapted(tiny.bert)
    before = model(tiny.ids()).logits
    names = set(tiny.bert().state_dict())
    lora.merge_and_unload(model)
    assert set(model.state_dict()) == names and type(model.bert.encoder.layer[0].attention.self.query) is nn.Linear
    torch.testing.assert_close(model(tiny.ids()).logits, before, atol=1e-5, rtol=0)


def test_merging_several_adapters_rounds_once():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64)).bfloat16()
    for name in "abcdefgh":
        lora.add_adapter(model, lora.LoraConfig(r=4, target_modules=["0"], init_lora_weights=False), name)
    layer = model[0]
    wide = layer.weight.float() + sum(layer.delta_weight(n) for n in "abcdefgh")
    lora.merge(model, list("abcdefgh"))
    assert torch.equal(layer.weight, wide.bfloat16())


def test_train_and_eval_never_touch_weights():
    model = adapted()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train().eval().train().eval()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_what_would_go_wrong_while_merged_raises():
    model = adapted()
    lora.merge(model)
    with pytest.raises(RuntimeError, match="merged already"):
        lora.merge(model)
    for call in (model.state_dict, lambda: model.load_state_dict({}, strict=False)):
        with pytest.raises(RuntimeError, match="twice"):
            call()
    with pytest.raises(RuntimeError, match="unmerge"):
        lora.set_active(model, [])
    with pytest.raises(RuntimeError, match="unmerge"):
        lora.delete_adapter(model, "default")
    with pytest.raises(RuntimeError, match="training would not reach"):
        model.train()(tiny.ids())
    lora.unmerge(model)
    with pytest.raises(RuntimeError, match="nothing is merged"):
        lora.unmerge(model)


@pytest.mark.fault
def test_tied_weights_refuse_to_merge():
    model = tiny.gpt2()
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["wte"], init_lora_weights=False))
    before = model.transformer.wte.weight.clone()
    with pytest.raises(ValueError, match="tied"):
        lora.merge(model)
    assert torch.equal(model.transformer.wte.weight, before) and not lora.merged_adapters(model)


def test_an_update_that_is_not_finite_merges_nothing():
    model = adapted()
    layers = list(lora.lora_layers(model).values())
    layers[-1].lora_A["default"].data[0, 0] = float("nan")
    before = layers[0].weight.clone()
    with pytest.raises(ValueError, match="not be finite"):
        lora.merge(model)
    assert torch.equal(layers[0].weight, before)


def test_merging_an_unknown_or_no_adapter_raises():
    model = adapted()
    with pytest.raises(ValueError, match="nobody"):
        lora.merge(model, "nobody")
    lora.set_active(model, [])
    with pytest.raises(ValueError, match="nothing to merge"):
        lora.merge(model)
    with pytest.raises(ValueError, match="once"):
        lora.merge(model, ["default", "default"])


def two_adapters():
    model = tiny.bert()
    for name in "ab":
        lora.add_adapter(model, lora.LoraConfig(r=2, target_modules=["query"]), name)
    tiny.randomise_lora(model)
    return model


def test_merging_an_adapter_that_is_not_active_brings_its_own_head_and_goes_back():
    model = two_adapters()
    lora.set_active(model, "b")
    wanted = model(tiny.ids()).logits
    lora.set_active(model, "a")
    before = model(tiny.ids()).logits
    lora.merge(model, "b")
    torch.testing.assert_close(model(tiny.ids()).logits, wanted, atol=1e-5, rtol=0)
    lora.unmerge(model)
    assert torch.equal(model(tiny.ids()).logits, before)
    with pytest.raises(ValueError, match="only one"):
        lora.merge(model, ["a", "b"])
    lora.merge(model, "a")
    with pytest.raises(ValueError, match="unmerge"):
        lora.merge_and_unload(model, "b")


def test_merging_one_of_two_active_adapters_merges_that_one_alone():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    lora.add_adapter(model, lora.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False), "a")
    lora.add_adapter(model, lora.LoraConfig(r=2, target_modules=["0", "2"], init_lora_weights=False), "b")
    x = torch.randn(3, 8)
    lora.set_active(model, "a")
    wanted = model(x)
    lora.set_active(model, ["a", "b"])
    lora.merge(model, "a")
    torch.testing.assert_close(model.eval()(x), wanted, atol=1e-5, rtol=0)


def test_a_sum_that_overflows_the_bases_dtype_merges_nothing():
    model = nn.Sequential(nn.Linear(8, 8)).half()
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["0"]))
    model[0].lora_B["default"].data.fill_(1e7)
    with pytest.raises(ValueError, match="not be finite"):
        lora.merge(model)


def test_unmerge_follows_a_model_that_changed_its_dtype():
    model = adapted()
    lora.merge(model)
    model.double()
    lora.unmerge(model)
    assert model(tiny.ids()).logits.dtype == torch.float64


def test_an_adapter_named_twice_or_deleted_while_off():
    model = adapted()
    with pytest.raises(ValueError, match="twice"):
        lora.set_active(model, ["default", "default"])
    lora.add_adapter(model, lora.LoraConfig(r=2), "other")
    with lora.disable_adapters(model):
        lora.delete_adapter(model, "default")
    assert model(tiny.ids()).logits.isfinite().all()


def test_an_untied_trained_word_head_stays_untied_after_unloading():
    model = tiny.gpt2()
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["c_attn"], modules_to_save=["lm_head"]))
    tiny.randomise_lora(model)
    before = model(tiny.ids()).logits
    lora.merge_and_unload(model)
    model.tie_weights()
    torch.testing.assert_close(model(tiny.ids()).logits, before, atol=1e-5, rtol=0)
