"""One set of functions for every kind of adapter: attach, activate, train_only, save, load, detach, adapters_off."""

import copy
from dataclasses import replace

import pytest
import tiny
import torch

import adapters
import loralib

TARGETS = ["query", "value"]
CONFIGS = {
    "lora": loralib.LoraConfig(r=2, target_modules=TARGETS),
    "dora": loralib.LoraConfig(r=2, target_modules=TARGETS, use_dora=True),
    "pissa": loralib.LoraConfig(r=2, target_modules=TARGETS, init_lora_weights="pissa"),
    "ia3": loralib.IA3Config(target_modules=TARGETS),
    "vera": loralib.VeraConfig(r=4, target_modules=TARGETS),
    "bottleneck": adapters.BottleneckConfig(reduction_factor=4),
    "prefix": adapters.PrefixTuningConfig(num_virtual_tokens=3, init_weights="random"),
    "prompt": adapters.PromptTuningConfig(num_virtual_tokens=3, prompt_tuning_init="RANDOM"),
}
KINDS = (*CONFIGS, "fusion", "fusion of lora")


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=tiny.ids()).logits


def randomise(model) -> None:
    """Every trained parameter gets random values, so that the adapter changes the output."""
    generator = torch.Generator().manual_seed(3)
    for p in model.parameters():
        if p.requires_grad:
            p.data.add_(0.3 * torch.randn(p.shape, generator=generator))


def with_adapter(kind: str):
    """(model, the adapter's name)."""
    model = tiny.bert()
    if not kind.startswith("fusion"):
        report = adapters.attach(model, CONFIGS[kind], "a", seed=0)
        assert isinstance(report, adapters.AttachReport) and f"{report.parameters:,} adapter parameters" in str(report)
        randomise(model)
        return model, "a"
    for name in ("b", "c"):
        adapters.attach(model, CONFIGS["lora" if kind == "fusion of lora" else "bottleneck"], name, seed=0)
        randomise(model)
    report = adapters.attach(model, adapters.AdapterFusionConfig(), adapters.Fuse("b", "c"), seed=0)
    assert report.parameters == sum(p.numel() for n, p in model.named_parameters() if ".fusions." in n) > 0
    randomise(model)
    return model, adapters.Fuse("b", "c")


@pytest.mark.parametrize("kind", KINDS)
def test_it_acts_and_it_can_be_switched_off_and_on(kind):
    model, name = with_adapter(kind)
    on, base = logits(model), logits(tiny.bert())
    assert not torch.allclose(on, base, atol=1e-3)
    with adapters.adapters_off(model):
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), on)
    adapters.activate(model, None)
    assert torch.equal(logits(model), base)
    with adapters.adapters_off(model):
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), base)
    adapters.activate(model, name)
    assert torch.equal(logits(model), on)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_is_loaded_by_its_file(kind, tmp_path):
    model, name = with_adapter(kind)
    adapters.save(model, tmp_path / "adapter", name)
    again = tiny.bert()
    report = adapters.load(again, tmp_path / "adapter")
    assert report.tensors == report.expected > 0
    assert torch.equal(logits(again), logits(model)) and not any(p.requires_grad for p in again.parameters())
    further = tiny.bert()
    adapters.load(further, tmp_path / "adapter", trainable=True)
    assert any(p.requires_grad for p in further.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_only_one_that_trains_and_it_can_be_taken_out(kind):
    model, name = with_adapter(kind)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    adapters.attach(model, CONFIGS["bottleneck"], "other", seed=1)
    others = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained and others and not trained & others
    adapters.activate(model, name)
    adapters.train_only(model, name)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == trained
    assert name in adapters.attached(model) and "other" in adapters.attached(model)
    for each in [name, "other", *(n for n in ("b", "c") if n in adapters.attached(model))]:
        adapters.detach(model, each)
    assert not adapters.attached(model) and torch.equal(logits(model), logits(tiny.bert()))
    assert set(model.state_dict()) == set(tiny.bert().state_dict())


@pytest.mark.parametrize("first", CONFIGS)
@pytest.mark.parametrize("second", ["lora", "bottleneck", "prompt"])
def test_a_new_adapter_of_another_kind_is_the_only_active_one(first, second):
    model, _ = with_adapter(first)
    alone = tiny.bert()
    for each in (model, alone):
        adapters.attach(each, CONFIGS[second], "second", seed=5)
    randomise(model)
    randomise(alone)
    assert torch.equal(logits(model), logits(alone))
    adapters.activate(model, "a")
    assert not torch.equal(logits(model), logits(alone))


def test_several_adapters_train_together_and_lora_adapters_add_up():
    model = tiny.bert()
    for name, heads in (("a", None), ("b", [])):
        adapters.attach(model, replace(CONFIGS["lora"], modules_to_save=heads), name, seed=0)
        randomise(model)
    adapters.train_only(model, ["a", "b"])
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    assert any(".a" in n for n in names) and any(".b" in n for n in names)
    adapters.activate(model, ["a", "b"])
    both = logits(model)
    layer = model.bert.encoder.layer[0].attention.self.query
    assert layer.active == ("a", "b") and model.classifier.active == "a"
    adapters.activate(model, "a")
    assert not torch.equal(logits(model), both)
    adapters.attach(model, CONFIGS["bottleneck"], "c", seed=0)
    adapters.attach(model, CONFIGS["bottleneck"], "d", seed=0)
    adapters.train_only(model, ["c", "d"])
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    assert {n.split(".bottlenecks.")[1][0] for n in names if ".bottlenecks." in n} == {"c", "d"} and len(names) > 8


@pytest.mark.parametrize("kind", [*CONFIGS])
def test_get_peft_model_takes_every_config_and_peft_objects_too(kind):
    model = tiny.bert()
    assert adapters.get_peft_model(model, CONFIGS[kind]) is model and list(adapters.attached(model)) == ["default"]
    peft = pytest.importorskip("peft")
    ours, other = tiny.gpt2(), tiny.gpt2()
    adapters.get_peft_model(other, peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True), seed=0)
    loralib.get_peft_model(ours, loralib.LoraConfig(r=2, target_modules=["c_attn"]), seed=0)
    assert set(ours.state_dict()) == set(other.state_dict())


