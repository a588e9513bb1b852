"""One multitask run from settings to a folder: `run_multitask(MultitaskSettings(tasks="sentiment,topic,nli"))`."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from adapters.bottleneck.bottleneck import BottleneckConfig
from loralib.variants.config import LoraConfig
from multitask.model.files import CARD, save_multitask
from multitask.model.fused_members import fuse_trained
from multitask.model.multitask_model import MultitaskModel
from multitask.runs.report import write_report
from multitask.runs.settings import MultitaskSettings, pairs
from multitask.runs.trainer import MultitaskTrainer
from training.data.batching import checksum
from training.data.data import evaluation_split, load_task, some_rows
from training.data.encoding import encode
from training.data.tasks import is_world
from training.data.world_tasks import ceiling
from training.evaluation.evaluation import HeldOut
from training.evaluation.padding import check_states
from training.loop import processes
from training.models.base_models import Source, load_backbone, window
from training.models.threads import threads_restored, use_threads
from training.reports.read_counts import counts_of
from training.runs.run_folder import RESULT, RunFolder, read_result, write_json
from training.runs.trackers import Trackers, tracker_names

TRAINED = "model"
TASK_ADAPTERS = {"none": None, "lora": LoraConfig(target_modules="all-linear"), "bottleneck": BottleneckConfig()}
"""what the setting `task_adapters` means"""


@dataclass(frozen=True)
class TaskRows:
    """One task's rows, encoded. `ceiling`: the best expected score, where it is known; `lost`: rows whose answer was cut off."""

    train: list[dict]
    held_out: HeldOut
    ceiling: float | None
    truncated: int
    lost: int
    counts: dict[str, Any] = field(default_factory=dict)
    """what was read, by split"""


def load_rows(settings: MultitaskSettings, tokenizer: Any, limit: int) -> dict[str, TaskRows]:
    """The rows of every task. ValueError where data does not fit its task, or no answer is left within `limit` tokens."""
    folders, encodeds = pairs(settings.data_dirs, "data_dirs"), {}
    for name, spec in settings.specs().items():
        folder = folders.get(name)
        data = load_task(spec, folder, settings.seed, settings.rows_of(name))
        rows = some_rows(data[evaluation_split(data, spec, folder)], settings.eval_rows, spec, folder)
        encoded = encode(data["train"][:], spec, tokenizer, limit)
        held_out = HeldOut(spec, rows, encode(rows[:], spec, tokenizer, limit))
        train = encoded.answerable().features
        if not train or not held_out.encoded.answerable().features:
            raise ValueError(f"task {name!r}: no row has an answer within {limit} tokens: raise max_length")
        best = ceiling(name, rows) if is_world(name) and folder is None else None
        lost = len(encoded.features) - len(train)
        counts = {
            f"{name}, train": counts_of(spec, len(data["train"]), encoded, lost),
            f"{name}, evaluated": counts_of(spec, len(rows), held_out.encoded),
        }
        encodeds[name] = TaskRows(train, held_out, best, encoded.truncated, lost, counts)
    return encodeds


def build_model(settings: MultitaskSettings) -> tuple[MultitaskModel, Any, Source]:
    """The model that these settings describe, its tokenizer, and where its backbone is from."""
    source = Source(settings.model, settings.seed, settings.random_weights)
    backbone, tokenizer = load_backbone(source, settings.layers)
    if settings.members:
        fuse_trained(backbone, settings.member_folders(), settings.seed)
    model = MultitaskModel(
        backbone,
        settings.specs(),
        settings.dropout,
        None if settings.pooling == "auto" else settings.pooling,
        pairs(settings.share_heads, "share_heads"),
        settings.task_embedding if settings.use_task_embeddings else None,
        TASK_ADAPTERS[settings.task_adapters],
        settings.seed,
    )
    return model, tokenizer, source


