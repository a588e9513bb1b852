"""The checker of the capstone: the model solution passes, and one planted mistake of each kind is found."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from command import run_module

from tutorials import lessons
from tutorials.capstone import runs as capstone_runs
from tutorials.capstone.checks import CHECKS, SECTIONS
from tutorials.capstone.command import REPORT, problems
from tutorials.capstone.runs import Run, read_runs, score, study_of

FOLDER = lessons.HERE / "capstone"
SOLUTION = FOLDER / "solution"
RUNS = read_runs(SOLUTION)
TEXT = (SOLUTION / REPORT).read_text()


def folder_of(tmp_path: Path, runs: list[Run] = RUNS, report: str = TEXT) -> Path:
    (tmp_path / capstone_runs.COLLECTED).write_text(json.dumps([vars(run) for run in runs]))
    (tmp_path / REPORT).write_text(report)
    return tmp_path


def without(method: str) -> list[Run]:
    return [run for run in RUNS if run.method != method]


def changed(method: str, seed: int, **values) -> list[Run]:
    return [replace(run, **values) if (run.method, run.seed) == (method, seed) else run for run in RUNS]


def only_rates(*rates: float) -> list[Run]:
    return [run for run in RUNS if not (run.name.startswith("tune-lora") and run.learning_rate not in rates)]


def used(**values) -> list[Run]:
    """LoRA's compared runs, changed."""
    return [replace(run, **values) if run.name.startswith("lora") else run for run in RUNS]


[LORA] = [runs for row, runs in study_of(RUNS).rows.items() if row.method == "lora"]
OTHER_MODEL = used(shared={**LORA[0].shared, "model": "other"})
PLANTED = {
    "untouched is missing": ("baselines", without("untouched"), TEXT, "no row `untouched`"),
    "head is missing": ("baselines", without("head"), TEXT, "no row `head`"),
    "one method": ("methods", [r for r in RUNS if r.method in ("untouched", "head", "lora")], TEXT, "at least two"),
    "no longer run": ("a longer run", [r for r in RUNS if r.steps < 600], TEXT, "no row was trained longer"),
    "the longer run has another learning rate": (
        "a longer run",
        [replace(r, learning_rate=0.5) if r.steps == 600 else r for r in RUNS],
        TEXT,
        "no row was trained longer",
    ),
    "a seed is missing": ("seeds", [r for r in RUNS if r.name != "lora-2"], TEXT, "lora (300 steps): seeds [0, 1]"),
    "a seed twice": ("seeds", [*RUNS, *(r for r in RUNS if r.name == "lora-2")], TEXT, "[0, 1, 2, 2]"),
    "two seeds": ("seeds", [r for r in RUNS if r.seed != 2], TEXT, "at least three"),
    "tuned on a compared seed": ("seeds", [replace(r, seed=0) if r.seed == 1000 else r for r in RUNS], TEXT, "seeds [0]"),
    "one learning rate": ("tuned learning rates", only_rates(0.005), TEXT, "lora: 1 learning rates"),
    "not the best": ("tuned learning rates", used(learning_rate=0.1), TEXT, "the best of the tuning: [0.005]"),
    "at the edge": (
        "tuned learning rates",
        [replace(r, learning_rate=0.05) if r.name == "tune-lora-0.0015-1000" else r for r in RUNS],
        TEXT,
        "is at the edge",
    ),
    "other examples": ("the same data", changed("lora", 1, train_checksum=7), TEXT, "seed 1: rows with different"),
    "other test examples": ("the same data", changed("lora", 1, evaluation_checksum=7), TEXT, "evaluation_checksum differs"),
    "another batch size": ("the same data", changed("lora", 1, batch_size=64), TEXT, "batch_size differs"),
    "another model": ("the same data", OTHER_MODEL, TEXT, "model differs"),
    "other steps": ("the same steps", used(steps=450), TEXT, "'lora': 450"),
    "short tuning": ("the same steps", [replace(r, steps=1) if r.seed == 1000 else r for r in RUNS], TEXT, "the run tune-"),
    "over the budget": ("the budget", [replace(r, seconds=100 * r.seconds) for r in RUNS], TEXT, "the budget is 30"),
    "no report": ("the report", RUNS, "", "no report.md"),
    "a section is missing": ("the report", RUNS, TEXT.replace("## Costs", "## Prices"), "no section `## Costs`"),
    "too long": ("the report", RUNS, TEXT + "word " * 1000, "expected at most 1000"),
    "a score is missing": ("figures", RUNS, TEXT.replace(score(LORA), "good"), "the score of lora (300 steps)"),
    "an invented score": ("figures", RUNS, TEXT.replace(score(LORA), f"{score(LORA)}, 0.999 ± 0.001"), "the score of no row"),
    "an invented difference": ("figures", RUNS, TEXT.replace(score(LORA), f"{score(LORA)}, +0.111 ± 0.001"), "no paired"),
    "parameters are missing": ("costs", RUNS, TEXT.replace(f"{LORA[0].trainable:,}", "few"), "the trained parameters of lora"),
    "no difference": ("figures", RUNS, re.sub(r"[+\-−]\d\.\d+ ± \S+", "some", TEXT), "no paired difference, such as"),
    "a difference without a sign": ("figures", RUNS, TEXT.replace("+0.025 ±", "0.025 ±"), "needs its sign"),
    "bytes are missing": ("costs", RUNS, TEXT.replace(f"{LORA[0].file_bytes:,}", "few"), "the bytes of the file of lora"),
}


