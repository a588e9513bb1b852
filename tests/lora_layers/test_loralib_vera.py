"""VeRA against peft: the same start, the same training, and files in both directions. Oracle: peft."""

import warnings

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

import loralib as lora
from lora_layers.test_loralib_variants import peft
from loralib.files.read_adapter import WEIGHTS, AdapterFileError

TARGETS = {"llama": ["q_proj", "v_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"], "bert": ["query", "value"]}


def settings(family: str, **more) -> dict:
    return {"r": 6, "target_modules": TARGETS[family], "d_initial": 0.3, "projection_prng_key": 5} | more


def both(family: str, **more):
    """(ours, peft's) with the same settings and the same trained vectors."""
    ours, other = tiny.FAMILIES[family](), tiny.FAMILIES[family]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = peft.get_peft_model(other, peft.VeraConfig(**settings(family, **more)))
    lora.inject(ours, lora.VeraConfig(**settings(family, **more), modules_to_save=[]))
    generator = torch.Generator().manual_seed(0)
    trained = {name.replace("base_model.model.", ""): p for name, p in other.named_parameters() if p.requires_grad}
    own = {name: p for name, p in ours.named_parameters() if p.requires_grad}
    assert set(trained) == set(own)
    for name, p in trained.items():
        values = torch.randn(p.shape, generator=generator) * 0.3
        p.data.copy_(values)
        own[name].data.copy_(values)
    return ours.eval(), other.eval()


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=tiny.ids()).logits


@pytest.mark.parametrize("family", TARGETS)
def test_the_random_matrices_and_the_answers_are_pefts(family):
    ours, other = both(family)
    layer = next(iter(lora.lora_layers(ours).values()))
    assert torch.equal(layer.vera_A["default"], other.base_model.vera_A["default"])
    assert torch.equal(layer.vera_B["default"], other.base_model.vera_B["default"])
    torch.testing.assert_close(logits(ours), logits(other), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", TARGETS)
@pytest.mark.parametrize("save_projection", [True, False])
@pytest.mark.filterwarnings("ignore:Specified to not")
@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_files_go_both_ways(family, save_projection, tmp_path):
    ours, others = both(family, save_projection=save_projection)
    lora.save_adapter(ours, tmp_path / "ours")
    others.save_pretrained(tmp_path / "theirs")
    one, other = (load_file(tmp_path / name / WEIGHTS) for name in ("ours", "theirs"))
    assert set(one) == set(other) and all(torch.equal(one[key], other[key]) for key in one)
    assert ("base_model.vera_A" in one) == save_projection
    read_by_peft = peft.PeftModel.from_pretrained(tiny.FAMILIES[family](), tmp_path / "ours").eval()
    read_by_us = tiny.FAMILIES[family]().eval()
    lora.load_adapter(read_by_us, tmp_path / "theirs", trainable=False)
    for model in (read_by_peft, read_by_us):
        torch.testing.assert_close(logits(model), logits(others), atol=1e-5, rtol=0)


def test_training_changes_the_vectors_alone_and_as_in_peft():
    ours, other = both("llama")
    for model in (ours, other):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for step in range(3):
            optimizer.zero_grad()
            model(input_ids=tiny.ids(step), labels=tiny.ids(step)).loss.backward()
            optimizer.step()
    torch.testing.assert_close(logits(ours), logits(other), atol=1e-5, rtol=0)
    fixed = [p for layer in lora.lora_layers(ours).values() for p in (layer.vera_A["default"], layer.vera_B["default"])]
    assert len({id(p) for p in fixed}) == 2 and not any(p.requires_grad for p in fixed)


def test_the_update_is_the_formula_and_merging_adds_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 9)).double()
    lora.inject(model, lora.VeraConfig(r=4, target_modules=["0", "1"], init_weights=False))
    x = torch.randn(3, 7, dtype=torch.float64)
    for layer, inputs in ((model[0], x), (model[1], model[0](x))):
        A, B = layer.vera_A["default"][:, : layer.in_features], layer.vera_B["default"][: layer.out_features]
        b, d = layer.vera_lambda_b["default"], layer.vera_lambda_d["default"]
        W = layer.weight + torch.diag(b) @ B @ torch.diag(d) @ A
        torch.testing.assert_close(layer(inputs), F.linear(inputs, W, layer.bias), atol=1e-12, rtol=1e-12)
    assert model[0].vera_A["default"] is model[1].vera_A["default"] and model[0].vera_A["default"].shape == (4, 7)
    before = model.eval()(x)
    lora.merge(model)
    torch.testing.assert_close(model(x), before, atol=1e-10, rtol=1e-10)
    lora.unmerge(model)
    assert torch.equal(model(x), before)


def test_it_works_beside_4_bit_weights_and_in_a_mixed_batch():
    model = tiny.llama()
    lora.quantize_model(model)
    base = logits(model)
    lora.inject(model, lora.VeraConfig(r=4, target_modules=["q_proj"], init_weights=False), "v")
    lora.add_adapter(model, lora.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False), "l", seed=1)
    alone = logits(model)
    assert not torch.allclose(alone, base)
    with lora.mixed_batch(model, ["v", None, "l"]):
        mixed = logits(model)
    torch.testing.assert_close(mixed[0], alone[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed[1], base[1], atol=1e-5, rtol=1e-5)


def test_two_adapters_combine_as_their_updates():
    model = tiny.llama()
    lora.inject(model, lora.VeraConfig(r=3, target_modules=["q_proj"], init_weights=False), "v")
    lora.add_adapter(model, lora.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False), "l", seed=1)
    lora.combine_adapters(model, ["v", "l"], [0.5, -2.0], "both")
    for layer in lora.lora_layers(model).values():
        wanted = 0.5 * layer.delta_weight("v") - 2 * layer.delta_weight("l")
        torch.testing.assert_close(layer.delta_weight("both"), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": 0}, "rank must be a whole number"),
        ({"vera_dropout": 1.0}, "vera_dropout"),
        ({"bias": "some"}, "expected one of none, all, vera_only"),
        ({"target_modules": ["embed_tokens"]}, "vera is for Conv1D, Linear, Linear4bit, not for Embedding"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        lora.inject(tiny.llama(), lora.VeraConfig(**{**settings("llama"), **change}))


def test_an_adapter_cannot_be_exchanged():
    model = tiny.llama()
    lora.inject(model, lora.VeraConfig(**settings("llama")))
    with pytest.raises(ValueError, match="only plain LoRA on Linear and Conv1D can be exchanged, not vera"):
        lora.prepare_hotswap(model, 8)


def test_a_file_that_asks_for_a_huge_rank_is_refused_before_memory_is_allocated(tmp_path):
    model, _ = both("llama")
    lora.save_adapter(model, tmp_path)
    config = (tmp_path / "adapter_config.json").read_text()
    (tmp_path / "adapter_config.json").write_text(config.replace('"r": 6', '"r": 10000000'))
    with pytest.raises(AdapterFileError, match="have ranks up to 6"):
        lora.load_adapter(tiny.llama(), tmp_path, trainable=False)
