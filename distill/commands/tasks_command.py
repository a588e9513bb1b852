"""`python -m distill tasks`: one student for several tasks, each with its own teacher."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from multitask.runs.settings import MultitaskSettings, pairs


@dataclass(frozen=True)
class TasksSettings:
    """Train one multitask model on labels and on what a teacher for each task says."""

    run: MultitaskSettings = field(default_factory=MultitaskSettings)
    teachers: str = ""
    """folders of trained models: sentiment=runs/A/adapter,nli=runs/B/adapter; a task without one learns from its labels alone"""
    kd_temperature: float = 2.0
    """temperature of the soft labels"""
    labels_from: float = 0.0
    """the share of the labels in the loss, at the first step; the rest is the teacher's"""
    labels_to: float = 1.0
    """the same at the last step: 0 to 1 is teacher annealing"""

    def __post_init__(self):
        for name in ("labels_from", "labels_to"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected a share, 0 to 1")
        if self.labels_from == self.labels_to == 1:
            raise ValueError(
                "labels_from=1, labels_to=1: nothing is left to the teachers; take python -m multitask, or a share below 1"
            )
        if not 0 < self.kd_temperature < 1e6:
            raise ValueError(f"kd_temperature={self.kd_temperature}: expected more than 0")


def tasks(settings: TasksSettings) -> dict:
    from accelerate import PartialState

    from distill.runs.many_tasks import DistilledTrainer, load_teacher
    from multitask.runs.report import page
    from multitask.runs.run import build_model, run_multitask
    from training.models.base_models import window

    console = Console(soft_wrap=True, highlight=False)
    folders = pairs(settings.teachers, "teachers")
    strange = sorted(set(folders) - set(settings.run.specs()))
    if strange or not folders:
        raise ValueError(f"teachers={settings.teachers!r}: expected TASK=FOLDER for some of {', '.join(settings.run.specs())}")
    model, tokenizer, _ = build_model(settings.run)
    limit = min(settings.run.max_length, window(model.backbone, tokenizer))
    teachers = {task: load_teacher(task, Path(folder), tokenizer, limit) for task, folder in folders.items()}
    share = settings.labels_from, settings.labels_to
    options = {"teachers": teachers, "temperature": settings.kd_temperature, "share": share}
    more = {"teachers": {task: teacher.checksum() for task, teacher in teachers.items()}}
    more |= {"kd_temperature": settings.kd_temperature, "labels": list(share)}
    result = run_multitask(settings.run, console.print, partial(DistilledTrainer, **options), more)
    if PartialState().is_main_process:
        Console().print(Markdown(page(result)))
        print(f"run folder: {settings.run.folder()}")
    return result
