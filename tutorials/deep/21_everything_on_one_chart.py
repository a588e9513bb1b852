# %% [markdown]
# # 21 · Deep dive: count the base before you compare file sizes
#
# **Needs** [lesson 21](../21_everything_on_one_chart.py) · **Read and do** 20 minutes
# · **Runs in** about 10 s on one CPU thread · **Memory** 2 GB
#
# The core page compared scores with the size of one file. Here we add the base model, count tasks,
# and ask which methods are worth considering at all.

# %% tags=["fold"]
# set-up: imports, our folders, the report of the core page
import itertools
import json
import statistics
import sys
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

from matplotlib import pyplot as plt

from training.reports.paired import clearly_better
from training.reports.records import use_style
from tutorials.answers import true_option
from tutorials.everything import COLOUR, METHODS, Measured
from tutorials.show import show

use_style()
report = json.loads((ROOT / "tutorials/results/everything/results.json").read_text())
runs = [Measured(**run) for run in report["runs"]]
trained = [method for method in METHODS if method != "untouched"]


def values(task: str, method: str, name: str = "metric") -> list[float]:
    """One value for each seed."""
    return [getattr(m, name) for m in runs if (m.task, m.method) == (task, method)]


# %% [markdown]
# ## 1. Which methods are worth considering?
#
# A method is **dominated** if another one is at least as good in mean score and file size, and better in
# one of them. The
# methods that are not dominated form the **Pareto front**. (The front does not know about seeds.
# If two neighbours on it do not clearly differ, look at the smaller one, but compare it with the best
# method, too.)
#
# ??? Is full fine-tuning on the front of sentiment, or of qa?
# - [ ] of both || A smaller file reaches its mean score.
# - [ ] of one of them || There, too, a smaller file has a higher mean.
# - [x] of neither || On both tasks, some adapter has at least its score.


# %%
def dominated(task: str, method: str) -> bool:
    score = statistics.mean(values(task, method))
    size = values(task, method, "file_bytes")[0]
    others = [
        (values(task, other, "file_bytes")[0], statistics.mean(values(task, other)))
        for other in trained
    ]
    return any(a <= size and b >= score and (a < size or b > score) for a, b in others)


fronts = {t: [m for m in trained if not dominated(t, m)] for t in ("sentiment", "qa")}
for task, front in fronts.items():
    print(f"{task}: {', '.join(front)}")

# %% tags=["fold"]
# plot: the fronts
figure, panels = plt.subplots(1, 2, figsize=(8.4, 3.4))
for panel, (task, front) in zip(panels, fronts.items(), strict=True):
    for method in trained:
        point = values(task, method, "file_bytes")[0], statistics.mean(values(task, method))
        panel.plot(*point, "o", color=COLOUR[method] if method in front else "lightgray")
    ordered = sorted(front, key=lambda m, t=task: values(t, m, "file_bytes")[0])
    places = [
        (values(task, m, "file_bytes")[0], statistics.mean(values(task, m))) for m in ordered
    ]
    panel.plot(*zip(*places, strict=True), color="black", linewidth=0.8, zorder=0)
    for i, (method, place) in enumerate(zip(ordered, places, strict=True)):
        shift = (0, 6) if i % 2 == 0 else (0, -13)
        options = {"textcoords": "offset points", "ha": "center", "fontsize": 8}
        panel.annotate(method, place, shift, **options)
    panel.margins(y=0.12)
    panel.set(
        title=f"{task}: {len(front)} of {len(trained)} are not dominated",
        xscale="log",
        xlim=(80, 1e6),
    )
    panel.set_xlabel("bytes in the file of one task")
panels[0].set_ylabel("mean score (gray: dominated)")
show(figure, "21_fronts")

# %% tags=["fold"]
# check: neighbours on a front without a clear difference
on_front = ["full" in front for front in fronts.values()]
true_option(all(on_front), sum(on_front) == 1, not any(on_front))
assert all("head alone" in front for front in fronts.values()), (
    "the smallest file is always on the front: did you compare means of other tasks?"
)
for task, front in fronts.items():
    ordered = sorted(front, key=lambda m, t=task: values(t, m, "file_bytes")[0])
    for smaller, larger in itertools.pairwise(ordered):
        if not clearly_better(values(task, larger), values(task, smaller)):
            print(f"{task}: {larger} is not clearly better than {smaller}")

