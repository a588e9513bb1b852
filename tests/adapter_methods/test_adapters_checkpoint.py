"""Folders of adapters and fusions: the same bits back, and nothing loaded from what does not fit."""

import json

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from adapter_methods.test_adapters_architectures import MODELS, run
from adapters.bottleneck.attachment import activate, attach, attached, sites, train_only
from adapters.bottleneck.bottleneck import BottleneckConfig
from adapters.bottleneck.checkpoint import load_bottleneck, save_bottleneck
from adapters.bottleneck.composition import Fuse
from adapters.fusion.fuse import add_fusion, delete_fusion
from adapters.fusion.fusion import AdapterFusionConfig, fusion_penalty, no_decay
from adapters.fusion.fusion_files import load_fusion, save_fusion
from adapters.virtual.prefix import PrefixTuningConfig
from adapters.virtual.virtual_tokens import add_virtual_tokens
from loralib import AdapterFileError, LoraConfig, add_adapter, set_active


def trained(kind="bert", *names, **settings):
    """A model with adapters that do something."""
    model = MODELS[kind]()
    for i, name in enumerate(names or ("a",)):
        attach(model, BottleneckConfig(reduction_factor=4, init="bert", **settings), name, seed=i)
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "bottlenecks" in n or "copies" in n:
                p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(n))))
    return model


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("placement", ["pfeiffer", "houlsby", "parallel"])
def test_an_adapter_comes_back_to_the_bit(kind, placement, tmp_path):
    model = trained(kind, placement=placement)
    save_bottleneck(model, tmp_path / "adapter_a", "a")
    fresh = MODELS[kind]()
    report = load_bottleneck(fresh, tmp_path / "adapter_a", "again", trainable=False)
    assert torch.equal(run(fresh, kind), run(model, kind)) and str(report).startswith(f"{report.tensors}/{report.tensors}")
    assert not any(p.requires_grad for p in fresh.parameters())
    load_bottleneck(fresh, tmp_path / "adapter_a", "third", trainable=True)
    assert all("third" in n for n, p in fresh.named_parameters() if p.requires_grad)


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_fusion_comes_back_with_its_members_and_head(dynamic, tmp_path):
    """R16: one folder is enough; logits are equal to the last bit, by the head that was chosen."""
    model = trained("bert", "sst2", "mnli")
    fuse = Fuse("sst2", "mnli")
    add_fusion(model, fuse, AdapterFusionConfig(dynamic=dynamic), seed=3)
    with torch.no_grad():
        for site in sites(model).values():
            for p in site.fusions.parameters():
                p.add_(0.1)
    for head in ("sst2", "mnli", None):
        activate(model, fuse, head)
        save_fusion(model, tmp_path / "fusion", fuse, head)
        fresh = tiny.bert()
        assert load_fusion(fresh, tmp_path / "fusion", trainable=True) == fuse
        assert torch.equal(run(fresh, "bert"), run(model, "bert"))
        learning = {n for n, p in fresh.named_parameters() if p.requires_grad}
        assert learning and all(".fusions." in n or f".copies.{head or 'mnli'}." in n for n in learning)
    known = tiny.bert()  # a member that is there already must be the folder's
    load_bottleneck(known, tmp_path / "fusion" / "members" / "sst2", "sst2", trainable=False)
    load_fusion(known, tmp_path / "fusion", trainable=False)
    other = trained("bert", "sst2")
    with torch.no_grad():
        next(iter(sites(other).values())).bottlenecks["sst2"].up.weight.add_(1)
    with pytest.raises(AdapterFileError, match="another adapter called 'sst2'"):
        load_fusion(other, tmp_path / "fusion", trainable=False)
    assert attached(other) == ["sst2"]


def damage(folder, change_settings=None, change_tensors=None):
    if change_settings:
        path = folder / "adapter_config.json"
        settings = json.loads(path.read_text())
        change_settings(settings)
        path.write_text(json.dumps(settings))
    if change_tensors:
        tensors = load_file(folder / "adapter.safetensors")
        change_tensors(tensors)
        save_file(tensors, folder / "adapter.safetensors")


DAMAGES = {
    "a tensor is missing": ({"change_tensors": lambda t: t.pop(next(iter(t)))}, "missing"),
    "a tensor too many": ({"change_tensors": lambda t: t.update(extra=torch.ones(1))}, r"1 unexpected .e.g. .'extra'"),
    "another shape": ({"change_tensors": lambda t: t.update({min(t): torch.ones(1, 2)})}, "expected"),
    "another width": ({"change_settings": lambda s: s.update(reduction_factor=8)}, "expected"),
    "an unknown setting": ({"change_settings": lambda s: s.update(gate=True)}, "gate"),
    "a number that is none": ({"change_tensors": lambda t: t[min(t)].fill_(torch.nan)}, "not finite"),
    "another kind": ({"change_settings": lambda s: s.update(type="fusion")}, "type 'fusion', expected 'bottleneck'"),
    "a wrong head": ({"change_settings": lambda s: s.update(modules_to_save=["skull"])}, "skull"),
    "a layer that is not there": ({"change_settings": lambda s: s.update(leave_out=[9])}, "layers 0 to 1"),
}


