"""Every method of this course on one task: the same rows, steps and seeds.

    share = (metric - untouched) / (best possible - untouched)

of the way from the base as it comes to the computed ceiling. Each method has its default learning rate. Two rows cannot be quite
like the others: the fusion starts from adapters that had their own steps, and the distilled student asks a teacher (the row
`full`) about further texts without labels.
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

TRANSFER = 2000  # texts without labels that the teacher answers
WAYS: dict[str, dict[str, Any]] = {
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
COLOUR = {way: COLOURS[options.get("method", "distilled")] for way, options in WAYS.items()}
COLOUR |= {"rsLoRA r=32": COLOURS["rslora"], "DoRA": COLOURS["dora"]}


@dataclass(frozen=True)
class Measured:
    """One way on one task with one seed. `metric` is the task's, higher is better; sizes in bytes."""

    task: str
    way: str
    seed: int
    metric: float
    ceiling: float
    trained: int
    file_bytes: int
    saved_bytes: int
    """kept by autograd for backward, one batch"""


def measure(
    task: str, ways: list[str], seeds: int, folder: Path, say: Callable[[str], None] = lambda text: None
) -> list[Measured]:
    """Train every way with every seed, seed by seed. Runs that are finished are read from `folder`.

    ValueError for a way that there is not.
    """
    unknown = [way for way in ways if way not in WAYS]
    if unknown:
        raise ValueError(f"ways {unknown}: expected some of {', '.join(WAYS)}")
    found = []
    for seed in range(seeds):
        for way in ways:
            run = _distilled if way == "distilled" else _fused if way == "fusion" else _trained
            found.append(run(task, way, seed, folder))
            say(f"{task}, seed {seed}: {way}: {found[-1].metric:.3f}")
    return found


def step_times(task: str, ways: list[str], folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of a training step of every way, in turn, after `measure` left its runs of seed 0 in `folder`."""
    trainers = {}
    for way in (way for way in ways if way != "untouched"):
        if way == "distilled":
            trainers[way] = _student_trainer(_folder(folder, task, "full", 0) / TRAINED)
        else:
            members = {"members": ",".join(_members(task, 0, folder))} if way == "fusion" else {}
            trainers[way] = trainer_of(TrainSettings(task=task, **WAYS[way], **members))
    return times_in_turn(trainers, rounds)


def share(found: list[Measured], way: str) -> list[float]:
    """The share of the way to the ceiling, seed by seed. `found` is of one task."""
    start = {m.seed: m.metric for m in found if m.way == "untouched"}
    return [(m.metric - start[m.seed]) / (m.ceiling - start[m.seed]) for m in found if m.way == way]


def _settings(task: str, seed: int) -> dict[str, Any]:
    return {"steps": STEPS.get(task, 300), "eval_every": 10**6, "trackers": "", "seed": seed}


def _folder(folder: Path, task: str, way: str, seed: int) -> Path:
    return folder / f"{task}-{''.join(filter(str.isalnum, way.lower()))}-{seed}"


def _trained(task: str, way: str, seed: int, folder: Path, **more: Any) -> Measured:
    out = str(_folder(folder, task, way, seed))
    run = train_model(task, out=out, samples=0, **_settings(task, seed), **WAYS[way], **more)
    if run.ceiling is None:
        raise ValueError(f"task {task!r}: its best possible score is not known; take one of the small world")
    sizes = run.trainable, run.file_bytes, run.saved_bytes
    return Measured(task, way, seed, run.metric, run.ceiling, *sizes)


def _fused(task: str, way: str, seed: int, folder: Path) -> Measured:
    """A fusion of adapters of this task and of others, each trained on its own before."""
    return _trained(task, way, seed, folder, members=",".join(_members(task, seed, folder)))


def _members(task: str, seed: int, folder: Path) -> list[str]:
    tasks = (task, *(m for m in MEMBERS if m != task))
    return [str(_finished(name, "bottleneck", seed, folder)) for name in tasks]


def _finished(task: str, way: str, seed: int, folder: Path) -> Path:
    """The trained folder of a run, which is trained now if it was not before."""
    out = _folder(folder, task, way, seed)
    if not (out / RESULT).exists():
        _trained(task, way, seed, folder)
    return out / TRAINED


def _distilled(task: str, way: str, seed: int, folder: Path) -> Measured:
    """One layer of the row `full`, its teacher, which also answers further texts."""
    teacher, out = _finished(task, "full", seed, folder), _folder(folder, task, way, seed)
    labels = WORLD_TASKS[task].train_rows
    result = run_distillation(
        DistillSettings(teacher=str(teacher), train_rows=labels, out=str(out), **_settings(task, seed), **WAYS[way])
    )
    sizes = result["parameters"], result["file_bytes"], _kept_by_student(out / TRAINED, seed)
    return Measured(task, way, seed, result["metric"], result["ceiling"], *sizes)


def _kept_by_student(folder: Path, seed: int) -> int:
    """What autograd keeps of the student's own forward pass, on the first batch that the other rows saw too."""
    student = load_trained(folder)
    model, tokenizer, spec = student.base.model.train(), student.base.tokenizer, student.spec
    rows = load_task(spec, None, seed)["train"]
    batch = next(Steps(encode(rows[:], spec, tokenizer, student.max_length).features, tokenizer, 16, seed))[0]
    return saved_bytes(lambda: objective_of(spec.kind).loss_sum(model, batch), model.parameters())


def _student_trainer(teacher: Path) -> DistillSteps:
    """The student's trainer as `_distilled` has it: its step asks the teacher too."""
    big, words = load_trained(teacher), read_losses(WAYS["distilled"]["losses"])
    student = copy_student(big.base.model, read_copy(WAYS["distilled"]["student"])).requires_grad_(True).train()
    none = nn.ModuleDict()
    asked = Teacher([big.base.model], big.spec.kind)
    distiller = Distiller(student, none, make_terms(words, big.spec.kind, none, causal=False), None, asked)
    rows = load_task(big.spec, None, 0)["train"]
    features = [f | {LABELLED: 1} for f in encode(rows[:], big.spec, big.base.tokenizer, big.max_length).features]
    return DistillSteps(distiller, Steps(features, big.base.tokenizer, 16, 0), LoopSettings(steps=10**6, warmup_share=0.0))
