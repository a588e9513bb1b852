"""`python -m multitask speed`: steps per second of mixed batches against the same rows task by task."""

import statistics
from dataclasses import dataclass, field

from rich.console import Console
from rich.markdown import Markdown

from multitask.runs.settings import MultitaskSettings
from training.runs.setting_checks import at_least


@dataclass(frozen=True)
class SpeedSettings:
    """Time one training step, in turn: the examples of all tasks in one pass, or a pass for each task."""

    run: MultitaskSettings = field(default_factory=MultitaskSettings)
    rounds: int = 40
    """timed steps of each kind of batch, in turn"""

    def __post_init__(self):
        at_least({"rounds": 5}, self)


def speed(settings: SpeedSettings) -> dict[str, list[float]]:
    import torch

    from multitask.runs.step_time import WAYS, batch_times
    from training.reports.records import markdown_table
    from training.runs.step_time import ratio

    torch.set_num_threads(settings.run.threads or 1)
    times, tokens = batch_times(settings.run, settings.rounds)
    low, middle, high = ratio(times["task by task"], times["mixed"])
    rows = [(way, f"{1 / statistics.median(times[way]):.1f}", f"{tokens[way] / settings.rounds:,.0f}") for way in WAYS]
    text = markdown_table(("batches", "steps per second", "tokens per step with padding"), rows)
    text += f"\n\ntask by task / mixed: {middle:.2f} ({low:.2f}–{high:.2f}, 20–80 %; {settings.rounds} rounds)"
    Console().print(Markdown(text))
    return times