# %% [markdown]
# ## 2. The total for 2, 10 and 100 tasks
#
# An adapter needs its base. A fully fine-tuned model and a distilled student do not. (QLoRA's base of 4 bits
# is smaller than the one that we count here.)
#
# ??? On sentiment, a full model has 484 kB and a LoRA file 82 kB. From how many tasks on does LoRA need
#   less space in total?
# - [ ] 1 || Base and adapter together are larger than one model.
# - [x] 2 || 484 + 2 · 82 is less than 2 · 484.
# - [ ] 6 || 484 / 82 is about 6, but the base is needed only once.

# %%
base = values("sentiment", "full", "file_bytes")[0]  # the base is as large as a full model
size = {method: values("sentiment", method, "file_bytes")[0] for method in trained}
complete = ("full", "distilled")


def total(method: str, tasks: int) -> float:
    return tasks * size[method] + (0 if method in complete else base)


shown = ("prompt", "bottleneck", "LoRA", "distilled", "full")
for method in shown:
    print(f"{method:10}", *(f"{total(method, n) / 1e6:7.2f} MB" for n in (2, 10, 100)))

# %% tags=["fold"]
# plot: bytes against the number of tasks
figure, panel = plt.subplots(figsize=(6.4, 3.4))
counts = range(2, 7)
for method in shown:
    lines = [total(method, n) / 1e6 for n in counts]
    panel.plot(counts, lines, color=COLOUR[method], label=method)
panel.set(title="adapters need less space than full models", xlabel="tasks")
panel.set(ylabel="MB, with the base", xticks=counts)
panel.legend()
show(figure, "21_total")

# %% tags=["fold"]
# check
first = next(n for n in range(1, 100) if total("LoRA", n) < total("full", n))
true_option(first == 1, first == 2, first == 6)
assert total("full", 100) > 5 * total("LoRA", 100), "did you add the base once for each task?"

# %% [markdown]
# ## 3. Break it on purpose: forget the base
#
# Somebody ranks LoRA and the distilled student by the bytes of their files, for exactly one task.
#
# ??? LoRA's file has 82 kB, that of the student 282 kB. Which of the two needs less space in total for one task?
# - [ ] LoRA || Its file needs the base, of 484 kB.
# - [x] the student || It needs nothing else.
# - [ ] both need the same || The totals differ by a factor of two.

# %%
for method in ("LoRA", "distilled"):
    print(
        f"{method:10} file {size[method] / 1e3:4.0f} kB, in total {total(method, 1) / 1e3:4.0f} kB"
    )

# %% tags=["fold"]
# check
totals = {method: total(method, 1) for method in ("LoRA", "distilled")}
true_option(
    totals["LoRA"] < 0.9 * totals["distilled"],
    totals["distilled"] < 0.9 * totals["LoRA"],
    abs(totals["LoRA"] / totals["distilled"] - 1) <= 0.1,
)
assert size["LoRA"] < size["distilled"], (
    "the files alone give the other order: is it the same task?"
)

# %% [markdown]
# From three tasks on, LoRA needs less than the students. So say for how many tasks a comparison of sizes is
# meant, and count what each file needs.
#
# ## 4. What score and size do not show
#
# - **Help from outside.** The adapters of the fusion had their own 300 steps before (lesson
#   [14](../14_adapter_fusion.py): the same adapter, trained as long, is as good). The student had
#   a teacher and 2,000 more texts.
# - **Memory in training.** LoRA stores about as many activations as full fine-tuning, since each of its
#   matrices needs the input of its layer. The head alone stores nearly nothing, since nothing below
#   it has a gradient.
# - **Time of answering.** The student has half of the layers, so it needs about half of the operations
#   (lesson [20](../20_distil_prune_quantise.py)). No adapter makes a model faster.
#
# ## Summary
#
# 1. A method is worth considering if no other one is better in score or size without being worse in the other.
# 2. Count the base: one adapter needs more space than one full model, two need less.
# 3. Score and size hide help from outside, the memory in training and the time of answering.
#
# **Next:** your own model and data, with the commands of the [README](../../README.md).
