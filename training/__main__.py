"""Commands: train (the default), generate, evaluate, report, compare, gap, benchmark, demo, conditions, pretrain.

python -m training --task sst2 --model roberta-base --method lora      train (qlora, full, ...); --help lists all
python -m training generate --adapter runs/NAME/adapter                texts from a trained model
python -m training evaluate --adapter runs/NAME/adapter                its scores on a split
python -m training report runs/*                                       several runs in one table and chart
python -m training compare --task sst2 --model roberta-base            every way to adapt, side by side
python -m training gap                                                 what each method keeps of full fine-tuning's gain
python -m training benchmark --tasks all --model roberta-base          the eight tasks of GLUE in one table
python -m training demo | conditions | pretrain                        what the README shows
"""

import sys

import datasets
import transformers
import tyro
from accelerate import PartialState
from rich.console import Console

from training.benchmark_command import BenchmarkSettings, benchmark
from training.compare_command import CompareSettings, compare
from training.conditions_command import ConditionsSettings
from training.conditions_command import run as conditions
from training.demo import HEADER, table_rows
from training.demo_command import DemoSettings, demo
from training.evaluate_command import EvaluateSettings, evaluate_trained
from training.gap_command import GapSettings, gap
from training.generate_command import GenerateSettings, generate
from training.interrupt import plain_errors
from training.pretrain_command import PretrainSettings, run
from training.records import markdown_table
from training.report_command import ReportSettings, report
from training.run import train_model
from training.settings import TrainSettings


def train(settings: TrainSettings) -> None:
    result = train_model(settings.task, settings)
    if PartialState().is_main_process:
        Console(soft_wrap=True).print(markdown_table(HEADER, table_rows([result])), markup=False)
        print(f"run folder: {result.folder}")


COMMANDS = {
    "generate": (GenerateSettings, generate),
    "evaluate": (EvaluateSettings, evaluate_trained),
    "report": (ReportSettings, report),
    "compare": (CompareSettings, compare),
    "gap": (GapSettings, gap),
    "benchmark": (BenchmarkSettings, benchmark),
    "demo": (DemoSettings, demo),
    "conditions": (ConditionsSettings, conditions),
    "pretrain": (PretrainSettings, run),
}


def main() -> None:
    transformers.utils.logging.set_verbosity_error()  # its notices about new heads are told by our own tables
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    with plain_errors():
        if name in COMMANDS:
            settings, command = COMMANDS[name]
            command(tyro.cli(settings, prog=f"python -m training {name}", args=sys.argv[2:]))
        elif name and not name.startswith("-"):
            sys.exit(f"error: no command {name!r}; there are {', '.join(COMMANDS)}, and without a command: train (--task ...)")
        else:
            description = f"{__doc__}\n\n{TrainSettings.__doc__}"
            train(tyro.cli(TrainSettings, prog="python -m training", description=description))


main()
