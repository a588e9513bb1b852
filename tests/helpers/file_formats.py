"""Every format of files that we read: how a good folder is made, and how it is read."""

import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pairs
import pytest
import tiny
import tiny_folder
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM

import loralib as lora
from adapters.bottleneck.attachment import attach
from adapters.bottleneck.bottleneck import BottleneckConfig
from adapters.bottleneck.checkpoint import load_bottleneck, save_bottleneck
from adapters.bottleneck.composition import Fuse
from adapters.fusion.fuse import add_fusion
from adapters.fusion.fusion_files import load_fusion, save_fusion
from adapters.virtual.prefix import PrefixTuningConfig
from adapters.virtual.prompt import PromptTuningConfig
from adapters.virtual.virtual_files import load_virtual_tokens, save_virtual_tokens
from adapters.virtual.virtual_tokens import add_virtual_tokens
from distill.compression.compress_config import CompressConfig
from distill.compression.int8 import quantize_int8
from distill.student.student_files import load_student, save_student
from distill.teacher.teacher import Teacher
from distill.teacher.teacher_cache import build_cache, open_cache
from loralib.files.microsoft import load_microsoft
from loralib.four_bit.load4bit import load_4bit
from loralib.four_bit.qlora import quantize_model
from multitask.model.files import load_multitask, save_multitask
from multitask.model.multitask_model import MultitaskModel
from training.data.data import load_task
from training.data.tasks import find_task
from training.loop.checkpoint import TrainableWeights, load_checkpoint, save_checkpoint
from training.loop.processes import make_accelerator
from training.models.base_models import Source, load_backbone, load_base
from training.models.methods import apply_method
from training.models.trained import load_trained, save_trained
from training.runs.report import find_runs, report_page
from training.runs.result import finished_result
from training.runs.run import train_model

pytestmark = pytest.mark.fault
TASK = find_task("sst2")


@dataclass(frozen=True)
class Format:
    """make(folder) writes it; load(folder) reads it and gives tensors, numbers or texts: what a damage might change."""

    make: Callable[[Path], None]
    load: Callable[[Path], object]
    files: tuple[str, ...]
    sealed: bool = False


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(tiny.ids()).logits


# ---------------------------------------------------------------- adapters in a model


def lora_adapter(folder):
    model = tiny.bert()
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS"))
    tiny.randomise_lora(model)
    lora.save_adapter(model, folder)


def microsoft(folder):
    folder.mkdir(exist_ok=True)
    state = {f"{n}.lora_{f}": torch.ones(s) for n in ("query",) for f, s in (("A", (2, 24)), ("B", (24, 2)))}
    prefix = "bert.encoder.layer.0.attention.self."
    torch.save({prefix + key: value for key, value in state.items()}, folder / "lora.pt")


def load_pt(folder):
    model = tiny.bert()
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["layer.0.attention.self.query"]))
    load_microsoft(model, folder / "lora.pt")
    return logits(model)


def bottleneck(folder, names=("a",)):
    model = tiny.bert()
    for name in names:
        attach(model, BottleneckConfig(reduction_factor=4, init="bert"), name, seed=1)
    if len(names) == 1:
        save_bottleneck(model, folder, "a")
    else:
        add_fusion(model, Fuse(*names), seed=0)
        save_fusion(model, folder, Fuse(*names))


def virtual(config):
    def make(folder):
        model = tiny.bert()
        add_virtual_tokens(model, config, "a")
        save_virtual_tokens(model, folder, "a")

    return make


def into(load):
    """Load into a fresh model. After an error the model must answer as before."""

    def read(folder):
        model = tiny.bert()
        before = logits(model)
        try:
            load(model, folder)
        except Exception:
            assert torch.equal(logits(model), before), "a failed load changed the model"
            raise
        return logits(model)

    return read


# ---------------------------------------------------------------- folders of runs


@functools.cache
def base_folder(kind: str = "encoder") -> str:
    import tempfile

    return getattr(tiny_folder, kind)(Path(tempfile.mkdtemp(prefix="fault")) / kind)


def trained(method, **config):
    def make(folder):
        base = load_base(TASK, base_folder(), four_bit=method == "qlora")
        apply_method(method, base, TASK, config.get("config"))
        save_trained(folder, method, base, TASK)

    return make


def answers(folder):
    result = load_trained(folder)
    return result.max_length, result.base.model(tiny.ids()).logits


def student(**how):
    def make(folder):
        base = load_base(TASK, base_folder())
        compress = CompressConfig(**how)
        (quantize_model if compress.bits == "nf4" else quantize_int8)(base.model)
        save_student(folder, "full", base, TASK, 128, compress)

    return make


def load_small(folder):
    result = load_student(folder)
    return result.max_length, result.base.model(tiny.ids()).logits


def multitask(folder):
    source = Source(base_folder())
    backbone, tokenizer = load_backbone(source)
    save_multitask(folder, MultitaskModel(backbone, {"sst2": TASK}), tokenizer, source, None, 128)


