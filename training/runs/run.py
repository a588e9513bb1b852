"""One training run from a task's name to a folder of results: `train_model("sentiment", method="lora")`."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path

from accelerate import Accelerator
from tqdm.auto import tqdm

from adapters.fusion.fusion import fusion_penalty
from kernels.measure import saved_bytes
from training.data.batching import Steps, checksum
from training.data.data import evaluation_split, load_task, some_rows
from training.data.encoding import Encoded, encode
from training.data.tasks import TaskSpec, find_task, is_world
from training.evaluation.evaluation import HeldOut, evaluate, objective_of, score
from training.evaluation.generation import Sample, checked_prompts, generate_samples, references_by_prompt
from training.evaluation.padding import choose_padding_side
from training.evaluation.text_metrics import refuse_texts, text_scores
from training.loop import loop, processes
from training.loop.checkpoint import frozen_checksum
from training.loop.progress import Progress
from training.loop.randomness import seeded
from training.models.base_models import Base, load_base, window
from training.models.compiling import compile_model
from training.models.methods import apply_method, default_learning_rate
from training.models.precision import refuse_half_precision_training
from training.models.threads import threads_restored, use_threads
from training.models.trained import save_trained
from training.reports.read_counts import confusion, counts_of
from training.runs.method_configs import adapter_config, source_of
from training.runs.result import Measured, TrainResult, finish, finished_result, metric_key
from training.runs.run_folder import TRAINED, RunFolder
from training.runs.settings import TrainSettings
from training.runs.trackers import Trackers, tracker_names

REHEARSED = "rehearsed"
"""a folder in the run's, which is there for a moment"""


def train_model(task: str, settings: TrainSettings | None = None, **changes) -> TrainResult:
    """Train `task` with `settings`, changed by keywords: `train_model("nli", method="full", steps=500)`.

    Writes config, rows, curves, report and the trained weights to the run folder. A folder that holds the same run is gone on
    with; one that is finished is read. Raises before any work for an unknown task, data that does not fit it, a model that
    lacks the modules to adapt, or a folder that holds another run.
    """
    settings = TrainSettings(**{**asdict(settings or TrainSettings()), **changes, "task": task})
    spec, trackers = find_task(task), tracker_names(settings.trackers)
    refuse_texts(spec, settings.score_texts)
    _check_model_is_named(spec, settings)
    accelerator = processes.make_accelerator(settings.mixed_precision)
    data = load_task(spec, settings.data_dir, settings.seed, settings.train_rows)
    base = load_base(spec, source_of(settings, spec))
    with threads_restored():
        use_threads(settings.threads, base.model)
        return _train(settings, spec, data, base, accelerator, trackers)


def _train(
    settings: TrainSettings, spec: TaskSpec, data, base: Base, accelerator: Accelerator, trackers: list[str]
) -> TrainResult:
    split = evaluation_split(data, spec, settings.data_dir)
    rows = some_rows(data[split], settings.eval_rows, spec, settings.data_dir)
    method = apply_method(settings.method, base, spec, adapter_config(settings), settings.seed)
    refuse_half_precision_training(base.model, settings.dtype)
    train_set, held_out = _encode_both(settings, spec, data["train"], rows, split, base, accelerator)
    if settings.gradient_checkpointing:
        base.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    choose_padding_side(base.model, base.tokenizer, train_set.features, base.source.name)
    _check_prompts(settings, held_out, base)
    steps = Steps(
        train_set.features,
        base.tokenizer,
        settings.batch_size,
        settings.seed,
        settings.accumulation,
        accelerator.process_index,
        accelerator.num_processes,
        settings.group_by_length,
    )
    settings = _with_steps(settings, steps.steps_per_epoch, accelerator)
    sources = {
        "train_checksum": checksum(train_set.features),
        "evaluation_checksum": checksum(held_out.encoded.features),
        "frozen_checksum": frozen_checksum(base.model),
    }

    where = Path(settings.out or f"runs/{settings.task}-{settings.method}")
    folder = RunFolder(where, asdict(settings) | sources, method.report, settings.restart, accelerator)
    try:
        if folder.finished:
            _say(f"{where} is finished already, nothing to train (--restart trains again)", accelerator)
            return finished_result(where)
        return _Run(settings, spec, split, base, accelerator, folder, steps, held_out).go(trackers)
    finally:
        folder.close()


def _with_steps(settings: TrainSettings, steps_per_epoch: int, accelerator: Accelerator) -> TrainSettings:
    """The settings with `steps` in the place of `epochs`."""
    if settings.epochs is None:
        return settings
    count = max(1, round(settings.epochs * steps_per_epoch))
    _say(f"{settings.epochs:g} epochs of {steps_per_epoch} steps are {count} steps", accelerator)
    return replace(settings, steps=count, epochs=None)


