# %% [markdown]
# # How to compare two runs: the same seeds, and their differences
#
# **Needs** lessons [00](../00_setup_and_small_world.py) and [01](../01_lora_by_hand.py) · **Read
# and do** 25 minutes · **Runs in** about 10 s on one CPU thread · **Memory** 2 GB
#
# Method A has 0.853, and method B has 0.857. Is B better? With another random seed, both
# numbers will be different. So a single run for each method cannot answer the question.
#
# ![Two methods with the same three seeds. The differences are computed seed by seed.](../diagrams/compare_paired.svg)
#
# This page gives a rule that the whole course uses. It needs a few lines of code.

# %% tags=["fold"]
# set-up: imports, our folders, the scores of the report on SST-2
import json
import random
import statistics
import sys
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

from matplotlib import pyplot as plt

from training.reports.records import COLOURS, use_style
from tutorials.answers import true_option
from tutorials.show import show

use_style()
report = json.loads((ROOT / "training/results/sst2/results.json").read_text())
scores = {name: [row["metric"] for row in rows] for name, rows in report["rows"].items()}

# %% [markdown]
# ## 1. Pair the runs
#
# Seed 0 of both methods uses the same examples in the same order, and the same random head.
# Such runs are **paired**. An easy order of the data helps both methods, so a part of this luck
# cancels in the difference.
#
# Three seeds give three differences. Their mean estimates the difference of the methods. Their
# **standard deviation** $s$ says how much they vary. The mean of $n$ values has the **standard
# error** $s / \sqrt n$.


# %%
def paired(a: list[float], b: list[float]) -> tuple[float, float]:
    """Mean and standard error of the differences a - b."""
    differences = [x - y for x, y in zip(a, b, strict=True)]
    return statistics.mean(differences), statistics.stdev(differences) / len(differences) ** 0.5


# %% [markdown]
# Our rule: we call a difference clear if the absolute value of its mean is **larger than two
# standard errors**. We fixed this rule before we measured anything.
#
# These are accuracies on SST-2 (is a sentence about a film positive or negative?) of an encoder
# with 22 M parameters. `full` is full fine-tuning. There are three seeds:

# %%
for name in ("full", "LoRA r=4", "LoRA r=8", "LoRA r=16"):
    values = ", ".join(f"{score:.3f}" for score in scores[name])
    print(f"{name:<9} mean {statistics.mean(scores[name]):.3f}   seeds: {values}")

# %% [markdown]
# ??? LoRA r=8 is 0.007 below full, and LoRA r=16 is 0.058 below full. Which difference is
#   clear?
# - [ ] only that of r=16: it is larger || Look at its seeds. One of them failed, and the other
#   two are as good as full.
# - [x] only that of r=8 || Its three differences are close to each other, so their mean is
#   larger than two standard errors.
# - [ ] both || The standard error of r=16 is as large as its difference.
# - [ ] neither || Compute the standard error for r=8 from its three differences.

# %%
verdicts = {}
for name in ("LoRA r=4", "LoRA r=8", "LoRA r=16"):
    mean, error = paired(scores[name], scores["full"])
    verdicts[name] = abs(mean) > 2 * error
    print(f"{name:<9} {mean:+.4f} ± {error:.4f}   clear: {verdicts[name]}")

# %% tags=["fold"]
# check: our rule against the library's
from training.reports.paired import paired_gap

small, large = verdicts["LoRA r=8"], verdicts["LoRA r=16"]
true_option(large and not small, small and not large, small and large, not small and not large)
for name in verdicts:
    pairs = zip(
        paired(scores[name], scores["full"]),
        paired_gap(scores[name], scores["full"]),
        strict=True,
    )
    assert all(abs(x - y) < 1e-12 for x, y in pairs), "√n, and n - 1 in the standard deviation"

# %% [markdown]
# "Not clear" does not mean "equal". It means that three seeds cannot decide.
#
# What did pairing change? Without it, the standard error of the difference of two means is
# $\sqrt{(s_A^2 + s_B^2) / n}$:

