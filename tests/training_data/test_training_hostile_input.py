"""What a hostile review found: input that once passed, or failed late."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_folder

from training import train_model
from training.models.trained import load_trained
from training_data.test_training_bad_input import SST2, TEXTS, assert_refused, write


def jsonl(folder, **splits):
    folder.mkdir()
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


PAIRS = [{"prompt": f"say {i}", "completion": f"answer {i}"} for i in range(6)]


@pytest.mark.parametrize("prompt", ["word " * 600, [{"role": "user", "content": [{"type": "text", "text": "yo"}]}]])
@pytest.mark.fault
def test_a_prompt_that_cannot_be_continued_is_told_before_training(prompt, models, tmp_path):
    completion = "x" if isinstance(prompt, str) else [{"role": "assistant", "content": "x"}]
    rows = [{"prompt": prompt, "completion": completion}]
    data = jsonl(
        tmp_path / "data", train=PAIRS if isinstance(prompt, str) else rows, validation=rows + PAIRS[: isinstance(prompt, str)]
    )
    assert_refused(
        "no space for an answer|with texts in them",
        tmp_path / "run",
        "prompt",
        model=models["decoder"],
        data_dir=data,
        max_length=4000,
    )


def test_columns_named_like_the_small_worlds_mean_nothing_elsewhere(models, tmp_path):
    rows = [{"sentence": t, "label": i % 2, "bayes": 0.5} for i, t in enumerate(TEXTS)]
    data = jsonl(tmp_path / "data", train=rows, validation=rows, test=[{"sentence": "x", "label": 7, "bayes": 1.0}])
    result = train_model("sst2", model=models["encoder"], data_dir=data, steps=1, out=str(tmp_path / "run"), trackers="")
    assert result.ceiling is None


@pytest.mark.parametrize("changed", ["train", "validation", "base"])
@pytest.mark.fault
def test_a_run_does_not_go_on_with_other_labels_or_another_base(changed, models, tmp_path, monkeypatch):
    from safetensors.torch import load_file, save_file

    from training.runs.run_folder import RunError, RunFolder

    model = tmp_path / "model"
    shutil.copytree(models["encoder"], model)
    rows = [{"sentence": t, "label": i % 2} for i, t in enumerate(TEXTS)]
    data = jsonl(tmp_path / "data", train=rows, validation=rows)
    settings = {"model": str(model), "data_dir": data, "steps": 4, "save_every": 1, "trackers": "", "out": str(tmp_path / "run")}
    keep = RunFolder.keep

    def failing(folder, row):
        keep(folder, row)
        if row["step"] == 3:
            raise KeyError("down")

    monkeypatch.setattr(RunFolder, "keep", failing)
    with pytest.raises(KeyError):
        train_model("sst2", **settings)
    monkeypatch.undo()
    if changed == "base":
        weights = load_file(model / "model.safetensors")
        save_file({k: v * 1.5 for k, v in weights.items()}, model / "model.safetensors", metadata={"format": "pt"})
    else:
        flipped = [{**r, "label": 1 - r["label"]} for r in rows]
        (Path(data) / f"{changed}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in flipped))
    name = {"train": "train_checksum", "validation": "evaluation_checksum", "base": "frozen_checksum"}[changed]
    with pytest.raises(RunError, match=name):
        train_model("sst2", **settings)


@pytest.mark.fault
def test_a_base_with_holes_is_not_called_pretrained(models, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(models["encoder"], tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    save_file({k: v for k, v in weights.items() if not k.endswith("output.dense.bias")}, path, metadata={"format": "pt"})
    data = write(tmp_path / "data", SST2)
    assert_refused("They would stay random", tmp_path / "run", "sst2", model=str(tmp_path / "model"), data_dir=str(data))
    save_file({f"other.{k}": v for k, v in weights.items()}, path, metadata={"format": "pt"})
    assert_refused("They would stay random", tmp_path / "run", "sst2", model=str(tmp_path / "model"), data_dir=str(data))


@pytest.mark.fault
def test_all_weights_without_their_head_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    train_model("topic", method="full", steps=1, eval_rows=10, out=str(tmp_path), trackers="")
    path = tmp_path / "adapter" / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "classifier" not in k}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not as it was written"):
        load_trained(tmp_path / "adapter")
    card = tmp_path / "adapter" / "training.json"  # without sums, as a folder of an older version
    card.write_text(json.dumps({k: v for k, v in json.loads(card.read_text()).items() if k != "crc32"}))
    with pytest.raises(ValueError, match=r"\['classifier'\] are missing"):
        load_trained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="leave --model out"):
        load_trained(tmp_path / "adapter", model="encoder")


@pytest.mark.fault
def test_restart_removes_nothing_that_no_run_wrote(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "report.md").write_text("mine")
    with pytest.raises(ValueError, match="that no run wrote"):
        train_model("topic", steps=1, eval_rows=10, out=str(tmp_path), trackers="", restart=True)
    assert (tmp_path / "report.md").read_text() == "mine"


@pytest.mark.fault
def test_a_result_without_its_settings_is_no_finished_run(tmp_path):
    train_model("topic", steps=1, eval_rows=10, out=str(tmp_path), trackers="")
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="a run that was damaged"):
        train_model("topic", steps=1, eval_rows=10, out=str(tmp_path), trackers="")
    assert train_model("topic", steps=2, eval_rows=10, out=str(tmp_path), trackers="", restart=True).steps == 2


def test_an_unknown_word_in_a_prompt_is_not_read_quietly(tmp_path):
    from training.data.tasks import TASKS
    from training.evaluation.generation import generate_samples
    from training.models.base_models import load_base

    base = load_base(TASKS["data2text"])
    with pytest.raises(ValueError, match="2 words are not in the small world"):
        generate_samples(base.model, base.tokenizer, [("hello anna zebra", [])], TASKS["data2text"])


def test_accelerates_environment_does_not_divide_again(tmp_path, monkeypatch):
    short = {"steps": 1, "eval_rows": 10, "trackers": ""}
    plain = train_model("topic", out=str(tmp_path / "a"), **short)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert train_model("topic", out=str(tmp_path / "b"), **short).rows[1]["grad_norm"] == plain.rows[1]["grad_norm"]


def test_the_padding_of_tokenizer_and_model_are_one(tmp_path, models):
    import torch

    from training.data.batching import pad
    from training.data.tasks import TASKS
    from training.models.base_models import load_base

    shutil.copytree(models["decoder"], tmp_path / "model")
    settings = tmp_path / "model" / "tokenizer_config.json"
    settings.write_text(json.dumps({k: v for k, v in json.loads(settings.read_text()).items() if k != "pad_token"}))
    base = load_base(TASKS["sst2"], str(tmp_path / "model"))
    short, long = ({"input_ids": list(range(10, 10 + n)), "attention_mask": [1] * n} for n in (3, 9))
    with torch.no_grad():
        alone, together = (base.model(**pad(rows, base.tokenizer.pad_token_id)).logits[0] for rows in ([short], [short, long]))
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


@pytest.mark.fault
def test_files_of_somebody_else_are_left_alone(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "mine.bin").write_text("mine")
    (tmp_path / "rows.jsonl").write_text("mine\n")
    with pytest.raises(ValueError, match="choose another --out"):
        train_model("topic", steps=1, eval_rows=10, out=str(tmp_path), trackers="")
    assert (tmp_path / "adapter" / "mine.bin").exists() and (tmp_path / "rows.jsonl").read_text() == "mine\n"


@pytest.mark.fault
def test_a_tokenizer_of_another_model_is_refused(models, tmp_path):
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=50, **sizes)).save_pretrained(tmp_path / "model")
    tiny_folder.tokenizer().save_pretrained(tmp_path / "model")
    data = write(tmp_path / "data", SST2)
    assert_refused("they do not belong together", tmp_path / "run", "sst2", model=str(tmp_path / "model"), data_dir=str(data))
