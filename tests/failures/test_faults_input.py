"""What people hand in: not finite, out of range, empty, any unicode, very long, of another dtype or device, for another model.

Each through all three trainers where they read it: refused before any work, with file, row and what was expected, or trained on.
"""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import tiny_folder
import torch
import trainers
from distilling import make_teacher, quick
from safetensors.torch import load_file, save_file
from torch import nn

import loralib as lora
from adapters.bottleneck.attachment import attach
from adapters.bottleneck.bottleneck import BottleneckConfig
from adapters.bottleneck.checkpoint import load_bottleneck, save_bottleneck
from adapters.fusion.fusion_files import load_fusion
from adapters.virtual.prefix import PrefixTuningConfig
from adapters.virtual.virtual_files import load_virtual_tokens, save_virtual_tokens
from adapters.virtual.virtual_tokens import add_virtual_tokens
from distill.runs.run import run_distillation
from multitask.model.files import load_multitask
from multitask.runs.run import run_multitask
from multitask.runs.settings import MultitaskSettings
from training import train_model
from training.loop import loop
from training.models.trained import load_trained

pytestmark = pytest.mark.fault
SHORT = {"steps": 2, "eval_every": 1, "save_every": 1, "eval_rows": 12, "batch_size": 6}
GOOD = [{"sentence": f"text {i}", "label": i % 2} for i in range(12)]
SCORES = [{"sentence1": f"text {i}", "sentence2": "other", "label": i / 3} for i in range(12)]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """A base, a teacher for each task on it, and the same base with one number that is none."""
    folder = tmp_path_factory.mktemp("models")
    base = tiny_folder.encoder(folder / "base")
    made = {"base": base, **{task: make_teacher(folder / task, task, base) for task in ("sst2", "stsb")}}
    made["nan base"] = str(shutil.copytree(base, folder / "nan base"))
    made["nan teacher"] = str(shutil.copytree(made["sst2"], folder / "nan teacher"))
    for name in ("nan base", "nan teacher"):
        path = Path(made[name]) / "model.safetensors"
        tensors = load_file(path)
        next(iter(tensors.values())).view(-1)[0] = float("nan")
        save_file(tensors, path, metadata={"format": "pt"})
    card = Path(made["nan teacher"]) / "training.json"  # without sums, as an older one, which would see the change first
    card.write_text(json.dumps({name: value for name, value in json.loads(card.read_text()).items() if name != "crc32"}))
    return made


def write(folder: Path, rows: list[dict]) -> str:
    folder.mkdir()
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def run(name: str, data: str, models: dict[str, str], out: Path, task: str = "sst2", base: str = "base", **changes):
    changes = SHORT | changes
    if name == "training":
        train_model(task, model=models[base], data_dir=data, out=str(out), trackers="", **changes)
    elif name == "multitask":
        run_multitask(MultitaskSettings(tasks=task, model=models[base], data_dirs=f"{task}={data}", out=str(out), **changes))
    else:
        teacher = models[task if base == "base" else "nan teacher"]
        losses = ("mse:a=0.5",) if task == "stsb" else ("kd:T=2,a=0.9",)
        run_distillation(quick(out, teacher, data_dir=data, student="copy:1", train_rows=None, losses=losses, **changes))


BAD = {
    "no text": ("sst2", [*GOOD, {"sentence": None, "label": 0}], "1 of 13 rows have no sentence, the first is row 12"),
    "a label out of range": ("sst2", [*GOOD, {"sentence": "x", "label": 2}], r"label of row 12 is 2, expected 0 to 1"),
    "a negative label": ("sst2", [*GOOD, {"sentence": "x", "label": -1}], r"label of row 12 is -1, expected 0 to 1"),
    "a label of another dtype": ("sst2", [{**r, "label": float(r["label"])} for r in GOOD], "is float 0.0, expected a whole"),
    "a score that is no number": ("stsb", [*SCORES, {**SCORES[0], "label": float("nan")}], "rows have no label|cannot be read"),
    "an endless score": ("stsb", [*SCORES, {**SCORES[0], "label": float("inf")}], "expected a finite number|cannot be read"),
    "half of a character": ("sst2", [*GOOD, {"sentence": "\ud800", "label": 0}], "cannot be read.*surrogate"),
    "no rows": ("sst2", [], "the file is empty"),
}


@pytest.mark.parametrize("name", trainers.NAMES)
@pytest.mark.parametrize("what", BAD)
def test_every_trainer_refuses_rows_before_any_work(what, name, models, tmp_path):
    task, rows, records = BAD[what]
    data = write(tmp_path / "data", rows)
    with pytest.raises(ValueError, match=records) as refused:
        run(name, data, models, tmp_path / "run", task)
    assert data in str(refused.value) and not (tmp_path / "run").exists()


TEXTS = ["😀 héllo", "‏שלום", "a\0b", "e\u0301" * 90, "\u200b", "中文", "﷽", "\ufeffx", "\t\n", "", "🏳️‍🌈", "I\u0307i"]
FINE = {
    "any unicode": [{"sentence": text, "label": i % 2} for i, text in enumerate(TEXTS)],
    "a text of 200,000 characters": [*GOOD[1:], {"sentence": "word " * 40_000, "label": 0}],
}


