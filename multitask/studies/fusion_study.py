"""One adapter a task, each trained on its own; then for each task a fusion of all of them; beside them full fine-tuning.

What is compared on a task is the same but for the method: rows, order of batches, evaluation. The fusion starts from its task's
own adapter and head, so it has had more steps in all: the row `longer` is the same adapter alone, trained for as many.

Two rows are one model for all tasks, with a head for each, trained on mixed batches with as many rows of every task as the row
beside it had: `mix` is one fusion of the same adapters, `heads` is full fine-tuning.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from adapters.bottleneck.attachment import sites
from adapters.bottleneck.composition import Average, Fuse
from adapters.bottleneck.site import Site
from adapters.fusion.fuse import active_fusion, members_kind
from adapters.verbs import activate, load
from loralib.files.save_and_load import write_atomic
from multitask.runs.run import run_multitask
from multitask.runs.settings import MultitaskSettings
from training.data.batching import batches
from training.data.data import evaluation_split, load_task, some_rows
from training.data.encoding import encode
from training.data.tasks import TASKS
from training.evaluation.evaluation import HeldOut, evaluate, model_inputs
from training.loop.processes import make_accelerator
from training.models.base_models import Base, load_base, window
from training.models.trained import load_trained
from training.runs.result import TrainResult, metric_key
from training.runs.run import train_model
from training.runs.run_folder import TRAINED, read_settings
from training.runs.settings import TrainSettings

PROBES = "probes.json"
COLUMNS = (
    "metric",
    "metric_name",
    "start_metric",
    "loss",
    "trainable",
    "file_bytes",
    "seconds_per_step",
    "learning_rate",
    "steps",
)


@dataclass(frozen=True)
class Study:
    """What to run: settings of the single adapters by task, and what the fusion and full runs change."""

    tasks: dict[str, TrainSettings]
    fusion: dict
    full: dict | None
    longer: bool
    mix: bool
    seeds: int
    out: Path


@dataclass(frozen=True)
class TaskResult:
    """One task, seed by seed: the runs, and what was probed in the fused model afterwards."""

    task: str
    single: list[dict]
    longer: list[dict]
    fusion: list[dict]
    full: list[dict]
    mix: list[dict]
    heads: list[dict]
    probes: list[dict]
    """{average: metric of the untrained average, others: metric of each adapter alone, weights: (places, members)}"""

    def values(self, row: str) -> list[float]:
        if row == "average":
            return [p["average"] for p in self.probes if p["average"] is not None]
        return [r["metric"] for r in getattr(self, row)]


def run_study(study: Study, say: Callable[[str], None]) -> list[TaskResult]:
    """All adapters first, then the fusions, then full fine-tuning; finished runs are read from disk."""
    results: dict[str, TaskResult] = {task: TaskResult(task, [], [], [], [], [], [], []) for task in study.tasks}
    for seed in range(study.seeds):
        folder, members = study.out / f"seed-{seed}", []
        for task, settings in study.tasks.items():
            results[task].single.append(_train(settings, seed, folder / f"adapter_{task}", say))
            members.append(str(folder / f"adapter_{task}" / TRAINED))
        for task, settings in study.tasks.items():
            changes = {**study.fusion, "method": "fusion", "members": ",".join(members), **_plain()}
            results[task].fusion.append(_train(settings, seed, folder / f"fusion_{task}", say, **changes))
            results[task].probes.append(_probes(folder / f"fusion_{task}", settings, seed, task, [Path(m) for m in members]))
        for task, settings in study.tasks.items():
            if study.longer:
                steps = settings.steps + study.fusion["steps"]
                results[task].longer.append(_train(settings, seed, folder / f"longer_{task}", say, steps=steps))
            if study.full is not None:
                changes = {**study.full, "method": "full", **_plain()}
                results[task].full.append(_train(settings, seed, folder / f"full_{task}", say, **changes))
        together = [("mix", study.fusion | {"members": ",".join(members)})] if study.mix else []
        together += [("heads", study.full)] if study.mix and study.full is not None else []
        for row, changes in together:
            for task, result in _together(study, changes, seed, folder / row, say).items():
                getattr(results[task], row).append(result)
    return list(results.values())


def _together(study: Study, changes: dict, seed: int, out: Path, say: Callable[[str], None]) -> dict[str, dict]:
    """One model for all tasks; of each task as many rows as its own model had."""
    first = next(iter(study.tasks.values()))
    steps = changes.get("steps", first.steps) * len(study.tasks)
    settings = MultitaskSettings(
        tasks=",".join(study.tasks),
        model=first.model or "encoder",
        data_dirs=",".join(f"{task}={s.data_dir}" for task, s in study.tasks.items() if s.data_dir),
        max_length=max(s.max_length for s in study.tasks.values()),
        task_sampling="equal",
        steps=steps,
        members=changes.get("members", ""),
        learning_rate=changes["learning_rate"],
        seed=seed,
        out=str(out),
        **{name: getattr(first, name) for name in ("batch_size", "eval_rows", "eval_every", "save_every", "trackers", "threads")},
    )
    result = run_multitask(settings)
    costs = {"trainable": result["trained"], "seconds_per_step": result["train_seconds"] / steps}
    costs |= {name: result[name] for name in ("file_bytes", "learning_rate", "steps")}
    for task, scores in result["tasks"].items():
        say(f"seed {seed}: {out.name}: {task}: {scores['metric_name']} {scores['start_metric']:.4f} → {scores['metric']:.4f}")
    return {task: {name: ({**scores, **costs})[name] for name in COLUMNS} for task, scores in result["tasks"].items()}


def _plain() -> dict:
    """The settings of the adapters as they are by default: fusion and full fine-tuning refuse others."""
    default = TrainSettings()
    return {name: getattr(default, name) for name in ("placement", "reduction_factor", "r", "target_modules")}


def _train(settings: TrainSettings, seed: int, out: Path, say: Callable[[str], None], **changes) -> dict:
    result: TrainResult = train_model(settings.task, replace(settings, seed=seed, out=str(out), **changes))
    say(f"seed {seed}: {out.name}: {result.metric_name} {result.start_metric:.4f} → {result.metric:.4f}")
    return {name: getattr(result, name) for name in COLUMNS}


def _probes(folder: Path, settings: TrainSettings, seed: int, own: str, members: list[Path]) -> dict:
    """The attention of the fused model; and with the own adapter's head each member alone, and their plain average."""
    path = folder / PROBES
    if path.exists():
        return read_settings(path)
    trained = load_trained(folder / TRAINED)
    held_out = held_out_rows(settings, seed, trained.base)
    names = list(active_fusion(trained.base.model).names)
    probes: dict = {"weights": attention(trained.base, held_out), "names": names, "average": None, "others": {}}
    if members_kind(trained.base.model, Fuse(*names)) == "bottleneck":
        base = load_base(TASKS[settings.task], trained.base.source)
        for name, member in zip(names, members, strict=True):
            load(base.model, member, name, with_heads=name == own)
        activate(base.model, Average(*names), own)
        probes["average"] = _score(base, held_out)
        for name in names:
            activate(base.model, name, own)
            probes["others"][name] = _score(base, held_out)
    write_atomic(path, (json.dumps(probes) + "\n").encode())
    return probes


