"""What a run measured, as a value and as a page; a finished run is read back from its folder."""

import statistics
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from kernels.measure import peak_bytes
from loralib import base_bytes, count_parameters
from loralib.files.save_and_load import write_atomic
from training.data.tasks import TaskSpec, is_world
from training.data.world_tasks import ceiling
from training.evaluation.evaluation import HeldOut
from training.evaluation.generation import Sample, ends_of_text
from training.loop.costs import shares_of
from training.loop.progress import Progress
from training.models.base_models import Base
from training.models.compiling import graph_breaks
from training.models.methods import ADAPTERS
from training.models.trained import load_trained
from training.reports.read_counts import confusion_table, counts_table
from training.reports.records import draw_curves, file_size, markdown_table
from training.runs.run_folder import RESULT, ROWS, TRAINED, RunError, RunFolder, read_rows, read_settings, write_json
from training.runs.settings import TrainSettings


@dataclass(frozen=True)
class Measured:
    """What the run itself knows at its end."""

    progress: Progress
    learning_rate: float
    file_bytes: int
    saved_bytes: int
    texts: dict[str, float]
    samples: list[Sample]
    confusion: list[list[int]] | None = None


@dataclass(frozen=True)
class TrainResult:
    """What a run measured. `metric` is the task's (for language modelling: loss per answer token, lower is better)."""

    task: str
    method: str
    model_name: str
    seed: int
    steps: int
    learning_rate: float
    """the highest of the schedule"""
    best_step: int
    metric_name: str
    metric: float
    loss: float
    start_metric: float
    ceiling: float | None
    texts_before: dict[str, float]
    """scores of generated texts (bleu, chrf, rouge_l, nist); empty when none were asked for"""
    texts: dict[str, float]
    trainable: int
    base_bytes: int
    """of the weights without the adapter, as they lie in memory: 4 bits a number with qlora"""
    head_parameters: int
    file_bytes: int
    saved_bytes: int
    """kept by autograd for backward, one batch"""
    optimizer_bytes: int
    """the optimizer's state"""
    peak_bytes: int
    """of the whole process: comparable only between runs with a process each"""
    seconds: float
    """of all steps together, without the evaluations"""
    seconds_per_step: float
    tokens_per_second: float
    samples: list[Sample]
    rows: list[dict]
    model: Any
    tokenizer: Any
    folder: Path
    data: dict[str, Any] = field(default_factory=dict)
    """what was read, by split: examples, truncated, skipped, labels"""
    confusion: list[list[int]] | None = None
    """[truth][guess] counts of a classification on the evaluation split"""
    seconds_by_part: dict[str, float] = field(default_factory=dict)
    """of all steps: data, forward, backward, optimizer"""
    padding: float = 0.0
    """the fraction of the trained tokens that was padding"""
    graph_breaks: dict[str, int] | None = None
    """of a compiled run: what torch.compile could not translate, and how often"""


NOT_IN_FILE = ("rows", "model", "tokenizer", "folder")
TEXT_SCORES = ("bleu", "chrf", "rouge_l", "nist")


def metric_key(spec: TaskSpec) -> str:
    """The name of the task's metric in a row."""
    return "eval_loss" if spec.metric == "loss" else spec.metric


def finish(
    settings: TrainSettings,
    held_out: HeldOut,
    split: str,
    base: Base,
    folder: RunFolder,
    accelerator: Accelerator,
    measured: Measured,
) -> TrainResult:
    """Gather the result, draw curves and report, write `result.json`, and drop the checkpoint."""
    spec, rows, progress = held_out.spec, folder.rows, measured.progress
    count, key = count_parameters(base.model), metric_key(spec)
    last = progress.best_step if settings.keep == "best" else progress.step
    end = next(r for r in rows if r["step"] == last) if progress.step else rows[0]
    timed = [r for r in rows if "seconds" in r]
    known = is_world(spec.name) and settings.data_dir is None
    result = TrainResult(
        task=spec.name,
        method=settings.method,
        model_name=base.source.name,
        seed=settings.seed,
        steps=progress.step,
        learning_rate=measured.learning_rate,
        best_step=progress.best_step,
        metric_name=spec.metric,
        metric=end[key],
        loss=end["eval_loss"],
        start_metric=rows[0][key],
        ceiling=ceiling(spec.name, held_out.rows) if known else None,
        texts_before={k: rows[0][k] for k in TEXT_SCORES if k in rows[0]},
        texts=measured.texts,
        trainable=count.trainable,
        base_bytes=base_bytes(base.model),
        head_parameters=count.other if settings.method in (*ADAPTERS, "fusion") else count.trainable,
        file_bytes=measured.file_bytes,
        saved_bytes=measured.saved_bytes,
        optimizer_bytes=progress.optimizer_bytes,
        peak_bytes=peak_bytes(accelerator.device),
        seconds=sum(r["seconds"] for r in timed),
        seconds_per_step=statistics.median(r["seconds"] for r in timed) if timed else 0.0,
        tokens_per_second=statistics.median(r["tokens"] / r["seconds"] for r in timed) if timed else 0.0,
        samples=measured.samples,
        rows=rows,
        model=base.model,
        tokenizer=base.tokenizer,
        folder=folder.folder,
        data=held_out.counts,
        confusion=measured.confusion,
        **(progress.costs.report() if progress.costs else {}),
        graph_breaks=graph_breaks() if settings.compile else None,
    )
    title = f"{spec.name}, {settings.method}: {spec.metric} {result.start_metric:.3f} → {result.metric:.3f}"
    if timed:
        draw_curves(rows, key, title, folder.folder / "curves.png", result.ceiling)
    write_atomic(folder.folder / "report.md", page(result, split).encode())
    content = {f.name: getattr(result, f.name) for f in fields(result) if f.name not in NOT_IN_FILE}
    write_json(folder.folder / RESULT, content | {"samples": [asdict(s) for s in result.samples]})
    folder.checkpoint.unlink(missing_ok=True)
    return result


