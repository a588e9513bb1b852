"""Things done in an unusual order: found by a reviewer who tried to break the family, each one wrong once."""

import copy

import pytest
import tiny
import torch
from torch import nn

import loralib as lora
from loralib.layers.biases import model_biases
from loralib.layers.lora_layer import lora_layers


def conv(**more):
    return lora.LoraConfig(**{"r": 4, "target_modules": ["c_attn"], "modules_to_save": [], **more})


def with_biases(model, name="a", **more):
    lora.inject(model, conv(bias="all", **more), name)
    for p in model_biases(model).copies[name].values():
        p.data += 0.5
    return model


def test_merging_ia3_while_biases_are_active_keeps_the_base():
    model = tiny.gpt2()
    base = model(tiny.ids()).logits
    a = with_biases(model)(tiny.ids()).logits
    lora.add_adapter(model, lora.IA3Config(["c_attn"], modules_to_save=[]), "i")
    for layer in lora_layers(model).values():
        layer.ia3_l["i"].data.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
    lora.set_active(model, "i")
    alone = model(tiny.ids()).logits
    lora.set_active(model, "a")
    lora.merge(model, "i")
    torch.testing.assert_close(model(tiny.ids()).logits, alone, atol=1e-5, rtol=1e-5)
    lora.unmerge(model)
    assert torch.equal(model(tiny.ids()).logits, a)
    with lora.disable_adapters(model):
        assert torch.equal(model(tiny.ids()).logits, base)


def test_the_bases_biases_stay_frozen_when_another_adapter_is_active(tmp_path):
    model = with_biases(tiny.gpt2())
    lora.add_adapter(model, conv(), "b")
    lora.set_active(model, "b")
    assert not [n for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n]
    lora.save_adapter(model, tmp_path, "a")
    lora.set_active(model, [])
    assert not [n for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n]


def test_biases_and_heads_do_not_share_tensors():
    model = tiny.bert()
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["value"]), "a")  # with the head
    lora.add_adapter(model, lora.LoraConfig(r=2, target_modules=["value"], bias="all", modules_to_save=[]), "debias")
    lora.add_adapter(model, lora.LoraConfig(r=2, target_modules=["value"], bias="all", modules_to_save=[]), "c")
    assert not [n for n in model_biases(model).originals if "classifier" in n or "lora_" in n]
    lora.delete_adapter(model, "debias")
    other = tiny.bert()
    lora.inject(other, lora.LoraConfig(r=2, target_modules=["value"], bias="all", modules_to_save=[]), "a")
    with pytest.raises(ValueError, match="trained as a bias by another adapter"):
        lora.add_adapter(other, lora.LoraConfig(r=2, target_modules=["value"]), "b")


def test_biases_must_stand_in_the_model_before_they_are_made_trainable():
    model = tiny.gpt2()
    lora.inject(model, conv(), "a")
    lora.add_adapter(model, conv(bias="all"), "b")
    with pytest.raises(ValueError, match="set_active first"):
        lora.set_trainable(model, "b")
    lora.set_active(model, "b")
    lora.set_trainable(model, "b")
    assert sum(p.requires_grad for p in model.parameters()) > 10


def test_nothing_is_exchanged_while_merged_or_training(tmp_path):
    source = tiny.gpt2()
    lora.inject(source, conv())
    lora.save_adapter(source, tmp_path)
    model = tiny.gpt2()
    lora.inject(model, conv())
    lora.prepare_hotswap(model, 8)
    with pytest.raises(RuntimeError, match="exchange is for serving"):
        lora.hotswap_adapter(model, tmp_path)
    lora.set_trainable(model, [])
    lora.merge(model)
    with pytest.raises(RuntimeError, match="merged"):
        lora.hotswap_adapter(model, tmp_path)
    lora.unmerge(model)
    lora.hotswap_adapter(model, tmp_path)


def test_a_new_adapter_has_no_scale_of_an_exchanged_one():
    model = tiny.gpt2()
    lora.inject(model, conv())
    lora.add_adapter(model, conv(), "b")
    lora.prepare_hotswap(model, 8)
    lora.delete_adapter(model, "default")
    lora.inject(model, conv(lora_alpha=64))
    tiny.randomise_lora(model, scale=0.05)
    result = model(tiny.ids()).logits
    lora.merge(model)
    torch.testing.assert_close(model(tiny.ids()).logits, result, atol=1e-5, rtol=1e-5)


