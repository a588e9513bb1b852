"""Adapter files: ours in peft, peft's in ours, and 200 damaged files that all raise. Oracle: peft."""

import json
import random
import shutil

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import loralib as lora
from loralib.files.read_adapter import CONFIG, WEIGHTS, AdapterFileError

CASES = {
    "gpt2 Conv1D": (tiny.gpt2, {"target_modules": ["c_attn", "c_proj"]}),
    "gpt2 embedding": (tiny.gpt2, {"target_modules": ["wte", "c_fc"]}),
    "gpt2 q and v of c_attn": (tiny.gpt2, {"target_modules": ["c_attn", "c_fc"], "enable_lora": {"c_attn": [True, False, True]}}),
    "llama": (tiny.llama, {"target_modules": "all-linear"}),
    "bert with head": (tiny.bert, {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"}),
}


def saved(tmp_path, make=tiny.llama, name="default", **config):
    model = make()
    lora.inject(model, lora.LoraConfig(r=4, lora_alpha=6, **config), name)
    tiny.randomise_lora(model)
    return model, lora.save_adapter(model, tmp_path / "adapter", name)


@pytest.mark.parametrize("case", CASES)
def test_pt9_our_file_in_peft(case, tmp_path):
    peft = pytest.importorskip("peft")
    make, config = CASES[case]
    ours, folder = saved(tmp_path, make, **config)
    other = peft.PeftModel.from_pretrained(make(), folder)
    torch.testing.assert_close(other(tiny.ids()).logits, ours(tiny.ids()).logits, atol=1e-5, rtol=0)
    keys = peft.get_peft_model_state_dict(other)
    file = load_file(folder / WEIGHTS)
    assert set(keys) == set(file) and all(torch.equal(keys[k], file[k]) for k in file)


@pytest.mark.parametrize("case", [c for c in CASES if "q and v" not in c])
def test_pt9_pefts_file_in_ours(case, tmp_path):
    peft = pytest.importorskip("peft")
    make, config = CASES[case]
    other = peft.get_peft_model(make(), peft.LoraConfig(r=4, lora_alpha=6, fan_in_fan_out=make is tiny.gpt2, **config))
    for i, (name, p) in enumerate(other.named_parameters()):
        if "lora_" in name or "modules_to_save" in name:
            p.data.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.3)
    other.eval().save_pretrained(tmp_path / "theirs")
    ours = make()
    report = lora.load_adapter(ours, tmp_path / "theirs", trainable=False)
    torch.testing.assert_close(ours(tiny.ids()).logits, other(tiny.ids()).logits, atol=1e-5, rtol=0)
    assert str(report) == f"{report.tensors}/{report.tensors} tensors loaded"
    lora.save_adapter(ours, tmp_path / "again")
    first, second = (load_file(tmp_path / f / WEIGHTS) for f in ("theirs", "again"))
    assert set(first) == set(second) and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("case", CASES)
def test_our_own_round_trip_is_exact(case, tmp_path):
    make, config = CASES[case]
    ours, folder = saved(tmp_path, make, **config)
    again = make()
    lora.load_adapter(again, folder, "other", trainable=True)
    assert torch.equal(again(tiny.ids()).logits, ours(tiny.ids()).logits)
    trained = {n.replace(".other", ".default") for n, p in again.named_parameters() if p.requires_grad}
    assert trained == {n for n, p in ours.named_parameters() if p.requires_grad}


def test_microsoft_layout_of_the_parts_survives_the_file(tmp_path):
    make, config = CASES["gpt2 q and v of c_attn"]
    ours, folder = saved(tmp_path, make, **config)
    again = make()
    lora.load_adapter(again, folder, trainable=False)
    assert again.transformer.h[0].attn.c_attn.lora_B["default"].shape == (48, 4)
    assert all(
        torch.equal(a, b) for a, b in zip(lora.lora_state_dict(ours).values(), lora.lora_state_dict(again).values(), strict=True)
    )


def test_a_trained_module_that_no_file_would_hold_raises(tmp_path):
    model, _ = saved(tmp_path)
    model.model.norm.weight.requires_grad_(True)
    with pytest.raises(ValueError, match="modules_to_save"):
        lora.save_adapter(model, tmp_path / "lost")
    assert not (tmp_path / "lost").exists()


@pytest.mark.fault
def test_saving_leaves_no_half_file_and_overwrites_whole(tmp_path):
    model, folder = saved(tmp_path)
    lora.save_adapter(model, folder)
    assert sorted(p.name for p in folder.iterdir()) == [CONFIG, WEIGHTS]


def test_a_merged_adapter_can_still_be_saved(tmp_path):
    model, folder = saved(tmp_path)
    lora.merge(model)
    lora.save_adapter(model, tmp_path / "merged")
    assert (folder / WEIGHTS).read_bytes() == (tmp_path / "merged" / WEIGHTS).read_bytes()


@pytest.mark.parametrize("name", ["lora", "lora_A"])
def test_pt10_names_that_look_like_keys(name, tmp_path):
    model, folder = saved(tmp_path, tiny.bert, name)
    lora.add_adapter(model, lora.LoraConfig(r=4), name + "0")  # one name is the beginning of the other
    lora.save_adapter(model, tmp_path / "again", name)
    assert (folder / WEIGHTS).read_bytes() == (tmp_path / "again" / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("lora_bias", True),
        ("init_lora_weights", "pissa"),
        ("use_qalora", True),
        ("layer_replication", [[0, 2]]),
        ("peft_type", "ADALORA"),
        ("some_new_variant", {"a": 1}),
    ],
)
def test_variants_that_compute_something_else_are_refused(tmp_path, setting, value):
    _, folder = saved(tmp_path)
    settings = json.loads((folder / CONFIG).read_text()) | {setting: value}
    (folder / CONFIG).write_text(json.dumps(settings))
    with pytest.raises(AdapterFileError, match="ADALORA|" + setting):
        lora.load_adapter(tiny.llama(), folder, trainable=False)


