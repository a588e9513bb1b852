"""Commands: one student (the default), compare, sweep and tasks.

python -m distill --teacher runs/sentiment-full/adapter --student copy:1 --losses kd:T=2,a=0.9 'hidden:1->2'
python -m distill compare --teacher ... --student copy:1 --train-rows 100 --transfer-rows 2000      many students in one table
python -m distill sweep --teacher ... --student copy:1 --temperatures 1 2 4 --shares 0.5 0.9 1      temperature and mix
python -m distill tasks --tasks sentiment,nli --teachers sentiment=runs/...,nli=runs/...      one student, a teacher for each task
"""

from accelerate import PartialState
from rich.console import Console
from rich.markdown import Markdown

from distill import compare_command, sweep_command, tasks_command
from distill.report import page
from distill.run import run_distillation
from distill.settings import DistillSettings
from training.command_line import run_command


def distil(settings: DistillSettings) -> None:
    console = Console(soft_wrap=True, highlight=False)
    result = run_distillation(settings, console.print)
    if PartialState().is_main_process:
        Console().print(Markdown(page(result)))
        print(f"run folder: {settings.folder()}")


COMMANDS = {
    "compare": (compare_command.CompareSettings, compare_command.run),
    "tasks": (tasks_command.TasksSettings, tasks_command.tasks),
    "sweep": (sweep_command.SweepSettings, sweep_command.sweep),
}


run_command("distill", __doc__ or "", (DistillSettings, distil), "one student (--teacher ...)", COMMANDS)
