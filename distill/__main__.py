"""Train one student of a teacher, or run one of the commands.

python -m distill --teacher runs/sentiment-full/adapter --student copy:1                         soft labels (kd:T=2,a=0.9)
python -m distill --teacher runs/A/adapter --student copy:1 --losses kd:T=2,a=0.9 'hidden:1->2'   and hidden states
python -m distill --teacher runs/A/adapter --student copy:1 --check                              try this run out
python -m distill compare --teacher runs/A/adapter --student copy:1 --train-rows 100             many students in one table
python -m distill sweep --teacher runs/A/adapter --student copy:1 --temperatures 1 2 4           temperature and share
python -m distill tasks --tasks sentiment,nli --teachers sentiment=runs/A/adapter                one student, several teachers
"""

from distill.commands.compare_command import CompareSettings
from distill.commands.compare_command import run as compare
from distill.commands.sweep_command import SweepSettings, sweep
from distill.commands.tasks_command import TasksSettings, tasks
from distill.runs.settings import DistillSettings
from training.commands.command_line import Command, run_command


def distil(settings: DistillSettings) -> None:
    from accelerate import PartialState
    from rich.console import Console
    from rich.markdown import Markdown

    from distill.runs.report import page
    from distill.runs.run import run_distillation

    result = run_distillation(settings, Console(soft_wrap=True, highlight=False).print)
    if PartialState().is_main_process:
        Console().print(Markdown(page(result)))
        print(f"run folder: {settings.folder()}")


def try_out(settings: DistillSettings) -> None:
    from distill.runs.dry_run import check_distillation

    check_distillation(settings, print)


COMMANDS = {
    "compare": Command(CompareSettings, compare),
    "sweep": Command(SweepSettings, sweep),
    "tasks": Command(TasksSettings, tasks),
}


run_command("distill", __doc__ or "", COMMANDS, default=Command(DistillSettings, distil, try_out=try_out))
