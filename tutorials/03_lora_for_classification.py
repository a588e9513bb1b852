# %% [markdown]
# # 03 · A classifier is a base and a new head, and both must travel in the file
#
# | | |
# |:--|:--|
# | **Needs** | lessons [00](00_setup_and_small_world.py) and [01](01_lora_by_hand.py) |
# | **Read and do** | 50 minutes |
# | **Runs in** | about 45 s on one CPU thread |
# | **Memory** | 2 GB |
#
# A language model writes words. A classifier chooses one of a few labels. To make one from the other you put a small new layer
# on top: the **head**. This lesson builds it by hand, asks which score is honest, finds out when the head alone is enough and
# when it is not, and shows a mistake that no error message tells you about: an adapter that was saved without its head.
#
# | symbol | code | meaning |
# |:--|:--|:--|
# | B, T, D | `# (B, T, D)` | in shapes: batch, tokens, width of the model |
# | C | | number of labels |
# | $h$ | `pooled` | what the base says about the whole text: one vector of width D |
# | MCC | `matthews` | Matthews correlation: 1 is perfect, 0 is guessing |
#
# Differences from the papers: LoRA (Hu et al. 2021, section 5.2) was tested with RoBERTa on GLUE. We use the small world, where
# the best possible accuracy is known, and print at the end what we measured on real tasks.

# %%
import math
import sys
import tempfile
from pathlib import Path

ROOT = Path.cwd() if Path("loralib").is_dir() else Path.cwd().parent
sys.path.insert(0, str(ROOT))  # so that our folders are found, from the project's root and from tutorials/

import torch
import transformers
from matplotlib import pyplot as plt

from training.reports.records import COLOURS, use_style
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
use_style()
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1. The head is one small matrix
#
# An **encoder** of the BERT type reads the whole text at once. Its first token sees all others; one more layer, the pooler, makes
# a vector $h$ of it. The head is a matrix $W$ (C × D) and a bias: the label with the largest $W h + b$ wins.
#
# **Predict:** the base has D = 64, and there are two labels. How many numbers has the head: 64, 128 or 130?

# %%
from training.models.base_models import load_base
from training.data.data import load_task
from training.data.tasks import find_task

spec = find_task("sentiment")
base = load_base(spec, seed=0)
model, tokenizer = base.model.eval(), base.tokenizer
text = load_task(spec, seed=0)["test"][0]["sentence"]
inputs = tokenizer(text, return_tensors="pt")

with torch.no_grad():
    pooled = model.bert(**inputs).pooler_output  # (B, D)
    by_hand = pooled @ model.classifier.weight.T + model.classifier.bias  # (B, C)
    library = model(**inputs).logits
head_numbers = sum(p.numel() for p in model.classifier.parameters())
print(f"h has {pooled.shape[1]} numbers, the head {head_numbers}; new in this model: {base.new_modules}")
assert torch.allclose(by_hand, library, atol=1e-6), "W h + b, with W of shape (C, D): did you transpose it?"
assert head_numbers == 2 * 64 + 2, "a row of weights and one bias for each label"

# %% [markdown]
# ## 2. Before training, the answer is a guess
#
# The base is pretrained. The head is **random**: nobody has told it what a label means. An old guide prints "60 %" for such a
# model. On real SST-2 we measured 0.504 ± 0.015 (three seeds).
#
# **Predict:** the small world's sentiment has two labels, one about as frequent as the other. What accuracy has the random head,
# on average over ten of them: 0.5, 0.6, or 0.7?

# %%
from training.data.encoding import encode
from training.evaluation.evaluation import HeldOut, evaluate
from training.loop.processes import make_accelerator

rows = load_task(spec, seed=0)["test"].select(range(300))
held_out = HeldOut(spec, rows, encode(rows[:], spec, tokenizer, 128))
scores, mirrored = [], []
for seed in range(10):
    guesser = load_base(spec, seed=seed).model
    scores.append(evaluate(guesser, held_out, tokenizer, make_accelerator())["accuracy"])
    for p in guesser.classifier.parameters():
        p.data.neg_()  # the mirror image: a head that is as likely
    mirrored.append(evaluate(guesser, held_out, tokenizer, make_accelerator())["accuracy"])
