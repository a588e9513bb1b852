"""quantize_model and prepare_model_for_kbit_training: what is replaced, what is refused, what moving and casting leave."""

import copy

import pytest
import tiny
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

import loralib as lora
from kernels.formulas.nf4 import dequantize
from lora_layers.test_loralib_qlora import qlora_model
from loralib.four_bit.qlora import prepare_model_for_kbit_training, quantize_model
from loralib.layers.linear4bit import Linear4bit


@pytest.mark.parametrize(("make", "count"), [(tiny.llama, 21), (tiny.gpt2, 8), (tiny.bert, 13)])
def test_quantize_model_replaces_all_but_heads_and_says_the_error(make, count):
    model, plain = make(), make()
    report = quantize_model(model)
    assert len(report.rows) == count
    heads = [m for n, m in model.named_modules() if n in ("lm_head", "classifier")]
    assert heads and not any(isinstance(m, Linear4bit) for m in heads)
    assert 0.05 < report.error < 0.15 and 4.1 < report.bits < 4.8
    assert f"{count} layers" in str(report) and report.rows[0].path in str(report)
    for row in report.rows:
        layer = plain.get_submodule(row.path)
        weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
        assert tuple(weight.shape) == row.shape
    # the model computes what a float model with the decoded weights computes
    for row in report.rows:
        layer, packed = plain.get_submodule(row.path), model.get_submodule(row.path)
        W = dequantize(packed.quantized)
        layer.weight.data = W.T.contiguous() if isinstance(layer, Conv1D) else W
    torch.testing.assert_close(model(tiny.ids()).logits, plain(tiny.ids()).logits, atol=1e-5, rtol=1e-5)


def test_skip_names_must_fit_and_a_model_is_quantised_once():
    model = tiny.llama()
    with pytest.raises(ValueError, match="nearest"):
        quantize_model(model, skip=["down_prj"])
    report = quantize_model(model, skip=["down_proj"])
    assert len(report.rows) == 18 and isinstance(model.model.layers[0].mlp.down_proj, nn.Linear)
    with pytest.raises(ValueError, match="already"):
        quantize_model(model)
    with pytest.raises(ValueError, match="already"):
        quantize_model(tiny_with_lora())


def tiny_with_lora():
    model = tiny.llama()
    lora.inject(model, lora.LoraConfig(target_modules=["q_proj"]))
    return model


def test_bad_weights_are_named_and_nothing_is_changed():
    model = tiny.llama()
    model.model.layers[1].mlp.up_proj.weight.data[3, 3] = float("inf")
    with pytest.raises(ValueError, match=r"model.layers.1.mlp.up_proj.weight"):
        quantize_model(model)
    assert not any(isinstance(m, Linear4bit) for m in model.modules())


@pytest.mark.fault
def test_tied_weights_are_refused():
    model = tiny.llama()
    model.model.layers[1].self_attn.q_proj.weight = model.model.layers[0].self_attn.q_proj.weight
    with pytest.raises(ValueError, match="skip"):
        quantize_model(model)


def test_prepare_freezes_widens_and_checkpoints():
    model = tiny.llama(dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="quantize_model"):
        prepare_model_for_kbit_training(model)
    quantize_model(model)
    codes = model.model.layers[0].self_attn.q_proj.weight.clone()
    assert prepare_model_for_kbit_training(model) is model
    floats = [p.dtype for p in model.parameters() if p.is_floating_point()]
    assert set(floats) == {torch.float32} and not any(p.requires_grad for p in model.parameters())
    layer = model.model.layers[0].self_attn.q_proj
    assert layer.compute_dtype == torch.bfloat16 and torch.equal(layer.weight, codes)
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["q_proj"]))
    model.train()
    assert model.is_gradient_checkpointing
    model(tiny.ids(), labels=tiny.ids()).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_gradient_checkpointing_gives_the_same_gradients():
    grads = []
    for checkpointing in (False, True):
        model = tiny.llama()
        quantize_model(model)
        prepare_model_for_kbit_training(model, checkpointing)
        lora.inject(model, lora.LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False), seed=0)
        model.train()(tiny.ids(), labels=tiny.ids()).loss.backward()
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_moving_and_casting_a_model_leaves_codes_and_scales():
    model = qlora_model(tiny.llama())
    layer = model.model.layers[0].mlp.up_proj
    before = copy.deepcopy(layer.quantized)
    model.to(torch.bfloat16).double().float()
    after = layer.quantized
    assert torch.equal(before.packed, after.packed) and torch.equal(before.absmax, after.absmax)
    assert torch.equal(before.nested.absmax, after.nested.absmax) and after.nested.absmax.dtype == torch.float32
    assert torch.equal(before.nested.offset, after.nested.offset)


def test_state_dict_goes_round_and_strangers_are_refused():
    model, other = tiny.llama(), tiny.llama(seed=1)
    quantize_model(model)
    quantize_model(other, double_quant=False, blocksize=32)
    state = model.state_dict()
    other.load_state_dict(state)
    assert torch.equal(other(tiny.ids()).logits, model(tiny.ids()).logits)
    name = "model.layers.0.mlp.up_proj.weight"
    for change, words in (
        (lambda s: s.pop(f"{name}.absmax"), "absmax"),
        (lambda s: s.update({name: s[name][:-1]}), "entries"),
        (lambda s: s.update({f"{name}.quant_map": s[f"{name}.quant_map"] * 0.9}), "other levels"),
        (lambda s: s.update({f"{name}.quant_state.bitsandbytes__nf4": torch.zeros(3, dtype=torch.uint8)}), "description"),
    ):
        broken = dict(state)
        change(broken)
        with pytest.raises(RuntimeError, match=words):
            other.load_state_dict(broken)
