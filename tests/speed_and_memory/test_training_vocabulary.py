"""The loss of a language model from hidden states: equal to that of all logits, and given up where logits are changed."""

import math

import pytest
import torch
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

import loralib as lora
from training.evaluation import evaluation, metrics, vocabulary
from training.evaluation.vocabulary import CHECKED, LEAST_WORDS, large_head, loss_from_hidden

WORDS = LEAST_WORDS + 5
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": WORDS}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "bias": lambda: PhiForCausalLM(PhiConfig(**SIZES)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=WORDS)),
}


def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().eval()


def batch(T=9) -> dict[str, torch.Tensor]:
    ids = torch.randint(WORDS, (3, T), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, :3], labels[1, 6:] = -100, -100
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def inputs(b):
    return evaluation.model_inputs(b)


def both(model: nn.Module, b: dict) -> list[list[torch.Tensor]]:
    """[loss, gradients of all parameters] from hidden states, and from all logits."""
    trained = [p for p in model.parameters() if p.requires_grad]
    results = []
    for loss in (loss_from_hidden(model, inputs(b), b["labels"]), metrics.loss_sum("generation", model(**inputs(b)), b)):
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        results.append([loss, *(g for g in gradients if g is not None)])
    return results


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_those_of_all_logits(name):
    ours, wanted = both(model_of(name), batch())
    assert len(ours) == len(wanted)
    for a, b in zip(ours, wanted, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm() + 1e-9


def test_with_lora_the_head_is_frozen():
    model = model_of("llama")
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    ours, wanted = both(model, batch())
    for a, b in zip(ours, wanted, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm() + 1e-9


def test_an_adapted_or_small_head_is_left_to_the_model():
    model = model_of("llama")
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["lm_head"]))
    assert large_head(model) is None and loss_from_hidden(model, inputs(batch()), batch()["labels"]) is None
    small = LlamaForCausalLM(LlamaConfig(**SIZES | {"vocab_size": LEAST_WORDS - 1}))
    assert large_head(small) is None


def test_a_model_that_changes_its_logits_goes_on_with_all_of_them():
    """Gemma 2 limits its logits softly: the loss from hidden states would be another one."""
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, num_key_value_heads=2, final_logit_softcapping=0.01)).eval()
    b = batch()
    assert loss_from_hidden(model, inputs(b), b["labels"]) is None and CHECKED[model] is False
    loss = evaluation.objective_of("generation").loss_sum(model, b)
    assert torch.allclose(loss, metrics.loss_sum("generation", model(**inputs(b)), b))


def test_the_head_works_afterwards_and_after_an_error():
    model, b = model_of("llama"), batch()
    before = model(**inputs(b)).logits
    loss_from_hidden(model, inputs(b), b["labels"])
    assert torch.equal(model(**inputs(b)).logits, before) and "forward" not in vars(model.lm_head)
    with pytest.raises(KeyError), vocabulary.input_of(model.lm_head):
        raise KeyError
    assert "forward" not in vars(model.lm_head)


def test_training_mode_and_random_numbers_are_left_as_they_were():
    model, b = model_of("gpt2").train(), batch()
    model.transformer.h[0].eval()
    torch.manual_seed(5)
    first = loss_from_hidden(model, inputs(b), b["labels"])
    torch.manual_seed(5)
    again = loss_from_hidden(model, inputs(b), b["labels"])
    assert torch.equal(first, again), "the check before the first batch must not draw random numbers"
    assert model.training and not model.transformer.h[0].training and model.transformer.h[1].training


def test_autocast():
    model, b = model_of("llama"), batch()
    exact = metrics.loss_sum("generation", model(**inputs(b)), b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_from_hidden(model, inputs(b), b["labels"])
    assert loss.dtype == torch.float32 and abs(loss - exact) < 2**-7 * exact
    assert all(math.isfinite(float(g.sum())) for g in torch.autograd.grad(loss, list(model.parameters())))