def test_mistakes_are_named(tmp_path):
    model, _ = with_adapter("lora")
    before = copy.deepcopy(model.state_dict())
    for call, error, message in (
        (lambda: adapters.attach(model, {"r": 8}, "x"), TypeError, "dict is no config of an adapter"),
        (lambda: adapters.attach(model, CONFIGS["prompt"], "a"), ValueError, "exists already"),
        (lambda: adapters.attach(model, adapters.AdapterFusionConfig(), "x"), TypeError, "a fusion is named Fuse"),
        (lambda: adapters.attach(model, CONFIGS["lora"], adapters.Fuse("a", "b")), TypeError, "a fusion is named Fuse"),
        (lambda: adapters.activate(model, "b"), KeyError, "no adapter 'b' in this BertForSequenceClassification"),
        (lambda: adapters.activate(model, adapters.Stack("a")), ValueError, "'a' is a lora adapter"),
        (lambda: adapters.activate(model, "a", head="b"), KeyError, "has no head"),
        (lambda: adapters.train_only(model, "b"), KeyError, "no adapter 'b'"),
        (lambda: adapters.detach(model, "b"), KeyError, "no adapter 'b'"),
        (lambda: adapters.save(model, tmp_path, "b"), KeyError, "no adapter 'b'"),
        (lambda: adapters.load(model, tmp_path), adapters.AdapterFileError, "neither adapter_config.json nor fusion_config.json"),
    ):
        with pytest.raises(error, match=message):
            call()
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "OFT"}')
    with pytest.raises(adapters.AdapterFileError, match="names the method 'OFT'"):
        adapters.load(model, tmp_path)
    with pytest.raises(ValueError, match="exists already"):
        adapters.load(model, adapters.save(model, tmp_path / "a", "a"), "a")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["lora", "bottleneck", "prefix", "prompt"])
def test_nothing_is_attached_or_loaded_beside_a_merged_adapter(kind, tmp_path):
    model, _ = with_adapter("lora")
    loralib.merge(model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    with pytest.raises(RuntimeError, match=r"adapters \['a'\] are merged: unmerge\(model\)"):
        adapters.attach(model, CONFIGS[kind], "b", seed=0)
    with pytest.raises(RuntimeError, match=r"adapters \['a'\] are merged: unmerge\(model\)"):
        adapters.activate(model, None)
    other = tiny.bert()
    adapters.attach(other, CONFIGS[kind], "b", seed=0)
    adapters.save(other, tmp_path / "b", "b")
    with pytest.raises(RuntimeError, match=r"adapters \['a'\] are merged: unmerge\(model\)"):
        adapters.load(model, tmp_path / "b", "b")
    after = dict(model.named_parameters())
    assert after.keys() == before.keys() and list(adapters.attached(model)) == ["a"]
    assert all(torch.equal(after[name], p) for name, p in before.items())
