"""When a difference counts. The rule was fixed before anything was measured.

Runs are paired by their seed: the same training examples, the same order of batches. A difference counts when the mean of the
paired differences is more than two of its standard errors from zero. With three seeds this is a modest rule (for no
difference at all it says "counts" about one time in five), so a page that uses it also prints the spread.
"""

import math
import statistics


def paired_gap(better: list[float], worse: list[float], higher_is_better: bool = True) -> tuple[float, float]:
    """(mean, standard error) of the paired differences, with the sign changed where lower is better.

    ValueError for fewer than two pairs, which have no spread.
    """
    if len(better) != len(worse) or len(better) < 2:
        raise ValueError(f"{len(better)} and {len(worse)} values: a comparison needs the same two or more seeds on both sides")
    sign = 1 if higher_is_better else -1
    differences = [sign * (a - b) for a, b in zip(better, worse, strict=True)]
    return statistics.mean(differences), statistics.stdev(differences) / math.sqrt(len(differences))


def clearly_better(better: list[float], worse: list[float], higher_is_better: bool = True) -> bool:
    mean, error = paired_gap(better, worse, higher_is_better)
    return mean > 2 * error


def spread(values: list[float], digits: int = 3) -> str:
    """Mean ± standard deviation; one value alone, or equal ones, as they are."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(set(values)) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"