mean = sum(scores) / len(scores)
print(f"accuracies {[round(s, 2) for s in scores]}, mean {mean:.2f}")
print(f"mirrored   {[round(s, 2) for s in mirrored]}, mean of all twenty {(mean + sum(mirrored) / 10) / 2:.2f}")
assert abs(mean - 0.5) < 0.12, "two balanced labels and a random head: nothing can be known yet"
assert all(abs(a + b - 1) < 1e-9 for a, b in zip(scores, mirrored, strict=True)), "all signs turned: each answer must turn"

# %% [markdown]
# Ten heads are few, so their mean is not exactly 0.5. But the mirror image of a head (all signs turned) gives the other answer
# to every text, and it is as likely to be drawn. So the mean over *all* random heads is 0.5, whatever the base knows.
#
# ## 3. Which score is honest?
#
# Suppose 70 of 100 sentences are "fine" and 30 are "wrong", as in CoLA. A model that always says "fine" has an accuracy of 0.70
# and knows nothing. The **Matthews correlation** looks at all four kinds of answers (true and false, positive and negative):
#
# $$\text{MCC} = \frac{TP \cdot TN - FP \cdot FN}{\sqrt{(TP+FP)(TP+FN)(TN+FP)(TN+FN)}}.$$
#
# **F1** looks at one label only. It leaves out the TN, the wrong sentences that were found:
#
# $$F_1 = \frac{2\, TP}{2\, TP + FP + FN}.$$
#
# **Predict:** what is the MCC of always saying "fine": 0.7, 0.4 or 0? And its F1 for the label "fine": above or below 0.8?

# %%
from training.evaluation.metrics import label_scores


def matthews(guess: list[int], truth: list[int]) -> float:
    pairs = list(zip(guess, truth, strict=True))
    tp, tn, fp, fn = (pairs.count(pair) for pair in ((1, 1), (0, 0), (1, 0), (0, 1)))
    below = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (tp * tn - fp * fn) / below if below else 0.0  # one kind of answer only: nothing was told apart


truth = [1] * 70 + [0] * 30
lazy, good = [1] * 100, [1] * 60 + [0] * 35 + [1] * 5
for name, guess in (("always fine", lazy), ("a real one", good)):
    accuracy, f1 = label_scores(guess, truth, "f1").values()
    print(f"{name:12}  accuracy {accuracy:.2f}  F1 {f1:.2f}  MCC {matthews(guess, truth):.2f}")
    assert abs(matthews(guess, truth) - label_scores(guess, truth, "matthews")["matthews"]) < 1e-12, "which pairs are FP?"
assert matthews(lazy, truth) == 0 and label_scores(lazy, truth, "f1")["f1"] > 0.8, "F1 and accuracy reward the lazy answer"

# %% [markdown]
# So GLUE uses MCC for CoLA, and we print a **floor** beside every score: what the most frequent label alone would get. (Lesson
# 02 had the floor of a *loss*: the lowest possible one. The floor of a *score* is what you get for nothing.) F1 on MRPC has a
# floor of 0.80: a "0.81" there is nearly nothing.
#
# ## 4. When the head alone is enough, and when it is not
#
# Two tasks. In *sentiment* the adjectives of a text are good or bad. In *qa* the model marks the words that answer a
# question: it chooses one of T positions for the start and one for the end, so this is classification too. Its head has two
# rows, and it reads the state of each token, not $h$.
#
# Three ways: the **head alone** (the base stays as it is), **LoRA with the head**, and all weights. The qa half is lesson 01's,
# now on all 1,000 test stories. Again one seed: the README has three.
#
# **Predict:** for which task is the head alone nearly as good as LoRA? (Which of the two can be read off from single words?)

# %%
from training import train_model

runs = {}
for task in ("sentiment", "qa"):
    for method in ("head", "lora", "full"):
        settings = {"steps": 300, "eval_every": 10**6, "trackers": "", "samples": 0, "threads": 1}
        runs[task, method] = train_model(task, method=method, seed=0, out=str(folder / f"{task}-{method}"), **settings)
for (task, method), run in runs.items():
    print(f"{task:9} {method:4}  {run.metric_name} {run.metric:.3f}  of {run.ceiling:.3f}   {run.trainable:,} trained")
