"""`training compare` and `training benchmark`: one command, every row in a process of its own, gone on with where it stopped."""

import json
from types import SimpleNamespace

import pytest
import tiny_folder
from command import run_module

from training.commands.benchmark_command import BenchmarkSettings, benchmark
from training.commands.command_line import Command, parse
from training.commands.compare_command import CompareSettings, compare
from training.reports.paired import clearly_better, paired_gap, spread
from training.runs.own_process import arguments
from training.runs.run_folder import read_result
from training.runs.settings import TrainSettings
from training.runs.step_time import ratios
from training.studies.benchmark import GLUE, data_folder, plan_tasks
from training.studies.compare import Compared, make_plan, tune
from training.studies.compare_page import verdicts


def command(*words, code=0):
    done = run_module("training", *words)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def read(settings: type, words):
    """The settings that these words of a command line mean."""
    return parse(Command(settings, print), "python -m training", words)


@pytest.fixture
def rows_from_the_server(monkeypatch):
    """Each row's `python -m training` is forked from the server of `command.py` instead of started afresh."""
    run = SimpleNamespace(run=lambda words, **_: run_module(words[2], *words[3:]), DEVNULL=None)
    monkeypatch.setattr("training.runs.own_process.subprocess", run)


def test_the_options_of_a_run_give_its_settings_back():
    settings = TrainSettings(
        task="nli",
        steps=7,
        learning_rate=0.25,
        gradient_checkpointing=True,
        score_texts=None,
        data_dir="a b",
        trackers="",
        pissa=True,
    )
    assert read(TrainSettings, arguments(settings)) == settings
    assert arguments(TrainSettings()) == []


@pytest.mark.long
def test_a_comparison_measures_every_row_and_is_gone_on_with(rows_from_the_server, tmp_path):
    out = tmp_path / "compare"
    words = [
        "--task",
        "sentiment",
        "--steps",
        "4",
        "--eval-rows",
        "64",
        "--seeds",
        "1",
        "--ranks",
        "2",
        "--rounds",
        "5",
        "--score-train-rows",
        "50",
    ]
    words += ["--out", str(out)]
    compare(read(CompareSettings, words))
    numbers = json.loads((out / "results.json").read_text())
    assert set(numbers["rows"]) == {"untouched", "head", "LoRA r=2", "full"}
    rows = {label: result[0] for label, result in numbers["rows"].items()}
    assert all(len(result) == 1 for result in numbers["rows"].values())
    assert rows["untouched"]["trainable"] == rows["untouched"]["optimizer_bytes"] == rows["untouched"]["file_bytes"] == 0
    assert rows["untouched"]["metric"] == rows["full"]["start_metric"] == rows["LoRA r=2"]["start_metric"]
    for label in ("head", "LoRA r=2", "full"):  # Adam: two numbers for each trained one, and a step count
        assert 8 * rows[label]["trainable"] < rows[label]["optimizer_bytes"] < 8 * rows[label]["trainable"] + 1000, label
        assert len(numbers["step_seconds"][label]) == 5
    assert rows["LoRA r=2"]["trainable"] == rows["LoRA r=2"]["head_parameters"] + 4864
    page = (out / "report.md").read_text()
    for words_there in (
        "## Quality",
        "no verdict",
        "What N tasks cost",
        "LoRA r=2",
        "train − test",
        "python -m training --method full",
    ):
        assert words_there in page
    assert (out / "compare.png").stat().st_size > 10_000
    # a second start reads what is there and does only what is missing
    visited = (out / "full-0" / "result.json").stat().st_mtime_ns
    for file in (out / "lora-r2-0").glob("result.json"):
        file.unlink()
    compare(read(CompareSettings, words))
    assert (out / "full-0" / "result.json").stat().st_mtime_ns == visited and read_result(out / "lora-r2-0")


def test_each_method_may_take_its_own_learning_rate(rows_from_the_server, tmp_path):
    out = tmp_path / "tuned"
    words = "--task data2text --steps 3 --eval-rows 32 --train-rows 64 --seeds 1 --ranks 2 --learning-rates 0.01 1"
    words += f" --rounds 0 --samples 0 --score-train-rows 20 --out {out}"
    compare(read(CompareSettings, words.split()))
    numbers = json.loads((out / "results.json").read_text())
    assert set(numbers["rows"]) == {"untouched", "LoRA r=2", "full"}  # a model that writes text has no head of its own
    for method, label in (("lora", "LoRA r=2"), ("full", "full")):
        tried = numbers["tuned"][method]
        assert str(numbers["rows"][label][0]["learning_rate"]) == min(tried, key=tried.get)  # a loss: lower is better
    assert "One seed: no verdict" in (out / "report.md").read_text()


def test_one_factor_is_taken_without_a_trial(tmp_path):
    base = TrainSettings("sentiment")
    plan, tried = tune(make_plan(base, (2,), 1, tmp_path), base, (3.0,), print)
    assert {label: s.learning_rate for label, s in plan.rows.items()} == {
        "untouched": None,
        "head": 0.03,
        "LoRA r=2": 0.015,
        "full": 0.003,
    }
    assert tried == {}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--method", "full"], "leave --method out"),
        (["--restart"], "remove its folder"),
        (["--ranks", 2, 2], "different whole numbers"),
        (["--rounds", 3], "at least 5"),
        (["--learning-rates", -1], "factors above 0"),
        (["--task", "sentiment", "--other-text", "x"], "models that write text"),
        (["--target-modules", "qproj"], "qproj"),
    ],
)
def test_a_comparison_refuses_bad_settings_before_it_starts(words, expected, tmp_path):
    assert expected in " ".join(
        command("compare", "--out", tmp_path / "c", *words, code=1 if "qproj" in words or "x" in words else 2)
        .replace("│", " ")
        .split()
    )
    assert not (tmp_path / "c").exists()


