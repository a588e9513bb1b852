"""Which modules are matched, what trains afterwards, and that nothing can match nothing. Oracle: peft's own matcher."""

import pytest
import tiny
import torch
from torch import nn

import loralib as lora
from loralib.layers.heads import SavedModule

SETTINGS = [
    {"target_modules": ["q_proj", "v_proj"]},
    {"target_modules": ["self_attn.q_proj", "model.layers.1.mlp.up_proj"]},
    {"target_modules": r".*\.layers\.[02]\..*_proj"},
    {"target_modules": ["q_proj"], "layers_to_transform": [0, 2]},
    {"target_modules": ["down_proj"], "layers_to_transform": 1, "layers_pattern": "layers"},
    {"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["layers.0.self_attn.q_proj"]},
    {"target_modules": ["q_proj", "k_proj"], "exclude_modules": r".*layers\.1.*"},
    {"target_modules": "all-linear"},
    {"target_modules": "all-linear", "exclude_modules": ["o_proj"]},
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_pt11_the_same_modules_as_peft(setting):
    peft = pytest.importorskip("peft")
    from peft.tuners.tuners_utils import inspect_matched_modules

    ours = {row[0] for row in lora.inject(tiny.llama(), lora.LoraConfig(**setting)).rows}
    other = inspect_matched_modules(peft.get_peft_model(tiny.llama(), peft.LoraConfig(**setting)).base_model)["matched"]
    assert ours == set(other) and ours


@pytest.mark.parametrize("make", [tiny.gpt2, tiny.llama])
def test_all_linear_leaves_the_output_head_alone(make):
    names = {row[0] for row in lora.inject(make(), lora.LoraConfig()).rows}
    assert names and "lm_head" not in names


def test_all_linear_leaves_a_new_task_head_alone_and_trains_it_whole():
    model = tiny.bert()
    report = lora.inject(model, lora.LoraConfig())
    assert report.heads == ("classifier",) and not any("classifier" in row[0] for row in report.rows)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n in trainable if "lora_" not in n} == {"classifier.copies.default.weight", "classifier.copies.default.bias"}


@pytest.mark.parametrize(
    ("setting", "result"),
    [
        ({"target_modules": ["q_proj", "vproj"]}, "v_proj"),
        ({"target_modules": ["query"]}, "q_proj|matches none"),
        ({"target_modules": r".*\.attention\..*"}, "matches none"),
        ({"target_modules": ["q_proj"], "exclude_modules": ["o_prj"]}, "exclude_modules"),
        ({"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]}, "leaves none"),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0, 9]}, r"layers \[9\]"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["clasifier"]}, "modules_to_save"),
        ({"target_modules": ["q_proj"], "enable_lora": {"c_attn": [True]}}, "enable_lora"),
        ({"target_modules": ["self_attn"]}, "Name the layers inside"),
        ({"target_modules": ["norm"]}, "Name the layers inside"),
        ({"layers_to_transform": []}, "empty"),
        ({"layers_pattern": "layers"}, "picks nothing without layers_to_transform"),
        ({"layers_to_transform": [7]}, r"layers \[7\]"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["layers"]}, "no forward"),
    ],
)
def test_pt32_a_name_that_matches_nothing_raises_and_changes_nothing(setting, result):
    model = tiny.llama()
    before = {n: (type(m), id(m)) for n, m in model.named_modules()}
    with pytest.raises(ValueError, match=result):
        lora.inject(model, lora.LoraConfig(**setting))
    assert {n: (type(m), id(m)) for n, m in model.named_modules()} == before
    assert all(p.requires_grad for p in model.parameters())


def test_pt32_modules_whose_owner_goes_past_forward_are_refused():
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))
    for target in ("linear1", "out_proj"):
        with pytest.raises(ValueError, match="no-op"):
            lora.inject(model, lora.LoraConfig(r=2, target_modules=[target]))


@pytest.mark.parametrize(
    "call", [lora.mark_only_lora_as_trainable, lora.lora_state_dict, lora.print_trainable_parameters, lora.merge]
)
def test_pt32_the_source_materials_own_example_raises(call):
    """It marks parameters on a model without LoRA, which adds nothing and would train nothing."""
    model = tiny.gpt2()
    with pytest.raises(ValueError, match="no LoRA layers"):
        call(model)
    assert all(p.requires_grad for p in model.parameters())


def test_the_surface_people_know():
    model = nn.Sequential(lora.Linear(8, 8, r=4), nn.ReLU(), lora.MergedLinear(8, 12, r=2, enable_lora=[True, False, True]))
    model[0].weight.requires_grad_(True)
    lora.mark_only_lora_as_trainable(model)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(lora.lora_state_dict(model))
    model.load_state_dict(lora.lora_state_dict(model), strict=False)


