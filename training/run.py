"""One training run from a task's name to a folder of results: `train_model("sentiment", method="lora")`."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from kernels.measure import saved_bytes
from loralib import LoraConfig, count_parameters
from loralib.config import ALL_LINEAR
from training import loop, metrics
from training.base_models import Base, load_base
from training.data import batches, encode, evaluation_split, find_task, forever, load_task
from training.generation import Sample, generate_samples
from training.methods import SMALL_MODEL, apply_method, default_learning_rate, save_method
from training.records import Recorder, draw_curves, file_size, markdown_table
from training.settings import TrainSettings
from training.tasks import TaskSpec
from training.world_tasks import ceiling


@dataclass(frozen=True)
class TrainResult:
    """What a run measured. `metric` is the task's (for generation: loss per reference token, lower is better)."""

    task: str
    method: str
    metric_name: str
    metric: float
    loss: float
    start_metric: float
    ceiling: float | None
    trainable: int
    head_parameters: int
    file_bytes: int
    saved_bytes: int
    seconds_per_step: float
    rows: list[dict]
    samples: list[Sample]
    model: Any
    tokenizer: Any
    folder: Path


def train_model(task: str, settings: TrainSettings | None = None, **changes) -> TrainResult:
    """Train `task` with `settings`, changed by keywords: `train_model("nli", method="full", steps=500)`.

    Writes config, rows, curves, report and the trained weights to the run folder. Raises before any work for an unknown
    task, data that does not fit it, or a model that lacks the modules to adapt.
    """
    settings = TrainSettings(**{**asdict(settings or TrainSettings()), **changes, "task": task})
    spec = find_task(task)
    data = load_task(spec, settings.data_dir, settings.seed, settings.train_rows)
    base = load_base(spec, settings.model, settings.seed, settings.random_weights)
    with _threads(settings.threads, base):
        return _train(settings, spec, data, base)


def _train(settings: TrainSettings, spec: TaskSpec, data, base: Base) -> TrainResult:
    folder = Path(settings.out or f"runs/{settings.task}-{settings.method}")
    split = evaluation_split(data)
    held_out = data[split].select(range(min(settings.eval_rows or len(data[split]), len(data[split]))))
    limit = min(settings.max_length, base.tokenizer.model_max_length)
    train_set, test_set = (encode(rows[:], spec, base.tokenizer, limit) for rows in (data["train"], held_out))
    for name, part in (("train", train_set), (split, test_set)):
        if part.truncated:
            tqdm.write(f"{part.truncated} of {len(part.features)} {name} texts were cut to {limit} tokens")
    method = apply_method(settings.method, base, spec, _lora_config(settings), settings.seed)

    recorder = Recorder(folder, asdict(settings), method.report)
    test_loader = batches(test_set.features, base.tokenizer, 64, None)
    loader = batches(train_set.features, base.tokenizer, settings.batch_size, settings.seed)
    objective = objective_of(spec.kind)

    def measure() -> dict[str, float]:
        device = next(base.model.parameters()).device.type
        precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(settings.mixed_precision)
        with torch.autocast(device, dtype=precision, enabled=precision is not None):
            return evaluate(base.model, test_loader, spec)

    start = measure()
    recorder.keep({"step": 0, **start})
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        kept = _saved_bytes(base.model, next(iter(loader)), objective)
        torch.manual_seed(settings.seed)  # dropout
        end = loop.train(
            base.model,
            forever(loader),
            objective,
            _loop_settings(settings, base),
            measure,
            recorder.keep,
        )
    file_bytes = save_method(settings.method, base.model, folder / "adapter")
    base.tokenizer.save_pretrained(folder / "adapter")
    base.model.config.save_pretrained(folder / "adapter")
    samples = generate_samples(base.model, base.tokenizer, held_out, spec, settings.samples) if spec.kind == "generation" else []
    result = _result(settings, spec, held_out, base, recorder, (start, end), (file_bytes, kept), samples)
    title = f"{spec.name}, {settings.method}: {spec.metric} {result.start_metric:.3f} → {result.metric:.3f}"
    draw_curves(recorder.rows, _metric_key(spec), title, folder / "curves.png", result.ceiling)
    (folder / "report.md").write_text(report_of(result, settings, split))
    return result