@pytest.mark.long
@pytest.mark.real
def test_the_benchmark_runs_all_eight_tasks_with_their_metrics(rows_from_the_server, shared, tmp_path, capsys):
    model = tiny_folder.encoder(tmp_path / "encoder")
    words = ["--tasks", "all", "--stand-in", "mnli=sick", "--data-root", shared / "data", "--model", model]
    words += ["--steps", 2, "--eval-rows", 60, "--train-rows", 100, "--target-modules", "query", "--out", tmp_path / "bench"]
    benchmark(read(BenchmarkSettings, [str(word) for word in words]))
    records = capsys.readouterr().out
    page = (tmp_path / "bench" / "report.md").read_text()
    lines = {line.split("|")[1].strip().split()[0]: line for line in page.splitlines() if line.startswith("| ")}
    metrics = {"cola": "matthews", "mrpc": "f1", "qqp": "f1", "stsb": "pearson_spearman"}
    for task in GLUE:
        assert metrics.get(task, "accuracy") in lines[task]
    assert "(sick stands in)" in lines["mnli"] and "**average**" in lines and "report:" in records
    result = [read_result(tmp_path / "bench" / f"{task}-lora-0") for task in GLUE]
    mean = sum(r["metric"] for r in result if r) / 8
    assert f"**{mean:.3f}**" in lines["**average**"]


def test_the_benchmark_names_what_is_missing(tmp_path):
    (tmp_path / "glue" / "cola").mkdir(parents=True)
    assert data_folder(tmp_path, "cola") == tmp_path / "glue" / "cola"
    with pytest.raises(FileNotFoundError, match="--stand-in mnli=OTHER"):
        data_folder(tmp_path, "mnli")
    assert plan_tasks(("all",), ("mnli=sick",))["mnli"] == "sick" and len(plan_tasks(("all",), ())) == 8
    for tasks, stand_in in ((("colla",), ()), (("cola",), ("mnli=sick",)), (("cola",), ("cola",))):
        with pytest.raises(ValueError, match="is not among"):
            plan_tasks(tasks, stand_in)


def test_the_verdict_names_who_is_better():
    def row(label, *metrics):
        settings = TrainSettings(task="sentiment", method="full" if label == "full" else "lora")
        return Compared(label, settings, [{"metric": m} for m in metrics], [])

    text = verdicts([row("a", 0.5, 0.52), row("b", 0.79, 0.83), row("c", 0.9, 0.91), row("full", 0.8, 0.81)])
    assert "- a: **full is better**" in text and "- b: no difference that counts" in text and "- c: **better than full**" in text


def test_the_rule_that_decides():
    assert paired_gap([2.0, 4.0], [1.0, 1.0]) == (2.0, 1.0) and paired_gap([2.0, 4.0], [1.0, 1.0], False) == (-2.0, 1.0)
    assert clearly_better([2.0, 2.1, 2.0], [1.0, 1.0, 1.1]) and not clearly_better([2.0, 4.0], [1.0, 1.0])  # 2 is not more than 2
    with pytest.raises(ValueError, match="two or more seeds"):
        paired_gap([1.0], [1.0])
    assert spread([0.5, 0.5]) == "0.500" and spread([0.5, 0.7], 1) == "0.6 ± 0.1"


def test_ratios_are_taken_round_by_round():
    times = {"full": [2.0, 4.0, 2.0, 2.0, 20.0], "lora": [1.0, 2.0, 1.0, 1.0, 10.0]}
    assert ratios(times, "full")["lora"] == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True, "use_rslora": True},
        {"pissa": True, "bias": "lora_only"},
        {"lora_plus_ratio": 4.0},
        {"method": "ia3", "target_modules": "key,value,output.dense", "feedforward_modules": "output.dense"},
    ],
    ids=["dora", "pissa", "lora_plus", "ia3"],
)
def test_a_variant_trains_saves_and_comes_back(options, tmp_path):
    from training import train_model
    from training.models.trained import load_trained

    result = train_model(
        "sentiment", steps=12, eval_rows=64, learning_rate=2e-3, trackers="", out=str(tmp_path / "run"), **options
    )
    assert result.rows[-1]["loss"] < result.rows[1]["loss"] + 0.1
    again = load_trained(tmp_path / "run" / "adapter")
    inputs = again.base.tokenizer("the song was good", return_tensors="pt")
    results, wanted = (m(**inputs).logits for m in (again.base.model.eval(), result.model.eval()))
    assert abs(results - wanted).max() < 1e-5 and again.method == options.get("method", "lora")


@pytest.mark.parametrize(
    ("options", "words"),
    [({"method": "full", "use_dora": True}, "does not use that"), ({"method": "ia3", "pissa": True}, "does not use that"),
     ({"feedforward_modules": "x"}, "does not use that"), ({"lora_plus_ratio": 0.0}, "more than 0")],
)  # fmt: skip
def test_a_variant_that_the_method_would_ignore_raises(options, words):
    with pytest.raises(ValueError, match=words):
        TrainSettings(**options)
