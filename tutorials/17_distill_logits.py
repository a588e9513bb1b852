# %% [markdown]
# # 17 · Distillation: a teacher turns unlabelled texts into training data
#
# **Needs** lesson [03](03_lora_for_classification.py) · **Read and do** 60 minutes
# · **Runs in** about 40 s on one CPU thread · **Memory** 2 GB
#
# A large model gives good predictions, but it is slow. You want a small model, and you have only
# 50 labels. The labels that the large model was trained on are not available. Can the small
# model learn from the large one?
#
# ![A text goes to the frozen teacher and to the student; only the student gets gradients](diagrams/17_distillation.svg)
#
# Yes. In **knowledge distillation** (Hinton et al. 2015, [arXiv
# 1503.02531](https://arxiv.org/abs/1503.02531)), a large model is the **teacher**. A small model,
# the **student**, learns to predict the teacher's probabilities, which are called **soft
# labels**. On this page you see what soft labels know, write the loss and the complete loop by
# hand, and find out what helps most.

# %% tags=["fold"]
# set-up: imports, our folders, one thread
import copy
import sys
import tempfile
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import torch
from matplotlib import pyplot as plt
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

# %% tags=["fold"]
# set-up: our library
from distill.losses.losses import soft_targets
from distill.teacher.rows import load_rows
from distill.teacher.truth import posteriors
from training import train_model
from training.models.trained import load_trained
from training.reports.records import COLOURS
from tutorials.answers import true_option
from tutorials.show import prepare_page, show

prepare_page()  # one thread, no progress bars, our plot style
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1. What a teacher knows that a label does not
#
# Each story of the small world (lesson [00](00_setup_and_small_world.py)) has a topic: music,
# sport, food or science. A story has three events. Each event is about the topic of the story
# with probability ¾, and otherwise about one of the three other topics, each equally likely. The
# label is the topic.
#
# So a story with two events of music and one of food is *probably* about music, but its label is
# sometimes "food". Bayes' rule gives the true probabilities $p^*$: 0.88 for music. A label is one
# sample from $p^*$. Our teacher was trained on 2,000 such labels; it never saw a $p^*$.

# %% tags=["fold"]
# set-up: train a teacher, then compute its logits for 500 test texts
options = {"train_rows": 2000, "steps": 200, "eval_every": 200, "eval_rows": 100}
train_model("topic", method="full", out=str(folder / "teacher"), **options)
trained = load_trained(folder / "teacher" / "adapter")
teacher, tokenizer = trained.base.model.eval().requires_grad_(False), trained.base.tokenizer
reader = (tokenizer, trained.max_length)


def inputs(texts: list[dict]) -> dict:
    """Token ids and mask, (B, tokens) each."""
    ids = [torch.tensor(text["input_ids"]) for text in texts]
    masks = [torch.ones(len(x), dtype=torch.long) for x in ids]
    padded = pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id)
    return {"input_ids": padded, "attention_mask": pad_sequence(masks, batch_first=True)}


@torch.no_grad()
def logits_of(model, texts: list[dict]) -> torch.Tensor:
    """(N, C)"""
    parts = [texts[i : i + 100] for i in range(0, len(texts), 100)]
    return torch.cat([model(**inputs(part)).logits for part in parts])


test = load_rows(trained.spec, None, 0, (1, 0), 500, reader, reader).held_out
test_texts, test_labels = test.encoded.features, torch.tensor(test.rows["label"])
truth = posteriors("topic", test.rows).float()  # p* (N, C)

# %% [markdown]
# We compare two sources with $p^*$ by the **total variation distance**: half the sum of the
# absolute differences. It is 0 for equal probabilities, and 1 if they share no possible class.
#
# ??? On average over 500 test texts, which is closer to the true probabilities?
# - [ ] the labels, as probabilities of 0 and 1 || Each is 0 or 1. Only their mean over many equal
#   texts is p*.
# - [ ] both are about equally close || A model can average over its 2,000 training labels.
# - [x] the teacher's probabilities, by a factor of about two || It has averaged over many labels.


# %%
def distance(p: torch.Tensor) -> float:
    """Mean total variation distance to p*. p: (N, C)."""
    return float((p - truth).abs().sum(-1).mean() / 2)


