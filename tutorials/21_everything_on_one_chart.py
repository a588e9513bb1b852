# %% [markdown]
# # 21 · Most methods arrive at the same score, so the bill decides; one seed crowns a winner by luck
#
# | | |
# |:--|:--|
# | **Needs** | lessons [03](03_lora_for_classification.py), [12](12_bottleneck_adapters.py) and [17](17_distill_logits.py) |
# | **Read and do** | 45 minutes |
# | **Runs in** | about 30 s on one CPU thread |
# | **Memory** | 2 GB |
#
# You have met twelve ways to make a model do a task. Here they stand side by side, with the untouched base as a thirteenth row:
# the same texts, the same order of batches, the same number of steps, three seeds each. You learn to read such a comparison:
# what scale makes tasks comparable, when one method beats another, what each one costs, and which mistakes make a comparison
# lie.
#
# | symbol | code | meaning |
# |:--|:--|:--|
# | $s$ | `metric` | score on the test set; higher is better |
# | $s_0$ | | score of the **untouched** base, which nobody trained |
# | $s^*$ | `ceiling` | the best possible score, computed: the small world is generated |
# | | `share` | $(s - s_0) / (s^* - s_0)$, the share of the way |

# %%
import json
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path.cwd() if Path("loralib").is_dir() else Path.cwd().parent
sys.path.insert(0, str(ROOT))  # so that our folders are found, from the project's root and from tutorials/

import datasets
import torch
import transformers
from matplotlib import pyplot as plt

from training.reports.records import COLOURS, use_style
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
datasets.disable_progress_bars()
use_style()
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1. One scale for all tasks
#
# `python -m tutorials everything --tasks sentiment qa --seeds 3` trained every method on two tasks and left its numbers in
# `tutorials/results/everything`. That takes about a quarter of an hour, so the lesson reads them, and trains a few rows again
# to see whether they are true.
#
# **Predict:** two classes: what does the untouched base score on sentiment? And on question answering, where it must find the
# very words? Is a score of 0.70 a good one in both?

# %%
from tutorials.everything import COLOUR, WAYS, Measured, share

kept = json.loads((ROOT / "tutorials/results/everything/results.json").read_text())
found = [Measured(**run) for run in kept["runs"]]
tasks, seeds = list(dict.fromkeys(m.task for m in found)), sorted({m.seed for m in found})


def of(task: str, way: str, name: str = "metric") -> list:
    """One number for each seed."""
    return [getattr(m, name) for m in found if (m.task, m.way) == (task, way)]


for task in tasks:
    start, best = statistics.mean(of(task, "untouched")), statistics.mean(of(task, "full", "ceiling"))
    part = (0.7 - start) / (best - start)
    print(f"{task:9} untouched {start:.3f}   best possible {best:.3f}   a score of 0.70 is {part:.0%} of the way")
by_seed = zip(of("qa", "LoRA"), of("qa", "untouched"), of("qa", "LoRA", "ceiling"), strict=True)
by_hand = [(s - s0) / (best - s0) for s, s0, best in by_seed]
assert by_hand == share([m for m in found if m.task == "qa"], "LoRA"), "seed by seed: the start and the ceiling of the same seed"
assert len(seeds) >= 3 and set(WAYS) == {m.way for m in found}, "every way, three seeds: python -m tutorials everything"

# %% [markdown]
# A score alone says little: 0.70 is a good answer where nobody starts with anything, and a weak one where a coin gives 0.50.
# The share puts 0 where the base stands and 1 at what is possible. Now all of it, in one picture. The costs are those of the
# last task, qa.
#
# **Predict:** the head alone trains 130 of 115,778 numbers. How far does it get on sentiment, and how far on qa?

# %%
from tutorials.everything_page import chart

figure = chart(found, kept["step_seconds"][tasks[-1]])
figure.axes[0].set_title("sentiment: all near 1;\nqa: none")
heads = {task: statistics.mean(share([m for m in found if m.task == task], "head alone")) for task in tasks}
print({task: f"the head alone: {part:.0%} of the way" for task, part in heads.items()})
show(figure, "everything")
assert heads["sentiment"] > 0.9 > 0.5 > heads["qa"], "what can be read off the base needs no more than a head"

# %% [markdown]
# ## 2. Is it true? Train a row again
#
# **Predict:** the same command, the same seed, perhaps another computer than the one that made the report. On how many of the
# 1,000 test texts will the new run answer otherwise?

# %%
from tutorials.everything import measure

[again] = measure("sentiment", ["prompt"], 1, folder)
told = of("sentiment", "prompt")[0]
print(f"sentiment, prompt tuning, seed 0: the report says {told:.3f}, this run says {again.metric:.3f}")
assert abs(again.metric - told) < 0.02, "rounding differs between computers; 2 % would be another recipe"
assert again.trained == of("sentiment", "prompt", "trained")[0], "the number of trained weights does not depend on the computer"