@threads_restored()
def run_multitask(
    settings: MultitaskSettings,
    say: Callable[[str], None] = lambda text: None,
    make_trainer: Callable[..., MultitaskTrainer] = MultitaskTrainer,
    more: dict | None = None,
) -> dict:
    """Train, or go on, or read what is finished; returns the content of the folder's result.json.

    make_trainer(model, tokenizer, settings, accelerator): a trainer with other losses; more: what its run depends on beside the
    settings, kept in config.json.

    Raises before any work for data that does not fit, an unknown model, or a folder that holds another run.
    """
    accelerator, trackers = processes.make_accelerator(settings.mixed_precision), tracker_names(settings.trackers)
    if not accelerator.is_main_process:
        say = lambda text: None  # noqa: E731
    model, tokenizer, source = build_model(settings)
    use_threads(settings.threads, model)
    rows = load_rows(settings, tokenizer, min(settings.max_length, window(model.backbone, tokenizer)))
    check_states(model.backbone, tokenizer.pad_token_id, [f for part in rows.values() for f in part.train], settings.model)
    for name, part in rows.items():
        if part.truncated or part.lost:
            say(f"{name}: {part.truncated} of {len(part.train) + part.lost} train texts were cut, {part.lost} lost their answer")
    sums = {name: checksum(part.train + part.held_out.encoded.features) for name, part in rows.items()}
    config = asdict(settings) | {"task": settings.tasks, "method": "multitask", "checksums": sums} | (more or {})
    folder = RunFolder(settings.folder(), config, str(model.heads), settings.restart, accelerator)
    try:
        if folder.finished:
            say(f"{folder.folder} is finished already (--restart trains again)")
            return read_result(folder.folder) or {}
        if folder.main and not folder.rows and (folder.folder / TRAINED / CARD).exists():
            shutil.rmtree(folder.folder / TRAINED)  # of a run that was started over
        open_trackers = Trackers(trackers if folder.main else [], folder.folder, asdict(settings), folder.last_step)
        folder.listeners.append(open_trackers.keep)
        try:
            trainer = make_trainer(model, tokenizer, settings, accelerator)
            return _train(settings, trainer, source, rows, folder, say)
        finally:
            open_trackers.finish()
    finally:
        folder.close()


def _train(settings, trainer: MultitaskTrainer, source, rows: dict[str, TaskRows], folder: RunFolder, say) -> dict:
    model, tokenizer, accelerator = trainer.model, trainer.tokenizer, trainer.accelerator
    features = {name: part.train for name, part in rows.items()}
    held_out = {name: part.held_out for name, part in rows.items()}
    manager = trainer.manager(features)
    update = trainer.expected_update(manager)
    say("an average step moves along " + " + ".join(f"{value:.3f} ∇{task}" for task, value in update.items()))
    model.to(accelerator.device)
    if not folder.rows:
        before = model.evaluate_all_tasks(held_out, tokenizer, accelerator=accelerator)
        folder.keep({"step": 0} | {f"{task}/{name}": v for task, scores in before.items() for name, v in scores.items()})
    progress = trainer.train(features, held_out, None, folder.keep, folder.checkpoint, folder.sync)

    def write() -> dict:
        where = folder.folder / TRAINED
        file_bytes = save_multitask(where, model, tokenizer, source, settings.layers, settings.max_length)
        result = _result(settings, model, rows, folder, update, trainer, file_bytes)
        result |= progress.costs.report() if progress.costs else {}
        write_report(folder.folder, result, folder.rows)
        write_json(folder.folder / RESULT, result)
        folder.checkpoint.unlink(missing_ok=True)
        return result

    return processes.on_main(write, accelerator)


def kept_row(rows: list[dict], keep: str) -> dict:
    """The evaluation of the weights that were kept: the last one, or the first of those with the best mean score."""
    return max((row for row in rows if "mean_score" in row), key=lambda row: row["mean_score"]) if keep == "best" else rows[-1]


def _result(settings, model: MultitaskModel, rows, folder: RunFolder, update, trainer: MultitaskTrainer, file_bytes: int) -> dict:
    first, chosen = folder.rows[0], kept_row(folder.rows, settings.keep)
    steps = [row for row in folder.rows if "seconds" in row]
    tasks = {}
    for task, spec in model.tasks.items():
        key = f"{task}/{spec.metric}"
        tasks[task] = {
            "metric_name": spec.metric,
            "start_metric": first[key],
            "metric": chosen[key],
            "loss": chosen[f"{task}/eval_loss"],
            "ceiling": rows[task].ceiling,
            "train_rows": len(rows[task].train),
            "steps": sum(f"loss/{task}" in row for row in steps),
            "expected_update": update[task],
        }
    return {
        "tasks": tasks,
        "data": {split: counts for part in rows.values() for split, counts in part.counts.items()},
        "steps": settings.steps,
        "kept_step": chosen["step"],
        "seed": settings.seed,
        "learning_rate": trainer.learning_rate,
        "parameters": sum(p.numel() for p in model.parameters()),
        "head_parameters": sum(p.numel() for p in model.heads.parameters()),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "file_bytes": file_bytes,
        "train_seconds": sum(row["seconds"] for row in steps),
    }