gap = {task: runs[task, "lora"].metric - runs[task, "head"].metric for task in ("sentiment", "qa")}
assert abs(gap["sentiment"]) < 0.06, "good and bad stories are already apart in h: a plane between them is enough"
assert gap["qa"] > 0.15, "the answer depends on how question and text fit together, and that has to be learnt inside the base"

# %%
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.2), sharey=True)
titles = {"sentiment": "sentiment: the head alone is enough", "qa": "qa: the head alone falls far behind"}
for panel, task in zip(panels, titles, strict=True):
    values = {method: runs[task, method].metric for method in ("head", "lora", "full")}
    bars = panel.bar(list(values), list(values.values()), color=[COLOURS[m] for m in values], width=0.6)
    panel.bar_label(bars, fmt="%.2f", padding=6)
    panel.axhline(runs[task, "lora"].ceiling, color=COLOURS["ceiling"], linestyle="--", label="best possible")
    panel.set(title=titles[task], ylabel=runs[task, "lora"].metric_name, ylim=(0, 1.15))
panels[1].legend(loc="upper left")
show(figure, "head_or_lora")

# %% [markdown]
# A head draws one plane through the space that it reads. If the base has already put the two kinds of text on two sides, that
# is all you need: 130 numbers. If not, no plane helps, and the inside of the base must change. This is the honest first
# question for every task: **what does the head alone reach?** It costs a minute.
#
# ## 5. Break it on purpose: the adapter without its head
#
# LoRA trains two things: its factors, and the head. `save_adapter` writes both. Many scripts write only what has "lora" in its
# name, as the old guide does:
#
# ```python
# checkpoint = {k: v for k, v in model.state_dict().items() if "lora" in k}
# ```
#
# **Predict:** we load that into a fresh model (with a fresh, random head), five times. The factors are right, every one. Which
# accuracies do we get: always 0.99, always about 0.5, or sometimes one thing and sometimes another?

# %%
import loralib
from training.models.trained import load_trained

trained = runs["sentiment", "lora"]
keys = {k: v for k, v in trained.model.state_dict().items() if "lora" in k}
broken = []
for seed in range(1, 6):  # each time another fresh head, as on each new start of such a script
    fresh = load_base(spec, seed=seed)
    loralib.inject(fresh.model, loralib.LoraConfig(r=8, lora_alpha=16, modules_to_save=[]))
    print("keys that did not fit:", fresh.model.load_state_dict(keys, strict=False).unexpected_keys, end="  ")
    broken.append(evaluate(fresh.model, held_out, tokenizer, make_accelerator())["accuracy"])
whole = load_trained(trained.folder / "adapter")
right = evaluate(whole.base.model, held_out, tokenizer, make_accelerator())["accuracy"]
print(f"\nwithout the head {[round(b, 2) for b in broken]}; with it {right:.3f} ({whole.report})")
assert right > 0.9 and min(broken) < 0.1, "the file of save_adapter holds factors and head; the other holds half a model"

# %% [markdown]
# No key is reported, no error is raised. And look at the numbers: nearly all right, or nearly all wrong. LoRA has pushed the two
# kinds of text so far apart in $h$ that almost any plane separates them. But *which side is which* was known to the trained head
# alone, and a fresh one tosses a coin. So the script works on some days, which is worse than failing on all of them.
#
# **Predict:** we take the head out of the library's own file, too. What does `load_trained` do with the rest?

# %%
from safetensors.torch import load_file, save_file

half = loralib.save_adapter(trained.model, folder / "half")
tensors = load_file(half / "adapter_model.safetensors")
save_file({k: v for k, v in tensors.items() if "lora" in k}, half / "adapter_model.safetensors", {"format": "pt"})
try:
    load_trained(half, task="sentiment", model="encoder")
    message = "nothing was said"
except ValueError as error:
    message = str(error).partition(": ")[2]  # without the folder's name
print(message)
assert "classifier" in message, "a head that would stay random must stop the loading, with its name"

# %% [markdown]
# ## 6. A label and its number belong together
#
# The head answers with numbers, 0 and 1. Which of them is "good"? The file says so (`id2label` in `config.json`). If your data
# counts the other way round, everything is learnt perfectly, and every answer is wrong.
#
# **Predict:** a two-label model has an accuracy of 0.98. Somebody reads its numbers the wrong way round. What do they measure?

