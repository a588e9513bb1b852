# %% [markdown]
# # 03 · Classification: without its head, an adapter is right or swapped by chance
#
# **Needs** lessons [00](00_setup_and_small_world.py) and [01](01_lora_by_hand.py)
# · **Read and do** 45 minutes · **Runs in** about 40 s on one CPU thread · **Memory** 2 GB
#
# You want a model that sorts texts into classes. You have a pretrained model that knows the
# language, but not your classes. What has to be added, and what has to be saved?
#
# ![A text goes through the body with LoRA, and then through the head](diagrams/03_body_and_head.svg)
#
# Two things are trained: the LoRA matrices inside the body, and a new last layer, the **head**. On
# this page you build the head by hand, find out when it is enough on its own, and see a mistake
# that gives no error message: an adapter that was saved without its head.

# %% tags=["fold"]
# set-up: imports, our folders, the base model
import math
import sys
import tempfile
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import torch
import transformers
from matplotlib import pyplot as plt

from training.data.data import load_task
from training.data.encoding import encode
from training.data.tasks import find_task
from training.evaluation.evaluation import HeldOut, evaluate
from training.loop.processes import make_accelerator
from training.models.base_models import load_base
from training.reports.records import COLOURS, use_style
from tutorials.answers import true_option
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
use_style()
folder = Path(tempfile.mkdtemp())
spec = find_task("sentiment")
base = load_base(spec, seed=0)
tokenizer = base.tokenizer
examples = load_task(spec, seed=0)["test"].select(range(300))
held_out = HeldOut(spec, examples, encode(examples[:], spec, tokenizer, 128))


def accuracy_of(model) -> float:
    """Accuracy on 300 test stories of `sentiment`."""
    return evaluate(model, held_out, tokenizer, make_accelerator())["accuracy"]


# %% [markdown]
# ## 1. The head is one small matrix
#
# An encoder such as BERT reads the whole text at once. The hidden state of its first token passes
# through one more layer and becomes a vector $h$ for the whole text. (Pretraining has trained this
# vector, too.) The head computes $h W^\top + b$ with $W$ of shape (C, D): one score for each of C
# labels. The largest score wins.
#
# ??? The hidden size is D = 64, and there are two labels. How many parameters does the head have?
# - [ ] 64 || That is one row of W. There is one row for each label.
# - [ ] 128 || The biases are missing.
# - [x] 130 || 2 · 64 weights and 2 biases.

# %%
inputs = tokenizer(examples[0]["sentence"], return_tensors="pt")
model = base.model.eval()
with torch.no_grad():
    h = model.bert(**inputs).pooler_output  # (B, D)
    by_hand = h @ model.classifier.weight.T + model.classifier.bias  # (B, C)
    library = model(**inputs).logits
count = sum(p.numel() for p in model.classifier.parameters())
print(f"h has shape {tuple(h.shape)}, the head has {count} parameters")

# %% tags=["fold"]
# check
true_option(count == 64, count == 128, count == 130)
assert torch.allclose(by_hand, library, atol=1e-6), "W has shape (C, D): did you transpose it?"

# %% [markdown]
# ## 2. Before training, the answer is a guess
#
# The body is pretrained. The head is random: nobody has said what a label means. Half of the
# stories are good.
#
# ??? What is the mean accuracy over all random heads?
# - [x] about 0.5 || If you change all signs of a head, each answer is reversed, and this head is
#   as
#   likely. So the mean over all random heads is exactly 0.5.
# - [ ] about 0.65 || The body may know polarity. But a random head does not know which side is
#   which.
# - [ ] about 0.9 || The body knows polarity, but the head does not know which label means "good".

# %%
scores, mirrored = [], []
for seed in range(10):
    guesser = load_base(spec, seed=seed).model
    scores.append(accuracy_of(guesser))
    for p in guesser.classifier.parameters():
        p.data.neg_()  # the mirror image of the head
    mirrored.append(accuracy_of(guesser))
mean = sum(scores + mirrored) / 20
print("ten heads:", [round(score, 2) for score in scores])
print(f"mean of these heads and their mirror images: {mean:.2f}")

# %% tags=["fold"]
# check: each head and its mirror image add up to 1
true_option(abs(mean - 0.5) < 0.1, abs(mean - 0.65) < 0.05, mean > 0.85)
pairs = zip(scores, mirrored, strict=True)
assert all(math.isclose(a + b, 1) for a, b in pairs), "all signs changed: each answer changes"

