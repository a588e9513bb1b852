"""Methods bottleneck, prefix, prompt and fusion through the one loop, and the commands that compare them."""

import functools
import json

import pytest
import torch
from command import run_module
from datasets import Dataset
from tiny_folder import encoder

from adapters.bottleneck.attachment import sites
from adapters.fusion.fuse import active_fusion
from adapters.fusion.fusion import fusion_penalty, no_decay
from multitask.studies.fusion_study import attention, held_out_rows
from training import train_model
from training.data.batching import Steps
from training.data.data import load_task
from training.data.encoding import encode
from training.data.tasks import find_task
from training.evaluation.evaluation import objective_of
from training.loop.loop import LoopSettings, Trainer
from training.models.base_models import load_base, window
from training.models.methods import apply_method
from training.models.trained import load_trained
from training.runs.method_configs import adapter_config
from training.runs.settings import TrainSettings
from training.studies import gap
from training.studies.gap import Row, draw, measure_gap, page

QUICK = {"trackers": "", "samples": 0, "threads": 1, "eval_every": 10**6, "eval_rows": 60}
TASKS = ("sentiment", "tagging", "qa", "data2text")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", ["bottleneck", "prefix", "prompt"])
def test_each_method_trains_and_comes_back_with_the_same_weights(method, task, tmp_path):
    run = train_model(task, method=method, steps=20, out=str(tmp_path / "run"), **QUICK)
    assert run.metric != run.start_metric and run.rows[-1]["loss"] < run.rows[1]["loss"]
    head = 0 if task == "data2text" else run.head_parameters
    assert 0 < run.trainable - head < 0.1 * load_base(find_task(task)).model.num_parameters()
    again = load_trained(run.folder / "adapter")
    assert again.method == method
    own, other = run.model.state_dict(), again.base.model.state_dict()
    assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


def test_text_and_projection_are_starts_of_a_run(tmp_path):
    options = {"virtual_start": "text", "start_text": "the film was lovely", "num_virtual_tokens": 6}
    for method in ("prefix", "prompt"):
        run = train_model("sentiment", method=method, steps=2, out=str(tmp_path / method), **options, **QUICK)
        assert run.trainable - run.head_parameters == (6 * 2 * 2 * 64 if method == "prefix" else 6 * 64)
    run = train_model("sentiment", method="prefix", prefix_projection=True, steps=2, out=str(tmp_path / "net"), **QUICK)
    again = load_trained(run.folder / "adapter")
    assert again.base.model.num_parameters() < run.model.num_parameters(), "the network is ejected at the end"


