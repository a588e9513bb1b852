"""Settings of a file: wrong types, names that match nothing, older formats. Oracle: peft, and its logits."""

import json

import pytest
import tiny
import torch
from lora_models.test_loralib_handles import TARGETS, answer
from safetensors.torch import load_file, save_file

import loralib as lora
from loralib.files.read_adapter import CONFIG, PICKLE, WEIGHTS, AdapterFileError
from loralib.injection.injection import adapter_configs

peft = pytest.importorskip("peft")
HEADS = {"distilbert": "SEQ_CLS", "roberta": "SEQ_CLS", "gpt2": "CAUSAL_LM", "t5": "SEQ_2_SEQ_LM"}


def by_peft(family: str, folder, pickle: bool = False, **more):
    """An adapter folder that peft wrote, with random factors and heads, and the logits of its model."""
    given = {"r": 2, "init_lora_weights": False, "target_modules": TARGETS[family], "task_type": HEADS[family]} | more
    model = peft.get_peft_model(tiny.FAMILIES[family](), peft.LoraConfig(fan_in_fan_out=family == "gpt2", **given)).eval()
    generator = torch.Generator().manual_seed(3)
    for name, p in model.named_parameters():
        if "modules_to_save" in name:
            p.data.copy_(torch.randn(p.shape, generator=generator))
    model.save_pretrained(folder, safe_serialization=not pickle)
    return answer(family, model)


def change(folder, **settings) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


VALUES = [[True, False, True], "x", "", 3, 1.5, True, {"a": 1}, [1], ["x"], [None], {"q": None}, {"q": "8"}, {"(": 4}, "(", "["]
VALUES += [[[0]], -1, 10**9]
SETTINGS = ("enable_lora", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "modules_to_save")
SETTINGS += (
    "target_modules",
    "exclude_modules",
    "lora_dropout",
    "lora_alpha",
    "r",
    "bias",
    "use_rslora",
    "use_dora",
    "task_type",
)
SETTINGS += ("base_model_name_or_path", "init_lora_weights", "peft_type", "fan_in_fan_out")


@pytest.mark.fault
@pytest.mark.parametrize("family", ["distilbert", "gpt2"])
def test_342_settings_load_or_end_in_our_error(family, tmp_path):
    by_peft(family, tmp_path)
    good = (tmp_path / CONFIG).read_text()
    refused = 0
    for setting in SETTINGS:
        for value in VALUES:
            (tmp_path / CONFIG).write_text(json.dumps(json.loads(good) | {setting: value}))
            model = tiny.FAMILIES[family]()
            try:
                lora.load_adapter(model, tmp_path, trainable=False)
            except AdapterFileError as error:
                refused += 1
                assert str(tmp_path) in str(error)
                left = [name for name, _ in model.named_parameters() if "lora_" in name]
                assert not left and not adapter_configs(model), (setting, value)
    assert 250 < refused < len(SETTINGS) * len(VALUES) == 342


UNUSED = [
    {"exclude_modules": ["pooler"]},
    {"exclude_modules": ".*vision_tower.*"},
    {"target_modules": "more"},
    {"rank_pattern": {"gate_proj": 8}},
    {"alpha_pattern": {"gate_proj": 8.0}},
    {"layers_to_transform": []},
    {"init_lora_weights": "orthogonal"},
    {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}},
    {"init_lora_weights": None},
]


@pytest.mark.parametrize("settings", UNUSED, ids=lambda s: next(iter(s)))
@pytest.mark.parametrize("family", ["roberta", "gpt2"])
def test_settings_that_match_nothing_are_ignored_as_by_peft(family, settings, tmp_path):
    wanted = by_peft(family, tmp_path)
    if settings == {"target_modules": "more"}:
        settings = {"target_modules": [*TARGETS[family], "Wqkv"]}
    change(tmp_path, **settings)
    model = tiny.FAMILIES[family]()
    lora.load_adapter(model, tmp_path, trainable=False)
    torch.testing.assert_close(answer(family, model), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["roberta", "t5"])