# %% [markdown]
# ## 3. Which score is honest?
#
# Suppose 70 of 100 sentences have the label 1, and a model always answers 1. Its accuracy is 0.70,
# and it knows nothing. The **Matthews correlation** (MCC; Matthews 1975) looks at all four cases:
# true and false positives (TP, FP), true and false negatives (TN, FN). 1 is perfect, and 0 is as
# good as guessing. **F1** looks at the label 1 only: how many of its cases were found, and how many
# alarms were false.
#
# $$\text{MCC} = \frac{TP \cdot TN - FP \cdot FN}{\sqrt{(TP+FP)(TP+FN)(TN+FP)(TN+FN)}}, \qquad
# F_1 = \frac{2\, TP}{2\, TP + FP + FN}.$$


# %%
def matthews(guess: list[int], truth: list[int]) -> float:
    pairs = list(zip(guess, truth, strict=True))
    tp, tn, fp, fn = (pairs.count(pair) for pair in ((1, 1), (0, 0), (1, 0), (0, 1)))
    below = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (tp * tn - fp * fn) / below if below else 0.0  # 0/0 counts as 0


# %% [markdown]
# ??? A model always answers 1. What are its MCC and its F1?
# - [ ] MCC 0.7, F1 0.7 || Both look at the kinds of errors, not only at their number.
# - [x] MCC 0, F1 above 0.8 || MCC notices that the model cannot separate the labels. F1 ignores
#   the true
#   negatives.
# - [ ] MCC 0, F1 0 || F1 counts the 70 sentences that it got right.

# %%
from training.evaluation.metrics import label_scores

truth = [1] * 70 + [0] * 30
guesses = {"always 1": [1] * 100, "a real model": [1] * 60 + [0] * 35 + [1] * 5}
for name, guess in guesses.items():
    accuracy, f1 = label_scores(guess, truth, "f1").values()
    print(f"{name:<13} accuracy {accuracy:.2f}  F1 {f1:.2f}  MCC {matthews(guess, truth):.2f}")

# %% tags=["fold"]
# check
lazy = guesses["always 1"]
mcc, f1 = matthews(lazy, truth), label_scores(lazy, truth, "f1")["f1"]
true_option(abs(mcc - 0.7) < 0.1, mcc == 0 and f1 > 0.8, mcc == 0 and f1 == 0)
for guess in guesses.values():
    expected = label_scores(guess, truth, "matthews")["matthews"]
    assert math.isclose(matthews(guess, truth), expected), "which pairs are false positives?"

# %% [markdown]
# So look at more than the accuracy, and print what the most frequent label alone would get. The
# [deep dive](deep/03_lora_for_classification.py) does this for eight real tasks.
#
# ## 4. When is the head alone enough?
#
# Two tasks. In `sentiment`, the model says whether a story is good or bad. In `qa` it marks the words
# of a story that answer a question: its head gives each token a score for "starts here" and one for
# "ends here". For both we train the head alone (learning rate 1e-2), and LoRA together with the head
# (5e-3), for 300 steps.
#
# ??? For which task is the head alone about as good as LoRA (at most 0.06 worse)?
# - [x] for `sentiment` only || The body already separates good and bad stories. A plane between
#   them is enough.
# - [ ] for `qa` only || The answer depends on how the question and the story fit together. The
#   frozen body has not learned that.
# - [ ] for both || The head only reads what the body computes. It cannot change it.

# %%
from training import train_model

runs = {}
settings = {"steps": 300, "eval_every": 10**6, "eval_rows": 500, "trackers": ""}
for task in ("sentiment", "qa"):
    for method in ("head", "lora"):
        out = str(folder / f"{task}-{method}")
        runs[task, method] = train_model(task, method=method, out=out, **settings)
        run = runs[task, method]
        print(f"{task:9} {method:4}  {run.metric_name} {run.metric:.3f}")

# %% tags=["fold"]
# plot: both tasks, both methods
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.2), sharey=True)
titles = {"sentiment": "sentiment: the head alone is enough", "qa": "qa: the head alone fails"}
for panel, (task, title) in zip(panels, titles.items(), strict=True):
    values = {method: runs[task, method].metric for method in ("head", "lora")}
    colours = [COLOURS[method] for method in values]
    bars = panel.bar(list(values), list(values.values()), color=colours, width=0.6)
    panel.bar_label(bars, fmt="%.2f", padding=6)
    top = runs[task, "lora"].ceiling
    panel.axhline(top, color=COLOURS["ceiling"], linestyle="--")
    panel.annotate("ceiling", (0.4, top + 0.05), color=COLOURS["ceiling"])
    panel.set(
        title=title, xlabel="method", ylabel=runs[task, "lora"].metric_name, ylim=(0, 1.2)
    )
