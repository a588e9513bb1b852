"""Many students in one table: what a way may say, that seeds are paired, that numbers are right, and that a study goes on."""

import json

import pytest
import tiny
import tiny_folder
import torch
from command import run_module
from distilling import hurry, make_teacher, quick

import distill.studies.compare as compare_module
from distill.commands.compare_command import CompareSettings
from distill.commands.sweep_command import SweepSettings, sweep
from distill.compression.int8 import quantize_int8
from distill.compression.sites import find_sites
from distill.compression.structured import shrink
from distill.runs.run import run_distillation
from distill.runs.settings import DistillSettings
from distill.student.cost import operations, speed_up
from distill.studies.compare import Way, batch_of, compare, costs, folder_name, settings_of, verdict
from distill.studies.compare_page import costs_table, page, quality_table
from loralib.four_bit.qlora import quantize_model

WAYS = ["hard", "kd:T=2,a=1 units=0.5 heads=0.5", "kd:T=2,a=1 bits=int8", "kd:T=2,a=1 bits=nf4 transfer=10 steps=6"]


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    return make_teacher(tmp_path_factory.mktemp("teacher"), seed=3)


@pytest.fixture(scope="module")
def study(teacher, tmp_path_factory) -> tuple[list[Way], DistillSettings]:
    """Every kind of student, two seeds."""
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        base = quick(tmp_path_factory.mktemp("base"), teacher, student="copy:1,2", eval_every=8)
        return compare(WAYS, base, 2, tmp_path_factory.mktemp("study"), lambda text: None), base


def test_every_word_of_a_way_changes_its_setting():
    base = DistillSettings(teacher="t", student="copy:1", train_rows=9, transfer_rows=5)
    text = "kd:T=3,a=0.5 hidden:1->2,w=2 student=copy:1,hidden=32 transfer=7 targets=data on_policy=0.5 steps=11 rate=0.002"
    result = settings_of(text, base)
    assert result.losses == ("kd:T=3,a=0.5", "hidden:1->2,w=2") and result.student == "copy:1,hidden=32"
    assert (result.transfer_rows, result.on_policy, result.steps, result.learning_rate) == (7, 0.5, 11, 0.002)
    cut = settings_of("kd heads=0.5 units=0.25 bits=int8", base)
    assert (cut.keep_heads, cut.keep_units, cut.bits, cut.transfer_rows) == (0.5, 0.25, "int8", 5)
    assert settings_of("kd zeros=0.75", base).zeros == 0.75
    assert settings_of("kd targets=teacher transfer=0", base).targets == "teacher"


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("transfer=0", "has no loss"),
        ("kd speed=3", "'speed'; expected losses, and student="),
        ("kd steps=many", "'steps=many', expected a number"),
        ("kd bits=int4", "there are float32, int8, nf4"),
        ("kd heads=0", "more than 0 and at most 1"),
        ("kd:T=0", "T"),
        ("kd student=copy:7", r"layers \[7\]"),
        ("kd hidden:3->1", "layer 3; the student has 0 to 2"),
        ("hard transfer=5", "transfer_rows have no labels"),
        ("kd student=nowhere", "cannot be loaded"),
    ],
)
def test_a_wrong_way_is_told_before_the_first_run_of_the_others(way, message, teacher, tmp_path):
    base = quick(tmp_path / "x", teacher, student="copy:1,2")
    with pytest.raises(ValueError, match=message):
        compare(["hard", way], base, 1, tmp_path / "study", lambda text: None)
    assert not (tmp_path / "study").exists()


def test_seeds_are_paired_and_each_run_is_the_run_of_its_own_settings(study, tmp_path):
    ways, base = study
    for way in ways:
        assert [r["seed"] for r in way.results] == [0, 1] and [f.parent.name for f in way.folders] == ["seed-0", "seed-1"]
    configs = [[json.loads((f / "config.json").read_text()) for f in way.folders] for way in ways]
    for i in range(2):  # the same labelled examples for all, others for the next seed
        assert len({c[i]["train_checksum"] for c in configs[:3]}) == 1
    assert configs[0][0]["train_checksum"] != configs[0][1]["train_checksum"]
    assert [ways[3].results[0][name] for name in ("steps", "transfer_rows", "labelled_rows")] == [6, 10, 24]
    alone = run_distillation(quick(tmp_path, base.teacher, student="copy:1,2", eval_every=8, losses=("hard",), seed=1))
    timed = ("peak_bytes", "train_seconds", "teacher_seconds", "seconds_by_part")
    plain = lambda result: {k: v for k, v in result.items() if k not in timed}  # noqa: E731
    assert plain(alone) == plain(ways[0].results[1])


