"""PiSSA, LoRA+ and trained biases: how a variant starts and what it trains."""

import pytest
import tiny
import torch
from torch import nn
from torch.nn import functional as F

import loralib as lora
from lora_layers.test_loralib_variants import build, peft, randomise
from loralib.rslora import lora_scaling
from loralib.variants.pissa import principal_factors


def test_pissa_starts_as_the_base_with_the_best_rank_r_part_in_the_factors():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 9))
    W = model[0].weight.detach().double()
    lora.inject(model, lora.LoraConfig(r=3, lora_alpha=6, init_lora_weights="pissa", target_modules=["0"]))
    x = torch.randn(5, 12)
    torch.testing.assert_close(model(x).double(), F.linear(x.double(), W, model[0].bias.double()), atol=1e-6, rtol=1e-5)
    A, B = (model[0].get_parameter(f"lora_{k}.default").double() for k in "AB")
    S = torch.linalg.svdvals(W)
    torch.testing.assert_close((W - 2 * B @ A).norm(), S[3:].norm(), atol=1e-6, rtol=1e-6)  # Eckart and Young
    assert sum(p.requires_grad for p in model.parameters()) == 2


def test_pissa_trains_as_pefts(tmp_path):
    ours, other = tiny.llama(), tiny.llama()
    config = {"r": 4, "lora_alpha": 4, "target_modules": ["q_proj", "up_proj"], "init_lora_weights": "pissa"}
    lora.inject(ours, lora.LoraConfig(**config))
    other = peft.get_peft_model(other, peft.LoraConfig(**config))
    for model in (ours, other):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
        for step in range(5):
            optimizer.zero_grad()
            model(input_ids=tiny.ids(step), labels=tiny.ids(step)).loss.backward()
            optimizer.step()
    torch.testing.assert_close(ours(tiny.ids()).logits, other(tiny.ids()).logits, atol=2e-5, rtol=0)


def test_pissa_refuses_what_has_no_principal_directions():
    with pytest.raises(ValueError, match="only 24 directions"):
        lora.inject(tiny.llama(), lora.LoraConfig(r=25, target_modules=["q_proj"], init_lora_weights="pissa"))
    with pytest.raises(ValueError, match="pissa is for Conv1D, Linear"):
        lora.inject(tiny.gpt2(), lora.LoraConfig(r=2, target_modules=["wte"], init_lora_weights="pissa"))
    with pytest.raises(ValueError, match="scale above 0"):
        principal_factors(torch.eye(3), 1, 0.0)


@pytest.mark.parametrize("ratio", [1.0, 16.0])
def test_lora_plus_groups_are_pefts(ratio):
    from peft.optimizers import create_loraplus_optimizer

    ours, other = tiny.gpt2(), tiny.gpt2()
    targets = ["c_attn", "wte"]
    lora.inject(ours, lora.LoraConfig(r=2, target_modules=targets))
    other = peft.get_peft_model(other, peft.LoraConfig(r=2, target_modules=targets))
    groups = lora.lora_plus_groups(ours, 1e-3, ratio)
    rate = {id(p): g["lr"] for g in groups for p in g["params"]}
    names = {n: rate[id(p)] for n, p in ours.named_parameters() if p.requires_grad}
    optimizer = create_loraplus_optimizer(other, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=ratio)
    rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for name, p in other.named_parameters():
        if p.requires_grad and "embedding" not in name:  # peft has a rate of its own for embeddings
            ours_name = name.removeprefix("base_model.model.").removesuffix(".weight")
            assert names[ours_name] == rate[id(p)], name
    assert names["transformer.wte.lora_A.default"] == ratio * names["transformer.wte.lora_B.default"]


def test_lora_plus_refuses_a_model_without_trainable_b():
    model = tiny.bert()
    lora.inject(model, lora.IA3Config(["key", "value"]))
    with pytest.raises(ValueError, match="no trainable lora_B"):
        lora.lora_plus_groups(model, 1e-3)


def test_adapters_have_biases_of_their_own():
    model = tiny.bert()
    base = model(tiny.ids()).logits
    for name, kind in (("a", "all"), ("b", "lora_only")):
        config = lora.LoraConfig(r=2, target_modules=["query"], bias=kind, modules_to_save=[])
        lora.inject(model, config, name)
        randomise(model, seed=ord(name))
    outputs = {}
    for name in ("a", "b"):
        lora.set_active(model, name)
        outputs[name] = model(tiny.ids()).logits
    lora.set_active(model, [])
    assert torch.equal(model(tiny.ids()).logits, base) and not torch.allclose(outputs["a"], outputs["b"])
    with pytest.raises(ValueError, match="each have biases"):
        lora.set_active(model, ["a", "b"])
    lora.set_active(model, "a")
    assert torch.equal(model(tiny.ids()).logits, outputs["a"])


def test_a_bias_that_is_asked_for_and_not_there_raises():
    with pytest.raises(ValueError, match="bias='lora_only': none of the adapted modules has a bias"):
        lora.inject(tiny.llama(), lora.LoraConfig(bias="lora_only"))
    with pytest.raises(ValueError, match="bias='some'"):
        lora.lora_state_dict(build("rslora"), bias="some")


@pytest.mark.parametrize("kind", ["all", "lora_only"])
def test_microsofts_biases_are_saved_with_what_trains(kind):
    model = tiny.bert()
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["query"], modules_to_save=[]))
    lora.mark_only_lora_as_trainable(model, bias=kind)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == set(lora.lora_state_dict(model, bias=kind)) and any(n.endswith("bias") for n in trained)
    with pytest.raises(ValueError, match="biases train and bias='none' would not save them"):
        lora.lora_state_dict(model)


def test_the_scale_is_the_ratio_unless_the_rank_is_to_be_stabilised():
    assert lora_scaling(16, 4) == 4 and lora_scaling(16, 4, rank_stabilised=True) == 8


def test_a_refused_layer_is_told_which_layers_can_be_adapted():
    with pytest.raises(ValueError, match="dora is for Conv1D, Linear, not for Embedding"):
        lora.inject(tiny.llama(), lora.LoraConfig(target_modules=["embed_tokens"], use_dora=True))
