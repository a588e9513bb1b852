"""Students made smaller while they learn: what is cut, when, what the export changes, and that a stopped run goes on."""

import json
import shutil

import pytest
import tiny
import tiny_folder
import torch
from distilling import hurry, make_teacher, quick, stopped_after, trace
from safetensors.torch import load_file, save_file

from distill.compression.compress import Compressor
from distill.compression.compress_config import CompressConfig
from distill.compression.compressed_files import weights_of
from distill.compression.sites import find_sites
from distill.runs.run import run_distillation
from distill.student.student_files import CARD, load_student, save_student
from loralib import Linear4bit, quantize_model
from training.data.tasks import find_task
from training.models.base_models import Source, load_base
from training.models.sealed import SUMS
from training.runs.run_folder import TRAINED

BOTH = {"student": "copy:1,2", "steps": 16, "eval_every": 8}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    return make_teacher(tmp_path_factory.mktemp("teacher"), seed=3)


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    hurry(monkeypatch)


def test_half_of_the_heads_and_units_are_gone_in_the_file_too(teacher, tmp_path):
    whole = run_distillation(quick(tmp_path / "whole", teacher, **BOTH))
    half = run_distillation(quick(tmp_path / "half", teacher, **BOTH, keep_heads=0.5, keep_units=0.5))
    full, cut = (load_student(tmp_path / name / TRAINED).base.model for name in ("whole", "half"))
    for kind in ("heads", "ffn"):
        before, after = (sum(site.units for site in find_sites(model, kind)) for model in (full, cut))
        assert after * 2 == before, (kind, before, after)
    assert half["parameters"] < whole["parameters"] and half["file_bytes"] < whole["file_bytes"]
    assert half["parameters"] == sum(p.numel() for p in cut.parameters())


def test_int8_is_trained_for_and_the_export_changes_no_score(teacher, tmp_path):
    result = run_distillation(quick(tmp_path / "run", teacher, **BOTH, bits="int8"))
    rows = trace_rows(tmp_path / "run")
    assert result["loss"] == rows[-1]["eval_loss"]  # of the training model: the exported one scores the same, to the bit
    kinds = {tensor.dtype for tensor in load_file(weights_of(tmp_path / "run" / TRAINED)).values()}
    assert kinds == {torch.int8, torch.float32}


def test_nf4_is_not_trained_for_and_its_own_score_is_told(teacher, tmp_path):
    result = run_distillation(quick(tmp_path / "run", teacher, **BOTH, bits="nf4"))
    student = load_student(tmp_path / "run" / TRAINED).base.model
    assert sum(isinstance(m, Linear4bit) for m in student.modules()) > 8
    assert result["loss"] != trace_rows(tmp_path / "run")[-1]["eval_loss"]


def test_zeros_are_counted_and_a_dense_file_does_not_shrink(teacher, tmp_path):
    result = run_distillation(quick(tmp_path / "run", teacher, **BOTH, zeros=0.75))
    dense = run_distillation(quick(tmp_path / "dense", teacher, **BOTH))
    weights = load_file(tmp_path / "run" / TRAINED / "model.safetensors")
    inner = [w for name, w in weights.items() if "layer" in name and name.endswith("dense.weight")]
    assert all(abs(float((w == 0).float().mean()) - 0.75) < 0.01 for w in inner)
    assert result["file_bytes"] == dense["file_bytes"] and result["bitmap_bytes"] < 0.8 * dense["file_bytes"]


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"keep_units": 0.5, "bits": "int8"}, 5),
        ({"keep_units": 0.5, "bits": "int8"}, 9),
        ({"zeros": 0.5}, 9),
        ({"bits": "int8"}, 5),
    ],
)
@pytest.mark.fault
def test_a_stopped_run_goes_on_to_the_same_bits(changes, step, teacher, tmp_path):
    run_distillation(quick(tmp_path / "whole", teacher, **BOTH, **changes))
    stopped_after(step, quick(tmp_path / "run", teacher, **BOTH, **changes))
    assert not (tmp_path / "run" / "result.json").exists()
    run_distillation(quick(tmp_path / "run", teacher, **BOTH, **changes))
    assert trace(tmp_path / "run") == trace(tmp_path / "whole")


@pytest.mark.fault
def test_a_damaged_student_is_told(teacher, tmp_path):
    run_distillation(quick(tmp_path / "run", teacher, **BOTH, keep_units=0.5))
    path = weights_of(tmp_path / "run" / TRAINED)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not as it was written"):
        load_student(tmp_path / "run" / TRAINED)


