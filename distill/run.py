"""One distillation from settings to a folder: `run_distillation(DistillSettings(teacher=..., student="copy:1"))`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from distill import fidelity, truth
from distill.loss_words import HARD, needs_teacher
from distill.report import write_report
from distill.rows import Rows, load_rows
from distill.settings import DistillSettings
from distill.student import PREFIX, copy_student, read_copy
from distill.teacher import Teacher
from distill.teacher_cache import CARD, TeacherCache, build_cache, open_cache
from distill.terms import make_projections, make_terms, needs
from distill.trainer import Distiller, DistillSteps, unreached
from kernels.measure import peak_bytes
from training import loop, processes
from training.base_models import Base, Source, load_base, window
from training.batching import Steps, batches, checksum
from training.evaluation import evaluate
from training.methods import SMALL_MODEL, apply_method, default_learning_rate
from training.randomness import seeded
from training.result import metric_key
from training.run_folder import RESULT, TRAINED, RunFolder, read_result, write_json
from training.tasks import TaskSpec, find_task, is_world
from training.trackers import Trackers, tracker_names
from training.trained import Trained, load_trained, save_trained
from training.world_tasks import ceiling


@dataclass(frozen=True)
class Pair:
    """Teacher and student, ready."""

    spec: TaskSpec
    trained: Trained
    teacher: Teacher
    student: Base
    causal: bool


def build_pair(settings: DistillSettings) -> Pair:
    """Load the teachers, and make or load the student. ValueError for models that do not go together."""
    found = [load_trained(where) for where in settings.teacher.split(",") if where]
    first = found[0]
    spec = find_task(settings.task or first.spec.name)
    for trained in found:
        if (trained.spec.kind, trained.spec.labels) != (spec.kind, spec.labels):
            raise ValueError(
                f"a teacher for {trained.spec.name} ({trained.spec.kind}, {len(trained.spec.labels)} labels) cannot teach "
                f"{spec.name} ({spec.kind}, {len(spec.labels)} labels)"
            )
        if trained.base.tokenizer.get_vocab() != first.base.tokenizer.get_vocab():
            raise ValueError("the teachers have different tokenizers: they cannot answer about the same tokens")
    student = build_student(settings, spec, first)
    teacher = Teacher([trained.base.model for trained in found], spec.kind, settings.teacher_dropout)
    return Pair(spec, first, teacher, student, any(_is_causal(base.model) for base in (first.base, student)))


def _is_causal(model: Any) -> bool:
    """Whether tokens see those before them alone: also of a decoder that classifies."""
    return any(getattr(module, "is_causal", False) for module in model.modules())


def build_student(settings: DistillSettings, spec: TaskSpec, first: Trained) -> Base:
    """A copy of parts of the first teacher, or a model from a folder or the Hub with the task's head."""
    if settings.student.startswith(PREFIX):
        if first.method not in ("full", "untouched"):
            raise ValueError(
                f"student {settings.student!r}: the teacher is a base with {first.method}; copy needs a model whose weights are "
                "its own (method full, or an adapter merged with `python -m loralib merge`)"
            )
        model: Any = copy_student(first.base.model, read_copy(settings.student))
        if settings.random_weights:
            with torch.random.fork_rng([]):
                torch.manual_seed(settings.seed)
                model = type(model)(model.config)
        return Base(model.requires_grad_(True), first.base.tokenizer, (), replace(first.base.source, four_bit=False))
    base = load_base(spec, Source(settings.student, settings.seed, settings.random_weights))
    apply_method(settings.method, base, spec, None, settings.seed)
    return base