@pytest.mark.parametrize("name", trainers.NAMES)
@pytest.mark.parametrize("what", FINE)
def test_every_trainer_takes_texts_as_people_write_them(what, name, models, tmp_path):
    run(name, write(tmp_path / "data", FINE[what]), models, tmp_path / "run")
    weights = list((tmp_path / "run").rglob("*.safetensors"))
    assert weights and all(t.isfinite().all() for p in weights for t in load_file(p).values())
    rows = [json.loads(line) for line in (tmp_path / "run" / "rows.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2]


@pytest.mark.parametrize("name", trainers.NAMES)
def test_weights_that_are_no_numbers_are_refused_before_any_work(name, models, tmp_path):
    """A base, or a teacher: else it would be a loss of nan at step 1, and a word about the learning rate."""
    with pytest.raises(ValueError, match=r"nan (base|teacher)'?: 1 of its weights are not finite, e.g."):
        run(name, write(tmp_path / "data", GOOD), models, tmp_path / "run", base="nan base")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["training", "multitask"])
def test_a_base_in_half_precision_trains_in_float32(name, models, tmp_path):
    half = shutil.copytree(models["base"], tmp_path / "half")
    tensors = {key: value.half() for key, value in load_file(half / "model.safetensors").items()}
    save_file(tensors, half / "model.safetensors", metadata={"format": "pt"})
    run(name, write(tmp_path / "data", GOOD), {"half": str(half)}, tmp_path / "run", base="half")
    result = [t.dtype for p in (tmp_path / "run").rglob("*.safetensors") for t in load_file(p).values()]
    assert result and {dtype for dtype in result if dtype.is_floating_point} == {torch.float32}


# ---------------------------------------------------------------- models that are elsewhere, or others


def folders(tmp_path: Path) -> dict:
    """{kind: how to load it into a model}, saved from a tiny BERT."""
    model = tiny.bert()
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["query"]))
    lora.save_adapter(model, tmp_path / "lora")
    attach(model := tiny.bert(), BottleneckConfig(reduction_factor=4), "a")
    save_bottleneck(model, tmp_path / "bottleneck", "a")
    add_virtual_tokens(model := tiny.bert(), PrefixTuningConfig(num_virtual_tokens=2, init_weights="random"), "a")
    save_virtual_tokens(model, tmp_path / "prefix", "a")
    return {
        "lora": lambda m: lora.load_adapter(m, tmp_path / "lora", trainable=False),
        "bottleneck": lambda m: load_bottleneck(m, tmp_path / "bottleneck", trainable=False),
        "prefix": lambda m: load_virtual_tokens(m, tmp_path / "prefix", trainable=False),
    }


@pytest.mark.parametrize("kind", ["lora", "bottleneck", "prefix"])
def test_a_model_without_numbers_cannot_be_loaded_into(kind, tmp_path):
    """On torch's meta device a copy does nothing, and says nothing."""
    load = folders(tmp_path)[kind]
    with torch.device("meta"):
        model = tiny.bert()
    with pytest.raises(ValueError, match=r"parameters of this BertForSequenceClassification, e.g. .* are on the meta device"):
        load(model)
    load(tiny.bert())


def test_a_model_without_numbers_is_neither_saved_nor_trained(tmp_path):
    with torch.device("meta"):
        model = tiny.bert()
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["query"]))
    with pytest.raises(ValueError, match="meta device"):
        lora.save_adapter(model, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()
    objective = loop.Objective(lambda model, batch: model(**batch).logits.sum(), lambda batch: 1)
    with pytest.raises(ValueError, match="meta device"):
        loop.train(model, iter([[{"input_ids": tiny.ids()}]]), objective, loop.LoopSettings(steps=1))


OTHERS = [(kind, other) for kind in ("lora", "bottleneck", "prefix") for other in ("gpt2", "a narrower bert", "a longer bert")]
OTHERS.remove(("lora", "a longer bert"))  # as in peft: a LoRA file names its modules, and all of them are there


@pytest.mark.parametrize(("kind", "other"), OTHERS)
def test_an_adapter_for_another_model_changes_nothing(kind, other, tmp_path):
    load, model = folders(tmp_path)[kind], tiny.gpt2()
    if other != "gpt2":
        config = tiny.bert().config
        config.update({"hidden_size": 16} if other == "a narrower bert" else {"num_hidden_layers": 3})
        torch.manual_seed(0)
        model = tiny.BertForSequenceClassification(config).eval()
    before, names = model(tiny.ids()).logits, [n for n, _ in model.named_parameters()]
    with pytest.raises(lora.AdapterFileError, match=str(tmp_path)):
        load(model)
    assert torch.equal(model(tiny.ids()).logits, before) and [n for n, _ in model.named_parameters()] == names


@pytest.mark.parametrize("read", [load_trained, load_multitask, lambda folder: load_fusion(tiny.bert(), folder, trainable=False)])
def test_a_folder_of_another_kind_is_told(read, models):
    with pytest.raises(ValueError, match=models["base"]):
        read(Path(models["base"]))


def test_an_adapter_on_both_ends_of_tied_words_is_not_merged(tmp_path):
    """It is saved and loaded to the bit; merging would change the other end too, so it is refused and nothing changes."""
    model = tiny.gpt2()
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["wte", "c_fc"]))
    tiny.randomise_lora(model)
    lora.save_adapter(model, tmp_path)
    words, before = model.lm_head.weight.clone(), model(tiny.ids()).logits
    with pytest.raises(ValueError, match=r"tied|shared|share"):
        lora.merge(model)
    assert torch.equal(model.lm_head.weight, words) and torch.equal(model(tiny.ids()).logits, before)
    again = tiny.gpt2()
    lora.load_adapter(again, tmp_path, trainable=False)
    assert torch.equal(again(tiny.ids()).logits, before)


def test_ids_that_are_no_whole_numbers_are_refused_by_torch_and_leave_the_adapter():
    model = tiny.bert()
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["query"]))
    state = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(RuntimeError, match="Long, Int"):
        model(tiny.ids().float())
    assert all(torch.equal(p, state[n]) for n, p in model.named_parameters()) and isinstance(model, nn.Module)
