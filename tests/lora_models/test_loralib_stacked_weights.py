"""Experts that are stacked in one parameter: the reports of LoRA and of quantisation name them and their share."""

import json

import pytest
import tiny
import torch
import transformers as T
from torch import nn

import loralib as lora
from loralib.base_model.stacked_weights import find_stacks
from loralib.files.read_adapter import CONFIG

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40}
MIXTURES = [
    (T.OlmoeForCausalLM, T.OlmoeConfig(**SMALL, intermediate_size=48, num_experts=4, num_experts_per_tok=2)),
    (T.GptOssForCausalLM, T.GptOssConfig(**SMALL, head_dim=8, intermediate_size=48, num_local_experts=4)),
    (T.JetMoeForCausalLM, T.JetMoeConfig(**SMALL, kv_channels=8, intermediate_size=48, num_local_experts=4)),
]


@pytest.mark.parametrize(("model_class", "config"), MIXTURES, ids=lambda value: getattr(value, "__name__", ""))
def test_both_reports_name_what_no_layer_holds(model_class, config):
    torch.manual_seed(0)
    model = model_class(config)
    wanted = {name: p.numel() for name, p in model.named_parameters() if p.ndim == 3}
    share = sum(wanted.values()) / sum(p.numel() for p in model.parameters())
    assert share > 0.3
    report = lora.quantize_model(model)
    assert set(report.stacks.paths) == set(wanted)
    assert report.stacks.share == pytest.approx(share, abs=1e-3)
    assert f"{100 * share:.0f} % of the model, e.g. {report.stacks.paths[0]}" in str(report)
    attached = lora.inject(model, lora.LoraConfig(r=2))
    assert attached.notes == tuple(find_stacks(model).lines()) and set(find_stacks(model).paths) == set(wanted)
    assert f"not reached: {len(wanted)} parameters" in str(attached)


def test_a_model_of_layers_has_none():
    for model in (tiny.llama(), tiny.bert(), nn.Sequential(nn.Conv2d(3, 4, 3))):
        assert find_stacks(model).lines() == []
    vit = T.ViTForImageClassification(
        T.ViTConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, image_size=32)
    )
    assert find_stacks(vit).paths == ()  # a token for the class, and one table of positions


def test_load_4bit_says_how_a_mixture_is_quantised(tmp_path):
    model_class, config = MIXTURES[0]
    model_class(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"quantize_model"):
        lora.load_4bit(tmp_path, model_class)


@pytest.mark.parametrize("adapts", [True, False])
def test_a_file_of_peft_that_names_experts_is_judged_by_its_tensors(adapts, tmp_path):
    """peft writes `target_parameters` by itself for some mixtures, also where it adapted no expert."""
    peft = pytest.importorskip("peft")
    model_class, config = MIXTURES[0]

    def base():
        torch.manual_seed(0)
        return model_class(config).eval()

    more = {"target_parameters": ["mlp.experts.gate_up_proj"]} if adapts else {}
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM", **more)
    other = peft.get_peft_model(base(), settings).eval()
    other.save_pretrained(tmp_path)
    if adapts:
        with pytest.raises(lora.AdapterFileError, match="experts"):
            lora.load_adapter(base(), tmp_path, trainable=False)
        return
    path = tmp_path / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"target_parameters": ["gate_up_proj"]}))
    ours = base()
    lora.load_adapter(ours, tmp_path, trainable=False)
    torch.testing.assert_close(ours(tiny.ids()).logits, other(tiny.ids()).logits, atol=1e-5, rtol=0)