def run_distillation(settings: DistillSettings, say: Callable[[str], None] = lambda text: None) -> dict:
    """Train, or go on, or read what is finished; returns the content of the folder's result.json.

    Raises before any work for models, data, layers or a cache that do not fit, or a folder that holds another run.
    """
    accelerator, trackers = processes.make_accelerator(settings.mixed_precision), tracker_names(settings.trackers)
    if not accelerator.is_main_process:
        say = lambda text: None  # noqa: E731
    pair = build_pair(settings)
    small = sum(p.numel() for p in pair.trained.base.model.parameters()) < SMALL_MODEL
    torch.set_num_threads(settings.threads or (1 if small else torch.get_num_threads()))
    rows = _rows(settings, pair)
    say(
        f"{rows.labelled} rows with labels, {rows.unlabelled} without"
        + f"; {rows.truncated} texts were cut" * bool(rows.truncated)
    )
    distiller = _distiller(settings, pair, rows, accelerator, say)
    sums = {
        "train_checksum": checksum([{k: v for k, v in f.items() if k != "example"} for f in rows.train]),
        "evaluation_checksum": checksum(rows.held_out.encoded.features),
        "teacher_checksum": pair.teacher.checksum(),
    }
    config = asdict(settings) | {"task": pair.spec.name, "method": f"distill {settings.method}"} | sums
    folder = RunFolder(settings.folder(), config, str(distiller.projections), settings.restart, accelerator)
    try:
        if folder.finished:
            say(f"{folder.folder} is finished already (--restart trains again)")
            return read_result(folder.folder) or {}
        open_trackers = Trackers(
            trackers if folder.main else [], folder.folder, asdict(settings), len(folder.rows) and folder.rows[-1]["step"]
        )
        folder.listeners.append(open_trackers.keep)
        try:
            return _train(settings, pair, rows, distiller, folder, accelerator)
        finally:
            open_trackers.finish()
    finally:
        folder.close()


def _rows(settings: DistillSettings, pair: Pair) -> Rows:
    readers = []
    for base in (pair.student, pair.trained.base):
        readers.append((base.tokenizer, min(settings.max_length, window(base.model, base.tokenizer))))
    sizes = settings.train_rows, settings.transfer_rows
    return load_rows(pair.spec, settings.data_dir, settings.seed, sizes, settings.eval_rows, *readers)


def _distiller(settings: DistillSettings, pair: Pair, rows: Rows, accelerator: Accelerator, say) -> Distiller:
    words, shown = settings.words(), needs(settings.words())
    student, teacher = pair.student.model, pair.trained.base.model
    _check_layers(words, student.config.num_hidden_layers, teacher.config.num_hidden_layers)
    if any(shown.values()) and any(name.startswith("teacher.") for name in rows.train[0]):
        raise ValueError("teacher and student have different tokenizers, so their tokens' states cannot be compared; logits can")
    projections = make_projections(words, student.config.hidden_size, teacher.config.hidden_size, settings.seed)
    terms = make_terms(words, pair.spec.kind, projections, pair.causal)
    answers = _answers(settings, pair, rows, accelerator, say) if needs_teacher(words) else None
    distiller = Distiller(student, projections, terms, pair.teacher.to(accelerator.device), answers, **shown).to(
        accelerator.device
    )
    names = unreached(distiller, _first_batch(settings, pair, rows, accelerator))  # raises where states do not fit each other
    if answers is None and not any(word.name == HARD for word in words):
        for name in names:
            distiller.get_parameter(name).requires_grad_(False)
        if names:
            say(f"no loss reaches {len(names)} of the student's tensors, so they stay as they are: {_short(names)}")
    return distiller


def _answers(settings: DistillSettings, pair: Pair, rows: Rows, accelerator: Accelerator, say) -> Teacher | TeacherCache:
    if settings.cache is None:
        return pair.teacher
    where = Path(settings.cache)

    def make() -> None:
        if not (where / CARD).exists():
            say(f"asking the teacher about {len(rows.train)} rows, once ...")
            build_cache(where, pair.teacher.to(accelerator.device), rows.train, pair.trained.base.tokenizer, settings.cache_top)

    processes.on_main(make, accelerator)
    return open_cache(where, pair.teacher, rows.train, settings.cache_top)


def _check_layers(words, student: int, teacher: int) -> None:
    for word in words:
        lowest = 0 if word.name in ("hidden", "cosine", "patient", "transfer") else 1
        for pair in word.pairs:
            for layer, count, whose in zip(pair, (student, teacher), ("student", "teacher"), strict=True):
                if not lowest <= layer <= count:
                    raise ValueError(f"loss {word.text!r}: layer {layer}; the {whose} has {lowest} to {count}")


def _steps(settings: DistillSettings, pair: Pair, rows: Rows, accelerator: Accelerator) -> Steps:
    sizes = settings.batch_size, settings.seed, settings.accumulation
    return Steps(rows.train, pair.student.tokenizer, *sizes, accelerator.process_index, accelerator.num_processes)


def _first_batch(settings: DistillSettings, pair: Pair, rows: Rows, accelerator: Accelerator) -> dict:
    few = rows.train[: settings.batch_size]
    return {name: value.to(accelerator.device) for name, value in next(batches(few, pair.student.tokenizer, len(few))).items()}