def test_names_that_a_person_types_stay_strict(family):
    for config in ({"target_modules": [*TARGETS[family], "Wqkv"]}, {"exclude_modules": ["vision_tower"]}):
        with pytest.raises(ValueError, match=r"Wqkv|vision_tower"):
            lora.inject(tiny.FAMILIES[family](), lora.LoraConfig(r=2, **{"target_modules": TARGETS[family]} | config))
    model = tiny.FAMILIES[family]()
    left_out = next(name for name, _ in model.named_modules() if name.endswith(("dense", "wo"))).rpartition(".")[2]
    report = lora.inject(model, lora.LoraConfig(r=2, target_modules=TARGETS[family], exclude_modules=[left_out]))
    assert len(report.rows) > 0  # leaving out what is not among the targets is no mistake: the name is one of the model's


@pytest.mark.parametrize("family", ["distilbert", "roberta", "gpt2", "t5"])
def test_the_pickle_of_older_versions_is_read(family, tmp_path):
    wanted = by_peft(family, tmp_path, pickle=True)
    assert (tmp_path / PICKLE).exists() and not (tmp_path / WEIGHTS).exists()
    model = tiny.FAMILIES[family]()
    lora.load_adapter(model, tmp_path, trainable=False)
    torch.testing.assert_close(answer(family, model), wanted, atol=1e-5, rtol=0)


class Planted:
    def __reduce__(self):
        return print, ("code in a pickle ran",)


@pytest.mark.fault
@pytest.mark.parametrize("content", [{"a": Planted()}, [1, 2], {"a": 1}], ids=["code", "list", "number"])
def test_a_pickle_that_is_no_dictionary_of_tensors_is_refused(content, tmp_path, capsys):
    by_peft("roberta", tmp_path, pickle=True)
    torch.save(content, tmp_path / PICKLE)
    with pytest.raises(AdapterFileError, match=r"adapter_model\.bin: (not a readable file|expected a dictionary) of tensors"):
        lora.load_adapter(tiny.roberta(), tmp_path, trainable=False)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("family", ["distilbert", "roberta"])
def test_heads_are_matched_by_the_end_of_their_name_as_peft_does(family, tmp_path):
    """`classifier` is also DistilBERT's `pre_classifier`: almost every published adapter of it holds both."""
    wanted = by_peft(family, tmp_path, modules_to_save=["classifier", "score"])
    saved = {key.split(".")[2] for key in load_file(tmp_path / WEIGHTS) if "lora_" not in key}
    assert saved == ({"pre_classifier", "classifier"} if family == "distilbert" else {"classifier"})
    model = tiny.FAMILIES[family]()
    lora.load_adapter(model, tmp_path, trainable=True)
    torch.testing.assert_close(answer(family, model), wanted, atol=1e-5, rtol=0)
    again = tiny.FAMILIES[family]()
    lora.load_adapter(again, lora.save_adapter(model, tmp_path / "again"), trainable=False)
    assert torch.equal(answer(family, again), answer(family, model))
    headless = tiny.FAMILIES[family]()
    lora.load_adapter(headless, tmp_path, trainable=False, with_heads=False)
    assert not [name for name, _ in headless.named_parameters() if ".copies." in name]


@pytest.mark.parametrize("family", ["roberta", "gpt2"])
def test_further_metadata_is_no_damage(family, tmp_path):
    wanted = by_peft(family, tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    save_file(tensors, tmp_path / WEIGHTS, metadata={"format": "pt", "trained_by": "somebody"})
    model = tiny.FAMILIES[family]()
    lora.load_adapter(model, tmp_path, trainable=False)
    torch.testing.assert_close(answer(family, model), wanted, atol=1e-5, rtol=0)
    save_file(tensors, tmp_path / WEIGHTS, metadata={"fnrmat": "pt"})
    with pytest.raises(AdapterFileError, match="header is damaged"):
        lora.load_adapter(tiny.FAMILIES[family](), tmp_path, trainable=False)
