# %% [markdown]
# # 21 · All methods on one chart: on easy tasks, cost decides
#
# **Needs** lessons [03](03_lora_for_classification.py), [05](05_lora_family.py),
# [08](08_qlora.py), [12](12_bottleneck_adapters.py), [13](13_prefix_and_prompt.py),
# [14](14_adapter_fusion.py) and [17](17_distill_logits.py) · **Read and do** 50 minutes
# · **Runs in** about 33 s on one CPU thread · **Memory** 2 GB
#
# You have met twelve ways to adapt a model to a task. Which one should you use?
#
# ![A decision tree with four questions](diagrams/21_decision.svg)
#
# On this page all methods stand side by side, with the same examples, the same steps and three
# seeds each. (Two had help: the adapters of the fusion were trained before, and the distilled
# student has a teacher and 2,000 unlabelled texts.) You learn to read such a comparison: which
# scale makes tasks comparable, when one method is better than another, and which mistakes make a
# comparison useless. You also see the evidence for the tree above.

# %% tags=["fold"]
# set-up: imports, our folders, one thread
import json
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import scipy
from matplotlib import pyplot as plt

# %% tags=["fold"]
# set-up: our library
from training import train_model
from training.reports.paired import clearly_better, paired_gap
from training.reports.records import COLOURS
from tutorials.answers import true_option
from tutorials.everything import COLOUR, METHODS, Measured, measure, normalized_scores
from tutorials.everything_page import chart
from tutorials.show import prepare_page, show, show_table

prepare_page()  # one thread, no progress bars, our plot style
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1. One scale for all tasks
#
# This command trained every method on two tasks of the small world with three seeds, in about 15
# minutes. The page reads its results:
#
# ```bash
# python -m tutorials everything --tasks sentiment qa --seeds 3
# ```
#
# A score $s$ alone says little. On *sentiment* (two classes), guessing is right in 50 % of the
# cases. On *qa*, a model must find the exact words of an answer in the text. So we use the
# **normalized score**:
#
# $$\frac{s - s_0}{s^* - s_0},$$
#
# with the score $s_0$ of the **untouched** base before any training on this task, and the best
# possible score $s^*$, which we can compute in the small world
# (lesson [00](00_setup_and_small_world.py)).
#
# ??? A score of 0.70: on which of the two tasks is it the better result?
# - [ ] on sentiment || Guessing already gives about 0.5.
# - [x] on qa || There the untouched base has nearly 0.
# - [ ] equally good on both || The two tasks start at very different scores.

# %%
report = json.loads((ROOT / "tutorials/results/everything/results.json").read_text())
runs = [Measured(**run) for run in report["runs"]]


def values(task: str, method: str, name: str = "metric") -> list[float]:
    """One value for each seed."""
    return [getattr(m, name) for m in runs if (m.task, m.method) == (task, method)]


normalized = {}
for task in ("sentiment", "qa"):
    start = statistics.mean(values(task, "untouched"))
    best = statistics.mean(values(task, "full", "ceiling"))
    normalized[task] = (0.7 - start) / (best - start)
    print(f"{task}: untouched {start:.2f}, best {best:.2f}, 0.70 is {normalized[task]:.2f}")

# %% tags=["fold"]
# check: by hand, seed by seed
gap = normalized["sentiment"] - normalized["qa"]
true_option(gap > 0.1, gap < -0.1, abs(gap) <= 0.1)
columns = [values("qa", "LoRA"), values("qa", "untouched"), values("qa", "LoRA", "ceiling")]
by_hand = [(s - s0) / (best - s0) for s, s0, best in zip(*columns, strict=True)]
qa_runs = [m for m in runs if m.task == "qa"]
assert by_hand == normalized_scores(qa_runs, "LoRA"), (
    "each seed has its own start: did you use the mean of all seeds?"
)
assert {m.method for m in runs} == set(METHODS), (
    "a method is missing: was the report made by an older version?"
)