def test_a_decoders_window_is_shorter_by_its_virtual_tokens():
    base = load_base(find_task("data2text"))
    before = window(base.model, base.tokenizer)
    apply_method("prefix", base, find_task("data2text"))
    assert window(base.model, base.tokenizer) == before - 20
    base = load_base(find_task("sentiment"))
    before = window(base.model, base.tokenizer)
    apply_method("prefix", base, find_task("sentiment"))
    assert window(base.model, base.tokenizer) == before, "an encoder's text keeps its positions"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "lora", "placement": "houlsby"}, "placement: method 'lora' does not use that"),
        ({"method": "prompt", "prefix_projection": True}, "prefix_projection: method 'prompt' does not use that"),
        ({"method": "fusion"}, "at least two"),
        ({"method": "fusion", "members": "one"}, "at least two"),
        ({"method": "prefix", "num_virtual_tokens": 0}, "at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        TrainSettings(**options)


# ---------------------------------------------------------------- fusion


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Folders of trained adapters, by method: two tasks with heads of different sizes."""
    folder = tmp_path_factory.mktemp("members")
    return {
        method: {
            task: train_model(task, method=method, steps=15, out=str(folder / f"{method}-{task}"), **options, **QUICK)
            for task in ("sentiment", "nli")
        }
        for method, options in (("bottleneck", {"reduction_factor": 4.0}), ("lora", {"r": 2, "target_modules": "query,value"}))
    }


@pytest.mark.parametrize("method", ["bottleneck", "lora"])
def test_a_fusion_trains_from_its_own_adapter_and_comes_back(method, members, tmp_path):
    folders = ",".join(str(run.folder / "adapter") for run in members[method].values())
    run = train_model("nli", method="fusion", members=folders, steps=10, out=str(tmp_path / "run"), **QUICK)
    learning = {n for n, p in run.model.named_parameters() if p.requires_grad}
    assert learning and all(".fusions." in n or ".copies.nli." in n for n in learning)
    again = load_trained(run.folder / "adapter")
    assert again.method == "fusion" and active_fusion(again.base.model).names == ("sentiment", "nli")
    own, other = run.model.state_dict(), again.base.model.state_dict()
    assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


def test_a_fusion_for_a_new_task_gets_a_new_head(members, tmp_path):
    folders = ",".join(str(run.folder / "adapter") for run in members["bottleneck"].values())
    run = train_model("tagging", method="fusion", members=folders, steps=5, out=str(tmp_path / "run"), **QUICK)
    assert any(p.requires_grad for n, p in run.model.named_parameters() if "classifier.copies.nli." in n), (
        "the last member's name"
    )
    again = load_trained(run.folder / "adapter")
    own, other = run.model.state_dict(), again.base.model.state_dict()
    assert all(torch.equal(own[name], other[name]) for name in own)


def test_members_that_cannot_be_fused_are_refused(members, tmp_path):
    adapter = str(members["bottleneck"]["nli"].folder / "adapter")
    prefix = train_model("nli", method="prefix", steps=1, out=str(tmp_path / "prefix"), **QUICK).folder / "adapter"
    head = train_model("nli", method="head", steps=1, out=str(tmp_path / "head"), **QUICK).folder / "adapter"
    lora = members["lora"]["nli"].folder / "adapter"
    for other, words in (
        (prefix, "is a prefix, which changes what every layer attends to"),
        (head, "trained with method 'head'"),
        (lora, "cannot be fused together"),
        (tmp_path, "no adapter of a run"),
    ):
        with pytest.raises(ValueError, match=words):
            train_model("nli", method="fusion", members=f"{adapter},{other}", steps=1, out=str(tmp_path / "x"), **QUICK)


def test_the_pull_is_in_the_loss_and_v_is_out_of_the_decay(members, tmp_path):
    """Defects 7.7 and 7.8: without a gradient from the task, decay must not move V, and the pull must."""
    folders = tuple(str(run.folder / "adapter") for run in members["bottleneck"].values())
    config = adapter_config(TrainSettings(method="fusion", members=",".join(folders)))
    spec = find_task("nli")
    base = load_base(spec)
    apply_method("fusion", base, spec, config)
    settings = LoopSettings(weight_decay=0.1, steps=1)
    groups = Trainer(base.model, iter(()), objective_of("classification"), settings).optimizer.param_groups
    free = [p for group in groups if group["weight_decay"] == 0 for p in group["params"]]
    values = [base.model.get_parameter(name) for name in no_decay(base.model)]
    assert {id(p) for p in free if p.ndim > 1} == {id(p) for p in values} and len(values) == 2
    assert all(p.ndim > 1 for group in groups if group["weight_decay"] for p in group["params"])
    assert sum(len(group["params"]) for group in groups) == len([p for p in base.model.parameters() if p.requires_grad])
    with torch.no_grad():
        for value in values:
            value.add_(0.1)
    steps = Steps(encode(load_task(spec)["train"][:8], spec, base.tokenizer, 64).features, base.tokenizer, 8)
    [batch] = next(steps)
    with_pull, without = (objective_of(spec.kind, penalty).loss_sum(base.model, batch) for penalty in (fusion_penalty, None))
    torch.testing.assert_close(with_pull - without, 8 * fusion_penalty(base.model))  # a sum over 8 answers: the mean gets it once
    assert float(fusion_penalty(base.model)) > 0.1


def test_the_attention_of_a_fusion_is_a_share_for_each_member(members, tmp_path):
    folders = ",".join(str(run.folder / "adapter") for run in members["bottleneck"].values())
    run = train_model("nli", method="fusion", members=folders, steps=5, out=str(tmp_path / "run"), **QUICK)
    trained = load_trained(run.folder / "adapter")
    shares = torch.tensor(attention(trained.base, held_out_rows(TrainSettings("nli", eval_rows=30), 0, trained.base)))
    assert shares.shape == (len(sites(trained.base.model)), 2) == (2, 2)
    torch.testing.assert_close(shares.sum(1), torch.ones(2))


# ---------------------------------------------------------------- commands


@pytest.mark.long
def test_the_fuse_command_makes_a_report(tmp_path):
    words = ["--tasks", "sentiment,nli", "--steps", "6", "--eval-rows", "40", "--reduction-factor", "4", "--trackers", ""]
    for _ in range(2):  # the second time everything is read from disk
        done = run_module("adapters", "fuse", *words, "--threads", "1", "--out", str(tmp_path / "study"))
        assert done.returncode == 0, done.stderr
    page = (tmp_path / "study" / "report.md").read_text()
    for part in (
        "## Quality",
        "average, untrained",
        "as long as the fusion",
        "## Who is used where",
        "mean of the tasks",
        "on the mix",
    ):
        assert part in page
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    assert [r["task"] for r in results] == ["sentiment", "nli"] and all(len(r["full"]) == 1 for r in results)
    assert all(r["heads"][0]["steps"] == r["mix"][0]["steps"] == 12 for r in results)
    assert results[0]["mix"][0]["trainable"] > results[0]["fusion"][0]["trainable"] and len(results[0]["probes"]) == 1
    for name in ("adapter_sentiment", "adapter_nli", "fusion_nli", "longer_nli", "full_sentiment"):
        assert (tmp_path / "study" / "seed-0" / name / "adapter" / "training.json").exists()
    assert (tmp_path / "study" / "quality.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "prefix"], "no fusion of prefixes"),
        (["--tasks", "sentiment"], "two or more"),
        (["--tasks", "sentiment,data2text"], "write text"),
        (["--tasks", "sentiment,sts"], "sts"),
        (["--data", "nowhere"], "no folder sentiment"),
    ],
)
def test_the_fuse_command_refuses_what_cannot_be(words, message, tmp_path):
    done = run_module("adapters", "fuse", *words, "--out", str(tmp_path / "x"))
    assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr


def test_the_fuse_command_takes_folders_of_data_and_of_a_model(tmp_path):
    rows = {"sst2": {"sentence": ["good fun", "bad film"] * 8, "label": [1, 0] * 8}}
    rows["sick"] = {"premise": ["a dog"] * 16, "hypothesis": ["a cat", "an animal"] * 8, "label": [2, 0] * 8}
    for task, columns in rows.items():
        for split in ("train", "validation"):
            (tmp_path / "data" / task).mkdir(parents=True, exist_ok=True)
            Dataset.from_dict(columns).to_parquet(tmp_path / "data" / task / f"{split}.parquet")
    model = encoder(tmp_path / "encoder")
    words = ["--tasks", "sst2,sick", "--model", str(model), "--data", str(tmp_path / "data"), "--steps", "2", "--no-full"]
    words += ["--no-longer", "--trackers", "", "--method", "lora", "--static"]
    done = run_module("adapters", "fuse", *words, "--out", str(tmp_path / "study"))
    assert done.returncode == 0, done.stderr
    assert "full fine-tuning" not in (tmp_path / "study" / "report.md").read_text()


def test_the_gap_command_shows_shares_and_every_rate(tmp_path, monkeypatch):
    rows = {"head": Row("head", (1e-2,)), "full": Row("full", (1e-3,)), "prompt": Row("prompt", (3e-2, 1e-1))}
    monkeypatch.setattr(gap, "ROWS", rows)
    monkeypatch.setattr(gap, "STEPS", {"tagging": 3})
    monkeypatch.setattr(gap, "train_model", functools.partial(train_model, eval_rows=40))
    texts = []
    result = measure_gap("tagging", ["prompt"], 2, tmp_path, texts.append)
    assert set(result.tried["prompt"]) == {"0.03", "0.1"} and len(result.values["prompt"]) == 2 and len(texts) == 3
    text = page([result], ["prompt"], "the command", "gap.png")
    assert "0.03: " in text and "is the gap clear?" in text and draw([result], ["prompt"], tmp_path / "gap.png").exists()
    done = run_module("training", "gap", "--tasks", "sst2")
    assert done.returncode != 0 and "expected some of" in done.stderr


def test_the_start_of_an_adapter_without_a_seed_is_that_of_seed_0():
    starts = []
    for options in ({}, {"seed": 0}, {"seed": 1}):
        base = load_base(find_task("sentiment"))
        apply_method("lora", base, find_task("sentiment"), **options)
        starts.append([p for p in base.model.parameters() if p.requires_grad])
    first, zero, one = starts
    assert all(map(torch.equal, first, zero)) and not all(map(torch.equal, zero, one))