def test_active_and_trainable_are_separate():
    model = tiny.llama()
    config = lora.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    lora.inject(model, config, "a")
    lora.add_adapter(model, config, "b")
    before = {n: p.requires_grad for n, p in model.named_parameters()}
    lora.set_active(model, "b")
    assert {n: p.requires_grad for n, p in model.named_parameters()} == before
    out = model(tiny.ids()).logits
    lora.set_trainable(model, "b")
    assert torch.equal(model(tiny.ids()).logits, out)
    assert all((".b" in n) == p.requires_grad for n, p in model.named_parameters())


def test_unknown_adapter_names_raise():
    model = tiny.llama()
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["q_proj"]))
    for call in (lora.set_active, lora.set_trainable, lora.delete_adapter):
        with pytest.raises(KeyError, match="nobody"):
            call(model, "nobody")


@pytest.mark.parametrize("name", ["lora", "lora_A", "default2", "x-1"])
def test_awkward_adapter_names_work(name):
    model = tiny.bert()
    lora.inject(model, lora.LoraConfig(r=2, init_lora_weights=False), name)
    lora.add_adapter(model, lora.LoraConfig(r=3, init_lora_weights=False), name + "0")
    lora.set_active(model, name)
    assert model(tiny.ids()).logits.shape == (3, 3)


@pytest.mark.parametrize("name", ["a.b", "", "keys", "pop", "default", "ä", "training", "_modules"])
def test_impossible_adapter_names_raise(name):
    model = tiny.bert()
    lora.inject(model, lora.LoraConfig(r=2))
    with pytest.raises(ValueError, match="adapter"):
        lora.add_adapter(model, lora.LoraConfig(r=2), name)


def test_deleting_an_adapter_leaves_the_other_and_the_base():
    model = tiny.bert()
    base = model(tiny.ids()).logits
    lora.inject(model, lora.LoraConfig(r=2, init_lora_weights=False), "a")
    tiny.randomise_lora(model)
    a = model(tiny.ids()).logits
    lora.add_adapter(model, lora.LoraConfig(r=3, init_lora_weights=False), "b")
    lora.delete_adapter(model, "b")
    assert torch.equal(model(tiny.ids()).logits, a)
    lora.delete_adapter(model, "a")
    assert torch.equal(model(tiny.ids()).logits, base)
    assert set(model.state_dict()) == set(tiny.bert().state_dict())  # the last one leaves plain layers and heads


def test_layer_numbers_hold_for_all_linear_too():
    rows = lora.inject(tiny.llama(), lora.LoraConfig(layers_to_transform=(1,))).rows
    assert len(rows) == 7 and all("layers.1." in row[0] for row in rows)


def test_a_module_may_be_called_original_or_copies():
    model = nn.ModuleDict({"original": nn.Linear(4, 4), "copies": nn.Linear(4, 4)})
    assert len(lora.inject(model, lora.LoraConfig(r=2)).rows) == 2


def test_weights_that_are_recomputed_are_refused():
    for layer in (nn.utils.spectral_norm(nn.Linear(4, 4)), nn.Embedding(4, 4, max_norm=1.0)):
        with pytest.raises(ValueError, match="recomputes"):
            lora.inject(nn.Sequential(layer), lora.LoraConfig(r=2, target_modules=["0"]))


def test_a_head_in_two_places_or_with_lora_inside_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model.again = model[1]
    with pytest.raises(ValueError, match="also"):
        lora.inject(model, lora.LoraConfig(r=2, target_modules=["0"], modules_to_save=["1"]))
    bert = tiny.bert()
    lora.inject(bert, lora.LoraConfig(r=2, target_modules=["classifier"], modules_to_save=[]), "a")
    with pytest.raises(ValueError, match="holds LoRA"):
        lora.add_adapter(bert, lora.LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"]), "b")


def test_a_model_built_by_hand_takes_a_second_adapter_and_refuses_the_same_name():
    model = nn.Sequential(nn.Linear(4, 4), lora.Linear(4, 4, r=2))
    with pytest.raises(ValueError, match="exists already"):
        lora.inject(model, lora.LoraConfig(r=2))
    assert type(model[0]) is nn.Linear
    lora.inject(model, lora.LoraConfig(r=2), "second")


def test_heads_belong_to_adapters():
    model = tiny.bert()
    lora.inject(model, lora.LoraConfig(r=2), "a")
    lora.add_adapter(model, lora.LoraConfig(r=2), "b")
    assert isinstance(model.classifier, SavedModule) and model.classifier.out_features == 3
    with pytest.raises(ValueError, match="only one"):
        lora.set_active(model, ["a", "b"])


def test_the_report_is_a_table_that_adds_up():
    model = tiny.gpt2()
    report = lora.inject(model, lora.LoraConfig(r=4, target_modules=["c_attn"]))
    assert report.parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert "transformer.h.1.attn.c_attn" in str(report) and f"{report.parameters:,}" in str(report)
