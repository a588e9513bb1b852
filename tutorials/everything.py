"""Every method of this course on one task: the same examples, steps and seeds.

    normalized score = (metric - untouched) / (best possible - untouched)

is 0 for the base without training and 1 for the computed ceiling. Each method has its default learning rate. Two rows cannot be
quite like the others: the fusion starts from adapters that had their own steps, and the distilled student learns from a teacher
(the row `full`) and from further texts without labels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from distill.losses.loss_specs import read_losses
from distill.runs.run import run_distillation
from distill.runs.settings import DistillSettings
from distill.student.copy_spec import read_copy
from distill.student.student import copy_student
from distill.teacher.teacher import Teacher
from distill.losses.terms import LABELLED, make_terms
from distill.runs.trainer import Distiller, DistillSteps
from kernels.measure import saved_bytes
from training.data.batching import Steps
from training.studies.conditions import STEPS
from training.data.data import load_task
from training.data.encoding import encode
from training.evaluation.evaluation import objective_of
from training.loop.loop import LoopSettings
from training.reports.records import COLOURS
from training.runs.run import train_model
from training.runs.run_folder import RESULT, TRAINED
from training.runs.settings import TrainSettings
from training.runs.step_time import times_in_turn, trainer_of
from training.models.trained import load_trained
from training.data.world_tasks import WORLD_TASKS

TRANSFER = 2000  # unlabelled texts for which the teacher gives soft labels
METHODS: dict[str, dict[str, Any]] = {
    "untouched": {"method": "untouched"},
    "head alone": {"method": "head"},
    "full": {"method": "full"},
    "LoRA": {"method": "lora"},
    "rsLoRA r=32": {"method": "lora", "r": 32, "use_rslora": True, "lora_alpha": 2 * 8**0.5},  # at r = 8 this is LoRA's scale, 2
    "DoRA": {"method": "lora", "use_dora": True},
    "QLoRA": {"method": "qlora"},
    "(IA)³": {"method": "ia3"},
    "bottleneck": {"method": "bottleneck", "placement": "parallel", "reduction_factor": 4.0},
    "prefix": {"method": "prefix"},
    "prompt": {"method": "prompt"},
    "fusion": {"method": "fusion"},
    "distilled": {"student": "copy:1", "losses": ("kd:T=2,a=0.9",), "transfer_rows": TRANSFER},
}
MEMBERS = ("sentiment", "topic", "qa")  # tasks of a fusion's adapters, beside the task's own
COLOUR = {method: COLOURS[options.get("method", "distilled")] for method, options in METHODS.items()}
COLOUR |= {"rsLoRA r=32": COLOURS["rslora"], "DoRA": COLOURS["dora"]}


@dataclass(frozen=True)
class Measured:
    """One method on one task with one seed. `metric` is the task's, higher is better; sizes in bytes."""

    task: str
    method: str
    seed: int
    metric: float
    ceiling: float
    trained: int
    file_bytes: int
    saved_bytes: int
    """saved activations: what autograd holds for one batch"""


def measure(
    task: str, methods: list[str], seeds: int, folder: Path, say: Callable[[str], None] = lambda text: None
) -> list[Measured]:
    """Train every method with every seed, seed by seed. Runs that are finished are read from `folder`.

    ValueError for an unknown method.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise ValueError(f"methods {unknown}: expected some of {', '.join(METHODS)}")
    runs = []
    for seed in range(seeds):
        for method in methods:
            run = _distilled if method == "distilled" else _fused if method == "fusion" else _trained
            runs.append(run(task, method, seed, folder))
            say(f"{task}, seed {seed}: {method}: {runs[-1].metric:.3f}")
    return runs


def step_times(task: str, methods: list[str], folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of a training step of every method, in turn, after `measure` left its runs of seed 0 in `folder`."""
    trainers = {}
    for method in (method for method in methods if method != "untouched"):
        if method == "distilled":
            trainers[method] = _student_trainer(_folder(folder, task, "full", 0) / TRAINED)
        else:
            members = {"members": ",".join(_members(task, 0, folder))} if method == "fusion" else {}
            trainers[method] = trainer_of(TrainSettings(task=task, **METHODS[method], **members))
    return times_in_turn(trainers, rounds)


