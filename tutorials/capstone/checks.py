"""What the checker of the capstone looks at: each check returns what is missing or wrong, in plain sentences."""

import math
import re
from collections.abc import Callable
from itertools import permutations

from tutorials.capstone.figures import differences, scores, written
from tutorials.capstone.runs import Run, Study, score

WORDS = 1000
"""of a report without its tables: about two printed pages"""
SECTIONS = ("Question", "Setting", "Results", "Costs", "What we do not know")
BASELINES = ("untouched", "head")
LONGER = 1.5


def baselines(study: Study, report: str, minutes: float) -> list[str]:
    """An untouched row and a head alone."""
    return [f"no row `{name}`: train it with --method {name}" for name in BASELINES if not study.of(name)]


def methods(study: Study, report: str, minutes: float) -> list[str]:
    """At least two rows to compare, beside the baselines: two methods, or two options of one."""
    names = sorted({f"{row.method} {row.options}".strip() for row in study.rows} - set(BASELINES))
    return (
        []
        if len(names) > 1
        else [f"compared rows: {', '.join(names) or 'none'}; expected at least two, beside {' and '.join(BASELINES)}"]
    )


def longer(study: Study, report: str, minutes: float) -> list[str]:
    """One row repeated with at least 1.5 times the steps, and everything else the same."""
    rows = [row for row in study.rows if row.method not in BASELINES]
    for one, other in permutations(rows, 2):
        same = one[:2] == other[:2] and _rates(study.rows[one]) == _rates(study.rows[other])
        if same and other.steps >= LONGER * one.steps:
            return []
    return [
        f"no row was trained longer: repeat one with twice the --steps (at least {LONGER} times), same options and learning rate"
    ]


def seeds(study: Study, report: str, minutes: float) -> list[str]:
    """Three seeds, the same for each row, and other ones for the tuning."""
    problems = [] if len(study.seeds) >= 3 else [f"seeds {study.seeds}: expected at least three"]
    for row, runs in study.rows.items():
        of_row = sorted(run.seed for run in runs)
        if of_row != study.seeds:
            problems.append(f"{row}: seeds {of_row}, expected {study.seeds}, each once")
    shared = sorted({run.seed for run in study.tuning} & set(study.seeds))
    return problems + ([f"seeds {shared} are compared and used for tuning: take another seed for one of them"] if shared else [])


def tuning(study: Study, report: str, minutes: float) -> list[str]:
    """Three learning rates for each trained row on seeds of their own; the best is used, and is not at the edge."""
    problems = []
    for method, options in sorted({row[:2] for row in study.trained()}):
        name = f"{method} {options}".strip()
        means = _mean_by_rate([run for run in study.tuning if (run.method, run.options) == (method, options)])
        if len(means) < 3:
            problems.append(f"{name}: {len(means)} learning rates in folders `tune...`, expected at least three")
            continue
        best = {rate for rate, mean in means.items() if round(mean, 3) == round(max(means.values()), 3)}  # as it is printed
        used = {rate for row, runs in study.rows.items() if row[:2] == (method, options) for rate in _rates(runs)}
        if not used <= best:
            problems.append(f"{name}: uses the learning rates {sorted(used)}, the best of the tuning: {sorted(best)}")
        if best <= {min(means), max(means)}:
            problems.append(
                f"{name}: the best learning rate {sorted(best)} is at the edge of those that were tried: try one more"
            )
    return problems


def same_data(study: Study, report: str, minutes: float) -> list[str]:
    """The same task, examples and settings for each row, and for the tuning where it can be."""
    runs, problems = [run for row in study.rows.values() for run in row], []
    for seed in study.seeds:
        if len({run.train_checksum for run in runs if run.seed == seed}) > 1:
            problems.append(f"seed {seed}: rows with different training examples (--train-rows, --data-dir, --task)")
    for name in ("task", "batch_size", "max_length", "evaluation_checksum"):
        values = sorted({getattr(run, name) for run in [*runs, *study.tuning]})
        if len(values) > 1:
            problems.append(f"{name} differs between the runs: {values}")
    for name in sorted({name for run in runs for name in run.shared}):
        values = sorted({str(run.shared[name]) for run in [*runs, *study.tuning]})
        if len(values) > 1:
            problems.append(f"{name} differs between the runs: {values}")
    return problems


def same_steps(study: Study, report: str, minutes: float) -> list[str]:
    """The shortest row of each method, and the tuning, have the same number of steps."""
    shortest: dict[str, int] = {}
    for row in study.trained():
        name = f"{row.method} {row.options}".strip()
        shortest[name] = min(row.steps, shortest.get(name, row.steps))
    shortest |= {f"the run {run.name}": run.steps for run in study.tuning if run.steps not in shortest.values()}
    return [] if len(set(shortest.values())) <= 1 else [f"different numbers of steps: {shortest}"]