@pytest.mark.fault
def test_an_adapter_of_another_model_is_refused_and_leaves_no_trace(tmp_path):
    _, folder = saved(tmp_path, tiny.llama)
    model = tiny.gpt2()
    out = model(tiny.ids()).logits
    with pytest.raises(AdapterFileError, match="GPT2LMHeadModel"):
        lora.load_adapter(model, folder, trainable=False)
    assert torch.equal(model(tiny.ids()).logits, out) and not any("lora" in n for n, _ in model.named_parameters())


def test_a_head_with_whole_number_buffers_comes_back(tmp_path):
    make = lambda: nn.ModuleDict({"body": nn.Linear(4, 4), "head": nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))})  # noqa: E731
    model = make()
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["body"], modules_to_save=["head"]))
    model["head"].copies["default"][0].num_batches_tracked += 3
    lora.save_adapter(model, tmp_path)
    again = make()
    lora.load_adapter(again, tmp_path, trainable=False)
    assert again["head"].copies["default"][0].num_batches_tracked == 3


def test_a_file_names_its_own_heads_only(tmp_path):
    model = tiny.bert()
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["query"]), "a")
    lora.add_adapter(model, lora.LoraConfig(r=2, target_modules=["query"], modules_to_save=[]), "b")
    lora.save_adapter(model, tmp_path, "b")
    assert json.loads((tmp_path / CONFIG).read_text())["modules_to_save"] is None


@pytest.mark.fault
def test_pefts_copy_of_an_embedding_must_be_the_bases_own(tmp_path):
    _, folder = saved(tmp_path, tiny.llama, target_modules=["embed_tokens"])
    weight = tiny.llama().model.embed_tokens.weight.detach()
    key = "base_model.model.model.embed_tokens.base_layer.weight"
    for extra, fits in ((weight, True), (weight + 1, False)):
        save_file(load_file(folder / WEIGHTS) | {key: extra.clone()}, folder / WEIGHTS, metadata={"format": "pt"})
        if fits:
            lora.load_adapter(tiny.llama(), folder, trainable=False)
        else:
            with pytest.raises(AdapterFileError, match="base was changed"):
                lora.load_adapter(tiny.llama(), folder, trainable=False)


@pytest.mark.fault
def test_a_failed_load_leaves_the_model_as_it_was(tmp_path):
    _, folder = saved(tmp_path, tiny.bert)
    tensors = load_file(folder / WEIGHTS)
    tensors.popitem()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    model = tiny.bert()
    with pytest.raises(AdapterFileError, match="missing"):
        lora.load_adapter(model, folder, trainable=False)
    assert set(model.state_dict()) == set(tiny.bert().state_dict())


# ---------------------------------------------------------------- 200 damaged files