@pytest.mark.parametrize("what", DAMAGES)
@pytest.mark.fault
def test_a_damaged_folder_loads_nothing(what, tmp_path):
    change, text = DAMAGES[what]
    save_bottleneck(trained(), tmp_path, "a")
    damage(tmp_path, **change)
    model = tiny.bert()
    before, output = {n: p.requires_grad for n, p in model.named_parameters()}, run(model, "bert")
    with pytest.raises(AdapterFileError, match=text):
        load_bottleneck(model, tmp_path, "a", trainable=True)
    assert torch.equal(run(model, "bert"), output) and not sites(model) and not attached(model)
    assert {n: p.requires_grad for n, p in model.named_parameters()} == before


@pytest.mark.fault
def test_a_fusion_with_the_head_of_nobody_leaves_the_model_as_it_was(tmp_path):
    model, fuse = trained("bert", "sst2", "mnli"), Fuse("sst2", "mnli")
    add_fusion(model, fuse, seed=0)
    settings = save_fusion(model, tmp_path, fuse, "sst2") / "fusion_config.json"
    settings.write_text(settings.read_text().replace('"head": "sst2"', '"head": "cola"'))
    fresh = tiny.bert()
    before = run(fresh, "bert")
    with pytest.raises(AdapterFileError, match="the head of 'cola'"):
        load_fusion(fresh, tmp_path, trainable=False)
    assert torch.equal(run(fresh, "bert"), before) and not attached(fresh) and not sites(fresh)


@pytest.mark.fault
def test_unreadable_and_unsavable(tmp_path):
    with pytest.raises(AdapterFileError, match="no readable"):
        load_bottleneck(tiny.bert(), tmp_path, trainable=False)
    model = trained()
    with pytest.raises(KeyError, match="'b'"):
        save_bottleneck(model, tmp_path, "b")
    with torch.no_grad():
        next(iter(sites(model).values())).bottlenecks["a"].up.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        save_bottleneck(model, tmp_path, "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.fault
def test_a_failed_load_leaves_what_acts_and_trains(tmp_path):
    model = trained("bert", "good")
    save_bottleneck(model, tmp_path / "a", "good")
    tensors = load_file(tmp_path / "a" / "adapter.safetensors")
    torn = {k: v[:1].contiguous() if v.dim() == 2 else v for k, v in tensors.items()}
    save_file(torn, tmp_path / "a" / "adapter.safetensors")
    before, learning = run(model, "bert"), {n for n, p in model.named_parameters() if p.requires_grad}
    with pytest.raises(AdapterFileError, match="expected"):
        load_bottleneck(model, tmp_path / "a", "bad", trainable=True)
    assert torch.equal(run(model, "bert"), before) and attached(model) == ["good"]
    assert {n for n, p in model.named_parameters() if p.requires_grad} == learning
    settings = tmp_path / "a" / "adapter_config.json"
    settings.write_text(settings.read_text().replace('"width": 24', '"width": 32'))
    with pytest.raises(AdapterFileError, match="of width 32, this one has 24"):
        load_bottleneck(model, tmp_path / "a", "bad", trainable=True)


def test_train_only_takes_the_adapters_own_head():
    model = trained("bert", "a", "b")
    activate(model, "b")
    train_only(model, "a")
    learning = [n for n, p in model.named_parameters() if p.requires_grad]
    assert "classifier.copies.a.weight" in learning and all(".a." in n for n in learning)
    with pytest.raises(KeyError, match="no adapter or fusion 'c'"):
        train_only(model, "c")
    assert [n for n, p in model.named_parameters() if p.requires_grad] == learning


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("placement", ["pfeiffer", "parallel"])
def test_every_family_trains_comes_back_and_answers(family, placement, tmp_path):
    model = tiny.FAMILIES[family]()
    attach(model, BottleneckConfig(placement=placement, reduction_factor=4), "a", seed=0)
    inputs = {"input_ids": tiny.ids()} | ({"decoder_input_ids": tiny.ids(2)} if family == "t5" else {})
    optimizer, losses = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.02), []
    for _ in range(15):
        logits = model.train()(**inputs).logits
        losses.append(
            torch.nn.functional.cross_entropy(logits.flatten(0, -2), torch.zeros(logits[..., 0].numel(), dtype=torch.long))
        )
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    save_bottleneck(model.eval(), tmp_path, "a")
    fresh = tiny.FAMILIES[family]()
    load_bottleneck(fresh, tmp_path, "a", trainable=False)
    with torch.no_grad():
        assert torch.equal(fresh(**inputs).logits, model(**inputs).logits)
    if family in ("gpt2", "llama", "t5"):
        options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
        words = fresh.generate(tiny.ids(), **options)
        assert torch.equal(words, model.generate(tiny.ids(), use_cache=False, **options))


