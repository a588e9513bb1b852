"""Bottlenecks and prompts that the model never reaches are an error, not a run that trains nothing."""

import copy
import warnings

import pytest
import tiny
import torch
import transformers as T
from torch import nn

import adapters
from adapters.bottleneck.never_ran import HANDLE
from loralib.base_model.never_called import NeverCalledError

SMALL = {"vocab_size": 64, "max_position_embeddings": 64}
WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIDES = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
FEED = {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "is_decoder": True, "is_encoder_decoder": False}
PAST_THE_BASE = {  # language models that call the decoder of their base
    "opt": (
        T.OPTForCausalLM,
        T.OPTConfig(**SMALL, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, word_embed_proj_dim=32),
    ),
    "mbart": (T.MBartForCausalLM, T.MBartConfig(**SMALL, **SIDES, **FEED)),
    "pegasus": (T.PegasusForCausalLM, T.PegasusConfig(**SMALL, **SIDES, **FEED)),
    "biogpt": (
        T.BioGptForCausalLM,
        T.BioGptConfig(**SMALL, **WIDTH, intermediate_size=48),
    ),
}


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    model_class, config = PAST_THE_BASE[kind]
    return model_class(config).eval()


@pytest.mark.parametrize("kind", PAST_THE_BASE)
def test_a_prompt_reaches_models_that_call_past_their_base_as_pefts_does(kind, tmp_path):
    peft = pytest.importorskip("peft")
    ids = torch.tensor([[5, 6, 7, 9]])
    other = peft.get_peft_model(made(kind), peft.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")).eval()
    other.prompt_encoder["default"].embedding.weight.data.normal_(std=0.5)
    other.save_pretrained(tmp_path)
    ours = made(kind)
    adapters.load(ours, tmp_path, trainable=True)
    mask = torch.ones_like(ids)
    wanted, result = (model(input_ids=ids, attention_mask=mask).logits for model in (other, ours))
    assert result.shape == wanted.shape == (1, 8, 64)
    torch.testing.assert_close(result, wanted, atol=1e-5, rtol=1e-5)
    loss = ours(input_ids=ids, attention_mask=mask, labels=ids).loss
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in ours.parameters() if p.requires_grad)
    assert ours.generate(ids, attention_mask=mask, max_new_tokens=3, do_sample=False).shape[0] == 1


def test_a_model_that_goes_another_way_is_told_at_its_first_pass():
    class Elsewhere(T.LlamaForCausalLM):
        def forward(self, input_ids, **options):
            return self.lm_head(super().get_input_embeddings()(input_ids))

    model = Elsewhere(tiny.llama().config)
    adapters.attach(model, adapters.PromptTuningConfig(num_virtual_tokens=2), seed=0)
    with pytest.raises(NeverCalledError, match="Elsewhere ran without"):
        model(tiny.ids())


@pytest.mark.parametrize("make", [tiny.bert, tiny.llama, tiny.gpt2])
def test_bottlenecks_are_watched_until_all_have_run(make):
    model = make()
    adapters.attach(model, adapters.BottleneckConfig(reduction_factor=4), "a", seed=0)
    other = copy.deepcopy(model)
    assert HANDLE in model.__dict__
    model(tiny.ids())
    assert HANDLE not in model.__dict__ and HANDLE in other.__dict__
    other.forward = lambda ids: other.get_input_embeddings()(ids)
    with pytest.raises(NeverCalledError, match="places"):
        other(tiny.ids())


def test_a_layer_that_is_dropped_now_and_then_is_waited_for():
    torch.manual_seed(0)
    config = T.BartConfig(**SMALL, **SIDES, d_model=32, encoder_ffn_dim=48, decoder_ffn_dim=48)
    config.encoder_layerdrop = 0.7
    model = T.BartForConditionalGeneration(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            adapters.attach(model, adapters.BottleneckConfig(reduction_factor=4), seed=0)
        except ValueError as error:
            pytest.skip(str(error))
    model.train()
    for _ in range(20):
        model(input_ids=tiny.ids(), decoder_input_ids=tiny.ids())
    assert HANDLE not in model.__dict__
