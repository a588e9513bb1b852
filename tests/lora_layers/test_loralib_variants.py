"""LoRA's family: scales, patterns, DoRA, PiSSA, LoRA+, (IA)³ and biases. Oracles: peft, float64, plain autograd."""

import copy
import json
import math

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

import loralib as lora
from loralib.files.read_adapter import CONFIG, WEIGHTS

peft = pytest.importorskip("peft")
TARGETS = {tiny.gpt2: ["c_attn", "c_proj"], tiny.llama: "all-linear", tiny.bert: ["query", "dense"]}
VARIANTS = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "dora rslora": {"use_dora": True, "use_rslora": True},
    "patterns": {"rank_pattern": {"c_attn|q_proj|query": 7}, "alpha_pattern": {"c_proj|v_proj|0.output.dense": 3.0}},
    "bias all": {"bias": "all"},
    "bias lora_only": {"bias": "lora_only"},
}


def randomise(model, seed=0):
    """Everything that trains gets random numbers, in any library's model."""
    for i, (_, p) in enumerate(sorted((n, p) for n, p in model.named_parameters() if p.requires_grad)):
        noise = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed + i))
        p.data.add_(0.2 * noise)


def useful(keys) -> set[str]:
    """Without the two further copies of a head's bias that peft writes with bias="all"."""
    return {k for k in keys if ".original_module." not in k and ".modules_to_save." not in k}


# ---------------------------------------------------------------- PT4: scales and patterns, exactly


@pytest.mark.parametrize(("r", "alpha"), [(1, 8), (4, 6), (16, 1), (7, 3.5)])
def test_pt4_scales(r, alpha):
    assert lora.LoraConfig(r=r, lora_alpha=alpha).scaling == alpha / r
    assert lora.LoraConfig(r=r, lora_alpha=alpha, use_rslora=True).scaling == alpha / math.sqrt(r)


def test_pt4_patterns_are_pefts():
    config = {"r": 4, "lora_alpha": 6, "target_modules": "all-linear"}
    config["rank_pattern"] = {r"0\.self_attn\.q_proj": 2, "q_proj": 5, "^model.layers.1.mlp.up_proj": 9}
    config["alpha_pattern"] = {"k_proj": 1}
    ours, others = tiny.llama(), peft.get_peft_model(tiny.llama(), peft.LoraConfig(**config))
    lora.inject(ours, lora.LoraConfig(**config))
    for path, layer in lora.lora_layers(ours).items():
        other = others.base_model.model.get_submodule(path)
        slot = layer.variants["default"]
        assert (slot.r, slot.scaling) == (other.r["default"], other.scaling["default"]), path
    ranks = {path: layer.variants["default"].r for path, layer in lora.lora_layers(ours).items()}
    assert ranks["model.layers.0.self_attn.q_proj"] == 2 and ranks["model.layers.2.self_attn.q_proj"] == 5
    assert ranks["model.layers.1.mlp.up_proj"] == 9 and ranks["model.layers.0.mlp.up_proj"] == 4