# %%
variances = [statistics.variance(scores[name]) for name in ("LoRA r=8", "full")]
unpaired = (sum(variances) / 3) ** 0.5
print(
    f"LoRA r=8: paired {paired(scores['LoRA r=8'], scores['full'])[1]:.4f}, unpaired {unpaired:.4f}"
)

# %% [markdown]
# With the unpaired error, the difference of r = 8 would not be clear.
#
# One of three seeds of r = 16 failed, perhaps because the shared learning rate is too high for
# this rank. A table with one number per method would hide that.
#
# ## 2. How often is the rule wrong?
#
# Three seeds are few. Let us take two methods that are *equal*, and ask how often the rule
# finds a difference. We draw the three differences from a normal distribution with mean 0.
#
# ??? How often does the rule find a difference where there is none?
# - [ ] in about 5 % of the comparisons || That is right for many seeds. With three seeds, the
#   standard deviation is itself uncertain.
# - [ ] in about 10 % of the comparisons || That is right for about six seeds.
# - [x] in about 20 % of the comparisons || With three seeds, a mean is often larger than two of
#   its own estimated standard errors.

# %%
rng = random.Random(0)


def wrong_verdicts(seeds: int, trials: int) -> float:
    """How often two equal methods are called different."""
    wrong = 0
    for _ in range(trials):
        differences = [rng.gauss(0, 1) for _ in range(seeds)]
        error = statistics.stdev(differences) / seeds**0.5
        wrong += abs(statistics.fmean(differences)) > 2 * error
    return wrong / trials


counts = (2, 3, 5, 10, 20)
rates = {n: wrong_verdicts(n, 4_000) for n in counts}
for n, rate in rates.items():
    print(f"{n:>2} seeds: wrong in {rate:.0%} of the comparisons")

# %% tags=["fold"]
# plot: how often the rule is wrong
figure, panel = plt.subplots()
panel.plot(counts, list(rates.values()), "o-", color=COLOURS["lora"])
panel.set(title="with few seeds, two equal methods often look different", ylim=(0, None))
panel.set(xlabel="seeds", ylabel="share of wrong verdicts (equal methods)")
panel.set_xticks(counts)
show(figure, "compare_wrong_verdicts")

# %% tags=["fold"]
# check
three = rates[3]
true_option(three < 0.07, 0.07 < three < 0.13, 0.15 < three < 0.25)
assert rates[20] < 0.09, "with many seeds the rule is wrong in about 5 % of the comparisons"

# %% [markdown]
# So the course says "clear" for a difference that is larger than two standard errors, and it
# prints the number of seeds. It never says "proved". (With three seeds, a limit of 4.3 standard
# errors would be wrong in 5 % of such comparisons. By that stricter rule, the difference of r =
# 8 above is not clear either: it is three standard errors.)
#
# ## 3. What else must be equal
#
# Before you compare two methods, check this list:
#
# - the same training examples, in the same order, with the same seeds;
# - the same number of steps, or the same time: say which one;
# - the best learning rate of *each* method ([lesson 04](../04_lora_against_full.py), section
#   3), found with a seed that is not compared;
# - the same test examples, and enough of them: the standard error of the test set ([lesson
#   00](../00_setup_and_small_world.py), section 4) limits how small a difference you can
#   detect;
# - a rule that was fixed before the measurement.
#
# ## Find the bug
#
# ```python
# difference = max(scores["LoRA r=4"]) - max(scores["full"])
# print("LoRA is better" if difference > 0 else "full is better")
# ```
#
# ??? What is wrong?
# - [ ] It should use the minimum. || The worst seed depends on luck as much as the best one.
# - [x] It compares the best seeds, and ignores how much the seeds vary. || With more seeds, the
#   maximum rises for both methods, by luck.
# - [ ] Nothing. || Run it again with other seeds: the verdict can change.
#
# ## Summary
#
# 1. Use the same seeds for both methods, and compare the differences.
# 2. A difference is clear if it is larger than two standard errors. With three seeds this rule
#    is still wrong in about one of five cases where nothing differs.
# 3. Fix the rule and the learning rates before you compare.
#
# **Next:** back to [lesson 04](../04_lora_against_full.py).