show(figure, "03_head_or_lora")

# %% tags=["fold"]
# check
gap = {t: runs[t, "lora"].metric - runs[t, "head"].metric for t in ("sentiment", "qa")}
true_option(
    gap["sentiment"] < 0.06 < 0.15 < gap["qa"],
    gap["qa"] < 0.06 < gap["sentiment"],
    max(gap.values()) < 0.06,
)

# %% [markdown]
# So first measure what the head alone reaches. It takes a minute.
#
# ## 5. Break it on purpose: save LoRA without its head
#
# `save_adapter` writes both. Many scripts keep only what has "lora" in its name, as
# Microsoft's `lora_state_dict` does:
#
# ```python
# checkpoint = {k: v for k, v in model.state_dict().items() if "lora" in k}
# ```
#
# ??? We load this file into a fresh model five times, each time with another random head. The
#   LoRA matrices are right. Which accuracies do we get?
# - [ ] always about 0.99 || The matrices separate good from bad. But which side is which, only
#   the trained head knows.
# - [ ] always about 0.5 || The two kinds of stories are far apart in h, so a random plane usually
#   separates them.
# - [x] sometimes nearly 1, sometimes nearly 0 || A random head usually separates the two sides.
#   It gives
#   them the right labels, or it swaps them.

# %%
import loralib

trained = runs["sentiment", "lora"]
state = trained.model.state_dict()
checkpoint = {k: v for k, v in state.items() if "lora" in k}
broken = []
for seed in range(1, 6):
    fresh = load_base(spec, seed=seed).model  # another random head
    loralib.inject(fresh, loralib.LoraConfig(r=8, lora_alpha=16, modules_to_save=[]))
    fresh.load_state_dict(checkpoint, strict=False)
    broken.append(accuracy_of(fresh))
print("without the head:", [round(score, 2) for score in broken])

# %%
from training.models.trained import load_trained

complete = load_trained(trained.folder / "adapter")
print(f"with the head: {accuracy_of(complete.base.model):.2f}")

# %% tags=["fold"]
# check
high, low = max(broken), min(broken)
true_option(low > 0.9, max(abs(b - 0.5) for b in broken) < 0.15, low < 0.2 and high > 0.8)
assert accuracy_of(complete.base.model) > 0.9, "the file of save_adapter has both parts"

# %% [markdown]
# With `strict=False` no error is raised. LoRA has moved the two kinds of stories to opposite
# sides. In these five runs each random head separates the sides. With some heads nearly all answers
# are right, and with others nearly all are swapped.
#
# ![A complete file, and a file without the head](diagrams/03_file.svg)
#
# The library's `load_trained` raises an error if a head is missing: see the
# [deep dive](deep/03_lora_for_classification.py).
#
# ## The same in peft
#
# peft adds a classification head to `modules_to_save` if you set `task_type="SEQ_CLS"`. Without
# a task type it freezes the head and does not save it, and gives no message.

# %% tags=["fold"]
# the same in peft: which tensors does it save?
import logging

logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # it looks for a GPU
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

saves_head = {}
for task_type in ("SEQ_CLS", None):
    config = LoraConfig(r=8, target_modules=["query", "value"], task_type=task_type)
    names = get_peft_model_state_dict(get_peft_model(load_base(spec, seed=0).model, config))
    saves_head[task_type] = any("classifier" in name for name in names)
    print(f"task_type={task_type}: the head is saved: {saves_head[task_type]}")
assert saves_head == {"SEQ_CLS": True, None: False}, "peft has changed what it saves"

# %% [markdown]
# ## Find the bug
#
# This program runs without an error, but the loss does not fall.
#
# ```python
# trained = [p for p in model.parameters() if p.requires_grad]
# optimizer = torch.optim.AdamW(trained, lr=5e-3)
# loralib.inject(model, loralib.LoraConfig(r=8, modules_to_save=["classifier"]))
# train(model, optimizer)
# ```
#
# ??? What is wrong?
# - [ ] The rank is too small. || Even r = 1 would change the loss.
# - [x] The optimizer was made before `inject`. || It has the old parameters, which are now
#   frozen. It has
#   neither the LoRA matrices nor the new copy of the head.
# - [ ] AdamW does not work with LoRA. || It is the usual choice.