teacher_logits = logits_of(teacher, test_texts)
labels_distance = distance(F.one_hot(test_labels, 4))
teacher_distance = distance(teacher_logits.softmax(-1))
print(f"labels:  {labels_distance:.3f}")
print(f"teacher: {teacher_distance:.3f}")

# %% tags=["fold"]
# plot: one text whose label is not its most likely topic
unlikely = [
    i for i in range(500) if truth[i].max() > 0.85 and truth[i].argmax() != test_labels[i]
]
i, names = unlikely[0], trained.spec.labels
figure, panel = plt.subplots(figsize=(6.4, 2.8))
one_hot = F.one_hot(test_labels, 4)
colours = (COLOURS["ceiling"], "tab:gray", COLOURS["full"])
rows = {"p*": truth[i], "label": one_hot[i], "teacher": teacher_logits[i].softmax(-1)}
for place, (name, values) in enumerate(rows.items()):
    x = torch.arange(4) + 0.27 * (place - 1)
    panel.bar(x, values, width=0.25, color=colours[place], label=name)
panel.set_xticks(range(4), names)
panel.set(title="one text: an unlikely label, and a teacher close to p*", ylim=(0, 1.05))
panel.set_ylabel("probability")
panel.legend()
show(figure, "17_one_text")

# %% tags=["fold"]
# check: Bayes' rule by hand for two events of one topic and one of another
ratio = labels_distance / teacher_distance
true_option(ratio < 0.7, 0.7 <= ratio <= 1.4, 1.6 < ratio < 3.5)
same, other = 3 / 4, 1 / 12  # probability of an event's topic, given the topic of the story
by_hand = torch.tensor([same**2 * other, other**2 * same, other**3, other**3])
by_hand = by_hand / by_hand.sum()
assert abs(float(by_hand[0]) - 0.88) < 0.005, (
    "0.88 for two events of one topic: did you divide by the sum over topics?"
)
assert (truth.sort(descending=True).values - by_hand).abs().sum(1).min() < 1e-5, (
    "no text has these probabilities: are there three events?"
)

# %% [markdown]
# So soft labels show the student two things that a label does not: how certain the answer is, and
# which other answers are possible.
#
# ## 2. The loss: temperature and T²
#
# Let $v$ be the teacher's logits and $z$ the student's, (N, C) each: N texts, C classes. Both are
# divided by a **temperature** $T$. (In other lessons, T is the number of tokens.) A larger T makes
# the probabilities more equal:
#
# $$p = \mathrm{softmax}(v / T), \qquad q = \mathrm{softmax}(z / T),$$
#
# $$L_{\text{soft}} = T^2 \sum_c p_c \log \frac{p_c}{q_c}.$$
#
# (Hinton et al. 2015, section 2. They use the cross-entropy of $p$ and $q$. It has the same
# gradient.) The sum is the **KL divergence** $\mathrm{KL}(p \Vert q)$: how far $q$ is from $p$.
# It is zero if $q = p$. If there are labels, too, the loss is
# $L = (1 - a)\,\mathrm{CE} + a\,L_{\text{soft}}$, where CE is the usual cross-entropy with the labels.
#
# Why $T^2$? It keeps the balance between the two parts. The gradient of the KL divergence with
# respect to $z$ is $(q - p) / T$. And $q - p$ becomes smaller, too, when a larger T makes both
# more equal.
#
# ??? T grows from 4 to 16. By which factor does the gradient of the KL divergence (without $T^2$)
#   shrink?
# - [ ] about 2 || Both factors, 1 / T and q - p, shrink.
# - [ ] about 4 || This is the factor 1 / T alone.
# - [x] about 16 || So $T^2$ in front roughly keeps the size of the gradient.


# %%
def soft_loss(z, v, T: float):
    """z and v: (N, C). One value for each text, (N,): a sum over the classes, no mean."""
    log_p, log_q = (v / T).log_softmax(-1), (z / T).log_softmax(-1)
    return T**2 * (log_p.exp() * (log_p - log_q)).sum(-1)