# %% [markdown]
# ## 2. Score against file size
#
# A hundred tasks need a hundred files. So next to the score stands the size of one file.
#
# ??? Only the classification head is trained: 130 of about 120,000 parameters. How good is it?
# - [ ] bad on both tasks || On one of them, the base already has what the head needs.
# - [x] good on sentiment, bad on qa || A linear function of the base's hidden states already shows the
#   sentiment. It does not yet show where an answer is.
# - [ ] good on both tasks || On qa, its normalized score is below a half.

# %%
show(chart(runs), "21_score_and_size")

# %% tags=["fold"]
# check
head = {
    task: statistics.mean(normalized_scores([m for m in runs if m.task == task], "head alone"))
    for task in ("sentiment", "qa")
}
good = {task: value > 0.8 for task, value in head.items()}
true_option(
    not any(good.values()), good == {"sentiment": True, "qa": False}, all(good.values())
)
assert head["qa"] < 0.5, "below a half: did you divide by s* - s0, and not by s*?"

# %% [markdown]
# (The dashed line on the left is the best possible score. The two panels have different scales.)
# On an easy task (left), all methods come close to full fine-tuning, so cost decides. On a harder
# one (right), four small methods fall behind: the head, (IA)³ (lesson [05](05_lora_family.py)),
# prefix and prompt tuning. The bottleneck adapter is small, too, and does not. All methods have
# their default learning rate; none was tuned here. The other costs, on *qa*:

# %%
show_table(
    "tutorials/results/everything/report.md#qa; "
    "trained parameters; file; saved activations; time of a step"
)

# %% [markdown]
# (Saved activations: what autograd holds for one batch. "Time of a step" is relative to full
# fine-tuning; in a model this small, it mostly measures Python. All but "full" and "distilled"
# also need the base model, of 467 kB. The file of the fusion holds all its adapters.)
#
# ## 3. When is one method better than another?
#
# The rule of this course was fixed before the first run: pair the runs by their seed. A difference
# is clear if its mean is larger than two standard errors ([how to compare two
# runs](topics/compare_two_runs.py)).
#
# ??? On sentiment, how many of the eleven other methods are clearly better than full fine-tuning, which trains
#   the most parameters?
# - [ ] none || Several methods with few parameters are ahead.
# - [x] several, but fewer than eight || On this easy task, most of the small methods are ahead.
# - [ ] eight or more || The others are not clearly different, or behind.

# %%
trained = [method for method in METHODS if method != "untouched"]
better_than, worse_than = {}, {}
for task in ("sentiment", "qa"):
    full = values(task, "full")
    better_than[task] = [m for m in trained if clearly_better(full, values(task, m))]
    worse_than[task] = [m for m in trained if clearly_better(values(task, m), full)]
    print(f"{task}: full is clearly better than {', '.join(better_than[task]) or 'none'}")
    print(f"{'':{len(task)}}  and clearly worse than {', '.join(worse_than[task]) or 'none'}")

# %% tags=["fold"]
# check: and is the report true? Train one row again
count = len(worse_than["sentiment"])
true_option(count == 0, 0 < count < 8, count >= 8)
[again] = measure("sentiment", ["prompt"], 1, folder)
difference = again.metric - values("sentiment", "prompt")[0]
print(f"prompt tuning, seed 0, trained again: the score differs by {difference:.3f}")
assert abs(difference) < 0.02, "2 % is more than rounding: was the report made with other code?"

# %% [markdown]
# With three seeds and no real difference, this rule calls one method clearly better *or* worse in
# about one of five comparisons ([how to compare two runs](topics/compare_two_runs.py)). We ask 22
# questions here, so several of the small differences may be chance.
#
# ## 4. The evidence for the decision tree
#
# The small world's model has 0.1 M parameters. Do its results hold for larger models? Three committed
# reports compare LoRA (rank 8) with full fine-tuning: a Llama with 260 K parameters and
# SmolLM2-135M (its weights were decoded from 4 bits) on E2E (writing restaurant descriptions), and
# an encoder with 22 M parameters on SST-2 (sentiment). The gain is the change of the loss (E2E) or of the accuracy (SST-2).
#
# ??? How much of the gain of full fine-tuning does LoRA reach with these models?
# - [ ] about a half || On SST-2, this is what the head alone reaches: 43 %.
# - [x] more than 80 % in all three || But "close" does not mean "equal": see below.
# - [ ] more than 80 % only with the largest || The two smaller ones reach this, too.


