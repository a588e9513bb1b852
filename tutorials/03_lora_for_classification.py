# %% [markdown]
# # 03 · Classification: the new head must be trained, tested alone, and saved
#
# **Needs** lessons [00](00_setup_and_small_world.py) and [01](01_lora_by_hand.py)
# · **Read and do** 60 minutes · **Runs in** about 40 s on one CPU thread · **Memory** 2 GB
#
# You want a model that sorts texts into classes. You have a pretrained model that knows the
# language, but not your classes. What has to be added, and what has to be saved?
#
# ![A text goes through the body with LoRA, and then through the head](diagrams/03_body_and_head.svg)
#
# Two things are trained: the LoRA matrices inside the body, and a new last layer, the **head**.
# On this page you build the head by hand, find out when it is enough on its own, and see a
# mistake that gives no error message: an adapter that was saved without its head.

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


# %%
examples = load_task(spec, seed=0)["test"].select(range(300))
held_out = HeldOut(spec, examples, encode(examples[:], spec, tokenizer, 128))


def accuracy_of(model) -> float:
    """Accuracy on 300 test stories of `sentiment`."""
    return evaluate(model, held_out, tokenizer, make_accelerator())["accuracy"]


# %% [markdown]
# ## 1. The head is one small matrix
#
# An encoder such as BERT reads the whole text at once. The hidden state of its first token
# passes through one more layer and becomes a vector $h$ for the whole text. (Pretraining has
# trained this layer, too.) The head computes $h W^\top + b$ with $W$ of shape (C, D): one score
# for each of C labels. The largest score wins. With two labels this cuts the space of $h$ by a
# plane: one side gets label 0, the other label 1. (The BERT paper, section 4.1, puts the head
# directly on the first token's hidden state, which it calls $C$. It writes $K$ for the number
# of labels and $H$ for D. Its head has no $b$.)
#
# ??? The hidden size is D = 64, and there are two labels. How many parameters does the head
#   have?
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
# ??? We try ten random heads on the same body. What accuracies do they have?
# - [x] different ones, some below 0.5 and some above || A random head does not know which side
#   of its plane is "good". If you change all its signs, each answer is reversed.
# - [ ] all above 0.5, because the body knows what "good" means || The body may know what "good"
#   means. But the head must know which of its two scores belongs to "good".
# - [ ] all exactly 0.5 || 0.5 is the mean over all random heads. A single head is better or
#   worse than that.

# %%
scores, mirrored = [], []
for seed in range(10):
    guesser = load_base(spec, seed=seed).model
    scores.append(accuracy_of(guesser))
    for p in guesser.classifier.parameters():
        p.data.neg_()  # the mirror image of the head: all signs changed
    mirrored.append(accuracy_of(guesser))
print("ten heads:", *(f"{score:.2f}" for score in scores))

# %% tags=["fold"]
# check: the accuracies of a head and of its mirror image add up to 1
true_option(min(scores) < 0.5 < max(scores), min(scores) > 0.5, max(scores) == min(scores))
pairs = zip(scores, mirrored, strict=True)
assert all(math.isclose(a + b, 1) for a, b in pairs), "all signs changed: each answer changes"

# %% [markdown]
# ## 3. When is the head alone enough?
#
# Two tasks. In `sentiment`, the model says whether a story is good or bad. In `qa` it marks the
# words of a story that answer a question, as in lesson 01. Exact match is the share of answers
# whose first and last word are right. For both we train the head alone (learning rate 1e-2),
# and LoRA together with the head (5e-3), for 300 steps.
#
# ??? For which task is the head alone about as good as LoRA (at most 0.06 worse)?
# - [x] for `sentiment` only || The body already separates good and bad stories. A plane between
#   them is enough.
# - [ ] for `qa` only || The answer depends on how the question and the story fit together. The
#   frozen body does not compute that well enough.
# - [ ] for both || Then the frozen body would already bring question and story together.

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
assert gap["qa"] > 0.15, "is LoRA injected, and is its head trained?"

# %% [markdown]
# So first measure what the head alone reaches.
#
# ## 4. Break it on purpose: save LoRA without its head
#
# What has LoRA changed inside the body? We compare the mean vector $h$ of the good stories with
# that of the bad ones. A cosine of 1 means the same direction, and -1 the opposite one.


# %%
@torch.no_grad()
def cosine_of_means(model) -> float:
    """Cosine between the mean h of the good and of the bad stories."""
    model.eval()
    texts = tokenizer(list(examples["sentence"]), padding=True, return_tensors="pt")
    h = model.bert(**texts).pooler_output  # (B, D)
    is_good = torch.tensor(examples["label"]) == 1
    means = h[is_good].mean(0), h[~is_good].mean(0)  # (D,) each
    return torch.cosine_similarity(*means, 0).item()


trained = runs["sentiment", "lora"]
print(f"pretrained body: {cosine_of_means(base.model):.2f}")
print(f"body with LoRA:  {cosine_of_means(trained.model):.2f}")

