"""A label is what its name says: in data, in a model's config, in a head, and in a folder with an adapter."""

import json
import shutil

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertConfig, ElectraConfig

from training.data import labels
from training.data.data import load_task
from training.data.tasks import find_task
from training.models.base_models import load_base
from training.models.trained import load_trained
from training.runs.run import train_model

SST2, NLI, TAGS = find_task("sst2"), find_task("nli"), find_task("tagging")
SMALL = {"vocab_size": 400, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}


def test_names_and_numbers():
    assert labels.are_names(["negative", "positive"]) and labels.are_names(["LABEL_0", "spam"])
    assert not labels.are_names(["LABEL_0", "LABEL_1"]) and not labels.are_names(["0", "1"]) and not labels.are_names([])
    assert labels.order_of(["POSITIVE", "Negative"], ["negative", "positive"]) == [1, 0]
    assert labels.order_of(["spam", "ham"], ["negative", "positive"]) is None
    assert labels.order_of(["positive"], ["negative", "positive"]) is None


def parquet(folder, names, rows, column=None):
    feature = column or ClassLabel(names=names)
    features = Features({"sentence": Value("string"), "label": feature})
    folder.mkdir()
    for split in ("train", "validation"):
        Dataset.from_dict({"sentence": [r[0] for r in rows], "label": [r[1] for r in rows]}, features=features).to_parquet(
            str(folder / f"{split}.parquet")
        )
    return str(folder)


def test_numbers_of_a_file_follow_its_own_names(tmp_path):
    names = ["positive", "negative"]
    data = load_task(SST2, parquet(tmp_path / "a", names, [("good", 0), ("bad", 1), ("fine", 0)]))
    assert data["train"]["label"][:] == [1, 0, 1] and data["train"].features["label"].names == list(SST2.labels)
    unused = load_task(SST2, parquet(tmp_path / "b", ["neutral", "Positive", "NEGATIVE"], [("good", 1), ("bad", 2)]))
    assert unused["train"]["label"][:] == [1, 0]  # a name that no row uses is no obstacle
    plain = load_task(SST2, parquet(tmp_path / "c", ["0", "1"], [("good", 1), ("bad", 0)]))
    assert plain["train"]["label"][:] == [1, 0]


@pytest.mark.fault
@pytest.mark.parametrize("names", [["spam", "ham"], ["negative", "neutral"], ["pos", "neg"]])
def test_other_names_are_refused_with_both(names, tmp_path):
    with pytest.raises(ValueError, match=r"is none of them") as records:
        load_task(SST2, parquet(tmp_path / "a", names, [("good", 0), ("bad", 1)]))
    assert all(name in str(records.value) for name in (*names, "negative", "positive"))


def test_tags_too(tmp_path):
    names = [*reversed(TAGS.labels)]
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=names))})
    rows = {"tokens": [["a", "b"], ["c"]], "tags": [[0, len(names) - 1], [1]]}
    for split in ("train", "validation"):
        Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / f"{split}.parquet"))
    read = load_task(TAGS, str(tmp_path))["train"]["tags"][:]
    assert [[TAGS.labels[t] for t in tags] for tags in read] == [[names[t] for t in tags] for tags in rows["tags"]]


def saved_classifier(folder, names, config_type=BertConfig):
    """A classifier with these labels, and the tokenizer of the small world's encoder."""
    torch.manual_seed(0)
    numbered = dict(enumerate(names))
    config = config_type(**SMALL, id2label=numbered, label2id={v: k for k, v in numbered.items()})
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(folder)
    load_base(NLI).tokenizer.save_pretrained(folder)
    return model


def answer_by_name(model, ids):
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0]
    return {model.config.id2label[i].lower(): float(value) for i, value in enumerate(logits)}


