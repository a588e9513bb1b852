"""Commands: train (the default), compare, transfer and speed.

python -m multitask --tasks sentiment,topic,nli --task_sampling proportional --loss_weighting uncertainty \
    --use_task_embeddings --analyze_interference              one model for these tasks
python -m multitask compare --tasks sentiment,topic,nli       against a model for each
python -m multitask transfer --tasks sentiment,topic,nli      each task after each other
python -m multitask speed --tasks sentiment,topic,nli         a mixed batch against the same rows task by task
"""

from accelerate import PartialState
from rich.console import Console
from rich.markdown import Markdown

from multitask import compare_command, speed_command, transfer_command
from multitask.report import page
from multitask.run import run_multitask
from multitask.settings import MultitaskSettings
from training.command_line import run_command


def train(settings: MultitaskSettings) -> None:
    console = Console(soft_wrap=True, highlight=False)
    result = run_multitask(settings, console.print)
    if PartialState().is_main_process:
        Console().print(Markdown(page(result)))
        print(f"run folder: {settings.folder()}")


COMMANDS = {
    "compare": (compare_command.CompareSettings, compare_command.run),
    "transfer": (transfer_command.TransferSettings, transfer_command.run),
    "speed": (speed_command.SpeedSettings, speed_command.speed),
}


run_command("multitask", __doc__ or "", (MultitaskSettings, train), "train (--tasks ...)", COMMANDS)