def _check_model_is_named(spec: TaskSpec, settings: TrainSettings) -> None:
    """ValueError for a real task without a model and files: the committed small bases know the small world's words alone."""
    if settings.model is None and settings.data_dir is None and not is_world(spec.name):
        hub = " (without data_dir the data comes from the Hub)" if spec.hub else ""
        raise ValueError(
            f"task {spec.name!r} needs a model: give model=FOLDER or a name on the Hub such as 'roberta-base', and "
            f"data_dir=FOLDER with train and validation files{hub}. "
            "Tasks that need neither are those of the small world: topic, sentiment, nli, tagging, qa, data2text"
        )


class _Run:
    """The steps of one run, in order, with what they share."""

    def __init__(self, settings, spec, split, base: Base, accelerator, folder: RunFolder, steps: Steps, held_out: HeldOut):
        self.settings, self.spec, self.split, self.base = settings, spec, split, base
        self.accelerator, self.folder, self.held_out = accelerator, folder, held_out
        self.objective, self.steps = objective_of(spec.kind, fusion_penalty if settings.method == "fusion" else None), steps
        trains = settings.method != "untouched"
        default = default_learning_rate(settings.method, base.model) if trains else 0.0
        self.learning_rate = settings.learning_rate or default
        self.guesses: list | None = None
        """of the last evaluation"""

    def go(self, trackers: list[str]) -> TrainResult:
        folder, resumed = self.folder, bool(self.folder.rows)
        self.base.model.to(self.accelerator.device)
        if resumed:
            _say(f"going on after step {folder.last_step} of {self.settings.steps}", self.accelerator)
        open_trackers = Trackers(trackers if folder.main else [], folder.folder, asdict(self.settings), folder.last_step)
        folder.listeners.append(open_trackers.keep)
        try:
            return self.train(resumed)
        finally:
            open_trackers.finish()

    def train(self, resumed: bool) -> TrainResult:
        folder = self.folder
        if not resumed:
            if self.settings.steps > 1:
                self.rehearse()
            folder.keep({"step": 0, **self.evaluate(), **self.score_texts()[0]})
        if self.settings.compile:
            compile_model(self.base.model)
        if self.settings.method == "untouched":
            return self.results(Progress(self.spec.higher_is_better, keeps_best=False), 0)
        with seeded(self.settings.seed + 1000 * self.accelerator.process_index):  # dropout differs between the processes
            saved = self.saved_bytes() if self.settings.steps > 1 else 0  # one step only tries a run out
        with seeded(self.settings.seed + 1000 * self.accelerator.process_index):
            progress = loop.train(
                self.base.model,
                self.steps,
                self.objective,
                self.loop_settings(),
                self.evaluate,
                folder.keep,
                self.accelerator,
                folder.checkpoint if self.settings.steps > 1 else None,
                folder.sync,
            )
        return self.results(progress, saved)

    def rehearse(self) -> None:
        """What comes after the last step, once before the first: two tokens are written; the weights are saved and removed."""
        if self.spec.kind == "generation" and (self.settings.samples or self.settings.score_texts != 0):
            prompts = references_by_prompt(self.held_out.rows, self.spec)[:1]
            options = {"decoding": self.settings.decoding, "max_new_tokens": 2}
            generate_samples(self.base.model, self.base.tokenizer, prompts, self.spec, **options)
        where = self.folder.folder / REHEARSED

        def save() -> None:
            save_trained(where, self.settings.method, self.base, self.spec, self.settings.max_length)
            shutil.rmtree(where)

        processes.on_main(save, self.accelerator)

    def evaluate(self) -> dict[str, float]:
        return evaluate(self.base.model, self.held_out, self.base.tokenizer, self.accelerator, scores=self._score)

    def _score(self, held_out: HeldOut, guesses: list) -> dict[str, float]:
        self.guesses = guesses
        return score(held_out, guesses)

    def confusion(self, progress: Progress) -> list[list[int]] | None:
        """Of the weights that are kept, which may not be those that were evaluated last."""
        if self.guesses is None or (self.settings.keep == "best" and progress.best_step != progress.step):
            self.evaluate()
        return confusion(self.spec, self.guesses or [], self.held_out.encoded.features)

    def score_texts(self) -> tuple[dict[str, float], list[Sample]]:
        """Scores of generated texts, and the texts; every process continues its share of the prompts."""
        count = self.settings.score_texts
        if self.spec.kind != "generation" or count == 0:
            return {}, []
        samples = self.generate(references_by_prompt(self.held_out.rows, self.spec)[:count])
        return text_scores(samples), samples

    def generate(self, prompts: list) -> list[Sample]:
        own_prompts = processes.share(prompts, self.accelerator)
        options = {"decoding": self.settings.decoding, "max_new_tokens": self.settings.max_new_tokens}
        samples = generate_samples(self.base.model, self.base.tokenizer, own_prompts, self.spec, **options)
        return processes.gather(samples, self.accelerator)

    def saved_bytes(self) -> int:
        """Bytes that autograd keeps for backward on one batch of the first step."""
        window = next(self.steps)
        self.steps.taken = 0
        if not window:
            return 0
        batch = {k: v.to(self.accelerator.device) for k, v in window[0].items()}
        self.base.model.train()
        with self.accelerator.autocast():
            return saved_bytes(lambda: self.objective.loss_sum(self.base.model, batch), self.base.model.parameters())

    def loop_settings(self) -> loop.LoopSettings:
        names = (
            "steps",
            "schedule",
            "warmup_share",
            "weight_decay",
            "max_grad_norm",
            "eval_every",
            "save_every",
            "patience",
            "keep",
            "lora_plus_ratio",
            "optimizer",
        )
        return loop.LoopSettings(
            learning_rate=self.learning_rate,
            watch=metric_key(self.spec),
            higher_is_better=self.spec.higher_is_better,
            needed=self.base.new_modules,
            **{name: getattr(self.settings, name) for name in names},
        )

    def results(self, progress, saved_bytes: int) -> TrainResult:
        """Weights, generated texts, report and result, in this order: a result is the sign that all the rest is there."""
        texts, samples = self.score_texts()
        if self.spec.kind == "generation" and len(samples) < self.settings.samples:
            samples = self.generate(references_by_prompt(self.held_out.rows, self.spec)[: self.settings.samples])
        samples = samples[: self.settings.samples]
        counts = self.confusion(progress) if self.spec.kind == "classification" else None
        results: list[TrainResult] = []

        def write() -> None:
            where = self.folder.folder / TRAINED
            file_bytes = save_trained(where, self.settings.method, self.base, self.spec, self.settings.max_length)
            measured = Measured(progress, self.learning_rate, file_bytes, saved_bytes, texts, samples, counts)
            results.append(finish(self.settings, self.held_out, self.split, self.base, self.folder, self.accelerator, measured))

        processes.on_main(write, self.accelerator)
        return results[0] if results else finished_result(self.folder.folder)


