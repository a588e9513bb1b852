"""The commands as people type them: every flag does something, a stopped run goes on, wrong words are reported early."""

import json
import re
from dataclasses import replace

import pytest
from command import run_module
from safetensors.torch import load_file

from multitask.model.files import load_multitask
from multitask.runs import run as multitask_run
from multitask.runs.run import run_multitask
from multitask.runs.settings import MultitaskSettings
from multitask.studies.compare import alone, compare, verdict
from multitask.studies.compare_page import draw_costs, page
from training.runs.run_folder import RunError, read_rows

QUICK = {"tasks": "topic,nli", "steps": 6, "eval_every": 3, "eval_rows": 12, "train_rows": "topic=24,nli=12", "batch_size": 6}


def quick(tmp_path, **changes) -> MultitaskSettings:
    return MultitaskSettings(**{**QUICK, "out": str(tmp_path / "run"), **changes})


@pytest.mark.long
def test_defect_29_the_command_of_the_source_does_what_its_flags_say(tmp_path):
    words = "--tasks sentiment,topic,nli --task_sampling proportional --loss_weighting uncertainty --use_task_embeddings"
    out = tmp_path / "run"
    small = ("--steps", 6, "--eval-every", 3, "--eval-rows", 12, "--out", out)
    done = run_module("multitask", *words.split(), "--analyze_interference", *small)
    assert done.returncode == 0, done.stderr
    assert "0.043 ∇sentiment + 0.087 ∇topic + 0.870 ∇nli" in done.stdout and f"run folder: {out}" in done.stdout
    rows = read_rows(out / "rows.jsonl")
    assert [row["step"] for row in rows] == list(range(7)) and "cosine/sentiment~nli" in rows[3] and "weight/nli" in rows[6]
    weights = load_file(out / "model" / "weights.safetensors")
    assert "embeddings.table" in weights and weights["embeddings.table"].abs().sum() > 0
    for name in ("report.md", "losses.png", "interference.png", "result.json"):
        assert (out / name).stat().st_size > 100
    again = run_module("multitask", *words.split(), "--analyze_interference", *small)
    assert "is finished already" in again.stdout and len(read_rows(out / "rows.jsonl")) == 7
    other = run_module("multitask", *words.split(), *small)
    assert other.returncode != 0 and "analyze_interference was True and is False" in other.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--tasks sentiment,data2text", "data2text' is of kind generation"),
        ("--tasks sentiment,sentiment", "different names"),
        ("--tasks sentiment,nothing", "task 'nothing' is unknown"),
        ("--task-weights nli=2 --tasks topic,qa", "task_weights: nli is none of the tasks"),
        ("--task-weights nli=much", "expected a number"),
        ("--task-weights nli", "expected NAME=VALUE"),
        ("--train-rows 0", "whole numbers of at least 1"),
        ("--temperature 3", "task_sampling 'proportional' does not use it"),
        ("--max-examples 9 --task-sampling equal", "draws all tasks alike"),
        ("--task-embedding layer_norm", "give both"),
        ("--layers 5", "has 2, expected 1 or more"),
        ("--share-heads topic=nli", "cannot share a head"),
        ("--loss-weighting pcgrad --task-adapters lora", "share no parameter"),
        ("--loss-weighting pcgrad --batching one_task", "a batch has one"),
        ("--loss-weighting gradnorm --batching one_task", "it would be 'equal'"),
        ("--loss-weighting dwa --steps 100", "is 'equal' for the first 100 steps"),
        ("--max-length 3", "leaves no space for the context"),
        ("train", "no command 'train'; there are compare, transfer, speed"),
    ],
)
def test_wrong_words_are_one_line_and_leave_no_folder(words, message, tmp_path):
    tasks = () if "--tasks" in words or words == "train" else ("--tasks", "topic,qa,nli")
    done = run_module("multitask", *words.split(), *tasks, "--out", tmp_path / "run")
    text = re.sub(r"[│\s]+", " ", done.stderr)  # a wrong value comes in a box
    assert done.returncode != 0 and message in text, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run" / "rows.jsonl").exists()


@pytest.mark.parametrize("options", [{}, {"task_adapters": "bottleneck", "learning_rate": 0.5}])
def test_the_best_weights_are_reported_with_their_own_scores(options, tmp_path):
    """A rate so high that the last evaluation is not the best."""
    high = {"steps": 24, "eval_every": 4, "eval_rows": 60, "keep": "best", "learning_rate": 0.05}
    settings = quick(tmp_path, **(high | options))
    result = run_multitask(settings)
    rows = [row for row in read_rows(tmp_path / "run" / "rows.jsonl") if "mean_score" in row]
    best = max(rows, key=lambda row: row["mean_score"])
    assert result["kept_step"] == best["step"] < 24, "the last evaluation was the best: this test could not fail"
    model, tokenizer, limit = load_multitask(tmp_path / "run" / "model")
    for name, part in multitask_run.load_rows(settings, tokenizer, limit).items():
        results = model.evaluate_task(name, part.held_out, tokenizer)[result["tasks"][name]["metric_name"]]
        assert result["tasks"][name]["metric"] == best[f"{name}/{result['tasks'][name]['metric_name']}"] == results


