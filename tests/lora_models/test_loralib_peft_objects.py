"""`inject` takes peft's own config objects: the same modules, ranks and scales, or a refusal."""

import pytest
import tiny
import torch

import loralib as lora
from loralib.settings.peft_objects import our_config
from loralib.variants.ia3 import IA3Config

peft = pytest.importorskip("peft")


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (tiny.gpt2, {"r": 3, "lora_alpha": 6, "target_modules": ["c_attn"], "fan_in_fan_out": True}),
        (tiny.bert, {"r": 4, "target_modules": ["query", "value"], "use_rslora": True, "task_type": "SEQ_CLS"}),
        (tiny.llama, {"r": 4, "target_modules": "all-linear", "use_dora": True, "rank_pattern": {"q_proj": 2}}),
        (tiny.gpt2, {"r": 4, "target_modules": ["c_proj"], "bias": "all", "layers_to_transform": [1], "fan_in_fan_out": True}),
    ],
)
def test_the_same_parameters_train(make, settings):
    ours, other = make(), peft.get_peft_model(make(), peft.LoraConfig(**settings))
    lora.inject(ours, peft.LoraConfig(**settings))
    trained = [sum(p.numel() for p in model.parameters() if p.requires_grad) for model in (ours, other)]
    assert trained[0] == trained[1] > 0


def test_a_random_start_an_ia3_and_our_own():
    model = tiny.llama()
    lora.inject(model, peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    assert any(B.abs().sum() > 0 for name, B in model.named_parameters() if "lora_B" in name)
    result = our_config(peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]))
    assert isinstance(result, IA3Config) and sorted(result.target_modules) == ["down_proj", "k_proj"]
    own = lora.LoraConfig(r=2)
    assert our_config(own) is own


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (lambda: peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="gaussian"), ValueError, "gaussian"),
        (
            lambda: peft.LoraConfig(target_modules=["q_proj"], trainable_token_indices=[1]),
            ValueError,
            "trainable_token_indices",
        ),
        (lambda: peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), ValueError, "PROMPT_TUNING"),
        (lambda: {"r": 2}, TypeError, "builtins.dict"),
        (lambda: torch.nn.Linear(2, 2), TypeError, "Linear"),
    ],
)
def test_what_is_not_supported_is_named(config, error, message):
    with pytest.raises(error, match=message):
        lora.inject(tiny.llama(), config())