# %%
def gains(path: str) -> tuple[list[float], list[float]]:
    """For each seed: the gain of LoRA and of full fine-tuning over the untouched model."""
    rows = json.loads((ROOT / "training/results" / path / "results.json").read_text())["rows"]
    untouched, lora, full = (
        [run["metric"] for run in rows[name]] for name in ("untouched", "LoRA r=8", "full")
    )
    return tuple([a - b for a, b in zip(x, untouched, strict=True)] for x in (lora, full))


REPORTS = {"260 K": "e2e", "22 M": "sst2", "135 M": "e2e-135m"}
parts = {}
for name, path in REPORTS.items():
    lora, full = gains(path)
    parts[name] = statistics.mean(lora) / statistics.mean(full)
    gap, error = paired_gap(*([abs(x) for x in gain] for gain in (lora, full)))
    print(f"{name:5}: LoRA reaches {parts[name]:.0%} of full's gain ({gap:+.3f} ± {error:.3f})")

# %% tags=["fold"]
# check
true_option(
    max(parts.values()) < 0.65,
    min(parts.values()) > 0.8,
    parts["135 M"] > 0.8 > parts["22 M"],
)
assert len(gains("e2e-135m")[0]) >= 2, "one seed is not enough: is a run missing in the report?"

# %% [markdown]
# (± is one standard error, with three seeds, and two at 135 M, where the learning rates were not
# tuned.) LoRA is close, but in all three reports the gap is larger than two standard errors. We have
# no measurement for "many tasks share one base": this branch rests on the sizes of the files ([deep
# dive](deep/21_everything_on_one_chart.py)).
#
# We ran all this on a CPU. Others measured mostly larger models, of 0.1 to 65 B parameters:
#
# | question | our runs, 0.1 to 135 M | what others measured |
# |:--|:--|:--|
# | LoRA or full fine-tuning? | rank 8: 2 to 11 % behind (above) | equal with little data [1]; worse on much code [2] |
# | a 4-bit base? | no clear loss, small models ([08](08_qlora.py)) | no loss against 16-bit LoRA, 7 to 65 B [3] |
# | prompt tuning? | good on easy tasks ([13](13_prefix_and_prompt.py)) | far behind up to 1 B, equal at 11 B [4] |
# | a smaller model? | unlabelled texts help ([17](17_distill_logits.py)) | texts that the student writes help, 0.1 to 7 B [5] |
#
# [1] Schulman et al. 2025, "LoRA Without Regret", 1 to 8 B, with LoRA in all layers. [2] Biderman et al. 2024, 7 B; LoRA
# also forgets less. [3] Dettmers et al. 2023, section 4. [4] Lester et al. 2021, figure 1. [5] Gu
# et al. 2024.
#
# These are other tasks, data and settings: read them as directions, not as numbers for your task.
#
# ## 5. Break it on purpose: two unfair comparisons
#
# First, a setting that does not fit. The scale of rsLoRA is $\alpha / \sqrt r$. Our row has r = 32 and
# α = 5.66, so its scale is 1.0. Somebody keeps LoRA's usual α = 16: the scale becomes 2.8, with the
# same learning rate.
#
# ??? How does this change the score on sentiment, which is 0.97 with α = 5.66?
# - [ ] by less than 0.02 || A larger scale makes each step larger.
# - [ ] it is 0.02 to 0.2 lower || It is much lower than this.
# - [x] it is more than 0.2 lower || The training breaks, and the method gets the blame.