# ---------------------------------------------------------------- fusion over LoRA adapters


def lora_members():
    """A BERT with two LoRA adapters that do something, each with its head."""
    model = tiny.bert()
    for i, name in enumerate(("sst2", "mnli")):
        config = LoraConfig(target_modules=["query", "value"], r=2, modules_to_save=["classifier"])
        add_adapter(model, config, name, seed=i)
    tiny.randomise_lora(model)
    return model


def test_a_fusion_of_lora_adapters_is_attention_over_their_updates():
    model, fuse = lora_members(), Fuse("sst2", "mnli")
    add_fusion(model, fuse, seed=0)
    layer = model.bert.encoder.layer[0].attention.self.query
    x = torch.randn(2, 5, 24)
    y = layer.base_forward(x)
    updates = torch.stack([layer.update(name, x) for name in fuse.names], -2)
    fusion = layer.adapter_site.fusions[fuse.key]
    torch.testing.assert_close(layer(x), y + fusion(y, updates))
    scores = torch.einsum("btd,btnd->btn", fusion.query(y), fusion.key(updates)).softmax(-1)
    by_hand = torch.einsum("btn,btnd->btd", scores, updates @ fusion.value.weight.T)
    torch.testing.assert_close(layer(x), y + by_hand)
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    assert learning and all(".fusions." in n or ".copies.mnli." in n for n in learning)
    model(tiny.ids()).logits.square().mean().backward()
    assert all(model.get_parameter(n).grad is not None for n in learning)
    assert fusion_penalty(model) > 0 and len(no_decay(model)) == 4
    assert all(m.get_parameter(n).ndim == 2 for m in (model, fusion) for n in no_decay(m)) and len(no_decay(fusion)) == 1


def test_a_lora_fusion_comes_back_and_goes_away(tmp_path):
    model, fuse = lora_members(), Fuse("sst2", "mnli")
    alone = {}
    for name in fuse.names:
        set_active(model, name)
        alone[name] = run(model, "bert")
    add_fusion(model, fuse, seed=0)
    fused = run(model, "bert")
    save_fusion(model, tmp_path, fuse)
    assert {n for n, p in model.named_parameters() if p.requires_grad}, "saving must not freeze"
    for fresh in (tiny.bert(), lora_members()):
        load_fusion(fresh, tmp_path, trainable=False)
        assert torch.equal(run(fresh, "bert"), fused) and not any(p.requires_grad for p in fresh.parameters())
    set_active(model, "sst2")
    with pytest.raises(RuntimeError, match="act beside"):
        run(model, "bert")
    activate(model, None)
    set_active(model, "sst2")
    assert torch.equal(run(model, "bert"), alone["sst2"])
    delete_fusion(model, fuse)
    set_active(model, "mnli")
    assert torch.equal(run(model, "bert"), alone["mnli"]) and not sites(model)


def test_a_bottleneck_saved_beside_a_fusion_of_wider_layers_comes_back(tmp_path):
    """The places of a LoRA fusion are as wide as its layers: 3 d for GPT-2's `c_attn`."""
    model = tiny.gpt2()
    for name in ("a", "b"):
        add_adapter(model, LoraConfig(target_modules=["c_attn"], r=2), name, seed=0)
    attach(model, BottleneckConfig(reduction_factor=4), "small", seed=0)
    add_fusion(model, Fuse("a", "b"), seed=0)
    save_bottleneck(model, tmp_path, "small")
    assert load_bottleneck(tiny.gpt2(), tmp_path, "small", trainable=False).tensors == 8


def test_what_cannot_be_fused_is_refused():
    for names in (("a__b", "c"), ("a_", "b")):  # their key could not be taken apart again, and a member be detached unseen
        with pytest.raises(ValueError, match="no name may hold it"):
            Fuse(*names)
    model = lora_members()
    attach(model, BottleneckConfig(reduction_factor=4, modules_to_save=[]), "b")
    with pytest.raises(ValueError, match="cannot be fused together"):
        add_fusion(model, Fuse("sst2", "b"))
    add_virtual_tokens(model, PrefixTuningConfig(num_virtual_tokens=2, modules_to_save=[]), "p")
    with pytest.raises(ValueError, match="change what every layer attends to"):
        add_fusion(model, Fuse("p", "b"))
    with pytest.raises(KeyError, match=r"no adapter .'c'"):
        add_fusion(model, Fuse("sst2", "c"))
    config = LoraConfig(target_modules=["query"], r=2, modules_to_save=["classifier"])
    add_adapter(model, config, "few", seed=0)
    with pytest.raises(ValueError, match=r"different places \(2 of 4"):
        add_fusion(model, Fuse("sst2", "few"))
