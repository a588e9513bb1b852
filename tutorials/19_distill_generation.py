# %% [markdown]
# # 19 · Distilling generation: the KL direction trades variety for correctness
#
# **Needs** lessons [02](02_lora_for_generation.py) and [17](17_distill_logits.py) · **Read and do**
# 60 minutes · **Runs in** about 42 s on one CPU thread · **Memory** 2 GB
#
# A classifier gives one label to a text. A model that writes has *many* correct texts.
# What does a student do if it is too small to learn all of them?
#
# ![Forward KL gives one wide bump over both bumps of the teacher, reverse KL gives one narrow bump](diagrams/19_two_bumps.svg)
#
# It must lose variety or correctness. Which one it loses more depends on a detail of the loss, the
# **direction** of the KL divergence. In the small world, we know each correct text and its
# probability. So you can measure exactly how much variety and correctness a student has. You also
# meet a simple rival that needs no training.

# %% tags=["fold"]
# set-up: imports, our folders, one thread
import copy
import itertools
import sys
import tempfile
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import torch
from matplotlib import pyplot as plt
from torch.nn import functional as F

# %% tags=["fold"]
# set-up: our library
from distill.losses.losses import reverse_kl, soft_targets
from distill.student.copy_spec import read_copy
from distill.student.student import copy_student
from distill.teacher.rows import load_rows
from training import train_model
from training.data.batching import Steps, batches
from training.data.data import load_task
from training.data.encoding import encode, prompt_ids
from training.data.small_world import BAD, GOOD
from training.data.tasks import find_task
from training.evaluation.evaluation import model_inputs
from training.evaluation.generation import generate_texts, references_by_prompt
from training.models.trained import load_trained
from training.reports.paired import paired_gap
from tutorials.answers import true_option
from tutorials.show import prepare_page, show

prepare_page()  # one thread, no progress bars, our plot style
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1. All correct texts for one list of facts
#
# In lesson 02, a decoder wrote a short story from a list of facts. The grammar of the small world
# makes five choices for such a story (N is the name, X the friend, W a word):
#
# ![Five independent choices of the grammar](diagrams/19_choices.svg)
#
# All probabilities are known. So we can write down *all* correct texts $y$ for a list of facts
# $x$, with their probabilities $p^*(y \mid x)$.
#
# ??? How many correct texts are there for one list of five facts?
# - [ ] 16 || The choices are independent, so their numbers are multiplied, not added.
# - [x] 128 || 2 · 2 · 8 · 2 · 2.
# - [ ] 32 || One of the choices is between eight adjectives, not two.

# %% tags=["fold"]
# set-up: all texts of the grammar for a list of five facts


def all_texts(facts: str) -> dict[str, float]:
    """{text: its exact probability}."""
    name, place, action, friend, mood = (fact.split(" : ")[1] for fact in facts.split(" ; "))
    core = f"{name} {action.replace(' ', ' the ')}"
    openings = {f"{core} in {place} .": 0.6, f"in {place} {core} .": 0.4}
    friends = {f"{friend} was there too .": 0.7, f"then {name} met {friend} .": 0.3}
    days = {}
    for word in GOOD if mood == "good" else BAD:
        days |= {f"it was a {word} day .": 0.7 / 8, f"the day was {word} .": 0.3 / 8}
    texts = {}
    for first, met, day in itertools.product(openings, friends, days):
        for rest in ((met, day), (day, met)):
            texts[" ".join((first, *rest))] = openings[first] * friends[met] * days[day] * 0.5
    return texts


spec = find_task("data2text")
test = load_task(spec, seed=0)["test"]
fact_lists = [x for x, _ in references_by_prompt(test, spec) if x.count(" ; ") == 4][:4]

# %%
texts = [all_texts(facts) for facts in fact_lists]
p_star = torch.tensor([list(t.values()) for t in texts], dtype=torch.float64)  # (lists, texts)
print(fact_lists[0])
for text, p in sorted(texts[0].items(), key=lambda item: -item[1])[::127]:
    print(f"   {p:.4f}  {text}")