def test_disabled_is_the_base_inside_a_mixed_batch_too():
    model = tiny.gpt2()
    base = model(tiny.ids()).logits
    lora.inject(model, conv(), "a")
    tiny.randomise_lora(model)
    with lora.mixed_batch(model, ["a"] * 3):
        rows = model(tiny.ids()).logits
        with lora.disable_adapters(model):
            assert torch.equal(model(tiny.ids()).logits, base)
        assert torch.equal(model(tiny.ids()).logits, rows) and not torch.allclose(rows, base)
        with pytest.raises(RuntimeError, match="inside mixed_batch"):
            lora.merge(model)


def test_no_adapter_is_added_while_another_is_merged():
    model = tiny.gpt2()
    lora.inject(model, conv(), "a")
    lora.merge(model)
    for _ in range(2):  # and a refused one leaves no trace
        with pytest.raises(RuntimeError, match="merged"):
            lora.add_adapter(model, conv(use_dora=True), "d")
    lora.unmerge(model)
    lora.add_adapter(model, conv(use_dora=True), "d")


def test_deleting_inside_and_between():
    model = tiny.gpt2()
    lora.inject(model, conv(), "a")
    lora.add_adapter(model, conv(), "b")
    lora.merge(model, "b")
    lora.delete_adapter(model, "a")
    lora.unmerge(model)  # what was active is gone, and is not revived
    model(tiny.ids())
    with lora.disable_adapters(model), lora.mixed_batch(model, [None] * 3):
        lora.delete_adapter(model, "b")
    assert type(model.transformer.h[0].attn.c_attn).__name__ == "Conv1D" and "rows" not in vars(
        model.transformer.h[0].attn.c_attn
    )
    model(tiny.ids())


def test_refused_settings_leave_no_trace():
    model = tiny.gpt2()
    with pytest.raises(ValueError, match="scale above 0"):
        lora.inject(model, conv(init_lora_weights="pissa", lora_alpha=-8), "a")
    assert set(model.state_dict()) == set(tiny.gpt2().state_dict())
    with pytest.raises(ValueError, match="nothing could train"):
        conv(lora_alpha=0)
    for name in "ab":
        lora.add_adapter(model, conv(init_lora_weights=False), name)
    for more, words in (
        ({"method": "svd", "rank": 0}, "expected at least 1"),
        ({"method": "ties", "rank": -1, "density": 0.5}, "expected at least 1"),
        ({"method": "ties", "density": 1e-5}, "nothing would be left"),
    ):
        with pytest.raises(ValueError, match=words):
            lora.combine_adapters(model, ["a", "b"], [1.0, 1.0], "c", **more)
    with pytest.raises(ValueError, match="would only damage it"):
        lora.combine_adapters(model, ["a"], [1.0], "c", "svd", rank=1)


def test_dora_on_a_base_made_for_inference():
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(6, 6))
        lora.inject(model, lora.LoraConfig(r=2, use_dora=True, target_modules=["0"]))
        x = torch.randn(2, 6)
        wanted = nn.functional.linear(x, model[0].weight, model[0].bias)
        torch.testing.assert_close(model(x), wanted, atol=1e-6, rtol=1e-5)


def test_7_16_a_float32_adapter_on_a_bf16_base_starts_in_float32():
    """peft draws A in the base's dtype and widens it afterwards, so its float32 numbers have 8 bits."""
    peft = pytest.importorskip("peft")
    others = peft.get_peft_model(tiny.gpt2().bfloat16(), peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))
    model = tiny.gpt2().bfloat16()
    lora.inject(model, conv())
    own = next(iter(lora_layers(model).values())).lora_A["default"]
    other = next(p for n, p in others.named_parameters() if "lora_A" in n)
    assert own.dtype == other.dtype == torch.float32
    assert not torch.equal(own, own.bfloat16().float())
    assert torch.equal(other, other.bfloat16().float()), "peft has changed: this row of the list of defects is history"