def _result(settings, spec: TaskSpec, held_out, base: Base, recorder: Recorder, scores, sizes, samples) -> TrainResult:
    (start, end), (file_bytes, kept) = scores, sizes
    count, key = count_parameters(base.model), _metric_key(spec)
    return TrainResult(
        task=spec.name,
        method=settings.method,
        metric_name=spec.metric,
        metric=end[key],
        loss=end["eval_loss"],
        start_metric=start[key],
        ceiling=ceiling(spec.name, held_out) if {"bayes", "log_p"} & set(held_out.column_names) else None,
        trainable=count.trainable,
        head_parameters=count.other if settings.method == "lora" else count.trainable,
        file_bytes=file_bytes,
        saved_bytes=kept,
        seconds_per_step=statistics.median(r["seconds"] for r in recorder.rows if "seconds" in r),
        rows=recorder.rows,
        samples=samples,
        model=base.model,
        tokenizer=base.tokenizer,
        folder=recorder.folder,
    )


def _saved_bytes(model, batch, objective: loop.Objective) -> int:
    model.train()
    device = next(model.parameters()).device
    batch = {k: v.to(device) for k, v in batch.items()}
    return saved_bytes(lambda: objective.loss_sum(model, batch), model.parameters())


def _lora_config(settings: TrainSettings) -> LoraConfig:
    targets = settings.target_modules
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=ALL_LINEAR if targets == ALL_LINEAR else targets.split(","),
    )


def objective_of(kind: str) -> loop.Objective:
    """The loss of a kind of task, as the loop wants it."""

    def summed(model, batch):
        inputs = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask", "token_type_ids")}
        return metrics.loss_sum(kind, model(**inputs), batch)

    return loop.Objective(summed, lambda batch: metrics.answer_count(kind, batch))


@torch.no_grad()
def evaluate(model, loader, spec: TaskSpec) -> dict[str, float]:
    """{eval_loss, metric} over a loader; generation has the loss alone."""
    model.eval()
    device = next(model.parameters()).device
    outputs, seen, total, count = [], [], 0.0, 0
    for batch in loader:
        here = {k: v.to(device) for k, v in batch.items()}
        out = model(**{k: v for k, v in here.items() if k in ("input_ids", "attention_mask", "token_type_ids")})
        total += float(metrics.loss_sum(spec.kind, out, here))
        count += metrics.answer_count(spec.kind, batch)
        if spec.kind != "generation":  # its logits are large and its metric is the loss
            outputs.append(type(out)(**{k: v.cpu() for k, v in out.items() if "logits" in k}))
            seen.append(batch)
    if not count:
        raise ValueError(f"no answer of the evaluation rows is left after cutting texts (task {spec.name}): raise max_length")
    row = {"eval_loss": total / count}
    return row if spec.kind == "generation" else {**row, spec.metric: metrics.score(spec, outputs, seen)}


def report_of(result: TrainResult, settings: TrainSettings, split: str) -> str:
    """One page of Markdown about a run."""
    best = "" if result.ceiling is None else f"{result.ceiling:.4f}"
    rows = [
        (f"{result.metric_name} before", f"{result.start_metric:.4f}"),
        (f"{result.metric_name} after {settings.steps} steps", f"{result.metric:.4f}"),
        ("best possible", best or "unknown (real data)"),
        ("evaluation loss", f"{result.loss:.4f}"),
        ("trainable parameters", f"{result.trainable:,}"),
        ("weights file", file_size(result.file_bytes)),
        ("bytes saved for backward, one batch", file_size(result.saved_bytes)),
        ("seconds per step (median)", f"{result.seconds_per_step:.3f}"),
    ]
    command = f"python -m training --task {settings.task} --method {settings.method}"
    return (
        f"# {result.task}, {result.method}\n\nMeasured on `{split}` by `{command} ...`; "
        f"all settings are in `config.json`.\n\n{markdown_table(('', 'value'), rows)}\n\n![curves](curves.png)\n"
        + "".join(f"\n- `{s.prompt}`\n  - generated: {s.text}\n  - reference: {s.reference}" for s in result.samples)
        + "\n" * bool(result.samples)
    )


def _metric_key(spec: TaskSpec) -> str:
    return "eval_loss" if spec.metric == "loss" else spec.metric


def _loop_settings(settings: TrainSettings, base: Base) -> loop.LoopSettings:
    names = (
        "steps",
        "schedule",
        "warmup_share",
        "weight_decay",
        "accumulation",
        "max_grad_norm",
        "eval_every",
        "mixed_precision",
    )
    rate = settings.learning_rate or default_learning_rate(settings.method, base.model)
    return loop.LoopSettings(learning_rate=rate, **{name: getattr(settings, name) for name in names})


@contextmanager
def _threads(wanted: int | None, base: Base) -> Iterator[None]:
    before = torch.get_num_threads()
    small = sum(p.numel() for p in base.model.parameters()) < SMALL_MODEL
    torch.set_num_threads(wanted or (1 if small else before))
    try:
        yield
    finally:
        torch.set_num_threads(before)