def normalized_scores(runs: list[Measured], method: str) -> list[float]:
    """(metric - untouched) / (ceiling - untouched), seed by seed. `runs` is of one task."""
    start = {m.seed: m.metric for m in runs if m.method == "untouched"}
    return [(m.metric - start[m.seed]) / (m.ceiling - start[m.seed]) for m in runs if m.method == method]


def _settings(task: str, seed: int) -> dict[str, Any]:
    return {"steps": STEPS.get(task, 300), "eval_every": 10**6, "trackers": "", "seed": seed}


def _folder(folder: Path, task: str, method: str, seed: int) -> Path:
    return folder / f"{task}-{''.join(filter(str.isalnum, method.lower()))}-{seed}"


def _trained(task: str, method: str, seed: int, folder: Path, **more: Any) -> Measured:
    out = str(_folder(folder, task, method, seed))
    run = train_model(task, out=out, samples=0, **_settings(task, seed), **METHODS[method], **more)
    if run.ceiling is None:
        raise ValueError(f"task {task!r}: its best possible score is not known; take one of the small world")
    sizes = run.trainable, run.file_bytes, run.saved_bytes
    return Measured(task, method, seed, run.metric, run.ceiling, *sizes)


def _fused(task: str, method: str, seed: int, folder: Path) -> Measured:
    """A fusion of adapters of this task and of others, each trained on its own before."""
    return _trained(task, method, seed, folder, members=",".join(_members(task, seed, folder)))


def _members(task: str, seed: int, folder: Path) -> list[str]:
    tasks = (task, *(m for m in MEMBERS if m != task))
    return [str(_finished(name, "bottleneck", seed, folder)) for name in tasks]


def _finished(task: str, method: str, seed: int, folder: Path) -> Path:
    """The trained folder of a run, which is trained now if it was not before."""
    out = _folder(folder, task, method, seed)
    if not (out / RESULT).exists():
        _trained(task, method, seed, folder)
    return out / TRAINED


def _distilled(task: str, method: str, seed: int, folder: Path) -> Measured:
    """One layer of the row `full`, which is the teacher and also gives soft labels for further texts."""
    teacher, out = _finished(task, "full", seed, folder), _folder(folder, task, method, seed)
    labels = WORLD_TASKS[task].train_rows
    result = run_distillation(
        DistillSettings(teacher=str(teacher), train_rows=labels, out=str(out), **_settings(task, seed), **METHODS[method])
    )
    sizes = result["parameters"], result["file_bytes"], _saved_by_student(out / TRAINED, seed)
    return Measured(task, method, seed, result["metric"], result["ceiling"], *sizes)


def _saved_by_student(folder: Path, seed: int) -> int:
    """Saved activations of the student, without the teacher, for the batch that the other rows also start with."""
    student = load_trained(folder)
    model, tokenizer, spec = student.base.model.train(), student.base.tokenizer, student.spec
    rows = load_task(spec, None, seed)["train"]
    batch = next(Steps(encode(rows[:], spec, tokenizer, student.max_length).features, tokenizer, 16, seed))[0]
    return saved_bytes(lambda: objective_of(spec.kind).loss_sum(model, batch), model.parameters())


def _student_trainer(teacher: Path) -> DistillSteps:
    """The student's trainer as in `_distilled`: a step also runs the teacher."""
    trained, specs = load_trained(teacher), read_losses(METHODS["distilled"]["losses"])
    student = copy_student(trained.base.model, read_copy(METHODS["distilled"]["student"])).requires_grad_(True).train()
    none = nn.ModuleDict()
    teacher_model = Teacher([trained.base.model], trained.spec.kind)
    distiller = Distiller(student, none, make_terms(specs, trained.spec.kind, none, causal=False), None, teacher_model)
    examples = load_task(trained.spec, None, 0)["train"]
    features = [f | {LABELLED: 1} for f in encode(examples[:], trained.spec, trained.base.tokenizer, trained.max_length).features]
    return DistillSteps(distiller, Steps(features, trained.base.tokenizer, 16, 0), LoopSettings(steps=10**6, warmup_share=0.0))