v = teacher_logits[:64]
z = torch.randn(v.shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
norms = {}
for T in (1, 4, 16):
    (gradient,) = torch.autograd.grad(soft_loss(z, v, T).sum(), z)
    norms[T] = float(gradient.norm())
    print(f"T = {T:2}: without T² {norms[T] / T**2:6.3f}, with T² {norms[T]:5.2f}")

# %% tags=["fold"]
# plot: the size of the gradient
figure, panel = plt.subplots(figsize=(6, 3))
panel.loglog(list(norms), list(norms.values()), "o-", color="tab:blue", label="with T²")
without = [norm / T**2 for T, norm in norms.items()]
panel.loglog(list(norms), without, "s--", color="tab:orange", label="without T²")
panel.set_xticks(list(norms), [str(T) for T in norms])
panel.minorticks_off()
panel.set(title="without T², the gradient vanishes at large T", xlabel="temperature T")
panel.set(ylabel="norm of the gradient (random z)")
panel.legend(loc="lower left")
show(figure, "17_temperature")

# %% tags=["fold"]
# check: the factor, and the sum of the gradient over the classes
shrinks = (norms[4] / 16) / (norms[16] / 256)
true_option(shrinks < 3, 3 <= shrinks <= 6, 11 < shrinks < 21)
T = 4
(gradient,) = torch.autograd.grad(soft_loss(z, v, T).sum(), z)
assert gradient.sum(-1).abs().max() < 1e-4, (
    "the sum over classes must be 0: is a softmax missing?"
)

# %% [markdown]
# ## 3. The complete loop
#
# The student has the teacher's embeddings, the first of its two encoder layers, and its
# classification head. The teacher is frozen and in evaluation mode. These lines are all that
# distillation needs (`sample` chooses 16 examples; it follows below):


# %%
def distill(student, texts, T=2.0, steps=80, seed=0):
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    for step in range(steps):
        batch = inputs([texts[i] for i in sample(len(texts), seed, step)])  # (B, tokens)
        with torch.no_grad():
            v = teacher(**batch).logits  # (B, C)
        loss = soft_loss(student(**batch).logits, v, T).mean()  # one value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


# %% [markdown]
# ??? The student has one of the two layers. How many of the teacher's parameters does it have?
# - [ ] less than a half || The embeddings are copied, too.
# - [x] more than a half || The embeddings, the pooler and the head are copied whole.
# - [ ] exactly a half || Only the layers are halved.


# %%
def sample(count: int, seed: int, step: int, size: int = 16) -> list[int]:
    """Which examples are in the batch of this step."""
    g = torch.Generator().manual_seed(1000 * seed + step)
    return torch.randint(count, (size,), generator=g).tolist()


def new_student():
    student = copy.deepcopy(teacher)
    student.base_model.encoder.layer = student.base_model.encoder.layer[:1]
    return student.train().requires_grad_(True)


def accuracy(model) -> float:
    return float((logits_of(model.eval(), test_texts).argmax(1) == test_labels).float().mean())


student = new_student()
parameters = [sum(p.numel() for p in model.parameters()) for model in (student, teacher)]
print(f"{parameters[0]:,} of {parameters[1]:,} parameters")

# %%
unlabelled = load_rows(trained.spec, None, 1, (50, 2000), 1, reader, reader).train[50:]
print(f"before: accuracy {accuracy(student):.2f}")
distill(student.train(), unlabelled, seed=1)
print(f"after:  accuracy {accuracy(student):.2f} (the teacher: {accuracy(teacher):.2f})")

# %% tags=["fold"]
# check: the fraction, and that the teacher did not change
fraction = parameters[0] / parameters[1]
true_option(fraction < 0.49, fraction > 0.51, 0.49 <= fraction <= 0.51)
assert torch.equal(logits_of(teacher, test_texts), teacher_logits), "the teacher must be frozen"
assert accuracy(student) > accuracy(teacher) - 0.08, "did the student learn from the teacher?"

# %% [markdown]
# Before, the accuracy is that of guessing: the head never saw the output of layer 1. Afterwards
# it is much higher, though below the teacher's, with *no label* of its own. (80 steps of 16 examples use
# about 950 of the 2,000 texts.)
#
# ## 4. What helps most?
#
# We train the same student in five ways, with three seeds and 80 steps each. (All five start with
# the teacher's embeddings, first layer and head. "50, labels" is the baseline.) A seed samples 50
# labelled texts, and 2,000 texts whose labels we hide: the **transfer set**.
#
# | texts | target |
# |:--|:--|
# | 50 | their labels |
# | 50 | the teacher's soft labels, T = 2 |
# | 2,000 | the teacher's most likely class (a **pseudo-label**) |
# | 2,000 | the teacher's soft labels, T = 2 |
# | 2,000 | their true labels, as if someone had paid for them |
#
# ??? Which change increases the accuracy most?
# - [ ] soft labels in place of labels, for the same 50 texts || The gain is small, and the seeds
#   disagree.
# - [x] 2,000 texts in place of 50, both with soft labels || They need no labels, only the teacher.
# - [ ] soft labels in place of pseudo-labels, for the 2,000 texts || The mean gain is about 0.01.

# %% tags=["fold"]
# set-up: a training run with given targets. Without T, the targets are classes.


def trained_student(texts: list[dict], targets: torch.Tensor, T: float | None, seed: int):
    student = new_student()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    for step in range(80):
        chosen = sample(len(texts), seed, step)
        z = student(**inputs([texts[i] for i in chosen])).logits
        target = targets[chosen]
        loss = soft_loss(z, target, T).mean() if T else F.cross_entropy(z, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return student.eval()


# %%
results = {}
for seed in (1, 2, 3):  # the teacher was trained on texts of seed 0
    texts = load_rows(trained.spec, None, seed, (50, 2000), 1, reader, reader).train
    v = logits_of(teacher, texts)  # the teacher sees each text once
    labels = torch.tensor([text["labels"] for text in texts])
    ways = {
        "50, labels": (texts[:50], labels[:50], None),
        "50, soft labels": (texts[:50], v[:50], 2),
        "2,000, pseudo-labels": (texts[50:], v[50:].argmax(1), None),
        "2,000, soft labels": (texts[50:], v[50:], 2),
        "2,000, true labels": (texts[50:], labels[50:], None),
    }
    for way, (way_texts, targets, T) in ways.items():
        z = logits_of(trained_student(way_texts, targets, T, seed), test_texts)
        right = float((z.argmax(1) == test_labels).float().mean())
        results.setdefault(way, []).append((right, distance(z.softmax(-1))))
for way, pairs in results.items():
    print(f"{way:20} {sum(right for right, _ in pairs) / 3:.2f}")

# %% tags=["fold"]
# plot: accuracy and distance by seed
figure, panels = plt.subplots(1, 2, figsize=(7.6, 3.2), sharey=True)
best = float(truth.max(1).values.mean())
goals = (best, 0), (accuracy(teacher), teacher_distance)
for i, panel in enumerate(panels):
    for place, (way, pairs) in enumerate(results.items()):
        colour = COLOURS[
            "random" if way.endswith("0, labels") or "true" in way else "distilled"
        ]
        filled = "white" if "pseudo" in way else colour
        for seed, marker in enumerate("os^"):
            x, y = pairs[seed][i], place + 0.2 * (seed - 1)
            panel.plot(x, y, marker, color=colour, markerfacecolor=filled, markersize=6)
        panel.plot([sum(pair[i] for pair in pairs) / 3] * 2, [place - 0.3, place + 0.3], "k-")
    panel.axvline(goals[0][i], color=COLOURS["ceiling"], linestyle="--", label="best possible")
    panel.axvline(goals[1][i], color=COLOURS["full"], linewidth=1, label="teacher")
panels[0].set_yticks(range(len(results)), list(results))
panels[0].invert_yaxis()
panels[0].set(title="more texts help most", xlabel="accuracy (markers: seeds, bars: means)")
panels[1].set(title="and bring the student closer to p*", xlabel="distance to p*")
panels[1].legend(loc="lower right")
show(figure, "17_what_helps")

# %% tags=["fold"]
# check
mean = {way: sum(right for right, _ in pairs) / 3 for way, pairs in results.items()}
gains = (
    mean["50, soft labels"] - mean["50, labels"],
    mean["2,000, soft labels"] - mean["50, soft labels"],
    mean["2,000, soft labels"] - mean["2,000, pseudo-labels"],
)
true_option(gains[0] == max(gains), gains[1] == max(gains), gains[2] == max(gains))
distances = {way: sum(d for _, d in pairs) / 3 for way, pairs in results.items()}  # to p*
assert abs(distances["2,000, soft labels"] - distances["2,000, pseudo-labels"]) < 0.03, (
    "they should be about equally close: do both ways use the same texts?"
)
assert distances["2,000, soft labels"] < distances["2,000, true labels"], (
    "soft labels should be closer: are the true labels those of the same texts?"
)

# %% [markdown]
# Of these three changes, the number of texts matters most here. If you have a teacher and texts without labels, use them. With
# 2,000 texts, soft labels bring the student closer to $p^*$ than true labels do (with one seed
# only just). Between soft labels and pseudo-labels, three seeds do not decide. ("Best possible"
# is an expected value. The accuracy on 500 sampled labels has a standard deviation of about 0.015, so the
# teacher can be above it.)
#
# Three seeds, one task and one learning rate are not much. The [deep
# dive](deep/17_distill_logits.py) has another temperature, another task, and the question of what
# "97 % of the quality" means.
#
# ## 5. Break it on purpose: a mean over the classes
#
# PyTorch has this loss: `torch.nn.KLDivLoss()`. By default it takes the mean over texts *and
# classes*. Somebody uses the default and forgets $T^2$, with T = 4 and 4 classes. PyTorch only
# prints a warning.
#
# ??? By which factor is the teacher's gradient too small?
# - [x] 64 || 4 classes times 4². With a vocabulary of 50,000 tokens it would be 800,000.
# - [ ] 16 || This is $T^2$ alone.
# - [ ] 4 || This is the mean over the classes alone.

# %%
import warnings

T, labels = 4, test_labels[:64]
p = (teacher_logits[:64] / T).softmax(-1)
z = torch.randn(64, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
log_q = (z / T).log_softmax(-1)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorch warns about its default
    default = torch.nn.KLDivLoss()(log_q, p)
correct = soft_loss(z, teacher_logits[:64], T).mean()


def gradient_norm(loss) -> float:
    return float(torch.autograd.grad(loss, z, retain_graph=True)[0].norm())


labels_norm = gradient_norm(0.1 * F.cross_entropy(z, labels))
for name, loss in (("correct", correct), ("default", default)):
    factor = gradient_norm(0.9 * loss) / labels_norm
    print(f"{name}: the teacher's gradient is {factor:.2f} times that of the labels")

# %% tags=["fold"]
# check
factor = gradient_norm(correct) / gradient_norm(default)
true_option(abs(factor - 64) < 0.1, abs(factor - 16) < 0.1, abs(factor - 4) < 0.1)
assert gradient_norm(0.9 * default) < labels_norm, (
    "the labels should decide more than the teacher"
)

# %% [markdown]
# With $a = 0.9$, the teacher should decide most. With both mistakes, the labels do. A short
# test finds this: compare the two gradients in the first step.
#
# ## The same in PyTorch
#
# `KLDivLoss(reduction="batchmean")` sums over the classes and takes the mean over the texts. Its
# first argument must be log-probabilities:

# %% tags=["fold"]
# the same in PyTorch, and in our library
batchmean = torch.nn.KLDivLoss(reduction="batchmean")(log_q, p) * T**2
assert torch.allclose(batchmean, correct), (
    "batchmean: the sum over classes, the mean over texts"
)
ours = soft_targets(z, teacher_logits[:64], T)  # one value for each text
assert torch.allclose(ours.mean(), correct, atol=1e-5), "the library's loss is ours"
print("KLDivLoss with batchmean, our library and soft_loss give the same value")

# %% [markdown]
# ## Find the bug
#
# ```python
# p = (v / T).softmax(-1)
# q = (z / T).softmax(-1)
# loss = T**2 * torch.nn.functional.kl_div(q, p, reduction="batchmean")
# ```
#
# The loss is negative from the first step.
#
# ??? What is wrong?
# - [ ] `reduction` must be "mean". || This would divide by the classes, too.
# - [x] The first argument must be `q.log()`. || `kl_div` takes log-probabilities of the student.
# - [ ] `p` and `q` must be exchanged. || Both would still have the wrong form.

# %% tags=["fold"]
# check
q = (z / T).softmax(-1)
wrong = T**2 * F.kl_div(q, p, reduction="batchmean")
repaired = T**2 * F.kl_div(q.log(), p, reduction="batchmean")
true_option(False, wrong < 0 and torch.allclose(repaired, correct), False)
assert torch.allclose(repaired, correct), "with log-probabilities it is our loss"

# %% [markdown]
# ## Quiz
#
# ??? Whose parameters change in distillation?
# - [x] the student's || The teacher is frozen.
# - [ ] the teacher's || It only predicts.
# - [ ] both || Then the teacher could learn to agree with a bad student.
#
# ??? Why can soft labels be better than true labels?
# - [ ] The teacher is always right. || It is not: it makes mistakes, too.
# - [x] A label is one sample, and the teacher has averaged over many. || So its probabilities can be
#   closer to $p^*$.
# - [ ] They need less memory. || They need more: C values for each text.
#
# ??? What does a large temperature do?
# - [ ] It makes the teacher more certain. || That is a temperature below 1.
# - [ ] It changes which class is most likely. || The order stays the same.
# - [x] It makes the probabilities more equal. || So unlikely classes count more.
#
# ??? A report says: "our student has 97 % of the teacher's accuracy." What do you ask?
# - [ ] how large the teacher is || Interesting, but it does not show what distillation brought.
# - [x] what the same student reaches without the teacher's predictions || This is the baseline.
# - [ ] which optimizer was used || This is rarely the reason.
#
# ??? You have 100 labelled and 20,000 unlabelled texts, and a good teacher. What do you do first?
# - [x] let the teacher predict soft labels for the 20,000 texts || Here, more texts helped most.
# - [ ] tune the temperature || In the deep dive, it changes the accuracy very little.
# - [ ] train longer on the 100 texts || The student then sees the same texts again and again.
#
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | adding the teacher to labels changes nothing | the mean over classes | section 5: both gradients |
# | with labels, a larger T makes it worse | $T^2$ is missing | section 2 |
# | the loss is negative | probabilities in place of log-probabilities | find the bug |
# | soft labels differ in each epoch | the teacher is in training mode | deep dive, section 4 |
# | all predictions are the same | stored logits in another order | deep dive, section 5 |
#
# ## Exercises
#
# Write in [exercises/17_distill_logits.py](exercises/17_distill_logits.py),
# then run `python -m tutorials check 17`.
#
# 1. ★ `soft_gradient`: the gradient of $T^2\,\mathrm{KL}(p \Vert q)$ for the student's logits,
#    without autograd.
#    <details><summary>Hint</summary>Section 2 has the gradient of KL. Multiply it by the factor in
#    front.</details>
# 2. ★★ `mixed_loss`: labels and teacher in one batch where only some examples have a label.
#    <details><summary>Hint</summary>Two means: the KL over all examples, the cross-entropy over those
#    with a label; `ignore_index` does the second.</details>
# 3. ★★ `in_order`: stored logits in the order of a batch, found by their keys (deep dive, section 5).
#    <details><summary>Hint</summary>A dict from key to position raises the right error.</details>
#
# **Change and measure:** in section 4, train on 200 and on 500 unlabelled texts with soft labels.
# How many texts does the student need?
#
# ## Summary
#
# 1. The loss is $T^2\,\mathrm{KL}(p \Vert q)$: a sum over classes, a mean over texts.
# 2. More unlabelled texts helped most. Soft labels or pseudo-labels: three seeds do not decide.
# 3. Always show the same student without the teacher's predictions.
#
# **Next:** [lesson 18](18_distill_features.py), hidden states and relations in place of logits.
#
# More: [deep dive](deep/17_distill_logits.py) · [how to compare two
# runs](topics/compare_two_runs.py) · [glossary](GLOSSARY.md)
#
# ## On the real thing
#
# These commands need a network, and a GPU helps. We did not run them:
#
# ```bash
# python -m training --task sst2 --model bert-base-uncased --method full --out runs/teacher
# python -m distill --teacher runs/teacher/adapter --student copy:1,3,5,7,9,11 --losses kd:T=2,a=0.9 \
#     --train-rows 1000 --transfer-rows 30000 --cache runs/answers --steps 6000 --out runs/student
# ```