def test_a_stopped_study_goes_on_runs_nothing_twice_and_restart_runs_all(teacher, tmp_path, monkeypatch):
    base, ran = quick(tmp_path / "x", teacher), []
    original = run_distillation

    def counted(settings):
        if len(ran) == 3 and "stop" not in ran:
            ran.append("stop")
            raise KeyboardInterrupt
        before = (tmp_path / "study").glob("seed-*/*/result.json")
        ran.append(str(settings.out) not in {str(p.parent) for p in before})
        return original(settings)

    monkeypatch.setattr(compare_module, "run_distillation", counted)
    with pytest.raises(KeyboardInterrupt):
        compare(["hard", "kd"], base, 2, tmp_path / "study", lambda text: None)
    ways = compare(["hard", "kd"], base, 2, tmp_path / "study", lambda text: None)
    assert ran == [True, True, True, "stop", False, False, False, True]
    times = [(f / "result.json").stat().st_mtime_ns for way in ways for f in way.folders]
    again = compare(["hard", "kd"], quick(tmp_path / "x", teacher, restart=True), 2, tmp_path / "study", lambda text: None)
    assert all(
        (f / "result.json").stat().st_mtime_ns > t for f, t in zip([f for w in again for f in w.folders], times, strict=True)
    )
    with pytest.raises(ValueError, match="other settings: train_checksum"):
        compare(["hard", "kd"], quick(tmp_path / "x", teacher, train_rows=20), 2, tmp_path / "study", lambda text: None)


def test_numbers_of_cut_int8_and_nf4_students(study):
    """Parameters as counted by hand; operations: of int8 and NF4 as of floats, of a cut student fewer; bytes fall."""
    ways, base = study
    result = costs(ways, f",{base.teacher}", 2, 500)  # longer than any window here
    d, inner, layers = 64, 256, 2
    model = compare_module.load_trained(base.teacher).base.model
    d, inner, layers = model.config.hidden_size, model.config.intermediate_size, model.config.num_hidden_layers
    gone = layers * (4 * d * d // 2 + 3 * d // 2 + 2 * d * inner // 2 + inner // 2)  # half of Q, K, V, O and both dense layers
    whole, cut, int8, nf4 = (way.results[0]["parameters"] for way in ways)
    assert whole == int8 == nf4 == ways[0].results[0]["teacher_parameters"] and whole - cut == gone
    rows, length = result["teacher"]["tokens"]
    assert (rows, length) == (2, model.config.max_position_embeddings)
    ops = [result[way.text]["operations"] for way in ways]
    assert ops[0] == ops[2] == ops[3] == result["teacher"]["operations"]
    tokens, attention = rows * length, layers * 2 * 2 * rows * length * length * d
    weights = layers * (4 * d * d + 2 * d * inner)
    assert ops[0] - ops[1] == (2 * tokens * weights + attention) // 2
    sizes = [way.results[0]["file_bytes"] for way in ways]
    assert sizes[0] > sizes[1] and sizes[0] > sizes[2] > sizes[3]


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "distilbert"])
def test_operations_do_not_change_with_the_bits_and_fall_with_cuts(family, monkeypatch):
    batch = batch_of(2, 16, 40)
    whole = operations(tiny.FAMILIES[family](), batch)
    int8, nf4, cut = (tiny.FAMILIES[family]() for _ in range(3))
    quantize_int8(int8)
    quantize_model(nf4)
    assert operations(int8, batch) == operations(nf4, batch) == whole > 0
    monkeypatch.setattr("distill.compression.int8_product.int_mm_is_exact", lambda: False)  # the other route of the same matmuls
    assert operations(int8, batch) == whole
    sites = find_sites(cut, "ffn")
    gone = sum(site.units - 1 for site in sites)
    shrink(cut, {site.path: [0] for site in sites})
    per_unit = 2 * 2 * 16 * 24 * (3 if family == "llama" else 2)  # B · T · 2 d for each of the unit's vectors
    assert whole - operations(cut, batch) == gone * per_unit


def test_the_verdict_is_paired_and_knows_which_way_is_up():
    def way(text, **values):
        return Way(text, [{"task": "sentiment", **{k: v[i] for k, v in values.items()}} for i in range(3)], [])

    first = way("a", metric=[0.5, 0.6, 0.7], ece=[0.3, 0.2, 0.1], agreement=[0.5, 0.5, 0.5])
    other = way("b", metric=[0.52, 0.62, 0.721], ece=[0.2, 0.1, 0.0], agreement=[0.4, 0.6, 0.5])
    assert verdict(other, first, "metric") == "better" and verdict(first, other, "metric") == "worse"
    assert verdict(other, first, "ece") == "better" and verdict(other, first, "agreement") == ""
    assert verdict(first, first, "metric") == "" and verdict(other, first, "kl_to_truth") == ""
    assert verdict(Way("c", other.results[:1], []), Way("a", first.results[:1], []), "metric") == ""