def held_out_rows(settings: TrainSettings, seed: int, base: Base) -> HeldOut:
    """The evaluation examples of a run, encoded."""
    spec = TASKS[settings.task]
    data = load_task(spec, settings.data_dir, seed, settings.train_rows)
    rows = some_rows(data[evaluation_split(data, spec, settings.data_dir)], settings.eval_rows, spec, settings.data_dir)
    limit = min(settings.max_length, window(base.model, base.tokenizer))
    return HeldOut(spec, rows, encode(rows[:], spec, base.tokenizer, limit))


def _score(base: Base, held_out: HeldOut) -> float:
    accelerator = make_accelerator()
    base.model.to(accelerator.device)
    return evaluate(base.model, held_out, base.tokenizer, accelerator)[metric_key(held_out.spec)]


@torch.no_grad()
def attention(base: Base, held_out: HeldOut, rows: int = 200) -> list[list[float]]:
    """Mean attention over the real tokens of some rows: a list for each place, in order, of a share for each member."""
    fuse = active_fusion(base.model)
    places = [site for site in sites(base.model).values() if fuse.key in site.fusions]
    sums, count = torch.zeros(len(places), len(fuse.names)), 0
    base.model.eval()
    for site in places:
        fusion_of(site, fuse.key).keep = True
    for batch in batches(held_out.encoded.features[:rows], base.tokenizer, 64):
        base.model(**model_inputs(batch))
        real = batch["attention_mask"].bool()
        sums += torch.stack([fusion_of(site, fuse.key).weights[real].sum(0) for site in places])
        count += int(real.sum())
    return (sums / count).tolist()


def fusion_of(site: Site, key: str) -> Any:
    """The attention of one place."""
    return site.fusions[key]