def damage_weights(kind, folder, rng):
    path = folder / WEIGHTS
    data = bytearray(path.read_bytes())
    header = int.from_bytes(data[:8], "little")
    tensors = load_file(path)
    key = rng.choice(sorted(tensors))
    if kind == "truncated":
        path.write_bytes(data[: rng.randrange(len(data))])
    elif kind == "header bit flipped":
        data[rng.randrange(8 + header)] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    elif kind == "bytes appended":
        path.write_bytes(data + rng.randbytes(rng.randrange(1, 40)))
    else:
        value = tensors.pop(key)
        renamed = key.replace("q_proj", "k_proj").replace("v_proj", "q_prj") if rng.random() < 0.5 else key + "x"
        changes = {
            "key missing": {},
            "key renamed": {renamed if renamed not in tensors else "base_model.model.x": value},
            "key without prefix": {key.removeprefix("base_model.model."): value},
            "extra key": {key: value, key.replace("lora_", "lora_magnitude_"): value.clone()},
            "transposed": {key: value.T.contiguous()},
            "row missing": {key: value[:-1].clone()},
            "row added": {key: torch.cat([value, value[:1]])},
            "integers": {key: (value * 100).to(rng.choice([torch.int8, torch.int32, torch.int64, torch.bool]))},
            "one tensor of another dtype": {key: value.to(rng.choice([torch.float16, torch.bfloat16, torch.float64]))},
            "not finite": {key: value.index_fill(0, torch.tensor([0]), rng.choice([float("nan"), float("inf")]))},
        }
        save_file(tensors | changes[kind], path, metadata={"format": "pt"})
        if kind == "transposed" and value.shape[0] == value.shape[1]:
            pytest.fail("a square factor cannot show a transposition")


def damage_config(kind, folder, rng):
    path = folder / CONFIG
    settings = json.loads(path.read_text())
    if kind == "config truncated":
        text = path.read_text().rstrip()
        path.write_text(text[: rng.randrange(len(text))])
        return
    changes = {
        "config without a setting": {rng.choice(["r", "lora_alpha", "target_modules"]): None},
        "r changed": {"r": rng.choice([1, 3, 5, 8, 64])},
        "r no rank": {"r": rng.choice([0, -4, "4", 4.0, True, None, [4]])},
        "alpha no number": {"lora_alpha": rng.choice(["16", None, [1], True])},
        "dropout no rate": {"lora_dropout": rng.choice([1.0, -0.1, 7, "0.1"])},
        "targets wrong": {"target_modules": rng.choice([[], "", ["nobody"], 3, [1], {"a": 1}, ["q_proj"]])},
        "peft_type wrong": {"peft_type": rng.choice(["IA3", "PREFIX_TUNING", 3])},
    }
    path.write_text(json.dumps(settings | changes[kind]))


WEIGHT_DAMAGE = (
    ["truncated"] * 30 + ["header bit flipped"] * 60 + ["bytes appended"] * 4
    + ["key missing", "key renamed", "key without prefix", "extra key", "transposed", "row missing", "row added", "integers"] * 6
    + ["one tensor of another dtype", "not finite"] * 4 + ["empty"] * 2
)  # fmt: skip
CONFIG_DAMAGE = ["config truncated"] * 12 + [
    "config without a setting", "r changed", "r no rank", "alpha no number", "dropout no rate", "targets wrong",
    "peft_type wrong",
] * 5 + ["config empty", "config a list", "config absent"]  # fmt: skip


@pytest.mark.fault
def test_200_damaged_files_all_raise_and_none_loads(tmp_path):
    _, good = saved(tmp_path, target_modules=["q_proj", "v_proj"])
    kinds = WEIGHT_DAMAGE + CONFIG_DAMAGE
    assert len(kinds) >= 200
    quiet = []
    for index, kind in enumerate(kinds):
        rng = random.Random(index)
        folder = tmp_path / f"{index}"
        shutil.copytree(good, folder)
        if kind == "empty":
            (folder / WEIGHTS).write_bytes(b"")
        elif kind == "config absent":
            (folder / CONFIG).unlink()
        elif kind in ("config empty", "config a list"):
            (folder / CONFIG).write_text("" if kind == "config empty" else "[]")
        elif kind in CONFIG_DAMAGE:
            damage_config(kind, folder, rng)
        else:
            damage_weights(kind, folder, rng)
        model = tiny.llama()
        try:
            lora.load_adapter(model, folder, trainable=False)
            quiet.append((index, kind))
        except AdapterFileError as error:
            assert str(folder) in str(error) and len(str(error)) > len(str(folder)) + 15
            assert not any("lora" in n for n, _ in model.named_parameters()), (index, kind)
    assert not quiet, f"{len(quiet)} of {len(kinds)} damaged files loaded quietly: {quiet}"


def test_a_head_that_the_settings_name_and_the_file_lacks_is_refused(tmp_path):
    """It would load, and answer with a random head."""
    model = tiny.bert()
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["query"]))
    lora.save_adapter(model, tmp_path)
    tensors = {k: v for k, v in load_file(tmp_path / WEIGHTS).items() if "classifier" not in k}
    save_file(tensors, tmp_path / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(lora.AdapterFileError, match=r"no tensors of \['classifier'\].*random head"):
        lora.load_adapter(tiny.bert(), tmp_path, trainable=False)
    report = lora.load_adapter(tiny.bert(), tmp_path, trainable=False, with_heads=False)
    assert report.tensors == report.expected == len(tensors)
