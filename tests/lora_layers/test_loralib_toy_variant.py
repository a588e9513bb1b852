"""A variant that is defined here, in one class of settings and one class of methods, goes everywhere that LoRA goes."""

import inspect
from dataclasses import dataclass

import pytest
import tiny
import torch
from torch.nn import functional as F

import loralib as lora
from loralib.injection.injection import adapter_configs
from loralib.variants import registry
from loralib.variants.config import AdapterConfig
from loralib.variants.variant import Variant, in_float32


@dataclass(frozen=True)
class ToyConfig(AdapterConfig):
    t_initial: float = 0.0
    peft_type = "TOY"

    def variants(self, modules):
        return {path: Toy(t_initial=self.t_initial) for path in modules}


@dataclass(frozen=True)
class Toy(Variant):
    t_initial: float = 0.0
    title, parameters = "toy", ("toy_t",)

    def start(self, layer, name, start):
        layer.add_parameter("toy_t", name, torch.full(layer.matrix_shape()[:1], self.t_initial, dtype=start.dtype))

    def update(self, layer, name, x):  # y = W x + b + t ⊙ (W x), with one trainable number t for each output
        return F.linear(x, layer.matrix()) * layer.toy_t[name]

    def delta_weight(self, layer, name):
        return in_float32(layer.matrix()) * in_float32(layer.toy_t[name])[:, None]


@pytest.fixture(autouse=True)
def registered():
    registry.register(ToyConfig, Toy)
    yield
    del registry.CONFIGS["TOY"]
    registry.VARIANTS.remove(Toy)


def toy_model(name: str = "default"):
    model = tiny.llama()
    report = lora.inject(model, ToyConfig(target_modules=["q_proj", "down_proj"], t_initial=0.25), name)
    assert report.parameters == sum(p.numel() for p in model.parameters() if p.requires_grad) > 0
    return model


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=tiny.ids()).logits


def test_it_is_defined_in_25_lines_and_registered_in_one():
    lines = inspect.getsource(ToyConfig) + inspect.getsource(Toy)
    assert len(lines.splitlines()) <= 25
    with pytest.raises(ValueError, match="expected a new name"):
        registry.register(type("Other", (ToyConfig,), {}))


def test_it_trains_merges_and_unmerges():
    model = toy_model()
    before, base = logits(model), logits(tiny.llama())
    assert not torch.allclose(before, base)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(input_ids=tiny.ids(), labels=tiny.ids()).loss.backward()
    optimizer.step()
    after = logits(model)
    assert not torch.allclose(after, before, atol=1e-4)
    with lora.disable_adapters(model):
        assert torch.equal(logits(model), base)
    lora.merge(model)
    torch.testing.assert_close(logits(model), after, atol=1e-5, rtol=1e-5)
    lora.unmerge(model)
    assert torch.equal(logits(model), after)


def test_it_is_saved_and_loaded(tmp_path):
    model = toy_model()
    for layer in lora.lora_layers(model).values():
        torch.nn.init.normal_(layer.toy_t["default"])
    lora.save_adapter(model, tmp_path)
    again = tiny.llama()
    lora.load_adapter(again, tmp_path, trainable=False)
    assert torch.equal(logits(again), logits(model))
    assert adapter_configs(again)["default"].t_initial == 0.25


def test_it_takes_part_in_a_mixed_batch():
    model = toy_model("toy")
    lora.add_adapter(model, lora.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False), "lora", seed=1)
    alone = {}
    for name in ("toy", "lora"):
        lora.set_active(model, name)
        alone[name] = logits(model)
    with lora.mixed_batch(model, ["toy", None, "lora"]):
        mixed = logits(model)
    torch.testing.assert_close(mixed[0], alone["toy"][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed[1], logits(tiny.llama())[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed[2], alone["lora"][2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", ["embed_tokens", "conv", "4 bit"])
def test_it_is_refused_where_it_cannot_work(layer):
    model = tiny.llama()
    if layer == "4 bit":
        lora.quantize_model(model)
    target = {"embed_tokens": "embed_tokens", "4 bit": "q_proj"}.get(layer)
    if layer == "conv":
        model, target = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)), "0"
    with pytest.raises(ValueError, match="toy is for Conv1D, Linear, not for"):
        lora.inject(model, ToyConfig(target_modules=[target]))