def test_the_model_solution_has_everything():
    assert {name: missing for name, missing in problems(SOLUTION).items() if missing} == {}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_mistake_is_found(name, tmp_path):
    check, runs, report, message = PLANTED[name]
    messages = problems(folder_of(tmp_path, runs, report))
    assert any(message in sentence for sentence in messages[check]), messages


def test_there_is_a_planted_mistake_for_each_check():
    assert {check for check, *_ in PLANTED.values()} == set(CHECKS)


def test_the_page_names_the_sections_and_20_points():
    page = (FOLDER / "README.md").read_text()
    assert all(f"`## {name}`" in page for name in SECTIONS)
    assert sum(map(int, re.findall(r"^\| (\d) \| ", page, re.MULTILINE))) == 20
    for target in re.findall(r"\]\(([^)]+)\)", page):
        assert (FOLDER / target).is_file(), target


def test_good_studies_are_not_rejected(tmp_path):
    """Learning rates that are equal as they are printed; two options of one method; other ways to write numbers and titles."""
    tie = max(run.metric for run in RUNS if run.name.startswith("tune-lora"))
    tied = [replace(run, metric=tie - 0.0001 * run.learning_rate) if run.name.startswith("tune-lora") else run for run in RUNS]
    options = [replace(run, options="r=4") if run.method == "bottleneck" else run for run in tied]
    report = TEXT.replace(score(LORA), f"**{score(LORA)}**".replace("±", r"\pm")).replace("## Results", "## results")
    report = report.replace("+0.025 ± 0.009", "+0.0250+-0.0095")
    assert {name: x for name, x in problems(folder_of(tmp_path, options, report)).items() if x} == {}


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no finished run"):
        read_runs(tmp_path)


def test_the_command_reads_run_folders_and_collects_them(tmp_path):
    for name, method in (("untouched-0", "untouched"), ("tune-head", "head")):
        options = ["--steps", "1", "--eval-rows", "20", "--train-rows", "32", "--samples", "0", "--trackers", ""]
        run_module("training", "--task", "qa", "--method", method, *options, "--out", str(tmp_path / name))
    done = run_module("tutorials", "capstone", str(tmp_path), "--collect")
    assert done.returncode == 1 and "missing seeds" in done.stdout and "no row `head`" in done.stdout, done.stdout + done.stderr
    shutil.rmtree(tmp_path / "untouched-0")
    shutil.rmtree(tmp_path / "tune-head")
    assert {run.name for run in read_runs(tmp_path)} == {"untouched-0", "tune-head"}
