"""An adapter found from any handle of a model: a wrapper as DDP makes it, torch.compile's, a part; and accelerate's hooks."""

import copy
import json

import pytest
import tiny
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module
from torch import nn

import loralib as lora
from loralib.base_model.handles import bare_model
from loralib.files.read_adapter import CONFIG


class Wrapper(nn.Module):
    """What DistributedDataParallel looks like from outside."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


HANDLES = {
    "model": lambda model: model,
    "wrapper": Wrapper,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "wrapper of compiled": lambda model: Wrapper(torch.compile(model, backend="eager")),
}
PART = {"roberta": "roberta", "distilbert": "distilbert", "gpt2": "transformer"}
TARGETS = {"roberta": ["query"], "distilbert": ["q_lin"], "gpt2": ["c_attn"], "t5": ["q"]}


def inputs(family: str) -> dict:
    return {"input_ids": tiny.ids()} | ({"decoder_input_ids": tiny.ids(2)} if family == "t5" else {})


def answer(family: str, model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs(family)).logits


@pytest.mark.parametrize("family", ["roberta", "distilbert", "gpt2"])
@pytest.mark.parametrize("kind", [*HANDLES, "part"])
def test_adapters_with_biases_are_switched_off_from_any_handle(kind, family):
    model = tiny.FAMILIES[family]()
    base = answer(family, model)
    lora.inject(model, lora.LoraConfig(r=2, target_modules=TARGETS[family], bias="all", modules_to_save=[]))
    for p in model.parameters():
        if p.requires_grad:
            p.data.normal_(std=0.3, generator=torch.Generator().manual_seed(p.numel()))
    adapted = answer(family, model)
    handle = model.get_submodule(PART[family]) if kind == "part" else HANDLES[kind](model)
    with lora.disable_adapters(handle):
        assert torch.equal(answer(family, model), base)
    assert torch.equal(answer(family, model), adapted) and not torch.allclose(adapted, base, atol=1e-2)
    lora.add_adapter(model, lora.LoraConfig(r=2, target_modules=TARGETS[family], modules_to_save=[]), "fresh")
    lora.set_active(handle, "fresh")  # its update starts at zero, and the biases of the other one must go
    assert torch.equal(answer(family, model), base)
    with pytest.raises(ValueError, match="train biases"), lora.mixed_batch(handle, ["default", None, None]):
        pass


def test_a_copy_of_a_model_switches_its_own_biases():
    model = tiny.roberta()
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["query"], bias="all", modules_to_save=[]))
    twin = copy.deepcopy(model)
    for p in twin.parameters():
        p.data.add_(1.0 * p.requires_grad)
    before = answer("roberta", model)
    lora.set_active(twin, [])
    assert torch.equal(answer("roberta", model), before)
    assert torch.equal(answer("roberta", twin), answer("roberta", tiny.roberta()))


@pytest.mark.parametrize("family", ["gpt2", "t5"])
@pytest.mark.parametrize("kind", HANDLES)
def test_a_file_does_not_depend_on_the_handle(kind, family, tmp_path):
    make = tiny.FAMILIES[family]
    model = make()
    handle = HANDLES[kind](model)
    lora.inject(handle, lora.LoraConfig(r=2, target_modules=TARGETS[family]))
    tiny.randomise_lora(model)
    lora.save_adapter(handle, tmp_path)
    targets = json.loads((tmp_path / CONFIG).read_text())["target_modules"]
    assert targets and all(isinstance(make().get_submodule(path), nn.Module) for path in targets)
    fresh = make()
    lora.load_adapter(HANDLES[kind](fresh), tmp_path, trainable=False)
    assert torch.equal(answer(family, fresh), answer(family, model))
    lora.merge_and_unload(handle)
    torch.testing.assert_close(answer(family, model), answer(family, fresh), atol=1e-5, rtol=0)
    lora.delete_adapter(HANDLES[kind](fresh), "default")
    assert torch.equal(answer(family, fresh), answer(family, make()))


# ---------------------------------------------------------------- forwards that lie on the module


def hooked(model: nn.Module) -> nn.Module:
    """As `device_map` leaves a model on several devices: every module has its old forward and a new one on itself."""
    for module in model.modules():
        add_hook_to_module(module, AlignDevicesHook(execution_device="cpu", io_same_device=True))
    return model


@pytest.mark.parametrize("family", ["gpt2", "t5", "roberta"])
def test_lora_acts_and_learns_in_a_model_with_device_hooks(family, tmp_path):
    make = tiny.FAMILIES[family]
    config = lora.LoraConfig(r=2, lora_alpha=16, target_modules=TARGETS[family], modules_to_save=[])
    plain, model = make(), hooked(make())
    base = answer(family, model)
    for each in (plain, model):
        lora.inject(each, config, seed=0)
    model(**inputs(family)).logits.sum().backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    for each in (plain, model):
        tiny.randomise_lora(each)
    assert torch.equal(answer(family, model), answer(family, plain)) and not torch.allclose(answer(family, model), base)
    fresh = hooked(make())
    lora.load_adapter(fresh, lora.save_adapter(model, tmp_path), trainable=False)
    assert torch.equal(answer(family, fresh), answer(family, plain))
    lora.merge(model)
    torch.testing.assert_close(answer(family, model), answer(family, plain), atol=1e-5, rtol=0)
    lora.unmerge(model)
    lora.delete_adapter(model, "default")
    assert torch.equal(answer(family, model), base)  # a plain layer again, and its hook still calls a forward of its own class
    for module in model.modules():
        remove_hook_from_module(module)
    assert torch.equal(answer(family, model), base)


@pytest.mark.parametrize("family", ["gpt2", "distilbert"])
def test_a_replaced_forward_that_lora_cannot_reach_is_refused(family):
    model = tiny.FAMILIES[family]()
    target = next(m for n, m in model.named_modules() if n.endswith(TARGETS[family][0]))
    target.forward = lambda x: x
    with pytest.raises(ValueError, match=r"forward of this (Conv1D|Linear) was replaced .* LoRA in it would never run"):
        lora.inject(model, lora.LoraConfig(r=2, target_modules=TARGETS[family]))
    assert not any("lora_" in name for name, _ in model.named_parameters())


def test_a_model_is_no_wrapper_because_its_parts_have_the_names_of_one():
    both = nn.Sequential()
    both.add_module("module", nn.Linear(2, 2))
    both.add_module("_orig_mod", nn.Linear(2, 2))
    empty = nn.Sequential()
    empty.register_module("module", None)
    for model in (both, empty):
        assert bare_model(model) is model
    wrapper = nn.Sequential()
    wrapper.add_module("module", both)
    assert bare_model(wrapper) is both