# %%
config = whole.base.model.config
answers = [whole.base.model(**tokenizer(t, return_tensors="pt")).logits.argmax().item() for t in rows["sentence"][:100]]
one_way = sum(a == b for a, b in zip(answers, rows["label"][:100], strict=True)) / 100
other_way = sum(1 - a == b for a, b in zip(answers, rows["label"][:100], strict=True)) / 100
print(f"{config.id2label}: {one_way:.2f} one way, {other_way:.2f} the other way")
assert abs(one_way + other_way - 1) < 1e-9, "with two labels the two readings add up to one"
assert one_way > 0.9, "far below one half is a sign of swapped labels, not of a bad model"

# %% [markdown]
# ## On real tasks
#
# The eight tasks of GLUE (SICK stands in for MNLI), a pretrained encoder of 22 M parameters, LoRA r = 8 on all layers, 200 steps
# of 16 rows, one seed, measured with `python -m training benchmark`:
#
# | | cola (MCC) | sst2 | mrpc (F1) | stsb (correlation) | qqp (F1) | mnli: sick | qnli | rte |
# |:--|--:|--:|--:|--:|--:|--:|--:|--:|
# | floor | 0.000 | 0.509 | 0.802 | 0.000 | 0.000 | 0.564 | 0.521 | 0.527 |
# | LoRA | 0.000 | 0.844 | 0.814 | 0.764 | 0.720 | 0.794 | 0.777 | 0.531 |
#
# (On qqp the most frequent label is 0, and F1 counts label 1, so the floor is 0.) Read it with section 3: on cola, mrpc and
# rte the model is at its floor after so few steps, although "0.814" looks fine. On SST-2, three seeds: head alone 0.655 ±
# 0.025, LoRA r = 8 0.844 ± 0.008, full 0.851 ± 0.005 ([report](../training/results/sst2/report.md), [the claims of the old
# guide](../CLAIMS.md)).
#
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | right on one start, wrong on the next | the head was not saved | section 5: the keys of the file |
# | an accuracy far below one half | labels are numbered the other way round | section 6: `id2label` |
# | always the same answer | too few steps, or too high a learning rate | section 3: MCC is 0, the score is the floor |
# | the head alone is as good as LoRA | the base knows the task already | section 4: keep the head, save the rest |
# | F1 is high and MCC is low | one label is frequent | section 3: print the floor |
#
# ## Exercises
#
# Write in [exercises/03_lora_for_classification.py](exercises/03_lora_for_classification.py), then
# `python -m tutorials check 03`.
#
# 1. ★ `head_size`: the numbers of a linear head from its width and its labels.
# 2. ★★ `floor_accuracy`: the accuracy of always giving the training set's most frequent label, on a test set.
# 3. ★★ `f1_by_hand`: F1 of the label 1 from guesses and truths.
#    <details><summary>Hint</summary>The formula of section 3; without any TP it is 0.</details>
# 4. ★★★ `head_from_means`: a head without any training: the label whose mean vector $h$ is nearest. Then try it on the base's own
#    $h$ for the 100 training texts of sentiment: how near does it come to the trained head alone? (We got 0.883 against 0.979.)
#    <details><summary>Hint</summary>Write out ‖h − m‖². The part ‖h‖² is the same for all labels, so leave it out. What is left
#    is linear in h; a larger value must mean nearer.</details>
#
# ## Summary
#
# 1. A classifier is $W h + b$ on a pretrained base. The head is new and random; what you know before training is the floor.
# 2. Ask first what the head alone reaches. LoRA earns its place where parts of a text must be put together.
# 3. Factors and head are one adapter. A file without the head loads without a word, and the meaning of its answers is chance.
#
# **Next:** [lesson 04](04_lora_against_full.py), LoRA against full fine-tuning.
#
# ## On the real thing
#
# The same with RoBERTa on GLUE (Hub names: a network, and a GPU helps). We did not run these; the table above is a smaller model.
#
# ```bash
# python -m training --task sst2 --model roberta-base --method head
# python -m training --task sst2 --model roberta-base --method lora --target-modules query,value --steps 2000
# python -m training benchmark --tasks all --model roberta-base
# python -m training evaluate --adapter runs/sst2-lora/adapter
# ```