# %% [markdown]
# On the computer that made the report, the answer is "on none": the same seed gives the same bits. On another one, sums may be
# rounded in another order, and a few texts near the border change sides. A report that nobody can run again is a story. This
# one is a measurement.
#
# ## 3. Who beats whom?
#
# Our rule was fixed before the first run (lesson 00): pair the runs by their seed, and count a difference only when its mean is
# more than two standard errors from zero.
#
# **Predict:** of all methods that train something, how many does full fine-tuning clearly beat on sentiment? And on question
# answering?

# %%
from training.reports.paired import clearly_better

trained = [way for way in WAYS if way != "untouched"]
for task in tasks:
    order = sorted(trained, key=lambda way: -statistics.mean(of(task, way)))
    top = order[0]
    beaten = [way for way in order[1:] if clearly_better(of(task, top), of(task, way))]
    print(f"{task:9} best mean: {top} {statistics.mean(of(task, top)):.3f}; it clearly beats: {', '.join(beaten) or 'nobody'}")
    beaten = [way for way in trained if clearly_better(of(task, "full"), of(task, way))]
    print(f"{'':9} full clearly beats: {', '.join(beaten) or 'nobody'}")
spans = {task: [statistics.mean(share([m for m in found if m.task == task], way)) for way in trained] for task in tasks}
assert min(spans["sentiment"]) > 0.8, "sentiment can be read off the base: every way gets far"
assert max(spans["qa"]) - min(spans["qa"]) > 0.2, "words must be put together: here the ways differ"

# %% [markdown]
# Where the base already knows the answer (sentiment), the choice of a method hardly matters: even what "clearly" differs is
# within a few points. Where a text must be put together (qa), it does: some fall behind, and most of the others cannot be told
# apart. So a table of *one* easy task ranks methods by luck.
#
# And count your questions. With three seeds and no difference, the rule calls one method "clearly better" about once in eleven.
# Each of our lines asks eleven questions, and the best mean was picked after a look. So a name or two may stand there by chance.
#
# Two rows had help, and the table must say so. The fusion's adapters had their own 300 steps before (lesson 14: the same
# adapter, trained as long, is as good). The student had a teacher, and 2,000 further texts.
#
# ## 4. The bill: what one task costs, and what a hundred cost
#
# A way is **dominated** when another one has at least its mean score and stores less. What is left is the **Pareto front**: as
# far as files go, nothing else is worth a thought. (A front knows no seeds. When two neighbours on it do not clearly differ,
# take the smaller.)
#
# **Predict:** on sentiment full fine-tuning writes 484 kB for a task, LoRA 82 kB beside a base of 484 kB. (On qa, as in the
# picture, it is 467 and 78.) For how many tasks is LoRA the smaller choice?


# %%
def dominated(task: str, way: str) -> bool:
    """Whether another way stores less, with at least the same mean score."""
    mean = lambda name: statistics.mean(of(task, name))  # noqa: E731
    size = lambda name: of(task, name, "file_bytes")[0]  # noqa: E731
    return any(size(name) < size(way) and mean(name) >= mean(way) for name in trained)


for task in tasks:
    print(f"{task:9} front: {', '.join(way for way in trained if not dominated(task, way))}")
base = of("sentiment", "full", "file_bytes")[0]  # a whole model; the base is as large
size = {way: of("sentiment", way, "file_bytes")[0] for way in trained}
whole = ("full", "distilled")  # these need no base beside them
total = {way: [n * size[way] + (0 if way in whole else base) for n in (1, 10, 100)] for way in trained}
for way in sorted(trained, key=lambda way: total[way][-1]):
    print(f"{way:12}" + "".join(f"   {n:3} tasks {byte / 1e6:6.2f} MB" for n, byte in zip((1, 10, 100), total[way], strict=True)))
first = next(n for n in range(1, 100) if n * size["LoRA"] + base < n * size["full"])
print(f"LoRA is smaller than full fine-tuning from {first} tasks on")
assert all(dominated(task, "full") for task in tasks), "some adapter has its mean score, in a smaller file"
assert first == 2, "one task: base + adapter is more than one whole model"
assert total["full"][-1] > 5 * total["LoRA"][-1], "a hundred tasks: one base and thin files"

# %% [markdown]
# Fronts differ from task to task, and they are about *files*. Two more bills stand in the picture. **Kept for backward** is
# memory while training: the head alone keeps nearly nothing, since nothing below it has a gradient. LoRA keeps as much as full
# fine-tuning, since each of its matrices needs the input of its layer. **Time**: a step of the head alone takes less than half of
# full fine-tuning's; all others take from two thirds to four thirds of it. A step of so small a model is mostly Python, so do not
# carry these times to a large one.
#
# The student plays another game: its file is larger than an adapter's, but it has half of the layers, so it *answers* in about
# half of the time (lesson 17), and it needs no base.
#
# ## 5. Break it on purpose: two comparisons that lie
#
# **The careless setting.** Somebody compares LoRA with rsLoRA at $r = 32$ and leaves $\alpha = 16$ and the learning rate as
# they were. rsLoRA's scale is $\alpha / \sqrt r$: 2.83, where LoRA at $r = 8$ had 2.
#
# **Predict:** the score on sentiment: a little better, a little worse, or a coin?

