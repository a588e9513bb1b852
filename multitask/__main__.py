"""Train one model on several tasks, or run one of the commands.

python -m multitask --tasks sentiment,topic,nli                              one model for these tasks
python -m multitask --tasks sentiment,nli --loss_weighting uncertainty       with learned weights of the losses
python -m multitask --tasks sentiment,nli --use_task_embeddings              the backbone knows the task of each example
python -m multitask --tasks sentiment,nli --analyze_interference             do the gradients of the tasks conflict?
python -m multitask --tasks sentiment,topic,nli --check                      try this run out: one step, saved, loaded
python -m multitask compare --tasks sentiment,topic,nli                      against one model for each task
python -m multitask transfer --tasks sentiment,topic,nli                     each task trained after each other task
python -m multitask speed --tasks sentiment,topic,nli                        mixed batches against one task at a time
"""

from multitask.commands.compare_command import CompareSettings
from multitask.commands.compare_command import run as compare
from multitask.commands.speed_command import SpeedSettings, speed
from multitask.commands.transfer_command import TransferSettings
from multitask.commands.transfer_command import run as transfer
from multitask.runs.settings import MultitaskSettings
from training.commands.command_line import Command, run_command


def train(settings: MultitaskSettings) -> None:
    from accelerate import PartialState
    from rich.console import Console
    from rich.markdown import Markdown

    from multitask.runs.report import page
    from multitask.runs.run import run_multitask

    result = run_multitask(settings, Console(soft_wrap=True, highlight=False).print)
    if PartialState().is_main_process:
        Console().print(Markdown(page(result)))
        print(f"run folder: {settings.folder()}")


def try_out(settings: MultitaskSettings) -> None:
    from multitask.runs.dry_run import check_multitask

    check_multitask(settings, print)


COMMANDS = {
    "compare": Command(CompareSettings, compare),
    "transfer": Command(TransferSettings, transfer),
    "speed": Command(SpeedSettings, speed),
}


run_command("multitask", __doc__ or "", COMMANDS, default=Command(MultitaskSettings, train, try_out=try_out))