@pytest.mark.parametrize(
    "options", [{}, {"task_adapters": "lora"}, {"use_task_embeddings": True, "task_embedding": "layer_norm"}]
)
def test_a_trained_folder_gives_the_scores_of_its_run(options, tmp_path):
    settings = quick(tmp_path, **options)
    result = run_multitask(settings)
    model, tokenizer, limit = load_multitask(tmp_path / "run" / "model")
    rows = multitask_run.load_rows(settings, tokenizer, 96)
    for task, part in rows.items():
        scores = model.evaluate_task(task, part.held_out, tokenizer)
        assert scores["accuracy"] == result["tasks"][task]["metric"]
        assert scores["eval_loss"] == pytest.approx(result["tasks"][task]["loss"], rel=1e-5)
    assert limit == 128 and result["file_bytes"] == (tmp_path / "run" / "model" / "weights.safetensors").stat().st_size


@pytest.mark.long
def test_every_flag_changes_the_run(tmp_path):
    """The first losses of runs that differ in one flag differ; a flag without effect would be a lie."""
    changes = [
        {},
        {"batching": "one_task"},
        {"task_sampling": "equal"},
        {"max_examples": 15},
        {"use_task_embeddings": True},
        {"loss_weighting": "pcgrad"},
        {"task_weights": "nli=3"},
        {"pooling": "first"},
        {"dropout": 0.5},
        {"random_weights": True},
        {"layers": 1},
        {"task_adapters": "bottleneck"},
        {"seed": 1},
        {"accumulation": 2},
        {"learning_rate": 1e-2},
        {"weight_decay": 0.5, "learning_rate": 1e-2},
        {"max_grad_norm": 0.01},
        {"schedule": "cosine"},
    ]
    result = []
    for i, change in enumerate(changes):
        run_multitask(quick(tmp_path, out=str(tmp_path / str(i)), eval_every=6, **change))
        result.append(tuple(row.get("loss") for row in read_rows(tmp_path / str(i) / "rows.jsonl")))
    assert len(set(result)) == len(changes)


@pytest.mark.fault
def test_a_stopped_run_goes_on_in_its_folder(tmp_path, monkeypatch):
    whole = run_multitask(quick(tmp_path, out=str(tmp_path / "whole"), save_every=2))
    original = multitask_run.RunFolder.keep

    def dies(self, row):
        original(self, row)
        if row["step"] == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(multitask_run.RunFolder, "keep", dies)
    with pytest.raises(KeyboardInterrupt):
        run_multitask(quick(tmp_path, save_every=2))
    monkeypatch.undo()
    rest = run_multitask(quick(tmp_path, save_every=2))
    assert {t: r["loss"] for t, r in rest["tasks"].items()} == {t: r["loss"] for t, r in whole["tasks"].items()}
    losses = [[row["loss"] for row in read_rows(tmp_path / name / "rows.jsonl")[1:]] for name in ("whole", "run")]
    assert losses[0] == losses[1]
    with pytest.raises(RunError, match="steps was 6 and is 7"):
        run_multitask(quick(tmp_path, save_every=2, steps=7))


@pytest.mark.long
def test_the_comparison_gives_single_models_the_same_examples(tmp_path):
    settings = MultitaskSettings(
        **{**QUICK, "tasks": "topic,nli,tagging", "train_rows": "topic=60,nli=30,tagging=30", "steps": 8, "max_examples": 60}
    )
    texts: list[str] = []
    ways = compare(settings, 2, ("proportional", "equal"), True, tmp_path, texts.append)
    single, longer, proportional, equal = ways
    assert [way.label for way in ways] == ["single", "single, longer", "multitask, proportional", "multitask, equal"]
    assert [r["steps"] for r in single.results[0]] == [4, 2, 2] and single.total("steps") == proportional.total("steps") == 8
    assert longer.total("steps") == 24 and len(equal.results[0]) == 1
    assert single.total("parameters") > 2.9 * proportional.total("parameters")
    assert single.total("file_bytes") > 2.9 * equal.total("file_bytes")
    assert len(texts) == 2 * (2 + 6) and verdict(equal, single, "topic") in ("better", "worse", "no difference")
    times = {"K models": [2.0] * 6, "one model, K heads": [1.0] * 6}
    text = page(ways, times, ("compare.png", "costs.png"), "command")
    assert draw_costs(ways, times, tmp_path / "costs.png").stat().st_size > 5000 and "![bytes and seconds](costs.png)" in text
    assert "| multitask, equal |" in text and "2.00 (2.00–2.00)" in text and "best possible" in text
    assert json.loads((tmp_path / "seed-1" / "multitask-equal" / "result.json").read_text())["seed"] == 1


def test_a_run_of_one_task_leaves_out_what_belongs_to_others(tmp_path):
    settings = quick(
        tmp_path, task_weights="nli=2", train_rows="nli=9,topic=7", use_task_embeddings=True, loss_weighting="pcgrad"
    )
    one = alone(replace(settings, share_heads=""), "nli", 3, tmp_path / "x")
    assert (one.tasks, one.train_rows, one.task_weights, one.loss_weighting) == ("nli", "nli=9", "", "equal")
    assert not one.use_task_embeddings and one.steps == 3
