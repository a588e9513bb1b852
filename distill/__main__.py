"""Commands: one student (the default), compare, sweep and tasks.

python -m distill --teacher runs/sentiment-full/adapter --student copy:1 --losses kd:T=2,a=0.9 'hidden:1->2'
python -m distill compare --teacher ... --student copy:1 --train-rows 100 --transfer-rows 2000      many students in one table
python -m distill sweep --teacher ... --student copy:1 --temperatures 1 2 4 --shares 0.5 0.9 1      temperature and mix
python -m distill tasks --tasks sentiment,nli --teachers sentiment=runs/...,nli=runs/...      one student, a teacher for each task
"""

import sys

import datasets
import transformers
import tyro
from accelerate import PartialState
from rich.console import Console
from rich.markdown import Markdown

from distill import compare_command, sweep_command, tasks_command
from distill.report import page
from distill.run import run_distillation
from distill.settings import DistillSettings
from training.interrupt import plain_errors


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


def main() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    with plain_errors():
        if name in COMMANDS:
            settings, command = COMMANDS[name]
            command(tyro.cli(settings, prog=f"python -m distill {name}", args=sys.argv[2:]))
            return
        if name and not name.startswith("-"):
            sys.exit(
                f"error: no command {name!r}; there are {', '.join(COMMANDS)}, and without a command: one student (--teacher ...)"
            )
        description = f"{__doc__}\n\n{DistillSettings.__doc__}"
        distil(tyro.cli(DistillSettings, prog="python -m distill", description=description))


main()
