"""One model for all tasks against one model for each: scores over paired seeds, and what either costs.

Rows of a comparison, each a way to spend training:

    single           a model for each task, on as many rows of it as the multitask run drew on average: the same examples in all
    single, longer   a model for each task, as many steps as the multitask run had in all: K times the training
    multitask        one model; one row for each way of sampling
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from multitask.data.sampling import task_probabilities
from multitask.model.files import load_multitask
from multitask.model.multitask_model import MultitaskModel
from multitask.runs.run import TRAINED, run_multitask
from multitask.runs.settings import MultitaskSettings, pairs
from multitask.studies.comparison import delta_m
from training.data.batching import pad
from training.data.tasks import find_task
from training.reports.paired import clearly_better
from training.runs.step_time import seconds_of

SINGLE, LONGER = "single", "single, longer"


@dataclass(frozen=True)
class Way:
    """One row: its runs, seed by seed, and for each seed what its tasks reached. A multitask row has one run a seed."""

    label: str
    results: list[list[dict]]
    folders: list[list[Path]]

    def scores(self, task: str) -> list[float]:
        return [next(r["tasks"][task]["metric"] for r in seed if task in r["tasks"]) for seed in self.results]

    def total(self, name: str) -> float:
        """A cost, summed over the models of a seed, mean over seeds."""
        return statistics.mean(sum(r[name] for r in seed) for seed in self.results)


def compare(
    settings: MultitaskSettings, seeds: int, samplings: tuple[str, ...], longer: bool, out: Path, say: Callable
) -> list[Way]:
    """Run everything, seed by seed; finished runs are read from disk."""
    ways = {SINGLE: Way(SINGLE, [], [])} | ({LONGER: Way(LONGER, [], [])} if longer else {})
    ways |= {sampling: Way(f"multitask, {sampling}", [], []) for sampling in samplings}
    tasks = list(settings.specs())
    for number in range(seeds):
        base = replace(settings, seed=settings.seed + number, restart=False)
        folder, sizes = out / f"seed-{base.seed}", {}
        for sampling in samplings:
            cap = None if sampling == "equal" else base.max_examples
            run = replace(base, task_sampling=sampling, max_examples=cap, out=str(folder / f"multitask-{sampling}"))
            sizes = _keep(ways[sampling], [run], say)
        chances = task_probabilities(sizes, samplings[0], base.temperature, base.max_examples)
        parts = [(SINGLE, {task: max(1, round(chances[task] * base.steps)) for task in tasks})]
        parts += [(LONGER, dict.fromkeys(tasks, base.steps))] if longer else []
        for label, steps in parts:
            runs = [alone(base, task, steps[task], folder / f"{label.replace(', ', '-')}-{task}") for task in tasks]
            _keep(ways[label], runs, say)
    return list(ways.values())


def alone(settings: MultitaskSettings, task: str, steps: int, out: Path) -> MultitaskSettings:
    """The same run for one task: what belongs to several is taken out."""
    only = {name: _only(getattr(settings, name), task, name) for name in ("data_dirs", "train_rows")}
    return replace(
        settings,
        **only,
        tasks=task,
        steps=steps,
        eval_every=min(settings.eval_every, steps),
        task_sampling="proportional",
        temperature=2.0,
        loss_weighting="equal",
        task_weights="",
        share_heads="",
        members="",
        use_task_embeddings=False,
        task_embedding="input",
        analyze_interference=False,
        out=str(out),
    )


def verdict(multitask: Way, single: Way, task: str) -> str:
    """`better`, `worse` or `no difference`, by the rule of `training.reports.paired`; one seed decides nothing."""
    together, alone, up = multitask.scores(task), single.scores(task), find_task(task).higher_is_better
    if len(together) < 2:
        return "one seed"
    if clearly_better(together, alone, up):
        return "better"
    return "worse" if clearly_better(alone, together, up) else "no difference"


def mean_delta(multitask: Way, single: Way, tasks: list[str]) -> float | None:
    """Δm of a way against another, mean over seeds; None where a single model scores 0, to which no gain is relative."""
    if any(0 in single.scores(task) for task in tasks):
        return None
    values = []
    for i in range(len(single.results)):
        together, alone = ({task: way.scores(task)[i] for task in tasks} for way in (multitask, single))
        values.append(delta_m(together, alone))
    return statistics.mean(values)


@torch.no_grad()
def inference_times(
    singles: list[Path], multitask: Path, rows: int = 64, length: int = 64, rounds: int = 20
) -> dict[str, list[float]]:
    """Seconds to answer every task about the same `rows` texts: K models, or one pass and K heads; in turn, round after round."""
    single = [load_multitask(path / TRAINED)[0] for path in singles]
    together, tokenizer, _ = load_multitask(multitask / TRAINED)
    ids = [[i % (tokenizer.vocab_size - 1) + 1 for i in range(length)]] * rows
    batch = pad([{"input_ids": row, "attention_mask": [1] * length} for row in ids], tokenizer.pad_token_id)
    times: dict[str, list[float]] = {
        "K models": [],
        "one model, K heads": [],
        "one model, one task": [],
        "one of the K models": [],
    }
    for number in range(rounds + 2):
        timess = {
            "K models": seconds_of(lambda: [m(**batch, task_name=m.names[0]) for m in single]),
            "one model, K heads": seconds_of(lambda: _all_answers(together, batch)),
            "one model, one task": seconds_of(lambda: together(**batch, task_name=together.names[0])),
            "one of the K models": seconds_of(lambda: single[0](**batch, task_name=single[0].names[0])),
        }
        if number >= 2:
            for name, seconds in timess.items():
                times[name].append(seconds)
    return times


def _all_answers(model: MultitaskModel, batch: dict) -> None:
    """Every task's answer from one pass; a model with task embeddings or adapters needs a pass for each."""
    if model.embeddings is not None or model.adapters is not None:
        for task in model.names:
            model(**batch, task_name=task)
        return
    zeros = torch.zeros(len(batch["input_ids"]), dtype=torch.long)
    states = model.states(batch["input_ids"], batch["attention_mask"], None, zeros)
    for task in model.names:
        model.heads(states, task, batch["attention_mask"])


def _keep(way: Way, runs: list[MultitaskSettings], say: Callable) -> dict[str, int]:
    """Run them, add them to the way as one seed; the training examples of each task."""
    results = []
    for run in runs:
        results.append(run_multitask(run))
        scores = "  ".join(f"{task} {r['metric']:.3f}" for task, r in results[-1]["tasks"].items())
        say(f"seed {run.seed}: {way.label}: {scores}  ({run.steps} steps, {results[-1]['train_seconds']:.0f} s)")
    way.results.append(results)
    way.folders.append([run.folder() for run in runs])
    return {task: r["train_rows"] for result in results for task, r in result["tasks"].items()}


def _only(text: str, task: str, option: str) -> str:
    """The part of `a=1,b=2` that is about one task; a value for all stays."""
    if "=" not in text:
        return text
    given = pairs(text, option)
    return f"{task}={given[task]}" if task in given else ""