def test_a_copy_of_a_dora_layer_holds_its_weight_once_and_still_answers(tmp_path):
    model = nn.Sequential(nn.Linear(64, 64))
    lora.inject(model, lora.LoraConfig(r=4, target_modules=["0"], use_dora=True))
    y = model(torch.ones(1, 64))
    twin = copy.deepcopy(model)
    assert "squared_row_norms" in model[0].cache and "squared_row_norms" not in twin[0].cache
    assert torch.equal(twin(torch.ones(1, 64)), y)
    torch.save(model, tmp_path / "model.pt")
    assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=False)(torch.ones(1, 64)), y)


def test_the_scale_of_an_exchangeable_adapter_is_not_rounded_with_the_weights():
    model = nn.Sequential(nn.Linear(64, 64))
    lora.inject(model, lora.LoraConfig(r=3, lora_alpha=1, target_modules=["0"]))
    lora.prepare_hotswap(model, rank=4)
    assert float(model.bfloat16()[0].hot_scale.value) == torch.tensor(1 / 3).item()
    assert model(torch.ones(1, 64, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert model.double()[0].hot_scale.value.dtype == torch.float64


def test_a_model_on_the_meta_device_can_be_counted():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(64, 64))
        lora.inject(model, lora.LoraConfig(r=3, target_modules=["0"]))
        model(torch.ones(1, 64)).sum().backward()
    assert model[0].lora_B["default"].grad.shape == (64, 3)


def test_shortening_one_pissa_adapter_is_refused_up_to_its_true_rank():
    """Its plain form has twice the rank: what it learnt, and what it started from."""
    model = nn.Sequential(nn.Linear(64, 64))
    lora.inject(model, lora.LoraConfig(r=4, target_modules=["0"], init_lora_weights="pissa"), "p")
    with pytest.raises(ValueError, match="rank 8 would only damage it"):
        lora.combine_adapters(model, ["p"], [1.0], "short", "svd", rank=7)
    lora.combine_adapters(model, ["p"], [1.0], "whole", "svd", rank=8)


def test_7_11_a_convolution_drops_its_input_and_registers_its_weights_once():
    """Microsoft's ConvLoRA ignores its dropout, and its parameters stand twice in the state dict."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["0"], lora_dropout=0.5, init_lora_weights=False))
    x = torch.randn(2, 3, 9, 7)
    assert not torch.equal(model.train()(x), model(x)) and torch.equal(model.eval()(x), model(x))
    state = model.state_dict()
    assert len({p.data_ptr() for p in state.values()}) == len(state) == 4


def test_of_two_merged_adapters_the_one_that_was_deleted_inside_is_not_merged_again():
    """The other adapter is merged again, although it is in some of the layers only."""
    model = tiny.gpt2()
    lora.inject(model, conv(), "a")
    lora.add_adapter(model, lora.LoraConfig(r=2, target_modules=["c_fc"], init_lora_weights=False), "b")
    lora.merge(model, ["a", "b"])
    with lora.disable_adapters(model):
        lora.delete_adapter(model, "a")
    assert {layer.merged for layer in lora_layers(model).values()} == {("b",)}
    model = tiny.gpt2()
    lora.inject(model, conv(), "a")
    lora.add_adapter(model, lora.LoraConfig(r=2, target_modules=["c_fc"], init_lora_weights=False), "b")
    lora.merge(model, "b")
    with lora.disable_adapters(model):
        assert not any(layer.merged for layer in lora_layers(model).values())
    assert {layer.merged for layer in lora_layers(model).values()} == {("b",), ()}


def test_a_merged_adapter_that_does_not_train_runs_in_training_mode():
    """There is nothing that training would miss. One trainable factor is enough to refuse."""
    model = tiny.gpt2()
    lora.inject(model, conv(), "a")
    lora.merge(model, "a")
    layers = lora_layers(model)
    for layer in layers.values():
        for p in layer.trained("a").values():
            p.requires_grad_(False)
    model.train()(tiny.ids())
    next(iter(next(iter(layers.values())).trained("a").values())).requires_grad_(True)
    with pytest.raises(RuntimeError, match="merged into the weight, so training would not reach them"):
        model.train()(tiny.ids())