def test_the_page_holds_the_numbers_of_every_way(study):
    ways, _ = study
    seconds = {"teacher": [4.0] * 6} | {way.text: [2.0] * 6 for way in ways}
    assert speed_up(seconds, "hard", "teacher") == (2.0, 2.0, 2.0)
    result = {name: {"operations": 5 * 10**9, "seconds": times, "tokens": [64, 32]} for name, times in seconds.items()}
    text = page(ways, result, "compare.png", "the command")
    assert "over 2 seeds" in text and "one batch of 64 × 32 tokens" in text and "`the command`" in text
    table = [line.split("|")[1:-1] for line in quality_table(ways).splitlines()]
    assert len({len(line) for line in table}) == 1 and [line[0].strip() for line in table[3:7]] == WAYS
    assert table[6][-1].strip() == "10" and table[3][-1].strip() == "0"
    rows = [line.split("|")[1:-1] for line in costs_table(ways, result).splitlines()]
    assert [row[1].strip() for row in rows[3:]] == [f"{way.results[0]['parameters']:,}" for way in ways]
    assert all(row[3].strip() == "5.00" and row[4].strip() == "2.00 (2.00–2.00)" for row in rows[3:])


def test_settings_that_would_do_nothing_are_refused():
    run = DistillSettings(teacher="t", student="copy:1", losses=("hard",))
    for make, message in (
        (lambda: CompareSettings(run), "a comparison has --ways"),
        (lambda: CompareSettings(ways=("hard", "hard")), "different ways"),
        (lambda: CompareSettings(ways=()), "at least one"),
        (lambda: SweepSettings(run), "a sweep has --temperatures"),
        (lambda: SweepSettings(temperatures=(2.0, 2.0)), "different ones"),
        (lambda: SweepSettings(features=("hidden:1->2",) * 2, temperatures=(2.0,)), "different ones"),
        (lambda: SweepSettings(features=("hidden:1->2",)), "with features give one of them, such as --temperatures 2"),
        (lambda: SweepSettings(students=("copy:1",)), r"with students give one of them, such as --shares 0\.9"),
        (lambda: SweepSettings(shares=()), "at least one of each"),
        (lambda: SweepSettings(seeds=0), "seeds"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    assert len({folder_name(way) for way in [*WAYS, "hard transfer=0", "hidden:1->2 kd"]}) == len(WAYS) + 2


def test_a_model_with_a_short_window_is_compared_too(tmp_path):
    """Its batch is as long as it reads; the page says so."""
    base = tiny_folder.encoder(tmp_path / "base", window=24)
    folder = make_teacher(tmp_path / "short", model=base)
    settings = quick(tmp_path / "x", folder, student="copy:1", max_length=24)
    result = costs(compare(["hard"], settings, 1, tmp_path / "study", lambda text: None), folder, 2)
    assert result["hard"]["tokens"] == [2, 24] and torch.tensor(result["hard"]["seconds"]).min() > 0


@pytest.mark.long
def test_a_sweep_has_layers_and_sizes_of_the_student_too(teacher, tmp_path):
    plain = SweepSettings(temperatures=(1.0, 4.0), shares=(0.5,)).grid()
    assert plain == (["T = 1", "T = 4"], ["a = 0.5"], [["kd:T=1,a=0.5"], ["kd:T=4,a=0.5"]])
    settings = SweepSettings(
        quick(tmp_path / "sweep", teacher, student=DistillSettings.student, losses=DistillSettings.losses),
        temperatures=(2.0,),
        shares=(0.9,),
        features=("hidden:1->2", "relations:1->2"),
        students=("copy:1", "copy:1,2"),
        seeds=1,
    )
    ways = sweep(settings)
    cells = [f"kd:T=2,a=0.9 {loss} student={size}" for loss in settings.features for size in settings.students]
    assert [way.text for way in ways] == cells and all(way.values("metric") for way in ways)
    text = (tmp_path / "sweep" / "report.md").read_text()
    assert "by matched layers and size of the student" in text and "| relations:1->2 |" in text and "| copy:1,2 |" in text
    assert (tmp_path / "sweep" / "sweep.png").stat().st_size > 1000


@pytest.mark.long
def test_the_commands_write_pages_and_tell_mistakes_in_one_line(teacher, tmp_path):
    words = ["--teacher", teacher, "--student", "copy:1", "--train-rows", 12, "--eval-rows", 9, "--steps", 2, "--seeds", 1]
    done = run_module("distill", "compare", *words, "--ways", "hard", "kd bits=int8", "--out", tmp_path / "c")
    assert done.returncode == 0 and (tmp_path / "c" / "compare.png").stat().st_size > 1000, done.stderr
    assert "| kd bits=int8 |" in (tmp_path / "c" / "report.md").read_text()
    grid = ["--temperatures", 1, 4, "--shares", 0.5, "--out", tmp_path / "s"]
    done = run_module("distill", "sweep", *words, *grid)
    assert done.returncode == 0 and "| T = 4 |" in (tmp_path / "s" / "report.md").read_text(), done.stderr
    done = run_module("distill", "compare", *words, "--ways", "hard", "kd student=copy:9", "--out", tmp_path / "n")
    assert done.returncode != 0 and "layers [9]" in done.stderr and "Traceback" not in done.stderr