@pytest.mark.parametrize("config_type", [BertConfig, ElectraConfig])
@pytest.mark.parametrize("order", [(2, 0, 1), (0, 1, 2), (1, 0, 2)])
def test_a_head_in_another_order_says_the_same(order, config_type, tmp_path):
    names = [NLI.labels[i].upper() for i in order]
    before = saved_classifier(tmp_path, names, config_type)
    base = load_base(NLI, str(tmp_path))
    assert base.new_modules == () and [base.model.config.id2label[i] for i in range(3)] == list(NLI.labels)
    ids = torch.tensor([[3, 7, 9, 11]])
    assert answer_by_name(base.model.eval(), ids) == answer_by_name(before, ids)


def test_a_head_for_other_labels_starts_anew_and_says_so(tmp_path):
    saved_classifier(tmp_path, ["sport", "music", "food"])
    with pytest.warns(UserWarning, match=r"answers with sport, music, food, and task nli has the labels entailment.*a new head"):
        base = load_base(NLI, str(tmp_path))
    assert base.new_modules == ("classifier",)
    old = load_file(tmp_path / "model.safetensors")["classifier.weight"]
    assert not torch.equal(base.model.classifier.weight, old)
    numbered = tmp_path / "numbered"
    saved_classifier(numbered, ["LABEL_0", "LABEL_1", "LABEL_2"])
    assert load_base(NLI, str(numbered)).new_modules == ()  # numbers say nothing: the head is taken as it is


@pytest.mark.parametrize("method", ["full", "lora", "head", "bottleneck"])
def test_a_folder_whose_config_was_put_in_another_order_answers_alike(method, tmp_path):
    """The rows of the head and the names in config.json move together: for LoRA's saved head as for a whole model."""
    run = train_model("nli", method=method, steps=2, train_rows=40, eval_rows=20, trackers="", out=str(tmp_path / "run"))
    folder, order = tmp_path / "run" / "adapter", [2, 0, 1]
    ids = torch.tensor([[3, 7, 9, 11]])
    first = answer_by_name(load_trained(folder).base.model, ids)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    card = json.loads((other / "training.json").read_text())
    (other / "training.json").write_text(json.dumps({k: v for k, v in card.items() if k != "crc32"}))
    config = json.loads((other / "config.json").read_text())
    names = [run.model.config.id2label[i] for i in order]
    config["id2label"], config["label2id"] = {str(i): n for i, n in enumerate(names)}, {n: i for i, n in enumerate(names)}
    (other / "config.json").write_text(json.dumps(config))

    [path] = other.glob("*.safetensors")
    tensors = {n: t[order].contiguous() if "classifier" in n and len(t) == 3 else t for n, t in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})
    assert answer_by_name(load_trained(other).base.model, ids) == first


@pytest.mark.fault
def test_a_folder_for_other_labels_is_no_model_of_the_task(tmp_path):
    train_model("topic", method="lora", steps=1, train_rows=20, eval_rows=8, trackers="", out=str(tmp_path / "run"))
    for task in ("sst2", "rte"):
        with pytest.raises(ValueError, match=r"answers with music, sport, food, science|has the labels|does not fit|shape"):
            load_trained(tmp_path / "run" / "adapter", task=task)


@pytest.mark.parametrize("with_head", [True, False])
def test_an_adapter_of_peft_has_the_order_of_its_base(with_head, tmp_path):
    """Its folder has no config of a model. Without a head of its own, that of the base answers, which is in order already."""
    import peft

    names = [NLI.labels[i] for i in (2, 0, 1)]
    saved_classifier(tmp_path / "base", names)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    heads = ["classifier"] if with_head else []
    config = peft.LoraConfig(r=2, target_modules=["query"], modules_to_save=heads, init_lora_weights=False)
    adapted = peft.get_peft_model(model, config).eval()
    if with_head:
        with torch.no_grad():
            adapted.base_model.model.classifier.modules_to_save["default"].weight.normal_()
    adapted.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[3, 7, 9, 11]])
    with torch.no_grad():
        wanted = dict(zip(names, adapted(input_ids=ids).logits[0].tolist(), strict=True))
    result = answer_by_name(load_trained(tmp_path / "adapter", task="nli", model=str(tmp_path / "base")).base.model.eval(), ids)
    assert result == pytest.approx(wanted, abs=1e-6)
