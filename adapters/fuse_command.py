"""`python -m adapters fuse`: one adapter a task, a fusion of all for each task, full fine-tuning beside them, one report."""

import json
import shlex
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rich.console import Console
from rich.markdown import Markdown

from training.data.tasks import TASKS, find_task
from training.runs.option_groups import BottleneckOptions
from training.runs.setting_checks import at_least
from training.runs.settings import TrainSettings

if TYPE_CHECKING:
    from multitask.studies.fusion_study import Study


@dataclass(frozen=True)
class StudyOptions:
    """The tasks, the base model and what is fused."""

    tasks: str = "sentiment,nli,qa"
    """joined by commas; small world or real (sst2,mnli,squad), with heads that answer: no generation"""
    model: str | None = None
    """encoder (the committed small base; None), a folder, or a Hub name"""
    data: Path | None = None
    """folder with a folder of each task's data in it (TASK or glue/TASK); None: the small world, or the Hub"""
    method: Literal["bottleneck", "lora", "prefix"] = "bottleneck"
    """what is fused; prefix raises, and says why"""
    static: bool = False
    """one learned score for each adapter and insertion point, in place of attention by token"""
    seeds: int = 1
    """runs of each row, with the same seeds for all rows"""
    out: Path = Path("runs/fuse")
    """folder for the runs and the report"""


@dataclass(frozen=True)
class LoraOptions:
    """For --method lora."""

    used_by: ClassVar = ("lora",)

    r: int = 8
    """the rank"""
    target_modules: str = "query,value"
    """names joined by commas; a fusion has 3 d² parameters for each of them, so choose few"""


@dataclass(frozen=True)
class TrainingOptions:
    """The length of the training, the batches, the learning rates and the evaluation."""

    steps: int = 300
    """optimizer steps of each adapter"""
    fusion_steps: int | None = None
    """optimizer steps of each fusion; None is `steps`"""
    batch_size: int = 16
    """examples per step"""
    learning_rate: float | None = None
    """of the adapters; None is the method's default for the model's size"""
    fusion_learning_rate: float | None = None
    """of the fusions; None is the default of method fusion"""
    full_learning_rate: float | None = None
    """of full fine-tuning; None is the default of method full"""
    max_length: int = 128
    """longer texts are cut to so many tokens"""
    qa_length: int = 192
    """the same for questions with a passage"""
    eval_rows: int | None = None
    """evaluate on the first so many examples only; None is all"""
    eval_every: int = 100
    """steps between evaluations"""
    save_every: int = 50
    """steps between checkpoints"""
    trackers: str = "tensorboard"
    """tensorboard, wandb, mlflow, joined by commas; "" is nowhere"""
    threads: int | None = None
    """torch threads; None is 1 for models under 5 M parameters and torch's own choice above"""


@dataclass(frozen=True)
class ComparisonOptions:
    """The rows beside adapters and fusions."""

    full: bool = True
    """whether to fine-tune fully too"""
    longer: bool = True
    """whether to train each adapter alone for as many steps as adapter and fusion together"""
    mix: bool = True
    """whether to train models for all tasks too: one fusion on the mix of the tasks, and (with full) one full model with heads"""


@dataclass(frozen=True)
class FuseSettings(ComparisonOptions, TrainingOptions, LoraOptions, BottleneckOptions, StudyOptions):
    """Train one adapter per task on its own, save each, fuse them, and compare with each adapter and with full fine-tuning."""

    def __post_init__(self):
        at_least({"steps": 1, "seeds": 1, "fusion_steps": 1}, self)
        if self.method == "prefix":
            raise ValueError(
                "method prefix: a prefix changes what every layer attends to. It says nothing at a place of its own that an "
                "attention could weigh, so there is no fusion of prefixes; take bottleneck or lora"
            )
        names = [name for name in self.tasks.split(",") if name]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"tasks={self.tasks!r}: expected two or more different ones, joined by commas")
        writing = [name for name in names if find_task(name).is_language_modelling]
        if writing:
            raise ValueError(f"tasks {writing} write text: a fusion needs one kind of base, here with heads that answer")


def fuse(settings: FuseSettings) -> None:
    from loralib.files.save_and_load import write_atomic
    from multitask.studies.fusion_page import draw_quality, draw_weights, page
    from multitask.studies.fusion_study import run_study
    from training.data.data import load_task
    from training.models.base_models import load_base

    console = Console(soft_wrap=True, highlight=False)
    study = make_study(settings)
    for single in study.tasks.values():  # what could fail later fails now
        load_task(TASKS[single.task], single.data_dir, 0, single.train_rows)
        load_base(TASKS[single.task], single.model)
    settings.out.mkdir(parents=True, exist_ok=True)
    results = run_study(study, console.print)
    chart, weights = draw_quality(results, settings.out / "quality.png"), draw_weights(results, settings.out / "attention.png")
    text = page(results, shlex.join(["python", "-m", "adapters", *sys.argv[1:]]), chart.name, weights.name)
    write_atomic(settings.out / "report.md", text.encode())
    write_atomic(settings.out / "results.json", (json.dumps([asdict(r) for r in results], indent=1) + "\n").encode())
    console.print(Markdown(text))
    print(f"report: {settings.out / 'report.md'}")


def make_study(settings: FuseSettings) -> "Study":
    """The runs that the settings mean."""
    from multitask.studies.fusion_study import Study

    shared = ("model", "steps", "batch_size", "learning_rate", "eval_rows", "eval_every", "save_every", "trackers", "threads")
    options: dict[str, Any] = {name: getattr(settings, name) for name in shared} | {"method": settings.method}
    if settings.method == "lora":
        options |= {"r": settings.r, "target_modules": settings.target_modules}
    else:
        options |= {"placement": settings.placement, "reduction_factor": settings.reduction_factor}
    base = TrainSettings(**options)
    tasks = {
        name: replace(
            base,
            task=name,
            data_dir=_folder(settings.data, name),
            max_length=settings.qa_length if find_task(name).kind == "qa" else settings.max_length,
        )
        for name in settings.tasks.split(",")
        if name
    }
    fusion = {
        "learning_rate": settings.fusion_learning_rate,
        "fusion_dynamic": not settings.static,
        "steps": settings.fusion_steps or settings.steps,
    }
    full = {"learning_rate": settings.full_learning_rate} if settings.full else None
    return Study(tasks, fusion, full, settings.longer, settings.mix, settings.seeds, settings.out)


def _folder(root: Path | None, task: str) -> str | None:
    if root is None:
        return None
    for folder in (root / task, root / "glue" / task):
        if folder.is_dir():
            return str(folder)
    raise ValueError(f"{root}: no folder {task} or glue/{task} in it")