# %%
from training.runs.run import train_model

careless = WAYS["rsLoRA r=32"] | {"lora_alpha": 16}
options = {"steps": 300, "eval_every": 300, "seed": 0, "samples": 0, "trackers": ""}
run = train_model("sentiment", out=str(folder / "careless"), **options, **careless)
told, alpha = of("sentiment", "rsLoRA r=32")[0], WAYS["rsLoRA r=32"]["lora_alpha"]
print(f"rsLoRA, r = 32: with alpha 16 it scores {run.metric:.3f}; with alpha {alpha:.2f} the report has {told:.3f}")
assert run.metric < 0.6 < told, "too large a step: training breaks, and the comparison blames the method"

# %% [markdown]
# A method that looks broken is often a setting that nobody tuned. Our row has $\alpha = 16 / \sqrt 8 = 5.66$. With it rsLoRA has
# LoRA's scale of 2 at $r = 8$, and by rsLoRA's own rule a scale of 1 at $r = 32$.
#
# **The lucky seed.** **Predict:** take one seed instead of three. How often is another method the winner?

# %%
winners = {task: [max(trained, key=lambda way: of(task, way)[i]) for i in range(len(seeds))] for task in tasks}
figure, panels = plt.subplots(1, len(tasks), figsize=(3.1 * len(tasks), 3.4), dpi=90)
for panel, task in zip(panels, tasks, strict=True):
    print(f"{task:9} the winner of each seed: {', '.join(winners[task])}")
    for way in trained:
        panel.plot(seeds, of(task, way), "o-", color=COLOUR[way], markersize=4, linewidth=1)
    panel.axhline(statistics.mean(of(task, "full", "ceiling")), color=COLOURS["ceiling"], linestyle="--")
    panel.set(xlabel="seed", xticks=seeds)
panels[0].set(title="sentiment: the lines cross,\neach seed has its own ranking", ylabel="score")
for panel, task in zip(panels[1:], tasks[1:], strict=True):
    panel.set_title(f"{task}: {len(set(winners[task]))} winners\nin {len(seeds)} seeds")
show(figure, "everything_seeds")
assert any(len(set(names)) > 1 for names in winners.values()), "if every seed agreed, one seed would be enough"

# %% [markdown]
# (Panels from left to right: the tasks as listed; colours as in the first picture.) With one seed you would have crowned
# another method. This is why every table of this course has at least three, and a rule that was there first.
#
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | one method scores like a coin | its learning rate or its scale was never tuned | section 5: try a third of the rate |
# | every method looks equally good | the task is easy: the head alone is enough | section 3: add a task where it is not |
# | a winner that nobody else finds | one seed | section 5: the winner of each seed |
# | "90 % of full" sounds good, and is not | no untouched row: a coin has half of it | section 1: the share of the way |
# | an adapter's file looks tiny beside a model | the base is not counted | section 4: base + files, for your number of tasks |
#
# ## Exercises
#
# Write in [exercises/21_everything.py](exercises/21_everything.py), then `python -m tutorials check 21`.
#
# 1. ★ `share_of_the_way`: from three lists with one number for each seed.
#    <details><summary>Hint</summary>First the share of each seed, then the mean. `zip` takes three lists.</details>
# 2. ★★ `pareto_front`: the ways that nobody beats in both score and cost.
#    <details><summary>Hint</summary>A way falls out when another one is at least as good in both and better in one.</details>
# 3. ★ `tasks_until_smaller`: from how many tasks on one base with adapters stores less than whole models.
#    <details><summary>Hint</summary>Solve base + n · adapter < n · whole for n; a tie is not less: `//`, and one more.</details>
#
# ## Summary
#
# 1. Judge a score between the untouched base and what is possible, and a difference by paired seeds and a rule fixed before.
# 2. On an easy task all ways arrive; on a harder one the thinnest fall behind and many others are level. Then files, memory and
#    time decide.
# 3. A comparison lies most easily through one seed, an untuned setting, or a bill that leaves out the base.
#
# **Next:** your own model and your own task, with the [README](../README.md)'s commands at hand; the [list of
# lessons](README.md).
#
# ## On the real thing
#
# The same comparison on a real model is one command; it tunes each method's learning rate on a seed of its own. What we
# measured with it (22 M parameters, SST-2) stands in the [README](../README.md).
#
# ```bash
# python -m training compare --task sst2 --model roberta-base --seeds 3 --learning-rates 0.3 1 3
# python -m training --task sst2 --model roberta-base --method lora --out runs/sst2-lora
# python -m tutorials everything --tasks sentiment qa --seeds 3   # the small world, as above
# ```
