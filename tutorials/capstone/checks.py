"""What the checker of the capstone looks at: each check returns what is missing, in plain sentences."""

import re
from collections.abc import Callable

from tutorials.capstone.runs import Run, Study, score

WORDS = 1000
"""of a report: about two printed pages"""
SECTIONS = ("Question", "Setting", "Results", "Costs", "What we do not know")
BASELINES = ("untouched", "head")


def baselines(study: Study, report: str, minutes: float) -> list[str]:
    """An untouched row and a head alone."""
    return [f"no row `{name}`: train it with --method {name}" for name in BASELINES if not study.row(name)]


def methods(study: Study, report: str, minutes: float) -> list[str]:
    """At least two methods to compare, beside the baselines."""
    names = sorted({method for method, _ in study.rows} - set(BASELINES))
    return [] if len(names) > 1 else [f"methods {names}: expected at least two beside {' and '.join(BASELINES)}"]


def longer(study: Study, report: str, minutes: float) -> list[str]:
    """One of the methods, trained at least 1.5 times as long."""
    by_method = {method: [steps for name, steps in study.rows if name == method] for method, _ in study.rows}
    if any(max(steps) >= 1.5 * min(steps) for method, steps in by_method.items() if method not in BASELINES):
        return []
    return ["no method was trained longer: repeat one with at least 1.5 times the --steps"]


def seeds(study: Study, report: str, minutes: float) -> list[str]:
    """Three seeds, the same for each row."""
    problems = [] if len(study.seeds) >= 3 else [f"seeds {study.seeds}: expected at least three untouched runs"]
    for (method, steps), runs in study.rows.items():
        of_row = sorted(run.seed for run in runs)
        if of_row != study.seeds:
            problems.append(f"{method}, {steps} steps: seeds {of_row}, expected {study.seeds}, each once")
    return problems


def tuning(study: Study, report: str, minutes: float) -> list[str]:
    """Three learning rates for each trained method, on another seed, and the best of them is used."""
    problems = []
    for method in sorted({method for method, _ in study.rows} - {"untouched"}):
        tried = [run for run in study.tuning if run.method == method]
        rates = {run.learning_rate for run in tried}
        if len(rates) < 3:
            problems.append(f"{method}: {len(rates)} learning rates on a seed of their own, expected at least three")
            continue
        best = _best(tried).learning_rate
        used = {run.learning_rate for (name, _), runs in study.rows.items() if name == method for run in runs}
        if used != {best}:
            problems.append(f"{method}: uses the learning rates {sorted(used)}, the best of the tuning is {best}")
    return problems


def same_data(study: Study, report: str, minutes: float) -> list[str]:
    """The same task and examples for each row of a seed, and the same settings."""
    runs = [run for row in study.rows.values() for run in row]
    problems = []
    for seed in study.seeds:
        if len({run.train_checksum for run in runs if run.seed == seed}) > 1:
            problems.append(f"seed {seed}: rows with different training examples (--train-rows, --data-dir, --task)")
    for name in ("task", "evaluation_checksum", "batch_size", "max_length"):
        values = sorted({getattr(run, name) for run in runs})
        if len(values) > 1:
            problems.append(f"{name} differs between the rows: {values}")
    return problems


def same_steps(study: Study, report: str, minutes: float) -> list[str]:
    """All methods have the same number of steps in their usual row."""
    steps = {method: study.row(method)[0].steps for method, _ in study.rows if method != "untouched"}
    return [] if len(set(steps.values())) <= 1 else [f"different numbers of steps: {steps}"]


def budget(study: Study, report: str, minutes: float) -> list[str]:
    """The training time of all runs together, with those for tuning."""
    seconds = sum(run.seconds for run in [*study.tuning, *(run for row in study.rows.values() for run in row)])
    return [] if seconds <= 60 * minutes else [f"{seconds / 60:.1f} minutes of training in total, the budget is {minutes:g}"]


def sections(study: Study, report: str, minutes: float) -> list[str]:
    """The parts of the report, and its length."""
    titles = re.findall(r"^## (.+)$", report, re.MULTILINE)
    problems = [f"the report has no section `## {name}`" for name in SECTIONS if name not in titles]
    words = len(re.findall(r"\w[\w'’-]*", re.sub(r"```.*?```", "", report, flags=re.DOTALL)))
    return problems + ([f"the report has {words} words, expected at most {WORDS} (two pages)"] if words > WORDS else [])


def figures(study: Study, report: str, minutes: float) -> list[str]:
    """Each row's mean ± standard deviation is in the section Results."""
    results = _section(report, "Results")
    return [
        f"Results lacks `{score(runs)}`, the {runs[0].metric_name} of {method} ({steps} steps)"
        for (method, steps), runs in study.rows.items()
        if score(runs) not in results
    ]


def costs(study: Study, report: str, minutes: float) -> list[str]:
    """Trained parameters and bytes of the file of each method are in the section Costs."""
    text, problems = _section(report, "Costs"), []
    for method in sorted({method for method, _ in study.rows} - {"untouched"}):
        run = study.row(method)[0]
        if f"{run.trainable:,}" not in text:
            problems.append(f"Costs lacks `{run.trainable:,}`, the trained parameters of {method}")
        if f"{run.file_bytes:,}" not in text:
            problems.append(f"Costs lacks `{run.file_bytes:,}`, the bytes of the file of {method}")
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


def _best(runs: list[Run]) -> Run:
    """The highest metric; the lowest if the metric is a loss."""
    sign = -1 if runs[0].metric_name == "loss" else 1
    return max(runs, key=lambda run: sign * run.metric)


def _section(report: str, title: str) -> str:
    return report.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
