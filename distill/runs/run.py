"""One distillation from settings to a folder: `run_distillation(DistillSettings(teacher=..., student="copy:1"))`."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from accelerate import Accelerator

from distill.compression.compress import Compressor, check_compress
from distill.compression.sparse_size import stored_bytes
from distill.losses.loss_specs import HARD, STATES, LossSpec, needs_teacher
from distill.losses.terms import make_projections, make_terms, needs
from distill.runs.measured import as_teacher, assert_same_again, result_of
from distill.runs.pair import Pair, build_pair
from distill.runs.report import write_report
from distill.runs.settings import DistillSettings
from distill.runs.trainer import Distiller, DistillSteps, total_loss, unreached
from distill.student.student_files import save_student
from distill.teacher.rows import Rows, load_rows, same_tokens
from distill.teacher.sequence import OnPolicy, teacher_rows
from distill.teacher.teacher import Teacher
from distill.teacher.teacher_cache import CARD, KEY, TeacherCache, build_cache, open_cache
from training.data.batching import Steps, batches, checksum
from training.evaluation.evaluation import evaluate
from training.evaluation.padding import choose_padding_side
from training.loop import loop, processes
from training.loop.randomness import seeded
from training.models.base_models import window
from training.models.methods import default_learning_rate
from training.models.threads import threads_restored, use_threads
from training.runs.result import metric_key
from training.runs.run_folder import RESULT, TRAINED, RunFolder, read_result, write_json
from training.runs.trackers import Trackers, tracker_names

IMPORTANCE_ROWS = 256


@threads_restored()
def run_distillation(settings: DistillSettings, say: Callable[[str], None] = lambda text: None) -> dict:
    """Train, or go on, or read what is finished; returns the content of the folder's result.json.

    Raises before any work for models, data, layers or a cache that do not fit, or a folder that holds another run.
    """
    accelerator, trackers = processes.make_accelerator(settings.mixed_precision), tracker_names(settings.trackers)
    if not accelerator.is_main_process:
        say = lambda text: None  # noqa: E731
    pair = build_pair(settings)
    use_threads(settings.threads, pair.trained.base.model)
    check_pair(settings, pair)  # before the teacher writes its texts, which can take hours
    rows = _rows(settings, pair)
    say(
        f"{rows.labelled} rows with labels, {rows.unlabelled} without"
        + f"; {rows.truncated} texts were cut" * bool(rows.truncated)
    )
    choose_padding_side(pair.student.model, pair.student.tokenizer, rows.train, settings.student)
    distiller = _distiller(settings, pair, rows, accelerator, say)
    sums = {
        "train_checksum": checksum([{k: v for k, v in f.items() if k != KEY} for f in rows.train]),
        "evaluation_checksum": checksum(rows.held_out.encoded.features),
        "teacher_checksum": pair.teacher.checksum(),
    }
    config = asdict(settings) | {"task": pair.spec.name, "method": f"distill {settings.method}"} | sums
    folder = RunFolder(settings.folder(), config, str(distiller.projections), settings.restart, accelerator)
    try:
        if folder.finished:
            say(f"{folder.folder} is finished already (--restart trains again)")
            return read_result(folder.folder) or {}
        open_trackers = Trackers(trackers if folder.main else [], folder.folder, asdict(settings), folder.last_step)
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
    rewrite = {}
    if settings.targets == "teacher":
        about = settings.beams, settings.max_new_tokens, settings.folder(), pair.teacher.checksum()
        rewrite = {"rewrite": lambda train: teacher_rows(train, pair.spec, pair.trained.base, *about)}
    asks = needs_teacher(settings.loss_specs())
    return load_rows(
        pair.spec, settings.data_dir, settings.seed, sizes, settings.eval_rows, *readers, **rewrite, asks_teacher=asks
    )


def _distiller(settings: DistillSettings, pair: Pair, rows: Rows, accelerator: Accelerator, say) -> Distiller:
    specs, shown = settings.loss_specs(), needs(settings.loss_specs())
    student, teacher = pair.student.model, pair.trained.base.model
    projections = make_projections(specs, student.config.hidden_size, teacher.config.hidden_size, settings.seed)
    terms = make_terms(specs, pair.spec.kind, projections, pair.causal)
    answers = _answers(settings, pair, rows, accelerator, say) if needs_teacher(specs) else None
    distiller = Distiller(student, projections, terms, pair.teacher.to(accelerator.device), answers, **shown).to(
        accelerator.device
    )
    names = unreached(distiller, _first_batch(settings, pair, rows, accelerator))  # raises where states do not fit each other
    if answers is None and not any(spec.name == HARD for spec in specs):
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


def check_pair(settings: DistillSettings, pair: Pair) -> None:
    """ValueError for losses between layers that are not there or that read other tokens, and for a student that cannot be made
    smaller as wished."""
    _check_layers(settings.loss_specs(), pair)
    tokenizers = pair.student.tokenizer, pair.trained.base.tokenizer
    if any(needs(settings.loss_specs()).values()) and not same_tokens(*tokenizers):
        raise ValueError(
            "teacher and student have different tokenizers: their tokens' hidden states cannot be compared; logits can"
        )
    check_compress(pair.student.model, settings.compress(), settings.steps)


def _check_layers(specs: Sequence[LossSpec], pair: Pair) -> None:
    student, teacher = (m.config.num_hidden_layers for m in (pair.student.model, pair.trained.base.model))
    for spec in specs:
        lowest = 0 if spec.name in STATES else 1
        for layers in spec.pairs:
            for layer, count, whose in zip(layers, (student, teacher), ("student", "teacher"), strict=True):
                if not lowest <= layer <= count:
                    raise ValueError(f"loss {spec.text!r}: layer {layer}; the {whose} has {lowest} to {count}")


def _steps(settings: DistillSettings, pair: Pair, rows: Rows, accelerator: Accelerator) -> Steps | OnPolicy:
    sizes = settings.batch_size, settings.seed, settings.accumulation
    steps = Steps(rows.train, pair.student.tokenizer, *sizes, accelerator.process_index, accelerator.num_processes)
    if not settings.on_policy:
        return steps
    return OnPolicy(steps, pair.student, settings.on_policy, settings.max_new_tokens, settings.seed)


def _first_batch(settings: DistillSettings, pair: Pair, rows: Rows, accelerator: Accelerator) -> dict:
    few = rows.train[: settings.batch_size]
    return {name: value.to(accelerator.device) for name, value in next(batches(few, pair.student.tokenizer, len(few))).items()}


def _short(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _train(settings: DistillSettings, pair: Pair, rows: Rows, distiller: Distiller, folder: RunFolder, accelerator) -> dict:
    student, tokenizer = pair.student.model, pair.student.tokenizer
    rate = settings.learning_rate or default_learning_rate(settings.method, student)
    names = ("steps", "schedule", "warmup_share", "weight_decay", "max_grad_norm", "eval_every", "save_every", "keep")
    loop_settings = loop.LoopSettings(
        learning_rate=rate,
        watch=metric_key(pair.spec),
        higher_is_better=pair.spec.higher_is_better,
        needed=("projections", *pair.student.new_modules),
        **{name: getattr(settings, name) for name in names},
    )
    scores = lambda: evaluate(student, rows.held_out, tokenizer, accelerator)  # noqa: E731
    if not folder.rows:
        folder.keep({"step": 0} | scores())
    compressor = _compressor(settings, pair, rows, distiller, accelerator)
    with seeded(settings.seed + 1000 * accelerator.process_index):
        options = {"accelerator": accelerator, "checkpoint": folder.checkpoint, "before_save": folder.sync}
        steps = DistillSteps(distiller, _steps(settings, pair, rows, accelerator), loop_settings, compressor, **options)
        progress = loop.run(steps, scores, folder.keep)
    numbers = {"parameters": sum(p.numel() for p in student.parameters())} | _exported(settings, pair, compressor)
    numbers |= progress.costs.report() if progress.costs else {}
    final = scores() | {"teacher": evaluate(pair.trained.base.model, as_teacher(rows), pair.trained.base.tokenizer, accelerator)}

    def write() -> dict:
        where = folder.folder / TRAINED
        size = save_student(where, settings.method, pair.student, pair.spec, settings.max_length, settings.compress())
        counted = numbers | {"file_bytes": size, "learning_rate": rate}
        result = result_of(settings, pair, rows, folder.rows, final, counted, accelerator)
        assert_same_again(where, pair, rows, accelerator)
        write_report(folder.folder, result, folder.rows, metric_key(pair.spec))
        write_json(folder.folder / RESULT, result)
        folder.checkpoint.unlink(missing_ok=True)
        return result

    return processes.on_main(write, accelerator)


def _compressor(settings, pair: Pair, rows: Rows, distiller: Distiller, accelerator: Accelerator) -> Compressor | None:
    """It judges heads and units on the first rows; the same ones in every process and after every start."""
    if not settings.compress():
        return None
    few = batches(rows.train[:IMPORTANCE_ROWS], pair.student.tokenizer, settings.batch_size)
    here = [{name: value.to(accelerator.device) for name, value in batch.items()} for batch in few]
    loss = lambda model, batch: total_loss(distiller, batch)  # noqa: E731
    return Compressor(pair.student.model, settings.compress(), settings.steps, here, loss)


def _exported(settings: DistillSettings, pair: Pair, compressor: Compressor | None) -> dict:
    """Export; of a student with zeros also what a storage for zeros would take."""
    if compressor is None:
        return {}
    compressor.export()
    if not settings.zeros or settings.bits != "float32":
        return {}
    size = stored_bytes(pair.student.model)
    return {"bitmap_bytes": size.bitmap, "gzip_bytes": size.gzip, "share_of_zeros": size.zeros}