print(f"{len(texts[0])} texts, with a total probability of {float(p_star[0].sum()):.3f}")

# %% tags=["fold"]
# check
true_option(len(texts[0]) == 16, len(texts[0]) == 128, len(texts[0]) == 32)
assert torch.allclose(p_star.sum(1), torch.ones(4, dtype=torch.float64)), (
    "the sum must be 1: is an order or a day missing?"
)
one_text = next(
    iter(texts[0].values())
)  # place last, "was there too", "it was a", friend first
assert abs(one_text - 0.6 * 0.7 * 0.7 / 8 * 0.5) < 1e-12, "the choices are independent"

# %% [markdown]
# The teacher is the pretrained decoder, trained on 4,000 lists of facts with *one* text each. We
# get a model's probability $q(y \mid x)$ of a text by multiplying the probabilities of its tokens
# (with the end of text). From these we compute two numbers for a model:
#
# - **probability of a correct text**: the sum of $q(y \mid x)$ over all 128 correct texts;
# - **diversity**: the effective number of different correct texts. Rescale $q$ so that the 128 correct
#   texts sum to 1. With $H$, the entropy of the result, the diversity is $e^H$. It is 128 if all
#   are equally likely, and 1 if the model always writes the same text.
#
# Both are means over four lists of facts.

# %% tags=["fold"]
# set-up: train the teacher; encode the 4 · 128 correct texts
options = {"train_rows": 4000, "steps": 400, "batch_size": 32, "learning_rate": 4e-3}
quiet = {"eval_every": 400, "eval_rows": 50, "samples": 0, "trackers": ""}
train_model("data2text", method="full", out=str(folder / "teacher"), **options, **quiet)
trained = load_trained(folder / "teacher" / "adapter")
teacher = trained.base.model.eval().requires_grad_(False)
tokenizer, reader = trained.base.tokenizer, (trained.base.tokenizer, 96)
columns = {
    "meaning_representation": [facts for facts in fact_lists for _ in range(128)],
    "human_reference": [text for one in texts for text in one],
}
correct_texts = encode(columns, spec, tokenizer, 96).features


# %%
@torch.no_grad()
def log_q(model, temperature: float = 1.0) -> torch.Tensor:
    """log q(y | x) of all correct texts, (lists, texts)."""
    totals = []
    for batch in batches(correct_texts, tokenizer, 256):
        z, y = model(**model_inputs(batch)).logits[:, :-1], batch["labels"][:, 1:]
        log_p = (z / temperature).log_softmax(-1).double()  # (B, tokens, V)
        token = log_p.gather(-1, y.clamp(min=0)[..., None])[..., 0]
        totals.append((token * (y != -100)).sum(1))  # answer tokens only
    return torch.cat(totals).view(4, 128)


def correct_and_diversity(log_q: torch.Tensor) -> tuple[float, float]:
    log_share = log_q.log_softmax(1)  # among the correct texts
    entropy = -(log_share.exp() * log_share).sum(1)
    return float(log_q.exp().sum(1).mean()), float(entropy.exp().mean())


for name, log_p in (("grammar", p_star.log()), ("teacher", log_q(teacher))):
    correct, diversity = correct_and_diversity(log_p)
    print(f"{name}: correct {correct:.2f}, diversity {diversity:.0f}")

