"""Commands: distil (the default).

python -m distill --teacher runs/sentiment-full/adapter --student copy:1 --losses kd:T=2,a=0.9 hidden:1->2
"""

import datasets
import transformers
import tyro
from accelerate import PartialState
from rich.console import Console
from rich.markdown import Markdown

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


def main() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    with plain_errors():
        description = f"{__doc__}\n\n{DistillSettings.__doc__}"
        distil(tyro.cli(DistillSettings, prog="python -m distill", description=description))


main()