def load_many(folder):
    model, _, limit = load_multitask(folder)
    ids = tiny.ids()
    return limit, model(ids, torch.ones_like(ids), task_name="sst2").logits


def cache(folder):
    build_cache(folder, Teacher([pairs.model("classification", 2)], "classification"), pairs.features("classification"), multi())


def multi():
    return pairs.TOKENIZER


def load_cache(folder):
    teacher, rows = Teacher([pairs.model("classification", 2)], "classification"), pairs.features("classification")
    [batch] = pairs.window(rows, 16)
    return open_cache(folder, teacher, rows).answers(batch)


def checkpoint(folder):
    folder.mkdir(exist_ok=True)
    save_checkpoint(folder / "checkpoint.safetensors", {"weights": TrainableWeights(tiny.bert())}, make_accelerator())


def load_state(folder):
    model = tiny.bert(seed=5)
    load_checkpoint(folder / "checkpoint.safetensors", {"weights": TrainableWeights(model)}, make_accelerator())
    return logits(model)


def run_folder(folder):
    data = folder.parent / f"{folder.name} data"
    rows(data)
    train_model("sst2", model=base_folder(), data_dir=str(data), steps=2, trackers="", out=str(folder))


def read_run(folder):
    page = report_page(find_runs([folder]))
    return page, vars(finished_result(folder))["metric"]


def rows(folder, kind="parquet"):
    folder.mkdir(exist_ok=True)
    columns = {"sentence": [f"text {i}" for i in range(8)], "label": [i % 2 for i in range(8)]}
    for split in ("train", "validation"):
        data = Dataset.from_dict(columns)
        {"parquet": data.to_parquet, "jsonl": data.to_json, "csv": data.to_csv}[kind](str(folder / f"{split}.{kind}"))


def read_rows(folder):
    data = load_task(TASK, str(folder))
    return [data[split][:] for split in ("train", "validation")]


def plain_base(kind):
    return lambda folder: shutil.copytree(base_folder(kind), folder, dirs_exist_ok=True)


def load_plain(folder):
    return logits(load_base(TASK, str(folder)).model)


def load_nf4(folder):
    return logits(load_4bit(folder, AutoModelForCausalLM)[0])


ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
LOADS_LORA = into(lambda m, f: lora.load_adapter(m, f, trainable=False))
LOADS_VIRTUAL = into(lambda m, f: load_virtual_tokens(m, f, "a", trainable=False))
HEADS = {"modules_to_save": ["classifier"]}
MEMBER = ("members/a/adapter.safetensors", "members/a/adapter_config.json")
FORMATS = {
    "LoRA": Format(lora_adapter, LOADS_LORA, ADAPTER),
    "Microsoft": Format(microsoft, load_pt, ("lora.pt",)),
    "bottleneck": Format(
        bottleneck,
        into(lambda m, f: load_bottleneck(m, f, "a", trainable=False)),
        ("adapter_config.json", "adapter.safetensors"),
    ),
    "prefix": Format(virtual(PrefixTuningConfig(num_virtual_tokens=2, init_weights="random")), LOADS_VIRTUAL, ADAPTER),
    "prompt": Format(virtual(PromptTuningConfig(num_virtual_tokens=2)), LOADS_VIRTUAL, ADAPTER),
    "fusion": Format(
        functools.partial(bottleneck, names=("a", "b")),
        into(lambda m, f: load_fusion(m, f, trainable=False)),
        ("fusion_config.json", "fusion.safetensors", *MEMBER),
    ),
    "base": Format(plain_base("encoder"), load_plain, ("config.json", "model.safetensors", "tokenizer.json")),
    "base in 4 bits": Format(plain_base("decoder"), load_nf4, ("config.json", "model.safetensors")),
    "run: lora": Format(trained("lora"), answers, (*ADAPTER, "training.json", "config.json"), sealed=True),
    "run: head": Format(trained("head"), answers, ("head.safetensors", "training.json"), sealed=True),
    "run: full": Format(trained("full"), answers, ("model.safetensors", "training.json", "config.json"), sealed=True),
    "student in int8": Format(
        student(bits="int8"),
        load_small,
        ("compressed.safetensors", "compressed.json", "student.json", "config.json"),
        sealed=True,
    ),
    "student in nf4": Format(student(bits="nf4"), load_small, ("model.safetensors", "student.json", "config.json"), sealed=True),
    "multitask": Format(multitask, load_many, ("weights.safetensors", "multitask.json", "config.json"), sealed=True),
    "cache": Format(cache, load_cache, ("answers.safetensors", "cache.json"), sealed=True),
    "checkpoint": Format(checkpoint, load_state, ("checkpoint.safetensors",), sealed=True),
    "run folder": Format(run_folder, read_run, ("config.json", "rows.jsonl", "result.json")),
    "parquet": Format(rows, read_rows, ("train.parquet",)),
    "jsonl": Format(functools.partial(rows, kind="jsonl"), read_rows, ("train.jsonl",)),
    "csv": Format(functools.partial(rows, kind="csv"), read_rows, ("train.csv",)),
}
