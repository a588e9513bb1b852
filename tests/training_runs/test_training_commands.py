"""One task of each kind, from real files, through the command: train, save, reload bit-equal, evaluate with its own metric."""

import json
import math
from pathlib import Path

import pytest
import tiny_folder
import torch
from command import run_module
from datasets import Dataset

from training import train_model
from training.data.data import evaluation_split, load_task, some_rows
from training.data.encoding import encode
from training.evaluation.evaluation import HeldOut, evaluate
from training.loop.processes import make_accelerator
from training.models.trained import load_trained
from training.runs.run_folder import read_result

ROOT = Path(__file__).parents[2]


def command(*words, code=0):
    done = run_module("training", *words)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a tiny encoder and a tiny decoder."""
    folder = tmp_path_factory.mktemp("models")
    return {"encoder": tiny_folder.encoder(folder / "encoder"), "decoder": tiny_folder.decoder(folder / "decoder")}


REAL = [
    ("sst2", "glue/sst2", "encoder", {"accuracy"}),
    ("cola", "glue/cola", "encoder", {"matthews", "accuracy"}),
    ("mrpc", "glue/mrpc", "encoder", {"f1", "accuracy"}),
    ("stsb", "glue/stsb", "encoder", {"pearson", "spearman", "pearson_spearman"}),
    ("sick", "sick", "encoder", {"accuracy"}),
    ("ud_pos", "ud_ewt", "encoder", {"accuracy"}),
    ("squad", "squad", "encoder", {"exact_match", "f1"}),
    ("e2e_nlg", "e2e_nlg", "decoder", {"bleu", "chrf", "rouge_l", "nist"}),
    ("text", "wikitext2", "decoder", set()),
]


@pytest.mark.real
@pytest.mark.parametrize(("task", "data", "kind", "metrics"), REAL, ids=[r[0] for r in REAL])
def test_a_task_of_each_kind_from_real_files(task, data, kind, metrics, models, shared, tmp_path):
    check_task(task, shared / "data" / data, models[kind], metrics, tmp_path)


def test_prompts_and_completions_from_jsonl(models, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "validation"):
        rows = [{"prompt": f"Say the number {i}.", "completion": f" It is {i}."} for i in range(30)]
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    check_task("prompt", data, models["decoder"], {"bleu", "chrf", "rouge_l", "nist"}, tmp_path)


def check_task(task, data, model, metrics, tmp_path):
    """8 steps through the command; what is on disk answers as the run did, and `evaluate` prints the run's scores."""
    run = tmp_path / "run"
    generates = "bleu" in metrics
    options = ["--task", task, "--model", model, "--data-dir", data, "--steps", 8, "--batch-size", 4, "--max-length", 256]
    options += ["--eval-every", 4, "--eval-rows", 24, "--train-rows", 60, "--out", run]
    text = command(*options, *(["--score-texts", 4, "--max-new-tokens", 12] if generates else []))
    assert f"| {task} | lora |" in text
    result = read_result(run)
    assert result["steps"] == 8 and math.isfinite(result["loss"]) and result["tokens_per_second"] > 0
    last = json.loads((run / "rows.jsonl").read_text().splitlines()[-1])
    assert ({k for k in last if k not in KNOWN} | set(result["texts"])) == metrics

    trained = load_trained(run / "adapter")
    spec, rows = trained.spec, load_task(trained.spec, str(data))
    rows = some_rows(rows[evaluation_split(rows, spec, str(data))], 24, spec, str(data))
    limit = min(256, trained.base.tokenizer.model_max_length)
    held_out = HeldOut(spec, rows, encode(rows[:], spec, trained.base.tokenizer, limit))
    again = evaluate(trained.base.model, held_out, trained.base.tokenizer, make_accelerator())
    assert {k: last[k] for k in again} == again, "the saved model must score exactly as the run's last evaluation"
    printed = command(
        "evaluate", "--adapter", run / "adapter", "--data-dir", data, "--rows", 24,
        *(["--score-texts", 4, "--max-new-tokens", 12] if generates else []),
    )  # fmt: skip
    for name, value in (again | result["texts"]).items():
        assert f"| {name} | {value:.6g} |" in printed


KNOWN = {"step", "loss", "lr", "grad_norm", "tokens", "seconds", "eval_loss"}


