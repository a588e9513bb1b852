"""`python -m training --task ... --method ...`, and `python -m training demo | conditions | pretrain`."""

import sys

import transformers
import tyro
from rich.console import Console

from training.compare import HEADER, table_rows
from training.conditions_command import ConditionsSettings
from training.conditions_command import run as conditions
from training.demo_command import demo
from training.pretrain_command import PretrainSettings, run
from training.records import markdown_table
from training.run import train_model
from training.settings import TrainSettings


def main() -> None:
    transformers.utils.logging.set_verbosity_error()  # its notices about new heads are told by our own tables
    transformers.utils.logging.disable_progress_bar()
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        if command == "pretrain":
            run(tyro.cli(PretrainSettings, prog="python -m training pretrain", args=sys.argv[2:]))
        elif command == "conditions":
            conditions(tyro.cli(ConditionsSettings, prog="python -m training conditions", args=sys.argv[2:]))
        elif command == "demo":
            demo()
        else:
            settings = tyro.cli(TrainSettings, prog="python -m training", description=f"{__doc__}\n\n{TrainSettings.__doc__}")
            result = train_model(settings.task, settings)
            Console(soft_wrap=True).print(markdown_table(HEADER, table_rows([result])), markup=False)
            print(f"run folder: {result.folder}")
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")


main()