def _short(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _train(settings: DistillSettings, pair: Pair, rows: Rows, distiller: Distiller, folder: RunFolder, accelerator) -> dict:
    student, tokenizer = pair.student.model, pair.student.tokenizer
    method = {"full": "full", "lora": "lora"}[settings.method]
    rate = settings.learning_rate or default_learning_rate(method, student)
    names = ("steps", "schedule", "warmup_share", "weight_decay", "max_grad_norm", "eval_every", "save_every", "keep")
    loop_settings = loop.LoopSettings(
        learning_rate=rate,
        watch=metric_key(pair.spec),
        higher_is_better=pair.spec.higher_is_better,
        **{name: getattr(settings, name) for name in names},
    )
    scores = lambda: evaluate(student, rows.held_out, tokenizer, accelerator)  # noqa: E731
    if not folder.rows:
        folder.keep({"step": 0} | scores())
    with seeded(settings.seed + 1000 * accelerator.process_index):
        options = {"accelerator": accelerator, "checkpoint": folder.checkpoint, "before_save": folder.sync}
        steps = DistillSteps(distiller, _steps(settings, pair, rows, accelerator), loop_settings, **options)
        progress = loop.run(steps, scores, folder.keep)

    def write() -> dict:
        where = folder.folder / TRAINED
        size = save_trained(where, method, pair.student, pair.spec, settings.max_length)
        result = _result(settings, pair, rows, folder, rate, size, progress.best_step, accelerator)
        write_report(folder.folder, result, folder.rows, metric_key(pair.spec))
        write_json(folder.folder / RESULT, result)
        folder.checkpoint.unlink(missing_ok=True)
        return result

    return processes.on_main(write, accelerator)


def _result(settings, pair: Pair, rows: Rows, folder: RunFolder, rate: float, size: int, best: int, accelerator) -> dict:
    key, steps = metric_key(pair.spec), [row for row in folder.rows if "seconds" in row]
    last = next(r for r in folder.rows if r["step"] == best) if settings.keep == "best" else folder.rows[-1]
    known = is_world(pair.spec.name) and settings.data_dir is None
    count = lambda model: sum(p.numel() for p in model.parameters())  # noqa: E731
    return {
        "task": pair.spec.name,
        "losses": list(settings.losses),
        "metric_name": pair.spec.metric,
        "start_metric": folder.rows[0][key],
        "metric": last[key],
        "loss": last["eval_loss"],
        "ceiling": ceiling(pair.spec.name, rows.held_out.rows) if known else None,
        "teacher_metric": evaluate(pair.trained.base.model, _as_teacher(rows), pair.trained.base.tokenizer, accelerator)[key],
        **measure_fidelity(pair, rows, known, accelerator),
        "parameters": count(pair.student.model),
        "teacher_parameters": count(pair.trained.base.model),
        "file_bytes": size,
        "steps": settings.steps,
        "seed": settings.seed,
        "learning_rate": rate,
        "labelled_rows": rows.labelled,
        "transfer_rows": rows.unlabelled,
        "train_seconds": sum(row["seconds"] for row in steps),
        "teacher_seconds": sum(row["teacher_seconds"] for row in steps),
        "peak_bytes": peak_bytes(accelerator.device),
    }


def measure_fidelity(pair: Pair, rows: Rows, known: bool, accelerator: Accelerator) -> dict[str, float]:
    """What `fidelity.py` tells about the student on the held-out rows, as far as the task has it."""
    kind, device = pair.spec.kind, accelerator.device
    mine = fidelity.answers_of(pair.student.model, rows.held_out.encoded.features, pair.student.tokenizer, kind, device)
    quiet = Teacher(pair.teacher.models, kind)  # measured without dropout, whatever it taught with
    its = fidelity.teachers_answers(quiet, rows.teachers, pair.trained.base.tokenizer, device)
    found = fidelity.fidelity(kind, mine, its)
    if kind == "classification":
        labels = torch.tensor([f["labels"] for f in rows.held_out.encoded.features])
        found["ece"] = fidelity.calibration_error(torch.cat(mine), labels)
        found["teacher_ece"] = fidelity.calibration_error(torch.cat(its), labels)
        exact = truth.posteriors(pair.spec.name, rows.held_out.rows) if known else None
        if exact is not None:
            found["kl_to_truth"] = fidelity.distance_to_truth(torch.cat(mine), exact)
            found["teacher_kl_to_truth"] = fidelity.distance_to_truth(torch.cat(its), exact)
    return found


def _as_teacher(rows: Rows):
    held_out = rows.held_out
    return replace(held_out, encoded=replace(held_out.encoded, features=rows.teachers))