def test_a_student_in_nf4_with_a_weight_too_few_or_too_many_is_refused(tmp_path):
    """The card is one of an older version, without checksums: only the weights themselves can tell."""
    spec = find_task("topic")
    base = load_base(spec, Source("encoder"))
    quantize_model(base.model)
    save_student(tmp_path / "whole", "full", base, spec, 96, CompressConfig(bits="nf4"))
    weights = load_file(tmp_path / "whole" / "model.safetensors")
    for name, tensors in (
        ("missing", {key: value for key, value in weights.items() if key != "classifier.bias"}),
        ("strange", weights | {"another.bias": torch.zeros(2)}),
    ):
        shutil.copytree(tmp_path / "whole", tmp_path / name)
        card = json.loads((tmp_path / name / CARD).read_text())
        (tmp_path / name / CARD).write_text(json.dumps({key: value for key, value in card.items() if key != SUMS}))
        save_file(tensors, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"missing \['classifier.bias'\]|not in the model \['another.bias'\]"):
            load_student(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keep_heads": 0.0}, "more than 0"),
        ({"zeros": 0.5, "keep_units": 0.5}, "a cut throws the masks away"),
        ({"bits": "nf4", "keep_units": 0.5}, "take int8"),
        ({"bits": "int8", "keep": "best"}, "keep the last"),
        ({"bits": "int8", "method": "lora", "student": "encoder"}, "train whole"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, words, teacher, tmp_path):
    with pytest.raises(ValueError, match=words):
        quick(tmp_path, teacher, **changes)
    assert not CompressConfig() and CompressConfig(bits="int8")


def trace_rows(out):
    return trace(out)[1]


@pytest.mark.parametrize("changes", [{"keep_heads": 0.5, "keep_units": 0.5, "bits": "int8"}, {"bits": "nf4"}])
@pytest.mark.fault
def test_a_writer_with_tied_words_is_made_smaller_too(changes, tmp_path):
    """The run itself compares what comes back from the disk with what was trained, bit for bit."""
    writer = make_teacher(tmp_path / "writer", "data2text", seed=3)
    whole = run_distillation(quick(tmp_path / "whole", writer, steps=8))
    result = run_distillation(quick(tmp_path / "run", writer, steps=8, **changes))
    assert result["file_bytes"] < 0.6 * whole["file_bytes"]
    model = load_student(tmp_path / "run" / TRAINED).base.model
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_what_does_not_fit_the_student_is_told_before_its_folder_is_claimed(teacher, tmp_path):
    llama = make_teacher(tmp_path / "llama", "data2text", tiny_folder.decoder(tmp_path / "base"))
    for folder, changes, words in (
        (teacher, {"keep_units": 0.5, "steps": 7}, "expected 8 or more"),
        (teacher, {"keep_heads": 0.1}, "keep_heads=0.1: 0 of 4 heads in 1 layers"),
        (llama, {"keep_heads": 0.5}, "a key with its queries is one head"),
    ):
        with pytest.raises(ValueError, match=words):
            run_distillation(quick(tmp_path / "run", folder, **changes))
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("bits", ["int8", "nf4"])
def test_a_compressed_student_is_no_teacher_no_student_and_its_damage_is_told(bits, teacher, tmp_path):
    run_distillation(quick(tmp_path / "run", teacher, bits=bits))
    folder = tmp_path / "run" / TRAINED
    for settings, words in (
        (quick(tmp_path / "a", str(folder)), "is a compressed student"),
        (quick(tmp_path / "b", teacher, student=str(folder)), "so it cannot be trained"),
    ):
        with pytest.raises(ValueError, match=words):
            run_distillation(settings)
    if bits == "int8":  # its weights without their scales are no model; an NF4 folder is one that transformers itself can read
        with pytest.raises(ValueError, match="is a compressed student, and cannot be trained"):
            load_base(find_task("sentiment"), str(folder))
    weights, card = weights_of(folder), folder / "student.json"
    content = weights.read_bytes()
    for path, damage in ((weights, content[:-100]), (weights, b""), (card, b"{}"), (card, b"[")):
        before = path.read_bytes()
        path.write_bytes(damage)
        with pytest.raises(ValueError, match=r"not as it was written|not a readable JSON|not the card of a student"):
            load_student(folder)
        path.write_bytes(before)
    load_student(folder)


@pytest.mark.parametrize("steps", [12, 25, 100])
def test_the_last_cut_comes_at_half_of_the_steps(steps):
    """The other half repairs what the cuts broke. Without cuts, int8 is learned from the start."""
    model = tiny.bert()
    one = Compressor(model, CompressConfig(heads=0.5), steps, [], lambda *_: torch.zeros(()))
    assert one.cut_until == steps // 2 and one._cut_steps()[-1] == steps // 2
    assert Compressor(model, CompressConfig(), steps, [], lambda *_: torch.zeros(())).cut_until == 0
