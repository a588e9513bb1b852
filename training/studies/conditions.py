"""Is the small world worth learning in? Pretraining must matter, and methods must differ; both are measured here.

The rule, fixed beforehand: a difference counts when the mean of the paired differences over seeds is more than two
standard errors from zero. Loss differences change sign, so that more is always better.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training.data.tasks import TASKS
from training.data.world_tasks import WORLD_TASKS
from training.reports.paired import clearly_better, paired_gap
from training.reports.records import markdown_table
from training.runs.run import train_model

STEPS = {"nli": 600, "data2text": 600}  # others: 300
RUNS = {
    "full, random weights": {"method": "full", "random_weights": True},
    "full": {"method": "full"},
    "lora": {"method": "lora"},
    "head": {"method": "head"},
}


@dataclass(frozen=True)
class Measured:
    """One task: the metric of each run over the seeds, and the best possible."""

    task: str
    values: dict[str, list[float]]
    ceiling: float

    def gap(self, better: str, worse: str) -> tuple[float, float]:
        """(mean, standard error) of the paired differences better - worse."""
        return paired_gap(self.values[better], self.values[worse], TASKS[self.task].higher_is_better)

    def clearly(self, better: str, worse: str) -> bool:
        return clearly_better(self.values[better], self.values[worse], TASKS[self.task].higher_is_better)


def measure(folder: Path, seeds: range, say: Callable[[str], None]) -> list[Measured]:
    """Run every task, method and seed (about 72 short trainings); the seeds are paired across methods."""
    results = []
    for task in WORLD_TASKS:
        values: dict[str, list[float]] = {}
        best = math.nan
        for name, options in RUNS.items():
            for seed in seeds:
                out = str(folder / f"{task}-{name.replace(', ', '-').replace(' ', '-')}-{seed}")
                steps = STEPS.get(task, 300)
                run = train_model(task, steps=steps, eval_every=10**6, trackers="", seed=seed, samples=0, out=out, **options)
                values.setdefault(name, []).append(run.metric)
                best = math.nan if run.ceiling is None else run.ceiling
            say(f"{task}: {name}: {', '.join(f'{v:.3f}' for v in values[name])}")
        results.append(Measured(task, values, best))
    return results


def verdicts(results: list[Measured]) -> dict[str, bool]:
    """The conditions, each with its answer."""
    gains = [m.clearly("full", "full, random weights") for m in results]
    losses = [m.clearly("full, random weights", "full") for m in results]
    behind = [m.clearly("full", "head") and m.clearly("lora", "head") for m in results]
    return {
        f"pretraining helps on at least three tasks (on {sum(gains)})": sum(gains) >= 3,
        f"and harms on none (on {sum(losses)})": not any(losses),
        f"the head alone falls behind full and LoRA on at least two ({sum(behind)})": sum(behind) >= 2,
        f"and on at least one it does not ({len(behind) - sum(behind)})": not all(behind),
    }


def report(results: list[Measured], seeds: range) -> str:
    """The table and the verdicts as Markdown."""

    def cell(values: list[float]) -> str:
        return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"

    rows = [
        (
            f"{m.task} ({TASKS[m.task].metric}, {WORLD_TASKS[m.task].train_rows} rows)",
            f"{m.ceiling:.3f}",
            *(cell(m.values[name]) for name in RUNS),
        )
        for m in results
    ]
    answers = "\n".join(f"- {'yes' if holds else 'NO'}: {text}" for text, holds in verdicts(results).items())
    return (
        f"Mean ± standard deviation over {len(seeds)} paired seeds. data2text is a loss: lower is better.\n\n"
        f"{markdown_table(('task', 'best possible', *RUNS), rows)}\n\n{answers}\n"
    )