def finished_result(folder: Path) -> TrainResult:
    """The result of a finished run, with its model loaded again."""
    trained = load_trained(folder / TRAINED)
    content, rows = read_settings(folder / RESULT), read_rows(folder / ROWS)
    try:
        content["samples"] = [Sample(**s) for s in content["samples"]]
        loaded = {"model": trained.base.model, "tokenizer": trained.base.tokenizer, "rows": rows, "folder": folder}
        return TrainResult(**content | loaded)
    except (KeyError, TypeError) as error:
        raise RunError(f"{folder / RESULT}: not the result of a run ({error}); --restart starts the run over") from error


def _trainable(result: TrainResult) -> str:
    """The trained parameters, and their share where the model is in memory."""
    if result.model is None:
        return f"{result.trainable:,}"
    count = count_parameters(result.model)
    return f"{result.trainable:,} of {count.base + count.adapter:,} ({result.trainable / (count.base + count.adapter):.2%})"


def cost_rows(result: TrainResult) -> list[tuple[str, str]]:
    """Lines of the report: tokens per second without and with padding, and the parts of the time."""
    speed = f"{result.tokens_per_second:,.0f}"
    if not sum(result.seconds_by_part.values()):
        return [("tokens per second (median)", speed)]
    return [
        ("tokens per second (median)", f"{speed} ({result.tokens_per_second / (1 - result.padding):,.0f} with padding)"),
        ("padding", f"{result.padding:.0%} of the trained tokens"),
        ("time of the steps", shares_of(result.seconds_by_part)),
    ]


def _breaks(breaks: dict[str, int]) -> str:
    return "; ".join(f"{count} × {reason}" for reason, count in breaks.items()) or "none"


def page(result: TrainResult, split: str) -> str:
    """One page of Markdown about a run."""
    texts = [
        (f"{name} of generated texts, before → after", f"{result.texts_before[name]:.3f} → {value:.3f}")
        for name, value in result.texts.items()
    ]
    rows = [
        (f"{result.metric_name} before", f"{result.start_metric:.4f}"),
        (f"{result.metric_name} after {result.steps} steps", f"{result.metric:.4f}"),
        ("best possible", "unknown (real data)" if result.ceiling is None else f"{result.ceiling:.4f}"),
        ("evaluation loss", f"{result.loss:.4f}"),
        ("best evaluation at step", result.best_step),
        *texts,
        ("trainable parameters", _trainable(result)),
        ("bytes of the base in memory", file_size(result.base_bytes)),
        ("weights file", file_size(result.file_bytes)),
        ("bytes saved for backward, one batch", file_size(result.saved_bytes)),
        ("bytes of the optimizer's state", file_size(result.optimizer_bytes)),
        ("peak memory of the process", file_size(result.peak_bytes)),
        ("seconds per step (median)", f"{result.seconds_per_step:.3f}"),
        *cost_rows(result),
        *([] if result.graph_breaks is None else [("graph breaks", _breaks(result.graph_breaks))]),
    ]
    if result.samples:
        ends = result.tokenizer.convert_ids_to_tokens(ends_of_text(result.model, result.tokenizer))
        rows.append(("generation stops at", ", ".join(f"`{token}`" for token in ends)))
    read = f"\n## What was read\n\n{counts_table(result.data)}\n" if result.data else ""
    if result.confusion is not None:
        labels = next(iter(result.data.values()))["labels"]
        read += f"\n## Which labels are mistaken for which\n\n{confusion_table(list(labels), result.confusion)}\n"
    samples = [f"\n- `{s.prompt}`\n  - generated: {s.text}\n  - reference: {s.reference}" for s in result.samples]
    return (
        f"# {result.task}, {result.method}\n\n"
        f"Measured on `{split}` by `python -m training --task {result.task} --method {result.method} ...`; "
        f"all settings are in `config.json`.\n\n{markdown_table(('', 'value'), rows)}\n"
        + read
        + "\n![curves](curves.png)\n" * bool(result.steps)
        + "".join(samples)
        + "\n" * bool(samples)
    )