# %%
careless = METHODS["rsLoRA r=32"] | {"lora_alpha": 16}
options = {"steps": 300, "eval_every": 300, "seed": 0, "samples": 0, "trackers": ""}
run = train_model("sentiment", out=str(folder / "careless"), **options, **careless)
fitting = values("sentiment", "rsLoRA r=32")[0]
print(f"rsLoRA with alpha 16: {run.metric:.2f}, with alpha 5.66: {fitting:.2f}")

# %% tags=["fold"]
# check
lost = fitting - run.metric
true_option(abs(lost) < 0.02, 0.02 <= lost <= 0.2, lost > 0.2)
assert fitting > 0.9, "with a scale that fits it works: is alpha 5.66 in this row?"

# %% [markdown]
# A method that looks bad often has a bad setting. (This was one seed; the failure is far larger than
# the spread of seeds.) The second mistake is a single seed.
#
# ??? Each of the three seeds names its best method on qa. How many different names are there?
# - [ ] one || Then one seed would be enough.
# - [ ] two || The best methods are so close that each seed has another order.
# - [x] three || With one seed, you would believe in a winner.

# %%
for task in ("sentiment", "qa"):
    winners = [max(trained, key=lambda m, i=i, t=task: values(t, m)[i]) for i in range(3)]
    print(f"{task}: the best method of each seed: {', '.join(winners)}")

# %% tags=["fold"]
# plot: the scores of each seed
figure, panels = plt.subplots(1, 2, figsize=(7.4, 2.9))
SHOWN = ("LoRA", "bottleneck", "(IA)³", "fusion", "QLoRA", "distilled")
for panel, task in zip(panels, ("sentiment", "qa"), strict=True):
    for k, method in enumerate(SHOWN):
        x = [seed + 0.1 * (k - 2.5) for seed in range(3)]  # next to each other
        panel.plot(x, values(task, method), "osvD^P"[k], color=COLOUR[method], label=method)
    panel.set(xlabel="seed", xticks=range(3))
    panel.axhline(
        statistics.mean(values(task, "full", "ceiling")),
        color=COLOURS["ceiling"],
        linestyle="--",
        label="best possible",
    )
panels[0].set(title="sentiment: the order changes", ylabel="score")
panels[1].set(title="qa: each seed has another winner", ylim=(0.68, 0.76))
panels[1].set_xlabel("seed ((IA)³ and the best are outside)")
panels[1].legend(loc="upper left", bbox_to_anchor=(1.02, 1))
show(figure, "21_seeds")

# %% tags=["fold"]
# check
best_of = {
    task: {max(trained, key=lambda m, i=i, t=task: values(t, m)[i]) for i in range(3)}
    for task in ("sentiment", "qa")
}
names = len(best_of["qa"])
true_option(names == 1, names == 2, names == 3)
assert len(best_of["sentiment"]) == 3, (
    "three winners for three seeds: does `max` use the same seed for all methods?"
)

# %% [markdown]
# On both tasks, each seed names another winner. (For sentiment, bottleneck and fusion are equal with
# seed 1, and `max` takes the first.)
#
# ## The same in SciPy

# %% tags=["fold"]
# the same in SciPy: the paired t-test uses our mean and standard error
full, lora = values("qa", "full"), values("qa", "LoRA")
mean, error = paired_gap(full, lora)
test = scipy.stats.ttest_rel(full, lora)
assert abs(test.statistic - mean / error) < 1e-9, (
    "t is the mean over its standard error: are both lists in the order of the seeds?"
)
print(f"full against LoRA on qa: t = {test.statistic:.2f}, p = {test.pvalue:.2f}")

# %% [markdown]
# `scipy.stats.ttest_rel` computes the same ratio, and a probability from it. With three seeds, a
# difference is significant (p < 0.05) only if its mean is larger than 4.3 standard errors.
#
# ## Find the bug
#
# ```python
# ours = max(score(our_method, seed) for seed in (1, 2, 3))
# baseline = score(full_fine_tuning, seed=1)
# print(f"we are better by {ours - baseline:.3f}")
# ```
#
# ??? What is wrong?
# - [x] The best of three seeds is compared with one seed. || The maximum of three is larger by chance.
# - [ ] The seeds must be larger numbers. || Any numbers are fine.
# - [ ] `max` must be `min`. || Then the comparison would be unfair in the other direction.