def _encode_both(settings, spec: TaskSpec, train_rows, rows, split: str, base: Base, accelerator) -> tuple[Encoded, HeldOut]:
    limit = min(settings.max_length, window(base.model, base.tokenizer))
    train_set, test_set = (encode(part[:], spec, base.tokenizer, limit) for part in (train_rows, rows))
    for name, part in (("train", train_set), (split, test_set)):
        if part.truncated:
            _say(f"{part.truncated} of {len(part.features)} {name} texts were cut to {limit} tokens", accelerator)
    largest = max((max(f["input_ids"]) for part in (train_set, test_set) for f in part.features), default=0)
    words: int = base.model.get_input_embeddings().num_embeddings  # pyright: ignore[reportAssignmentType]
    if largest >= words:
        raise ValueError(f"the tokenizer gives the id {largest}, and the model knows {words} words: they do not belong together")
    answerable = train_set.answerable()
    lost = len(train_set.features) - len(answerable.features)
    if lost:
        _say(f"{lost} train examples are left out: their whole answer was cut off", accelerator)
    if not answerable.features:
        raise ValueError(f"no train row has an answer within {limit} tokens: are its texts empty, or max_length too small?")
    if not test_set.answerable().features:
        raise ValueError(f"no {split} row has an answer within {limit} tokens: are its texts empty, or max_length too small?")
    unanswerable = len(test_set.features) - len(test_set.answerable().features)
    counts = {
        "train": counts_of(spec, len(train_rows), train_set, lost),
        split: counts_of(spec, len(rows), test_set) | {"cut_off": unanswerable},
    }
    return answerable, HeldOut(spec, rows, test_set, counts)


def _check_prompts(settings: TrainSettings, held_out: HeldOut, base: Base) -> None:
    """The prompts that will be continued after training must fit: reported now, not then."""
    if held_out.spec.kind == "generation":
        count = None if settings.score_texts is None else max(settings.samples, settings.score_texts)
        prompts = references_by_prompt(held_out.rows, held_out.spec)[:count]
        checked_prompts([p for p, _ in prompts], held_out.spec, base.model, base.tokenizer)


def _say(text: str, accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        tqdm.write(text)
