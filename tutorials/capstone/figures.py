"""The numbers of a study, and how they stand in its report: scores `0.714 ± 0.012` and differences `+0.012 ± 0.004`."""

import re
import statistics
from itertools import permutations
from typing import NamedTuple

from training.reports.paired import paired_gap, spread
from tutorials.capstone.runs import Row, Study

NUMBER = re.compile(r"(?<![\d.])([+\-−]?)(\d+\.\d{3,}) ± (\d+\.\d{3,})")


class Written(NamedTuple):
    """`mean ± spread` in a report; both with three or more decimals. A difference has a sign."""

    sign: str
    mean: str
    spread: str

    def __str__(self) -> str:
        return f"{self.sign}{self.mean} ± {self.spread}"

    def is_rounded(self, mean: float, spread: float) -> bool:
        """Whether these values, rounded to the decimals of the text, are the text."""
        sign = {"−": "-"}.get(self.sign, self.sign)
        return _rounded(mean, self.mean, sign) == f"{sign}{self.mean}" and _rounded(spread, self.spread, "") == self.spread


def written(text: str) -> list[Written]:
    """All numbers `mean ± spread` of a text; `+-` and missing spaces are allowed."""
    return [Written(*match) for match in NUMBER.findall(re.sub(r"\s*(?:±|\+/-|\+-|\\pm)\s*", " ± ", text))]


def scores(study: Study) -> dict[Row, tuple[float, float]]:
    """Mean and standard deviation over the seeds of each row."""
    values = {row: [run.metric for run in runs] for row, runs in study.rows.items()}
    return {row: (statistics.mean(x), statistics.stdev(x) if len(x) > 1 else 0.0) for row, x in values.items()}


def differences(study: Study) -> dict[tuple[Row, Row], tuple[float, float]]:
    """Mean and standard error of the paired differences of two rows with the same seeds."""
    gaps = {}
    for one, other in permutations(study.rows, 2):
        by_seed = [{run.seed: run.metric for run in study.rows[row]} for row in (one, other)]
        if by_seed[0].keys() == by_seed[1].keys() and len(by_seed[0]) > 1:
            gaps[one, other] = paired_gap(*([values[seed] for seed in sorted(values)] for values in by_seed))
    return gaps


def summary(study: Study) -> list[str]:
    """The scores, then the paired differences of all pairs with a positive mean, as lines for a person."""
    metric = next(run.metric_name for runs in study.rows.values() for run in runs)
    lines = [f"{metric}, mean ± standard deviation over the seeds:"]
    lines += [f"    {spread([run.metric for run in runs]):15} {row}" for row, runs in study.rows.items()]
    lines.append("paired differences ± standard error (clear: the mean is larger than two standard errors):")
    for (one, other), (mean, error) in differences(study).items():
        if mean > 0:
            clear = "clear    " if mean > 2 * error else "not clear"
            lines.append(f"    {mean:+.4f} ± {error:.4f}  {clear}  {one} - {other}")
    return lines


def _rounded(value: float, text: str, sign: str) -> str:
    decimals = len(text.partition(".")[2])
    return f"{value:+.{decimals}f}" if sign else f"{value:.{decimals}f}"