# %% tags=["fold"]
# check: the buggy program, one step
buggy = load_base(spec, seed=0).model
optimizer = torch.optim.AdamW([p for p in buggy.parameters() if p.requires_grad], lr=5e-3)
loralib.inject(buggy, loralib.LoraConfig(r=8, modules_to_save=["classifier"]))
before = {name: p.detach().clone() for name, p in buggy.named_parameters()}
buggy(**inputs, labels=torch.tensor([1])).loss.backward()
optimizer.step()
moved = [name for name, p in buggy.named_parameters() if not torch.equal(p, before[name])]
has_adapter = {id(p) for g in optimizer.param_groups for p in g["params"]} & {
    id(p) for name, p in buggy.named_parameters() if "lora_" in name
}
true_option(False, not moved and not has_adapter, False)

# %% [markdown]
# ## Quiz
#
# ??? A head for 5 labels on a body with D = 768 has how many parameters?
# - [ ] 3,840 || The biases are missing.
# - [x] 3,845 || 5 · 768 + 5.
# - [ ] 768 || That is one row.
#
# ??? What is the MCC of a model that always gives the same label?
# - [x] 0 || It does not separate the labels.
# - [ ] the share of that label || That is its accuracy.
# - [ ] −1 || That is a model that is always wrong.
#
# ??? The head alone is as good as LoRA. What follows?
# - [ ] LoRA does not work. || It works. The task does not need it.
# - [x] The body already separates the classes. || Then a head with a few hundred parameters is
#   enough.
# - [ ] The head is too large. || A head is tiny compared with the body.
#
# ??? Which parts must an adapter file for classification contain?
# - [ ] A and B || Without the head, it is chance whether the labels are right or swapped.
# - [x] A, B and the head || All that was trained.
# - [ ] the whole model || The body did not change.
#
# ??? Accuracy is 0.02 with two labels. What is likely?
# - [ ] The model learned nothing. || Then it would be near 0.5.
# - [x] The labels are swapped, or the head is missing. || A model that is nearly always wrong
#   knows the
#   answer very well.
# - [ ] The learning rate is too small. || Then it would be near 0.5.

# %% tags=["fold"]
# check of the first two answers
assert sum(p.numel() for p in torch.nn.Linear(768, 5).parameters()) == 3845, "5 · 768 + 5"
assert matthews([0] * 10, [0] * 5 + [1] * 5) == 0, "one kind of answer: MCC is 0"

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | right after one start, wrong after the next | the head was not saved | section 5: the keys of the file |
# | an accuracy far below one half | a missing head, or swapped label numbers | section 5; deep dive, section 2 |
# | MCC is 0 | always the same answer | count the answers of each label |
# | F1 is high and MCC is low | one label is frequent | section 3 |
#
# ## Exercises
#
# Write in [exercises/03_lora_for_classification.py](exercises/03_lora_for_classification.py),
# then run `python -m tutorials check 03`.
#
# 1. ★ `head_size`: the number of parameters of a linear head.
#    <details><summary>Hint</summary>One row of weights and one bias for each label.</details>
# 2. ★★ `floor_accuracy`: the test accuracy of always giving the most frequent training label.
#    <details><summary>Hint</summary><code>collections.Counter</code>.</details>
# 3. ★★ `f1_by_hand`: F1 of the label 1 from guesses and truths.
#    <details><summary>Hint</summary>The formula of section 3; without any true positive it is 0.
#    </details>
# 4. ★★★ `head_from_means`: a head without training: the label whose mean vector $h$ is nearest.
#    <details><summary>Hint</summary>Write out ‖h − m‖². The part ‖h‖² is the same for all labels.
#    What is left is linear in h, and a larger value must mean nearer.</details>
#
# **Change and measure:** train the head alone on `topic` instead of `sentiment`. Is it enough
# there? Compare with LoRA and with the ceiling of lesson 00.
#
# ## Summary
#
# 1. A classifier is a body and a head. The head is new and random, so it must be trained.
# 2. First measure the head alone. LoRA helps when the frozen body does not compute what the task needs.
# 3. Without its head, an adapter gives the right answers or the swapped ones. Chance decides which.
#
# **Next:** [lesson 04](04_lora_against_full.py), LoRA against full fine-tuning.
#
# More: [deep dive](deep/03_lora_for_classification.py) (real tasks, swapped labels) ·
# [glossary](GLOSSARY.md)
#
# ## On the real thing
#
# The same with RoBERTa (it needs a network, and a GPU helps; we did not run these):
#
# ```bash
# python -m training --task sst2 --model roberta-base --method head
# python -m training --task sst2 --model roberta-base --method lora --target-modules query,value
# python -m training evaluate --adapter runs/sst2-lora/adapter
# ```