# %% [markdown]
# The teacher saw one text for each list, but it learned the grammar's variety.
#
# ## 2. Two directions of KL
#
# Let $p$ be the teacher's and $q$ the student's distribution of the next token $w$:
#
# $$\text{forward: } \mathrm{KL}(p \Vert q) = \sum_w p_w \log \frac{p_w}{q_w}, \qquad
# \text{reverse: } \mathrm{KL}(q \Vert p) = \sum_w q_w \log \frac{q_w}{p_w}.$$
#
# The first argument decides over which distribution we average. **Forward KL** averages over the
# teacher's tokens: where $p$ is large, $q$ must not be small. **Reverse KL** averages over the
# student's tokens: where $q$ is large, $p$ must not be small.
#
# (Gu et al. 2024, section 2, use these directions for language models.) If the student can equal the
# teacher, both losses can reach 0. So take a student that is too simple: one bump with two
# parameters, its middle and its width. The teacher has two bumps, at tokens 15 and 42. We fit the
# student with Adam.
#
# ??? We fit with reverse KL, once from a start at 22 and once from 35. Where do the students end?
# - [ ] both at 15, the larger bump || The start at 35 is closer to the other bump.
# - [ ] both between the bumps || There, q would be large where p is nearly 0.
# - [x] one at 15, the other at 42 || Each finds the bump that is closer to its start.

# %%
token = torch.arange(60, dtype=torch.float64)


def bump(middle, width):
    return (-((token - middle) ** 2) / (2 * width**2)).softmax(0)


p = 0.6 * bump(15, 3) + 0.4 * bump(42, 3)
KL = {
    "forward": lambda q: (p * (p / q).log()).sum(),
    "reverse": lambda q: (q * (q / p).log()).sum(),
}


