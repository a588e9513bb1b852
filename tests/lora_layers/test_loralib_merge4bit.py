"""Merging into a 4-bit base (PT29): two ways, each with its error, and what is refused."""

import pytest
import tiny
import torch
from transformers.pytorch_utils import Conv1D

import loralib as lora
from kernels.formulas.nf4 import dequantize, levels, quantize
from lora_layers.test_loralib_qlora import qlora_model, trained_a_little
from lora_layers.test_loralib_quantize_model import tiny_with_lora
from loralib.four_bit.merge4bit import merge_dequant, merge_requant
from loralib.layers.linear import QuantizedLinear
from loralib.layers.linear4bit import Linear4bit


def test_pt29_merge_dequant_computes_what_the_qlora_model_computed():
    model = trained_a_little(qlora_model())
    exact = {p: dequantize(m.quantized) + m.delta_weight("default") for p, m in lora.lora_layers(model).items()}
    logits = model(tiny.ids()).logits
    report = merge_dequant(model)
    assert len(report.rows) == 21 and report.error == 0 and report.bits == 32
    assert not any(isinstance(m, Linear4bit | lora.Linear) for m in model.modules())
    assert all(torch.equal(model.get_submodule(path).weight, weight) for path, weight in exact.items())
    torch.testing.assert_close(model(tiny.ids()).logits, logits, atol=1e-5, rtol=1e-5)


def test_merge_dequant_in_16_bits_says_its_rounding():
    model = trained_a_little(qlora_model())
    report = merge_dequant(model, dtype=torch.bfloat16)
    assert 1e-4 < report.error < 2**-8 and report.bits == 16
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("double_quant", [False, True])
def test_pt29_merge_requant_is_within_half_the_widest_gap(double_quant):
    model = trained_a_little(qlora_model(double_quant=double_quant))
    exact = {p: dequantize(m.quantized) + m.delta_weight("default") for p, m in lora.lora_layers(model).items()}
    report = merge_requant(model)
    assert 0.02 < report.error < 0.15 and 4 < report.bits < 5.1
    for path, weight in exact.items():
        layer = model.get_submodule(path)
        assert type(layer) is Linear4bit
        scale = quantize(weight).absmax.repeat_interleave(64)[: weight.numel()].view(weight.shape)
        slack = 1e-6 if not double_quant else 0.02  # the scale itself is rounded to 8 bits
        bound = scale * (levels("nf4").diff().max() / 2 + slack)
        assert ((dequantize(layer.quantized) - weight).abs() <= bound + 1e-6).all()


def test_gpt2s_conv1d_becomes_itself_again():
    model = trained_a_little(qlora_model(tiny.gpt2(), targets=["c_attn", "c_proj"]))
    logits = model(tiny.ids()).logits
    merge_dequant(model)
    plain = tiny.gpt2()
    plain.load_state_dict({n: p for n, p in model.state_dict().items() if ".mlp.c_fc." not in n}, strict=False)
    assert type(model.transformer.h[0].attn.c_attn) is Conv1D
    assert model.transformer.h[0].attn.c_attn.weight.shape == plain.transformer.h[0].attn.c_attn.weight.shape
    torch.testing.assert_close(model(tiny.ids()).logits, logits, atol=1e-5, rtol=1e-5)


def test_a_plain_merge_is_refused_and_a_wrong_name_leaves_the_model_as_it_was():
    model = trained_a_little(qlora_model())
    logits = model(tiny.ids()).logits
    with pytest.raises(ValueError, match="merge_dequant"):
        lora.merge(model)
    with pytest.raises(ValueError, match="cannot merge"):
        merge_dequant(model, "nobody")
    assert isinstance(model.model.layers[0].mlp.up_proj, QuantizedLinear)
    assert torch.equal(model(tiny.ids()).logits, logits)
    with pytest.raises(ValueError, match="no 4-bit layers with LoRA"):
        merge_requant(tiny_with_lora())


def test_rows_with_adapters_of_their_own_on_a_4bit_base():
    model = trained_a_little(qlora_model())
    ids = tiny.ids(batch=2)
    with lora.mixed_batch(model, ["default", None]):
        both = model(ids).logits
    one = model(ids[:1]).logits
    with lora.disable_adapters(model):
        two = model(ids[1:]).logits
    torch.testing.assert_close(both, torch.cat([one, two]), atol=1e-5, rtol=1e-5)