# %% [markdown]
# So LoRA has moved the two kinds of stories to opposite sides: on average, $h$ of a good story
# points in the opposite direction to $h$ of a bad one. `train_model` has saved $A$, $B$ and the
# head with `save_adapter`. Some scripts save only what has "lora" in its name, as Microsoft's
# `lora_state_dict` does:
#
# ```python
# checkpoint = {k: v for k, v in model.state_dict().items() if "lora" in k}
# ```
#
# We load this checkpoint into a fresh model five times, each time with another random head.
# (The biases of a new head are 0.)
#
# ??? The LoRA matrices are right, and the head is random. Which accuracies do we get?
# - [ ] always about 0.99 || The body separates good from bad. But the random head does not know
#   which side is "good".
# - [ ] between 0.3 and 0.6, as in section 2 || There both kinds had nearly the same direction.
#   A *random* head could not separate them well. (A trained one can: section 3.)
# - [x] nearly 1 or nearly 0 || If a head gives h a larger score for "good", it gives −h a
#   smaller one. So it separates the sides. It gives both kinds the right label, or it swaps the
#   labels.

# %%
import loralib

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
# plot: five random heads on the trained body, and the file with its head
figure, panel = plt.subplots(figsize=(7, 2.8))
names = [*(f"head {seed}" for seed in range(1, 6)), "saved head"]
values = [*broken, accuracy_of(complete.base.model)]
colours = [COLOURS["broken"]] * 5 + [COLOURS["lora"]]
panel.bar_label(panel.bar(names, values, color=colours, width=0.6), fmt="%.2f", padding=3)
panel.axhline(0.5, color=COLOURS["random"], linestyle="--")
panel.annotate("guessing", (-0.45, 0.53), ha="left", color=COLOURS["random"])
panel.set(title="with a random head: nearly all right, or nearly all wrong", ylim=(0, 1.2))
panel.set(xlabel="head that is used with the LoRA matrices", ylabel="accuracy")
show(figure, "03_without_the_head")

# %% tags=["fold"]
# check
high, low = max(broken), min(broken)
true_option(low > 0.9, low > 0.25 and high < 0.65, low < 0.2 and high > 0.8)
assert accuracy_of(complete.base.model) > 0.9, "the file of save_adapter has both parts"
assert cosine_of_means(trained.model) < -0.9, "are the two kinds of stories on opposite sides?"
names = loralib.lora_state_dict(trained.model).keys()
assert checkpoint.keys() == names, "our copy of Microsoft's function keeps other tensors"

# %% [markdown]
# With `strict=False` no error is raised. In these five runs each random head separates the
# sides. With some heads nearly all answers are right, and with others nearly all are swapped.
#
# ![A complete file, and a file without the head](diagrams/03_file.svg)
#
# The library's `load_trained` raises an error if a head is missing: see the [deep
# dive](deep/03_lora_for_classification.py).
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
#   frozen. It has neither the LoRA matrices nor the copy of the head that `inject` trains.
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
# ??? 70 of 100 test examples have the label 1. A model has an accuracy of 0.70. What do you
#   say?
# - [ ] It is a good start. || Always answering 1 gives 0.70, too.
# - [x] It may have learned nothing. || Compare with the score of the most frequent label.
# - [ ] Its head is missing. || Nothing shows that.
#
# ??? The head alone is as good as LoRA, and both are near the ceiling. What follows?
# - [ ] LoRA does not work. || It works. The task does not need it.
# - [x] The body already separates the classes. || Then a head with a few hundred parameters is
#   enough.
# - [ ] The head is too large. || A head is tiny compared with the body.
#
# ??? Which parts must an adapter file for classification contain?
# - [ ] A and B || Without the head, it is chance whether the labels are right or swapped.
# - [x] A, B and the head || All that was trained.
# - [ ] the whole model || The pretrained weights are frozen, so everybody has them.
#
# ??? Accuracy is 0.02 with two labels. What is likely?
# - [ ] The model learned nothing. || Then it would be nearer to 0.5.
# - [x] The labels are swapped, or the head is missing. || A model that is nearly always wrong
#   knows the answer very well.
# - [ ] The learning rate is too small. || Then it would be nearer to 0.5.

# %% tags=["fold"]
# check of the first two answers
assert sum(p.numel() for p in torch.nn.Linear(768, 5).parameters()) == 3845, "5 · 768 + 5"
assert sum(label == 1 for label in [1] * 70 + [0] * 30) / 100 == 0.70, "always answering 1"

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | answers are reversed after some starts of the program | the head was not saved | section 4: the keys of the file |
# | an accuracy near 0 with two labels | a missing head, or swapped label numbers | section 4; deep dive, section 2 |
# | a high accuracy, but one label is never right | one label is frequent | deep dive, section 3 |
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
#    <details><summary>Hint</summary>F1 = 2 TP / (2 TP + FP + FN), with the counts of true
#    positives, false positives and false negatives. Without true positives it is 0.</details>
# 4. ★★★ `head_from_means`: build a head without training. It gives the label whose mean vector
#    $h$ is nearest.
#    <details><summary>Hint</summary>Write out ‖h − m‖². The part ‖h‖² is the same for all labels.
#    What is left is linear in h, and a larger value must mean nearer.</details>
#
# **Change and measure:** train the head alone on `topic` instead of `sentiment`. Is it enough
# there? Compare with LoRA and with the ceiling of lesson 00.
#
# ## Summary
#
# 1. A classifier is a body and a head. The head is new and random, so it must be trained.
# 2. First measure the head alone. LoRA helps when the frozen body does not compute what the
#    task needs.
# 3. Save the head with the adapter. Without it, chance decides whether the labels are right or
#    swapped.
#
# **Next:** [lesson 04](04_lora_against_full.py), LoRA against full fine-tuning.
#
# More: [deep dive](deep/03_lora_for_classification.py) (swapped labels, MCC and F1, real tasks)
# · [glossary](GLOSSARY.md)
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