# ---------------------------------------------------------------- evaluate, generate, report


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three short runs: two seeds of LoRA, and the head alone."""
    folder = tmp_path_factory.mktemp("runs")
    short = {"steps": 4, "eval_rows": 20, "train_rows": 40, "samples": 1, "max_new_tokens": 8}
    for name, options in {"a": {"seed": 0}, "b": {"seed": 1}, "head": {"method": "head"}}.items():
        train_model("data2text", out=str(folder / name), **short, **options)
    return folder


@pytest.mark.parametrize("name", ["a", "head"])
def test_generate_prints_prompts_texts_and_references(runs, name):
    text = command("generate", "--adapter", runs / name / "adapter", "--count", 2, "--max-new-tokens", 8)
    assert text.count("prompt     name : ") == 2 == text.count("generated  ") == text.count("reference  ")
    own = command(
        "generate", "--adapter", runs / name / "adapter", "--prompt", "name : anna ; action : baked cake", "--max-new-tokens", 8
    )
    assert own.count("generated") == 1 and "reference" not in own


def test_report_of_several_runs_with_means_over_seeds(runs, tmp_path):
    text = command("report", runs, "--out", tmp_path)
    assert text.count("| data2text | lora |") == 2 and text.count("| lora | data2text |") == 1 and "0, 1" in text and "±" in text
    page = (tmp_path / "report.md").read_text()
    assert "losses.png" in page and (tmp_path / "losses.png").stat().st_size > 5000
    result = read_result(runs / "a")
    assert f"{result['metric']:.3f}" in page


def test_report_says_what_is_not_finished(runs, tmp_path):
    for name in ("config.json", "rows.jsonl"):
        (tmp_path / name).write_bytes((runs / "a" / name).read_bytes())
    assert "not finished, 4 of 4 steps" in command("report", tmp_path)


def test_a_peft_adapter_is_read_and_its_task_must_be_said(runs, tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(ROOT / "training/models/base_models/decoder")
    model = peft.get_peft_model(
        base, peft.LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=False, task_type="CAUSAL_LM")
    )
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="give --task"):
        load_trained(tmp_path)
    ours = load_trained(tmp_path, task="data2text")
    ids = ours.base.tokenizer("anna was in oslo .", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(ours.base.model.eval()(ids).logits, model.eval()(ids).logits, atol=1e-5, rtol=0)


def test_an_adapter_from_the_hub(runs, monkeypatch):
    asked = []

    def download(name, allow_patterns):
        asked.append(name)
        return str(runs / "a" / "adapter")

    monkeypatch.setattr("training.models.trained.snapshot_download", download)
    assert load_trained("somebody/their-adapter").spec.name == "data2text" and asked == ["somebody/their-adapter"]
    monkeypatch.undo()
    with pytest.raises(ValueError, match="could not be had from the Hub"):
        load_trained("somebody/their-adapter")  # the tests have no network


def test_an_adapter_without_its_head_is_refused(tmp_path):
    import loralib
    from training.data.tasks import TASKS
    from training.models.base_models import load_base

    base = load_base(TASKS["nli"])
    loralib.inject(base.model, loralib.LoraConfig(r=2, target_modules=["query"], modules_to_save=[], task_type="SEQ_CLS"))
    loralib.save_adapter(base.model, tmp_path)
    with pytest.raises(ValueError, match=r"holds \['classifier'\], so the answers would be random"):
        load_trained(tmp_path, task="nli", model="encoder")


@pytest.mark.parametrize("name", ["head.safetensors", "training.json"])
@pytest.mark.fault
def test_damaged_trained_folders_raise(runs, name, tmp_path):
    for file in (runs / "head" / "adapter").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[: 40 if file.name == name else None])
    with pytest.raises(ValueError, match=r"not a readable|not as it was written"):
        load_trained(tmp_path)


def test_rows_go_to_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train_model("topic", out=str(tmp_path), steps=3, eval_rows=20)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    logged = {e.step: e.value for e in events.Scalars("loss")}
    assert logged == pytest.approx({r["step"]: r["loss"] for r in result.rows[1:]})
    assert {"accuracy", "eval_loss", "lr", "grad_norm"} <= set(events.Tags()["scalars"])


def test_gradient_checkpointing_gives_the_same_rows(tmp_path):
    short = {"steps": 3, "eval_rows": 20, "trackers": ""}
    plain, less = (train_model("nli", out=str(tmp_path / str(x)), gradient_checkpointing=x, **short) for x in (False, True))
    assert [r["loss"] for r in plain.rows[1:]] == pytest.approx([r["loss"] for r in less.rows[1:]], abs=1e-5)
    assert less.saved_bytes < 0.5 * plain.saved_bytes


def test_an_own_dataset_of_texts_in_a_txt_file(models, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "test"):
        (data / f"{split}.txt").write_text("A line of text, and another one.\n\nThe second paragraph.\n" * 20)
    result = train_model("text", model=models["decoder"], data_dir=str(data), steps=3, max_length=64, out=str(tmp_path / "run"))
    assert result.metric < result.start_metric and result.metric_name == "loss"


def test_datasets_reads_what_the_loader_reads(tmp_path):
    Dataset.from_dict({"sentence": ["a"], "label": [0]}).to_csv(tmp_path / "train.csv", index=False)
    Dataset.from_dict({"sentence": ["b"], "label": [1]}).to_csv(tmp_path / "test.csv", index=False)
    from training.data.tasks import TASKS

    assert load_task(TASKS["sst2"], str(tmp_path))["test"][0] == {"sentence": "b", "label": 1}
