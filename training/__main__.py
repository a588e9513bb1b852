"""Train a base model on one task, or run one of the commands.

python -m training --task sst2 --model roberta-base --method lora      train; --method lora --help lists the options of LoRA
python -m training --task sst2 --model roberta-base --check            try this run out in seconds: one step, saved, loaded
python -m training generate --adapter runs/NAME/adapter                texts from a trained model
python -m training evaluate --adapter runs/NAME/adapter                its scores on a split
python -m training report runs/*                                       several runs in one table and chart
python -m training compare --task sst2 --model roberta-base            every way to adapt, side by side
python -m training gap                                                 what each method keeps of full fine-tuning's gain
python -m training benchmark --tasks all --model roberta-base          the eight tasks of GLUE in one table
python -m training conditions                                          does pretraining matter, do methods differ
python -m training pretrain                                            the committed small bases, made again

methods: full, head, lora, qlora, ia3, bottleneck, prefix, prompt, fusion, untouched
"""

from training.commands.benchmark_command import BenchmarkSettings, benchmark
from training.commands.command_line import Command, run_command
from training.commands.compare_command import CompareSettings, compare
from training.commands.conditions_command import ConditionsSettings
from training.commands.conditions_command import run as conditions
from training.commands.evaluate_command import EvaluateSettings, evaluate_trained
from training.commands.gap_command import GapSettings, gap
from training.commands.generate_command import GenerateSettings, generate
from training.commands.pretrain_command import PretrainSettings, run
from training.commands.report_command import ReportSettings, report
from training.data.tasks import find_task
from training.runs.settings import TrainSettings


def train(settings: TrainSettings) -> None:
    from accelerate import PartialState
    from rich.console import Console

    from training.reports.records import markdown_table
    from training.runs.result_table import HEADER, table_rows
    from training.runs.run import train_model

    result = train_model(settings.task, settings)
    if PartialState().is_main_process:
        Console(soft_wrap=True).print(markdown_table(HEADER, table_rows([result])), markup=False)
        print(f"run folder: {result.folder}")


def try_out(settings: TrainSettings) -> None:
    from training.runs.dry_run import check_training

    check_training(settings, print)


COMMANDS = {
    "generate": Command(GenerateSettings, generate),
    "evaluate": Command(EvaluateSettings, evaluate_trained),
    "report": Command(ReportSettings, report),
    "compare": Command(CompareSettings, compare, methods=("lora",), check=lambda settings: find_task(settings.run.task)),
    "gap": Command(GapSettings, gap),
    "benchmark": Command(BenchmarkSettings, benchmark),
    "conditions": Command(ConditionsSettings, conditions),
    "pretrain": Command(PretrainSettings, run),
}


DEFAULT = Command(TrainSettings, train, check=lambda settings: find_task(settings.task), try_out=try_out)
run_command("training", __doc__ or "", COMMANDS, DEFAULT)