# %% tags=["fold"]
# check: the best of three seeds, compared with the mean of the same method
gain = max(lora) - statistics.mean(lora)
true_option(gain > 0.005, False, False)
print(f"LoRA against LoRA on qa: the best of three seeds 'gains' {gain:.3f}")

# %% [markdown]
# ## Quiz
#
# ??? What does a normalized score of 0 mean?
# - [ ] All answers are wrong. || That is a score of 0.
# - [x] as good as the untouched base || So the training brought nothing.
# - [ ] The training failed with an error. || Then there is no score.
#
# ??? You have exactly one task. What needs less storage in total?
# - [x] the fully fine-tuned model || Base and adapter together are larger.
# - [ ] the base and a LoRA adapter || From two tasks on, this is smaller.
# - [ ] both need the same || The adapter comes on top of the base.
#
# ??? Where does the choice of the method matter most?
# - [ ] on easy tasks || There all methods come close to full fine-tuning.
# - [ ] on all tasks equally || On sentiment, the differences are small.
# - [x] on tasks that need more than the base has || There some of the small methods fall behind.
#
# ??? A method is far worse than in its paper. What do you check first?
# - [ ] the number of seeds || This gives noise, not a failure.
# - [x] its learning rate and its scale || In section 5, a scale that does not fit made 0.97 much lower.
# - [ ] the file size || It has no influence on the score.
#
# ??? Why do we add the untouched base as a row?
# - [x] Without it, you cannot see what the training brought. || The start differs from task to task.
# - [ ] It is the best baseline. || It is often the weakest row.
# - [ ] It needs no seeds. || It has a random head, too.
#
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | one method is like guessing | its learning rate or scale was never tuned | section 5: try a third of it |
# | all methods look equal | the task is easy | section 2: is the head alone enough? |
# | nobody else finds your winner | one seed | section 5: the winner of each seed |
# | "90 % of full" is no good result | the untouched base has half of it | section 1: the normalized score |
# | an adapter looks tiny | the base is not counted | exercise 3 |
#
# ## Exercises
#
# Write in [exercises/21_everything.py](exercises/21_everything.py),
# then run `python -m tutorials check 21`.
#
# 1. ★ `normalized_score`: from three lists with one value for each seed.
#    <details><summary>Hint</summary>The score of each seed first, then the mean. `zip` takes three
#    lists.</details>
# 2. ★★ `pareto_front`: the methods that no other method beats in both score and cost.
#    <details><summary>Hint</summary>A method is beaten if another one is at least as good in both, and
#    better in one.</details>
# 3. ★ `tasks_until_smaller`: from how many tasks on is one base with adapters smaller than whole models?
#    <details><summary>Hint</summary>Solve base + n · adapter < n · whole for n.</details>
#
# **Change and measure:** `python -m tutorials everything --tasks topic --seeds 3`. Is *topic* an
# easy or a hard task?
#
# ## Summary
#
# 1. Judge a score between the untouched base and the best possible, and a difference by paired seeds.
# 2. On easy tasks all methods come close, so cost decides. On harder ones, some small ones fall behind.
# 3. An untuned setting and a single seed make a comparison useless.
#
# **Next:** your own model and data, with the commands of the [README](../README.md).
#
# More: [deep dive](deep/21_everything_on_one_chart.py) · [how to compare two
# runs](topics/compare_two_runs.py) · [glossary](GLOSSARY.md)
#
# ## On the real thing
#
# One command compares head, LoRA at several ranks and full fine-tuning on a real model. It tunes the
# learning rate of each method with an extra seed that is not compared. We ran it with a model of
# 22 M parameters ([report](../training/results/sst2/report.md)):
#
# ```bash
# python -m training compare --task sst2 --model roberta-base --seeds 3 --learning-rates 0.3 1 3
# python -m training --task sst2 --model roberta-base --method lora --out runs/sst2-lora
# ```