def budget(study: Study, report: str, minutes: float) -> list[str]:
    """The seconds of all training steps together, with those for tuning."""
    used = training_minutes(study)
    return [] if used <= minutes else [f"{used:.1f} minutes of training in total, the budget is {minutes:g}"]


def sections(study: Study, report: str, minutes: float) -> list[str]:
    """The parts of the report, and its length without code and tables."""
    if not report:
        return ["there is no report.md in this folder"]
    titles = [title.lower() for title in re.findall(r"^## (.+?)\s*$", report, re.MULTILINE)]
    problems = [f"the report has no section `## {name}`" for name in SECTIONS if name.lower() not in titles]
    text = re.sub(r"```.*?```", "", report, flags=re.DOTALL)
    words = len(re.findall(r"\w[\w'’-]*", re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)))
    return problems + ([f"the report has {words} words, expected at most {WORDS} (two pages)"] if words > WORDS else [])


def figures(study: Study, report: str, minutes: float) -> list[str]:
    """Results has each row's mean ± standard deviation, one paired difference or more, and no number that no runs have.

    It cannot know which pair of rows a difference is meant for. Wrong seeds are named by their own check alone.
    """
    if not report:
        return ["there is no report.md in this folder"]
    if seeds(study, report, minutes):
        return ["not looked at: correct the seeds first"]
    results = _section(report, "Results")
    numbers, of_row, of_pair = written(results), scores(study), differences(study).values()
    problems = [
        f"Results lacks `{score(study.rows[row])}`, the score of {row}"
        for row, values in of_row.items()
        if score(study.rows[row]) not in results and not any(n.is_rounded(*values) for n in numbers if not n.sign)
    ]
    for number in sorted(set(numbers)):
        if not number.sign and not any(number.is_rounded(*values) for values in of_row.values()):
            problems.append(f"Results has `{number}`, which is the score of no row (a difference needs its sign, + or -)")
        if number.sign and not any(number.is_rounded(*values) for values in of_pair):
            problems.append(f"Results has `{number}`, which is no paired difference ± standard error of two rows")
    if not any(number.sign for number in numbers):
        problems.append("Results has no paired difference, such as `+0.012 ± 0.004`, with its sign and at least three decimals")
    return problems


def costs(study: Study, report: str, minutes: float) -> list[str]:
    """Trained parameters and bytes of the file of each trained row are in the section Costs."""
    if not report:
        return ["there is no report.md in this folder"]
    numbers, problems = set(re.findall(r"(?<![\d,])\d[\d,]*\d", _section(report, "Costs"))), []
    for row, runs in study.trained().items():
        for value, what in ((runs[0].trainable, "trained parameters"), (runs[0].file_bytes, "bytes of the file")):
            if f"{value:,}" not in numbers:
                problems.append(f"Costs lacks `{value:,}`, the {what} of {row}")
    return problems


CHECKS: dict[str, Callable[[Study, str, float], list[str]]] = {
    "baselines": baselines,
    "methods": methods,
    "a longer run": longer,
    "seeds": seeds,
    "tuned learning rates": tuning,
    "the same data": same_data,
    "the same steps": same_steps,
    "the budget": budget,
    "the report": sections,
    "figures": figures,
    "costs": costs,
}


def training_minutes(study: Study) -> float:
    return sum(run.seconds for run in [*study.tuning, *(run for row in study.rows.values() for run in row)]) / 60


def _rates(runs: list[Run]) -> set[float]:
    return {run.learning_rate for run in runs}


def _mean_by_rate(runs: list[Run]) -> dict[float, float]:
    """{learning rate: mean over the tuning seeds}, where higher is better; a run without a number is the worst."""
    sign = -1 if runs and runs[0].metric_name == "loss" else 1
    values = {rate: [sign * run.metric for run in runs if run.learning_rate == rate] for rate in _rates(runs)}
    return {rate: -math.inf if any(map(math.isnan, x)) else sum(x) / len(x) for rate, x in values.items()}


def _section(report: str, title: str) -> str:
    """The text of a section, without bold type and with ± as one sign; the title in any case."""
    plain = re.sub(r"[*`]", "", report).replace(r"\pm", "±")
    parts = re.split(r"^## (.+?)\s*$", plain, flags=re.MULTILINE)
    return dict(zip(map(str.lower, parts[1::2]), parts[2::2], strict=True)).get(title.lower(), "")