@pytest.mark.parametrize("setting", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_fits_nothing_raises(setting):
    with pytest.raises(ValueError, match=f"{setting}: 'qproj' fits none"):
        lora.inject(tiny.llama(), lora.LoraConfig(**{setting: {"q_proj": 2, "qproj": 3}}))


# ---------------------------------------------------------------- files, both ways, for every variant


@pytest.mark.parametrize("make", TARGETS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("variant", VARIANTS)
def test_pt9_variants_go_both_ways(variant, make, tmp_path):
    settings = {"r": 4, "lora_alpha": 6, "target_modules": TARGETS[make], **VARIANTS[variant]}
    if make is tiny.llama and "bias" in settings:
        pytest.skip("a Llama has no biases")
    if make is tiny.bert:
        settings["task_type"] = "SEQ_CLS"
    ours = make()
    lora.inject(ours, lora.LoraConfig(**settings))
    randomise(ours)
    lora.save_adapter(ours, tmp_path / "ours")
    other = peft.PeftModel.from_pretrained(make(), tmp_path / "ours").eval()
    torch.testing.assert_close(other(tiny.ids()).logits, ours(tiny.ids()).logits, atol=1e-5, rtol=0)
    assert useful(peft.get_peft_model_state_dict(other)) == set(load_file(tmp_path / "ours" / WEIGHTS))

    other = peft.get_peft_model(make(), peft.LoraConfig(fan_in_fan_out=make is tiny.gpt2, **settings)).eval()
    randomise(other, 100)
    other.save_pretrained(tmp_path / "theirs")
    again = make()
    lora.load_adapter(again, tmp_path / "theirs", trainable=False)
    torch.testing.assert_close(again(tiny.ids()).logits, other(tiny.ids()).logits, atol=1e-5, rtol=0)
    lora.save_adapter(again, tmp_path / "again")
    first, second = load_file(tmp_path / "theirs" / WEIGHTS), load_file(tmp_path / "again" / WEIGHTS)
    assert useful(first) == set(second) and all(torch.equal(first[k], second[k]) for k in second)


@pytest.mark.parametrize("make", [tiny.gpt2, tiny.bert], ids=lambda make: make.__name__)
def test_pt9_ia3_goes_both_ways(make, tmp_path):
    settings = {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"]}
    if make is tiny.bert:
        settings = {"target_modules": ["key", "value", "output.dense"], "feedforward_modules": ["output.dense"]}
        settings["task_type"] = "SEQ_CLS"
    ours = make()
    before = ours(tiny.ids()).logits
    lora.inject(ours, lora.IA3Config(**settings))
    assert torch.equal(ours(tiny.ids()).logits, before)  # l = 1 is the base
    randomise(ours)
    lora.save_adapter(ours, tmp_path / "ours")
    other = peft.PeftModel.from_pretrained(make(), tmp_path / "ours").eval()
    torch.testing.assert_close(other(tiny.ids()).logits, ours(tiny.ids()).logits, atol=1e-5, rtol=0)
    other.save_pretrained(tmp_path / "theirs")
    again = make()
    lora.load_adapter(again, tmp_path / "theirs", trainable=False)
    torch.testing.assert_close(again(tiny.ids()).logits, ours(tiny.ids()).logits, atol=1e-6, rtol=0)
    assert set(load_file(tmp_path / "theirs" / WEIGHTS)) == set(load_file(tmp_path / "ours" / WEIGHTS))


def test_every_switched_on_option_of_peft_that_we_lack_raises(tmp_path):
    model = tiny.llama()
    lora.inject(model, lora.LoraConfig(r=2))
    lora.save_adapter(model, tmp_path)
    settings = json.loads((tmp_path / CONFIG).read_text())
    # target_parameters: the file's tensors tell whether experts were adapted (test_loralib_stacked_weights.py)
    harmless = {
        "target_parameters",
        "runtime_config",
        "peft_version",
        "auto_mapping",
        "revision",
        "megatron_core",
        "qalora_group_size",
    }
    others = [name for name in peft.LoraConfig().to_dict() if name not in {*settings, *harmless}]
    assert len(others) > 10  # peft has many
    for name in others:
        (tmp_path / CONFIG).write_text(json.dumps(settings | {name: True}))
        with pytest.raises(lora.AdapterFileError, match=name):
            lora.load_adapter(tiny.llama(), tmp_path, trainable=False)


# ---------------------------------------------------------------- merging, switching and identity for every variant


def build(variant, make=tiny.bert):
    model = make()
    if variant == "ia3":
        config = lora.IA3Config(["key", "value", "output.dense"], feedforward_modules=["output.dense"])
    elif variant == "pissa":
        config = lora.LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS[make], init_lora_weights="pissa")
    else:
        config = lora.LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS[make], **VARIANTS[variant])
    lora.inject(model, config)
    randomise(model)
    return model


ALL = [*VARIANTS, "pissa", "ia3"]


@pytest.mark.parametrize("variant", ALL)
def test_merged_is_unmerged_and_unmerge_restores_the_bits(variant):
    model = build(variant)
    state = copy.deepcopy(model.state_dict())
    adapted = model(tiny.ids()).logits
    lora.merge(model)
    torch.testing.assert_close(model(tiny.ids()).logits, adapted, atol=1e-5, rtol=1e-5)
    lora.unmerge(model)
    after = model.state_dict()
    assert all(torch.equal(state[k], after[k]) for k in state) and torch.equal(model(tiny.ids()).logits, adapted)
    plain = lora.merge_and_unload(model)
    torch.testing.assert_close(plain(tiny.ids()).logits, adapted, atol=1e-5, rtol=1e-5)
    assert not any("lora" in n or "ia3" in n for n in plain.state_dict())


@pytest.mark.parametrize("variant", ALL)
def test_disabled_is_the_base_and_deleting_leaves_it(variant):
    base = tiny.bert()(tiny.ids()).logits
    model = build(variant)
    adapted = model(tiny.ids()).logits
    assert not torch.allclose(adapted, base, atol=1e-3)
    with lora.disable_adapters(model):
        assert torch.equal(model(tiny.ids()).logits, base)
    assert torch.equal(model(tiny.ids()).logits, adapted)
    lora.merge(model)
    with lora.disable_adapters(model):
        assert torch.equal(model(tiny.ids()).logits, base)
    lora.unmerge(model)
    lora.delete_adapter(model, "default")
    assert torch.equal(model(tiny.ids()).logits, base)
    assert set(model.state_dict()) == set(tiny.bert().state_dict())


@pytest.mark.parametrize("variant", ALL)
def test_what_trains_is_what_is_saved(variant, tmp_path):
    """Train a step, save, load into a fresh base: the same bits. And every trainable tensor is in the file."""
    model = build(variant)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(tiny.ids()).logits.square().mean().backward()
    optimizer.step()
    lora.save_adapter(model, tmp_path)
    file = load_file(tmp_path / WEIGHTS)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    start = trained - _head(model) if variant == "pissa" else 0  # PiSSA's start is written beside what was learnt
    assert sum(t.numel() for t in file.values()) == trained + start
    again = tiny.bert()
    lora.load_adapter(again, tmp_path, trainable=False)
    tolerance = 1e-6 if variant == "pissa" else 0  # there the file holds one adapter of rank 2r, and the sum is taken at once
    torch.testing.assert_close(again(tiny.ids()).logits, model(tiny.ids()).logits, atol=tolerance, rtol=0)


def _head(model) -> int:
    return sum(p.numel() for p in model.classifier.copies["default"].parameters())


@pytest.mark.parametrize("variant", ["dora", "ia3", "pissa", "rslora"])
def test_two_adapters_add_their_updates(variant):
    model = build(variant)
    lora.add_adapter(model, lora.LoraConfig(r=3, target_modules=["query"], modules_to_save=[], init_lora_weights=False), "b")
    lora.set_active(model, ["default", "b"])
    both = model(tiny.ids()).logits
    lora.merge(model)
    torch.testing.assert_close(model(tiny.ids()).logits, both, atol=1e-5, rtol=1e-5)
    lora.unmerge(model)
    with pytest.raises(ValueError, match="named twice"):
        lora.set_active(model, ["b", "b"])


# ---------------------------------------------------------------- the definition and the fast form

CONFIGS = {
    "lora": lora.LoraConfig(r=3, lora_alpha=5, target_modules=["0"], init_lora_weights=False),
    "parts": lora.LoraConfig(r=2, target_modules=["0"], init_lora_weights=False, enable_lora={"0": [True, False, True]}),
    "dora": lora.LoraConfig(r=3, target_modules=["0"], init_lora_weights=False, use_dora=True),
    "pissa": lora.LoraConfig(r=3, target_modules=["0"], init_lora_weights="pissa"),
    "ia3": lora.IA3Config(target_modules=["0"]),
    "ia3 of the input": lora.IA3Config(target_modules=["0"], feedforward_modules=["0"]),
    "vera": lora.VeraConfig(r=3, target_modules=["0"], init_weights=False),
}


@pytest.mark.parametrize("variant", CONFIGS)
@pytest.mark.parametrize("layer", ["linear", "conv1d", "embedding", "conv2d", "4 bit"])
def test_forward_is_the_definition(layer, variant):
    """Values and gradients of `forward`, which is fast, and of `plain_forward`, which is the formula. In float64."""
    torch.manual_seed(0)
    make, x = {
        "linear": (lambda: nn.Linear(8, 6), torch.randn(2, 5, 8)),
        "conv1d": (lambda: Conv1D(6, 8), torch.randn(2, 5, 8)),
        "embedding": (lambda: nn.Embedding(9, 6), torch.randint(9, (2, 5))),
        "conv2d": (lambda: nn.Conv2d(3, 6, 2), torch.randn(2, 3, 7, 7)),
        "4 bit": (lambda: nn.Linear(8, 6), torch.randn(2, 5, 8)),
    }[layer]
    model = nn.Sequential(make())
    if layer == "4 bit":
        lora.quantize_model(model)
    model = model.double() if layer != "4 bit" else model
    try:
        lora.inject(model, CONFIGS[variant])
    except ValueError as error:
        assert f"not for {type(make()).__name__}" in str(error) or "is for" in str(error)
        return
    x = x.to(model[0].weight.dtype) if x.is_floating_point() and layer != "4 bit" else x
    randomise(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    results = []
    for forward in (model[0].forward, model[0].plain_forward):
        y = forward(x)
        results.append((y, *torch.autograd.grad(y.square().sum(), trained)))
    tolerance = 1e-4 if layer == "4 bit" else 1e-10
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, atol=tolerance, rtol=tolerance)


def test_the_definition_is_the_papers_formula():
    torch.manual_seed(0)
    layer = lora.Linear(7, 5, r=3, lora_alpha=6).double()
    randomise(layer)
    x, A, B = torch.randn(4, 7).double(), layer.lora_A["default"], layer.lora_B["default"]
    torch.testing.assert_close(layer.plain_forward(x), x @ layer.weight.T + layer.bias + 2.0 * (x @ A.T) @ B.T)