def fit(direction: str, middle: float) -> torch.Tensor:
    parameters = torch.tensor([middle, 1.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([parameters], lr=0.1)
    for _ in range(500):
        optimizer.zero_grad()
        KL[direction](bump(parameters[0], parameters[1].exp())).backward()
        optimizer.step()
    return bump(parameters[0], parameters[1].exp()).detach()


# %%
fitted = {"forward": fit("forward", 22), "reverse": fit("reverse", 22)}
fitted["reverse, other start"] = fit("reverse", 35)
middles = {name: float((q * token).sum()) for name, q in fitted.items()}
print({name: round(middle, 1) for name, middle in middles.items()})

# %% tags=["fold"]
# plot: the teacher and the fitted students
figure, panel = plt.subplots(figsize=(6.4, 2.8))
panel.fill_between(token, p, color="tab:gray", alpha=0.35, label="teacher p")
for (name, q), (colour, line) in zip(
    fitted.items(), (("tab:blue", "-"), ("tab:red", "-"), ("tab:red", ":")), strict=True
):
    panel.plot(token, q, line, color=colour, label=name)
panel.set(title="forward KL covers both bumps, reverse KL one of them", ylim=(0, 0.19))
panel.set(xlabel="token", ylabel="probability")
panel.legend(loc="upper center", ncols=2)
show(figure, "19_two_bumps")

# %% tags=["fold"]
# check
ends = [middles["reverse"], middles["reverse, other start"]]
at_15, at_42 = (sum(abs(end - bump_at) < 2 for end in ends) for bump_at in (15, 42))
true_option(at_15 == 2, at_15 + at_42 == 0, at_15 == 1 and at_42 == 1)
assert 17 < middles["forward"] < 40, "forward KL covers both bumps: are p and q exchanged?"
for direction, loss in (("forward", soft_targets), ("reverse", reverse_kl)):
    q = fitted["forward"]
    library = float(loss(q.log()[None], p.log()[None]))
    assert abs(library - float(KL[direction](q))) < 1e-9, (
        "another loss than the library: are p and q exchanged?"
    )
price = float(KL["reverse"](fitted["reverse"]))
assert abs(price + torch.tensor(0.6).log()) < 0.02, "its KL is -log of the part that is covered"

# %% [markdown]
# With forward KL, the student also covers the gap, where the teacher never writes: it is
# **mode-covering**. With reverse KL and these starts, it covers one bump and loses the other: it is
# **mode-seeking**. (A *mode* is a peak of a distribution.) Which bump it finds depends on the
# start.
#
# <div class="widget" data-widget="kl">
#
# ![A teacher with two bumps, and two fitted students](diagrams/widget_kl.svg)
#
# *In the book (`python -m tutorials book`) you can drag the bumps and change the start.*
#
# </div>
#
# ## 3. One student, three ways of training
#
# Now a real student: one of the teacher's two layers, at half the width. It first learns from 800
# lists with their texts (the *references*), for 260 steps. From there it is trained for 80 more steps, in three
# ways, with three seeds:
#
# | way | target | loss |
# |:--|:--|:--|
# | references | the next token of the reference | cross-entropy |
# | forward KL | the teacher's probabilities for each next token | $\mathrm{KL}(p \Vert q)$ |
# | reverse KL | the same | $\mathrm{KL}(q \Vert p)$ |
#
# As usual, only answer tokens are in the loss. All ways use the same learning rate; we did not tune it
# for each way.
#
# ??? Which way gives the largest diversity?
# - [ ] references || The student has only 800 lists with one text each, and sees each several times.
# - [x] forward KL || Each token shows the probabilities of all the ways to go on.
# - [ ] reverse KL || The student may leave out what the teacher can write.

# %%
LOSSES = {  # z, v: logits of student and teacher, (N, V); y: the next tokens (N,)
    "references": lambda z, v, y: F.cross_entropy(z, y),
    "forward KL": lambda z, v, y: soft_targets(z, v).mean(),  # lesson 17, with T = 1
    "reverse KL": lambda z, v, y: reverse_kl(z, v).mean(),
}


def logits_of(model, batch):
    """Of the N answer tokens of a batch: logits (N, V) and the next tokens (N,)."""
    y = batch["labels"][:, 1:]  # position t predicts token t + 1
    return model(**model_inputs(batch)).logits[:, :-1][y != -100], y[y != -100]


# %%
def train(student, features, loss, steps: int, learning_rate: float, seed: int):
    student = copy.deepcopy(student).train().requires_grad_(True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=learning_rate, weight_decay=0)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, steps)
    for (batch,) in itertools.islice(Steps(features, tokenizer, 16, seed), steps):
        z, y = logits_of(student, batch)
        v = None if loss == "references" else logits_of(teacher, batch)[0]
        optimizer.zero_grad()
        LOSSES[loss](z, v, y).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        decay.step()
    return student.eval()


# %% tags=["fold"]
# set-up: the student
small = copy_student(teacher, read_copy("copy:1,hidden=32,heads=2,intermediate=128"))

# %%
students, results = {}, {}
for seed in (1, 2, 3):  # the teacher was trained on texts of seed 0
    references = load_rows(spec, None, seed, (800, 0), 1, reader, reader).train
    start = train(small, references, "references", 260, 1e-2, seed)
    for way in ("references", "forward KL", "reverse KL"):
        students[way, seed] = train(start, references, way, 80, 5e-3, seed)
for (way, _), student in students.items():
    results.setdefault(way, []).append(correct_and_diversity(log_q(student)))
mean = {way: torch.tensor(pairs).mean(0).tolist() for way, pairs in results.items()}
for way, (correct, diversity) in mean.items():
    print(f"{way:10}  correct {correct:.2f}  diversity {diversity:3.0f}")

# %% tags=["fold"]
# check
most = max(mean, key=lambda way: mean[way][1])
true_option(most == "references", most == "forward KL", most == "reverse KL")
for i, better in enumerate(("reverse KL", "forward KL")):
    other = "forward KL" if better == "reverse KL" else "reverse KL"
    gap, error = paired_gap([r[i] for r in results[better]], [r[i] for r in results[other]])
    print(f"{better}: {('correct', 'diversity')[i]} {gap:+.3f} ± {error:.3f} (standard error)")
    assert gap > 2 * error, "are the arguments of KL exchanged in one of the losses?"

# %% [markdown]
# - Forward KL has the largest diversity, and reverse KL is more often correct. This is similar to section
#   2. (Here we compute KL for each next token; the text before it comes from the reference.)
# - There is a third target: texts that the teacher wrote, with beam search (Kim and Rush 2016). It needs
#   no logits, so the tokenizers may differ. But it shows one text for each list of facts, and most
#   variety is lost ([deep dive](deep/19_distill_generation.py), section 4).
#
# ## 4. A baseline without training: a lower sampling temperature
#
# Reverse KL is correct more often because it avoids unlikely tokens. There is an older way to do
# this, without training: divide the logits by a **sampling temperature** below 1 when you sample.
#
# ??? We sample from the student of *forward* KL at a temperature of 0.8. How does it compare with reverse
#   KL at 1?
# - [ ] less correct, more diverse || A lower temperature removes unlikely tokens, and most mistakes.
# - [ ] more correct, less diverse || It started with much more diversity.
# - [x] more correct *and* more diverse || So here the simple rival is better in both.

# %%
TEMPERATURES = (1.0, 0.8, 0.6)
curves = {}
for way in ("forward KL", "reverse KL"):
    points = [
        [correct_and_diversity(log_q(students[way, seed], t)) for t in TEMPERATURES]
        for seed in (1, 2, 3)
    ]
    curves[way] = torch.tensor(points)  # (seeds, temperatures, 2)
rival, reverse = curves["forward KL"].mean(0)[1], curves["reverse KL"].mean(0)[0]
print(f"forward KL at 0.8: correct {rival[0]:.2f}, diversity {rival[1]:.0f}")
print(f"reverse KL at 1.0: correct {reverse[0]:.2f}, diversity {reverse[1]:.0f}")
by_seed = curves["forward KL"][:, 1] - curves["reverse KL"][:, 0]  # (seeds, 2)
error = by_seed.std(0) / 3**0.5
print(f"standard errors of the differences: {error[0]:.3f}, {error[1]:.1f}")

# %% tags=["fold"]
# plot: correctness against diversity
figure, panel = plt.subplots(figsize=(6.6, 3.4))
colours = ("tab:blue", "tab:red")
for (way, points), colour in zip(curves.items(), colours, strict=True):
    correct, diversity = points.mean(0).T
    panel.plot(diversity, correct, "o-", color=colour, label=way, markersize=4)
    panel.plot(diversity[:1], correct[:1], "s", color=colour, markersize=8)
panel.plot(*reversed(correct_and_diversity(p_star.log())), "*", color="black", markersize=12)
panel.annotate("grammar", (104, 0.985), ha="right", va="top")
rival_place = (float(rival[1]), float(rival[0]))
shift = {"textcoords": "offset points", "ha": "center"}
panel.annotate("0.8", rival_place, (0, 9), **shift)
panel.set(title="with equal diversity, forward KL is more often correct", ylim=(None, 1.03))
panel.set(xlabel="diversity (mean of three seeds)", ylabel="probability of a correct text")
panel.legend(title="square: temperature 1", loc="lower left")
show(figure, "19_temperature")

# %% tags=["fold"]
# check
more_correct, more_diverse = float(rival[0] - reverse[0]), float(rival[1] - reverse[1])
true_option(
    more_correct < 0 < more_diverse,
    more_correct > 0 > more_diverse,
    more_correct > 0 and more_diverse > 0,
)
sums = [float(log_q(teacher, t).exp().sum()) for t in (0.5, 1.0)]
assert sums[0] > sums[1], (
    "a lower temperature should be more often correct: did you divide the logits?"
)

# %% [markdown]
# A student with most of the variety lets you choose *afterwards* how much of it you trade for
# correctness. So before you believe that a loss "writes better texts", compare it with forward KL
# at a lower sampling temperature. (We measured short texts, one small student and one
# teacher; with a weaker teacher, this baseline may lose: see the exercise. The [deep
# dive](deep/19_distill_generation.py) trains on the student's own texts. On E2E, our [report on a
# model with 260 K parameters](../distill/results/e2e/report.md) has a lower chrF with reverse KL than
# with forward KL; the BLEU scores do not clearly differ.)
#
# ## 5. Break it on purpose: targets off by one
#
# Position $t$ of a decoder predicts token $t + 1$. Somebody shifts the teacher's logits by one
# more token.
#
# ??? What does this training do?
# - [ ] It raises an error: the shapes differ. || The shapes are the same.
# - [ ] It works, only more slowly. || Each target belongs to another position.
# - [x] It runs, and the student almost never writes a correct text. || It learns the token after the next.

# %%
LOSSES["off by one"] = lambda z, v, y: soft_targets(z, v.roll(-1, 0)).mean()
shifted = train(start, references, "off by one", 40, 5e-3, seed=3)
prompt = [prompt_ids(fact_lists[0], spec, tokenizer)]
for name, model in (("forward KL", students["forward KL", 3]), ("off by one", shifted)):
    print(f"{name}:", generate_texts(model, tokenizer, prompt, max_new_tokens=24)[0])

# %% tags=["fold"]
# check: the teacher as its own student must have a loss of 0
probability, _ = correct_and_diversity(log_q(shifted))
true_option(False, probability > 0.3, probability < 0.01)
batch = next(batches(references[:16], tokenizer, 16))
with torch.no_grad():
    v, _ = logits_of(teacher, batch)
own = {loss: float(LOSSES[loss](v, v, None)) for loss in ("forward KL", "off by one")}
print("loss of the teacher as its own student:", {k: round(abs(x), 3) for k, x in own.items()})
assert abs(own["forward KL"]) < 1e-6 and own["off by one"] > 1, (
    "the teacher as its own student: are both logits at the same position?"
)

# %% [markdown]
# A short test finds this mistake: use the teacher as its own student. The loss must be 0. (It does
# not find all mistakes: the next bug passes it.)
#
# ## The same in PyTorch and TRL
#
# `F.kl_div(input, target, log_target=True)` computes KL(target ‖ input) from log-probabilities. So
# exchanging its arguments changes the direction:

# %% tags=["fold"]
# the same in PyTorch
z = torch.randn(v.shape, generator=torch.Generator().manual_seed(0))
log_q_, log_p_ = z.log_softmax(-1), v.log_softmax(-1)
forward = F.kl_div(log_q_, log_p_, reduction="batchmean", log_target=True)
reverse = F.kl_div(log_p_, log_q_, reduction="batchmean", log_target=True)
assert torch.allclose(forward, soft_targets(z, v).mean(), rtol=1e-4), "KL(p ‖ q)"
assert torch.allclose(reverse, reverse_kl(z, v).mean(), rtol=1e-4), "KL(q ‖ p)"
print("F.kl_div gives both directions")

# %% [markdown]
# TRL is not installed here. According to its documentation, its experimental `GKDTrainer` (Agarwal
# et al. 2024) has `GKDConfig(beta=0.0)` for
# forward KL, `beta=1.0` for reverse KL, and `lmbda` for the part of the batches that the student
# writes itself.
#
# ## Find the bug
#
# ```python
# z = student(**batch).logits
# v = teacher(**batch).logits.detach()
# loss = soft_targets(z, v).mean()
# ```
#
# The loss falls, but the texts improve slowly.
#
# ??? What is wrong?
# - [ ] The teacher must not be detached. || Then it would be trained, too.
# - [x] The prompt tokens and the padding are in the mean. || Most of the loss is about the prompt.
# - [ ] The logits must be shifted by one. || Here both are at the same position, so they agree.

# %% tags=["fold"]
# check: which part of the loss belongs to the prompts?
batch = next(batches(references[:200], tokenizer, 200))
with torch.no_grad():
    models = (students["forward KL", 3], teacher)
    z, v = (model(**model_inputs(batch)).logits[:, :-1] for model in models)
loss, real = soft_targets(z, v), batch["attention_mask"][:, 1:] == 1
answer = batch["labels"][:, 1:] != -100
part = float(loss[real & ~answer].sum() / loss[real].sum())
print(f"{part:.0%} of the loss belongs to the prompts (a student trained on answers only)")
true_option(False, part > 0.5, False)

# %% [markdown]
# ## Quiz
#
# ??? Which KL averages over the student's tokens?
# - [ ] forward KL || It averages over the teacher's.
# - [x] reverse KL || The first argument of KL is the student.
# - [ ] both || The directions differ in just this.
#
# ??? A student can represent its teacher exactly. Which direction has its minimum at the teacher?
# - [x] both || Both are 0 only for q = p. The direction matters if the student is too small.
# - [ ] only forward KL || At q = p, reverse KL is 0, too.
# - [ ] only reverse KL || At q = p, forward KL is 0, too.
#
# ??? You sample at temperature 1, and your student writes only a few different texts for the same facts. Why?
# - [ ] It was trained with forward KL. || This keeps most variety.
# - [ ] The learning rate was too small. || This does not remove variety.
# - [x] It was trained on texts that the teacher wrote by beam search. || They show one text for each list.
#
# ??? A paper says: "our mode-seeking loss writes better texts." What do you ask?
# - [x] Is it better than forward KL at a lower sampling temperature? || This rival needs no training.
# - [ ] How large is the vocabulary? || This is not the point.
# - [ ] Was the loss on the references lower? || In the deep dive, reverse KL has a higher one, and is correct more often.
#
# ??? The teacher and the student have different tokenizers. What still works?
# - [ ] forward KL on logits || The logits belong to different tokens.
# - [ ] reverse KL on logits || The logits belong to different tokens.
# - [x] training on texts that the teacher wrote || Texts need no common vocabulary.
#
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | the student skips or repeats words | targets off by one | section 5: teacher as its own student |
# | the loss falls, the texts are bad | prompt tokens are in the loss | find the bug |
# | few different texts for the same facts | texts from beam search, or a low temperature | section 3: diversity |
# | reverse KL does not improve | it starts too far from the teacher | samples of the start: are any correct? |
# | "our loss writes better texts" | it only has less variety | section 4: forward KL at a sampling temperature of 0.8 |
#
# ## Exercises
#
# Write in [exercises/19_distill_generation.py](exercises/19_distill_generation.py),
# then run `python -m tutorials check 19`.
#
# 1. ★ `reverse_by_hand`: reverse KL for each token, from logits.
#    <details><summary>Hint</summary>Use `log_softmax` for both, and `detach` the teacher's. Average
#    over q.</details>
# 2. ★★ `texts_of`: all texts of any small grammar, with their probabilities.
#    <details><summary>Hint</summary>`itertools.product(*choices)`. If two combinations give the same
#    text, add their probabilities.</details>
# 3. ★★ `coverage`: from samples, the part that is correct, and the probability of the correct texts that
#    occurred.
#    <details><summary>Hint</summary>For the second part use a `set`, since each text counts
#    once.</details>
#
# **Change and measure:** train the teacher with batches of 24 in place of 32, so that it is weaker.
# Is the answer of section 4 still the same?
#
# ## Summary
#
# 1. Forward KL keeps variety, reverse KL gains correctness, if the student is too small for both.
# 2. A lower sampling temperature makes the same trade, without training. Compare with it.
# 3. Only answer tokens belong in the loss, and the teacher as its own student must have loss 0.
#
# **Next:** [lesson 20](20_distil_prune_quantise.py), other ways to a small model.
#
# More: [deep dive](deep/19_distill_generation.py) · [how to compare two
# runs](topics/compare_two_runs.py) · [glossary](GLOSSARY.md)
#
# ## On the real thing
#
# These commands need a network, and a GPU helps. We did not run them. (We did measure a real model
# with 260 K parameters: [report](../distill/results/e2e/report.md).)
#
# ```bash
# python -m training --task e2e_nlg --model gpt2 --method full --out runs/teacher
# python -m distill --teacher runs/teacher/adapter --student copy:1,3,5,7,9,11 --losses kd:T=1,a=1 \
#     --max-length 192 --steps 4000 --score-texts 600 --out runs/forward
# python -m distill --teacher runs/teacher/adapter --student runs/forward/adapter \
#     --losses reverse_kl:T=1,a=1 --on-policy 0.5 --max-length 192 --steps 1000 --out runs/reverse
# ```
