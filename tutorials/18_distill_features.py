# %% [markdown]
# # 18 · Distilling features: relations helped more than hidden states
#
# **Needs** lesson [17](17_distill_logits.py); queries, keys and values of attention
# · **Read and do** 60 minutes · **Runs in** about 35 s on one CPU thread · **Memory** 2 GB
#
# The teacher's prediction for a text is two logits. On the way to it, the teacher computes
# thousands of hidden values. Should the student learn these, too?
#
# ![Hidden states of two widths give relation matrices of the same size](diagrams/18_relations.svg)
#
# This is called **feature distillation**. On this page you write two such losses by hand: one for
# hidden states, and one for **relations** between tokens. You see what each needs from the
# student, and measure which one helps.

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

# %% tags=["fold"]
# set-up: our library
from distill.losses.features import cosine, hidden_mse
from distill.losses.loss_specs import needs_teacher, read_losses
from distill.losses.losses import masked_mean
from distill.losses.relations import relations
from distill.losses.states import forward_with_states
from distill.losses.terms import make_projections, make_terms, needs
from distill.runs.fidelity import answers_of
from distill.runs.trainer import Distiller, DistillSteps
from distill.student.copy_spec import read_copy
from distill.student.student import copy_student
from distill.teacher.rows import load_rows
from distill.teacher.teacher import Teacher
from distill.teacher.teacher_cache import build_cache
from training import train_model
from training.data.batching import Steps, batches
from training.loop import loop
from training.loop.randomness import seeded
from training.models.trained import load_trained
from training.reports.paired import paired_gap
from training.reports.records import COLOURS
from tutorials.answers import true_option
from tutorials.show import prepare_page, show

prepare_page()  # one thread, no progress bars, our plot style
folder, cpu = Path(tempfile.mkdtemp()), torch.device("cpu")

# %% tags=["fold"]
# set-up: a teacher for sentiment, test examples, and one batch
options = {"train_rows": 2000, "steps": 150, "eval_every": 150, "eval_rows": 100}
train_model("sentiment", method="full", out=str(folder / "teacher"), **options)
trained = load_trained(folder / "teacher" / "adapter")
teacher_model, tokenizer = trained.base.model.eval(), trained.base.tokenizer
teacher = Teacher([teacher_model], "classification")


def examples_of(seed: int, labelled: int, unlabelled: int, test: int = 1):
    reader = (tokenizer, trained.max_length)
    return load_rows(trained.spec, None, seed, (labelled, unlabelled), test, reader, reader)


test = examples_of(1, 1, 0, test=400).held_out
test_labels = torch.tensor(test.rows["label"])
batch = next(batches(test.encoded.features[:16], tokenizer, 16))
inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
mask = inputs["attention_mask"]  # (B, T)

# %% [markdown]
# ## 1. What the teacher computes on the way
#
# The teacher is the pretrained encoder of the small world: two layers, hidden size 64, four
# heads. It was trained on 2,000 texts of *sentiment* (does a story have a good or a bad day?).
#
# ??? A text has 60 tokens. How many values do the hidden states of one layer have, for this text?
# - [ ] 64 || This is one token.
# - [x] 3,840 || 60 tokens with 64 values each.
# - [ ] 14,400 || This is the number of attention scores: 4 · 60².

# %%
with torch.no_grad():
    out = teacher_model(**inputs, output_hidden_states=True)
hidden_states = out.hidden_states[2]  # after layer 2 (0: the embeddings): (B, T, D)
print("logits:       ", tuple(out.logits.shape))
print(
    "hidden states:", tuple(hidden_states.shape), "and 60 · D =", 60 * hidden_states.shape[-1]
)

# %% tags=["fold"]
# check
D = hidden_states.shape[-1]
true_option(60 * D == 64, 60 * D == 3840, 60 * D == 14400)
assert tuple(out.logits.shape) == (16, 2), (
    "two logits for each text: are these the hidden states?"
)

# %% [markdown]
# ## 2. Hidden states: a projection, and no padding
#
# Let $h_s$ and $h_t$ be the hidden states of student and teacher, $m$ the mask (1 for a real token,
# 0 for padding), and $D_t$ the teacher's hidden size. TinyBERT (Jiao et al. 2020, section 3.1)
# compares them at each token. (There the vectors are rows, so it writes $h_s W$. We add the mask.)
#
# $$L_{\text{hidden}} = \frac{1}{\sum m} \sum_{\text{tokens}} m\, \frac{1}{D_t}\,
# \lVert W h_s - h_t \rVert^2$$
#
# Our student has two layers with half of the teacher's hidden size: 32. Its states cannot be
# subtracted from the teacher's. So a matrix $W$ (64 × 32), the **projection**, brings them to the
# teacher's width. It is trained with the student, and not needed afterwards.
#
# ??? We append 20 tokens of padding to all texts. Somebody takes a plain `.mean()` over all positions,
#   without the mask. Does this loss change?
# - [ ] no: padding has hidden states of zero || They are not 0: each position has one, also padding.
# - [x] yes || Padded positions are counted, too. The change is small here, but it depends on the padding.
# - [ ] no: the mask of the attention excludes padding || It excludes padding as a key, not as a query.


# %%
def hidden_loss(h_s, h_t, mask):
    """h_s and h_t: (B, T, D), mask: (B, T). One value."""
    per_token = ((h_s - h_t) ** 2).mean(-1)  # (B, T)
    return (per_token * mask).sum() / mask.sum()


def narrow_student():
    """Both layers: half of the hidden size and heads, a quarter of the feed-forward part."""
    spec = read_copy("copy:1,2,hidden=32,heads=2,intermediate=64")
    return copy_student(teacher_model, spec).requires_grad_(True)


# %%
student = narrow_student()
W = torch.nn.init.orthogonal_(torch.empty(64, 32), generator=torch.Generator().manual_seed(1))
losses = {}
with torch.no_grad():
    for extra in (0, 20):
        padded = {name: torch.nn.functional.pad(x, (0, extra)) for name, x in inputs.items()}
        h_s, h_t = (
            model(**padded, output_hidden_states=True).hidden_states[2]
            for model in (student, teacher_model)
        )
        with_mask = hidden_loss(h_s @ W.T, h_t, padded["attention_mask"])
        losses[extra] = with_mask, ((h_s @ W.T - h_t) ** 2).mean()
        print(
            f"{extra:2} more: with mask {losses[extra][0]:.4f}, without {losses[extra][1]:.4f}"
        )

# %% tags=["fold"]
# check: against the library
change = abs(losses[20][1] - losses[0][1])
true_option(change == 0, change > 1e-3, 0 < change < 1e-4)
assert abs(losses[20][0] - losses[0][0]) < 1e-5, (
    "padding must not count: is the mask in both sums?"
)
library = masked_mean(hidden_mse(h_s @ W.T, h_t), padded["attention_mask"])
assert torch.allclose(library, losses[20][0]), (
    "did you divide by the number of real tokens, and not by B · T?"
)

# %% [markdown]
# ## 3. Relations: how the tokens of a text compare
#
# There is another way, without $W$. For the vectors $X$ of one text (T × D, with T tokens), compute how similar
# each token is to each other one:
#
# $$R = \mathrm{softmax}\!\left(\frac{X X^\top}{\sqrt{D}}\right), \qquad
# L_{\text{relations}} = \mathrm{KL}(R_{\text{teacher}} \,\Vert\, R_{\text{student}}),$$
#
# where D is the width of X, in each model its own. The KL is computed for each row of R, and then
# averaged over the real tokens. R has one row and one column for each token, whatever D is, so the
# two widths need not agree. MiniLM v2 (Wang et al. 2021, section 3.1) adds this loss for the queries,
# the keys and the values of one attention layer. (It also splits X into several *relation heads*;
# we use one.) Here we try it on hidden states first.
#
# ??? A student has exactly the teacher's vectors: both losses are 0. Now we multiply the teacher's
#   vectors by an orthogonal matrix U (a rotation, perhaps with a reflection). What happens?
# - [ ] both losses stay 0 || The vectors are different now, at each token.
# - [ ] both losses become large || U keeps all inner products between tokens.
# - [x] the hidden loss becomes large, the relation loss stays 0 || Relations depend on inner products only.


# %%
def relation(x, mask):
    """x: (B, T, D). Returns (B, T, T): for each token, its similarity to the real tokens."""
    scores = x @ x.mT / x.shape[-1] ** 0.5
    return scores.masked_fill(mask[:, None, :] == 0, -torch.inf).softmax(-1)


def relation_loss(x_s, x_t, mask):
    p, q = relation(x_t, mask), relation(x_s, mask)
    kl = (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)  # (B, T); xlogy(0, 0) is 0
    return (kl * mask).sum() / mask.sum()


random = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
U = torch.linalg.qr(random).Q  # orthogonal: U.T @ U is the identity
rotated = hidden_states @ U
effect = {
    "hidden loss": float(hidden_loss(hidden_states, rotated, mask)),
    "relation loss": float(relation_loss(hidden_states, rotated, mask)),
}
print({name: round(value, 4) for name, value in effect.items()})

# %% tags=["fold"]
# check: against the library, and for a student of another width
hidden_changes, relations_change = effect["hidden loss"] > 0.1, effect["relation loss"] > 1e-3
true_option(
    not hidden_changes and not relations_change,
    hidden_changes and relations_change,
    hidden_changes and not relations_change,
)
with torch.no_grad():
    narrow = student(**inputs, output_hidden_states=True).hidden_states[2]  # (B, T, 32)
by_hand = relation_loss(narrow, hidden_states, mask)
ours = masked_mean(relations(narrow, hidden_states, mask, 1), mask)
assert torch.allclose(by_hand, ours, atol=1e-5), (
    "is the teacher's R first in the KL, and is the mask used twice?"
)

# %% [markdown]
# Why is this useful? Very different hidden states can give the same predictions. For example, reorder
# the 64 dimensions in all weights: the predictions stay the same, the hidden states do not. For the
# hidden loss, $W$ must learn such an order. Relations do not depend on it.
#
# ## 4. Do they help?
#
# We train the narrow student for 60 steps, in four ways and with three seeds:
#
# | texts | losses |
# |:--|:--|
# | 100 | the logits, and the labels with weight 0.1 (lesson 17: temperature 2, a = 0.9) |
# | the same 100 | the same, and hidden states of layer 2 |
# | the same 100 | the same, and relations of queries, keys and values of layer 2 |
# | 1,600, of which 1,500 have no label | the logits, and the 100 labels |
#
# The weights of the additional losses were chosen with other seeds: 10 for both. (For relations, 10
# was the largest that we tried.)
#
# ??? Relations on 100 texts, or logits on 1,600 texts: which has the higher mean accuracy?
# - [ ] the 1,600 texts, by more than 0.02 || The student sees only 960 of them in 60 steps.
# - [x] the difference is at most 0.02 || With three seeds, the two are not clearly different.
# - [ ] relations, by more than 0.02 || Their mean is a little higher, but not by so much.

# %% tags=["fold"]
# set-up: a training run with losses of the library
KD, HIDDEN, RELATIONS = "kd:T=2,a=0.9", "hidden:2->2,w=10", "relations:2->2,heads=1,w=10"


def trained_student(texts: list[dict], losses: list[str], seed: int, cache):
    """A cache stores logits only: for features, the teacher runs in each step."""
    specs, new = read_losses(losses), narrow_student()
    projections = make_projections(specs, 32, 64, seed)
    terms = make_terms(specs, "classification", projections, causal=False)
    answers = (teacher if len(losses) > 1 else cache) if needs_teacher(specs) else None
    distiller = Distiller(new, projections, terms, teacher, answers, **needs(specs))
    settings = loop.LoopSettings(steps=60, learning_rate=3e-3, eval_every=60, save_every=60)
    with seeded(seed):
        trainer = DistillSteps(distiller, Steps(texts, tokenizer, 16, seed), settings)
        loop.run(trainer, lambda: {"eval_loss": 0.0}, lambda row: None)
    return new.eval()


def accuracy(model) -> float:
    features = test.encoded.features
    logits = torch.cat(answers_of(model, features, tokenizer, "classification", cpu))
    return float((logits.argmax(1) == test_labels).double().mean())


# %%
WAYS = {
    "100, logits": (100, [KD]),
    "100, + hidden states": (100, [KD, HIDDEN]),
    "100, + relations": (100, [KD, RELATIONS]),
    "1,600, logits": (1600, [KD]),
}
scores = {way: [] for way in WAYS}
for seed in (1, 2, 3):
    texts = examples_of(seed, 100, 1500).train
    cache = build_cache(folder / f"cache{seed}", teacher, texts, tokenizer)
    for way, (count, losses) in WAYS.items():
        model = trained_student(texts[:count], losses, seed, cache)
        scores[way].append(accuracy(model))
for way, values in scores.items():
    print(f"{way:21} {sum(values) / 3:.3f}")

# %% tags=["fold"]
# plot: each seed as a marker
figure, panel = plt.subplots(figsize=(6.6, 3))
for place, values in enumerate(scores.values()):
    for i, (value, marker) in enumerate(zip(values, "os^", strict=True)):
        height = place + 0.16 * (i - 1)  # so that equal scores do not hide each other
        panel.plot(value, height, marker, color=COLOURS["distilled"], markersize=7)
    panel.plot([sum(values) / 3] * 2, [place - 0.3, place + 0.3], color="black", linewidth=1)
panel.axvline(accuracy(teacher_model), color=COLOURS["full"], label="teacher")
panel.set_yticks(range(len(scores)), list(scores))
panel.invert_yaxis()
panel.set(title="relations are about as good as more texts (bars: means)")
panel.set_xlabel("accuracy (markers: seeds)")
panel.legend(loc="lower left")
show(figure, "18_do_they_help")

# %% tags=["fold"]
# check
mean = {way: sum(values) / 3 for way, values in scores.items()}
base = mean["100, logits"]
gains = {way: value - base for way, value in mean.items()}
gain_hidden, gain_relations = gains["100, + hidden states"], gains["100, + relations"]
gain_texts = gains["1,600, logits"]
lead = gain_relations - gain_hidden
over_texts = gain_relations - gain_texts
true_option(over_texts < -0.02, abs(over_texts) <= 0.02, over_texts > 0.02)
for other in ("100, logits", "100, + hidden states", "1,600, logits"):
    gap, error = paired_gap(scores["100, + relations"], scores[other])
    print(f"relations against {other}: {gap:+.3f} ± {error:.3f} (one standard error)")
assert lead > 0.005, (
    "relations should gain more: is the teacher frozen, the weight 10, the layer 2?"
)

# %% [markdown]
# Relations on 100 texts are about as good as the logits of 1,600 texts (60 steps see 960 of them).
# Hidden states bring no clear gain here. The cost: the teacher must run in each step (a cache has only
# logits), and relations need a T × T matrix for each text. The deep dive has the times.
#
# (By our rule, [two standard errors](topics/compare_two_runs.py), none of the three differences above
# is clear: the first one is just as large as two standard errors. The deep dive trains for 100
# steps with another learning rate, and tests on 1,000 texts: there, relations are clearly ahead of hidden states.)
#
# Do not expect this everywhere. In our [report on nine
# losses](../distill/results/features/report.md), the student starts from random weights, with one
# layer of full width. There, no feature loss is clearly better than logits alone in accuracy. The
# [deep dive](deep/18_distill_features.py) looks at what exactly relations bring here.
#
# ## 5. Break it on purpose: the teacher learns, too
#
# With logits from a cache, the teacher cannot change. The hidden loss uses fresh outputs of both
# models, so gradients can reach the teacher. In both runs below, the optimizer has the parameters
# of teacher and student. Only the correct run calls `.detach()` on the teacher's hidden states.
#
# ??? Which run has the smaller hidden loss after 30 steps, and what happens to the teacher?
# - [ ] the correct one; the teacher is unchanged in both || In the wrong run, the teacher is trained.
# - [ ] the wrong one; the teacher becomes better || Nothing asks it for correct predictions.
# - [x] the wrong one; the teacher becomes worse || Its own head can no longer read its hidden states.


# %%
def hidden_run(detach: bool, steps: int = 30, train_W: bool = True):
    """(last hidden loss, the teacher afterwards). `texts` are those of the last seed above."""
    own_teacher, student = copy.deepcopy(teacher_model).requires_grad_(True), narrow_student()
    projection = W.clone().requires_grad_(True)
    parameters = [*student.parameters(), *own_teacher.parameters(), *[projection] * train_W]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0)
    for _, (b,) in zip(range(steps), Steps(texts, tokenizer, 16, seed=0), strict=False):
        models = (student, own_teacher)
        h_s, h_t = (forward_with_states(m, b, hidden=True).hidden[2] for m in models)
        target = h_t.detach() if detach else h_t
        loss = hidden_loss(h_s @ projection.T, target, b["attention_mask"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach()), own_teacher.eval()


runs = {name: hidden_run(name == "correct") for name in ("correct", "wrong")}
for name, (loss, own_teacher) in runs.items():
    print(
        f"{name}: hidden loss {loss:.4f}, accuracy of the teacher {accuracy(own_teacher):.2f}"
    )

# %% tags=["fold"]
# check
smaller = runs["wrong"][0] < runs["correct"][0] / 3
lost = accuracy(runs["correct"][1]) - accuracy(runs["wrong"][1])
true_option(not smaller and abs(lost) < 0.01, smaller and lost < -0.01, smaller and lost > 0.1)
assert accuracy(runs["correct"][1]) > 0.95, (
    "with detach, the teacher must not change: is weight decay 0?"
)

# %% [markdown]
# The better loss belongs to the wrong run. So check the teacher's accuracy after training. Our
# `Teacher` freezes its model and runs it under `torch.no_grad()`.
#
# ## The same in PyTorch
#
# DistilBERT (Sanh et al. 2019) compares the directions of hidden states, with PyTorch's
# `CosineEmbeddingLoss`. In our library this is the loss `cosine`:

# %% tags=["fold"]
# the same in PyTorch: the cosine loss on real tokens
h_s, h_t = hidden_states, rotated
real = mask.bool()
ones = torch.ones(int(real.sum()))
library = torch.nn.CosineEmbeddingLoss()(h_s[real], h_t[real], ones)
assert torch.allclose(masked_mean(cosine(h_s, h_t), mask), library, atol=1e-5), "1 - cosine"
print("CosineEmbeddingLoss on real tokens and our cosine loss give the same value")

# %% [markdown]
# ## Find the bug
#
# ```python
# W = torch.nn.Linear(32, 64, bias=False)
# optimizer = torch.optim.AdamW(student.parameters())
# loss = hidden_loss(W(h_s), h_t, mask)
# ```
#
# The hidden loss falls, but it stays higher than with a trained W.
#
# ??? What is wrong?
# - [ ] W needs a bias. || The paper's projection has none.
# - [ ] W must be the identity. || It is not square.
# - [x] W is not in the optimizer. || The student must fit its states to a random projection.

# %% tags=["fold"]
# check: the hidden loss after 30 steps, with and without W in the optimizer
without_W = hidden_run(detach=True, train_W=False)[0]
print(f"W is trained: {runs['correct'][0]:.4f}, W is not trained: {without_W:.4f}")
true_option(False, False, without_W > runs["correct"][0])

# %% [markdown]
# ## Quiz
#
# ??? The student's hidden size is 32, the teacher's 64. Which loss needs a projection?
# - [x] the hidden loss || It subtracts the vectors.
# - [ ] the relation loss || R is T × T for both.
# - [ ] both || Only the hidden loss compares vectors.
#
# ??? What does the relation loss compare?
# - [ ] the layers of a model || It compares tokens within one layer.
# - [x] for each token, its similarities to the other tokens || Two T × T matrices.
# - [ ] the texts of a batch || Each text has its own R.
#
# ??? Why must padding be masked twice in the relation loss?
# - [ ] Once is enough. || A padded token is a row of R and a column.
# - [ ] Because the student has padding, too. || Both have the same padding.
# - [x] It must be no key in the softmax, and no token in the mean. || Both would change the loss.
#
# ??? The hidden loss falls to nearly 0 within 30 steps. What do you check first?
# - [x] the teacher's accuracy || It may be training, too.
# - [ ] the learning rate || A good learning rate does not give 0 so fast.
# - [ ] the size of W || Training W alone does not make this loss 0.
#
# ??? A cache stores the logits of a large teacher. Why not also its hidden states?
# - [ ] They change in each step. || The teacher is frozen.
# - [x] They need far more space. || T · D values for each layer and text, in place of two logits.
# - [ ] They need a GPU. || They do not.
#
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | the hidden loss falls to nearly 0 at once | the teacher is trained, too | section 5: its accuracy |
# | the hidden loss stays high | W is not in the optimizer | find the bug; W before and after |
# | the loss depends on the other texts of a batch | padding in the mean | section 2: more padding |
# | "differ: expected one shape" | other widths and no W | section 2, or use relations |
# | "the student has 2 heads, the teacher 4" | attention maps, head by head | deep dive, section 4 |
#
# ## Exercises
#
# Write in [exercises/18_distill_features.py](exercises/18_distill_features.py),
# then run `python -m tutorials check 18`.
#
# 1. ★ `patient_loss`: the normalized hidden state of the first real token (PKD, Sun et al. 2019).
#    Padding may stand on the left.
#    <details><summary>Hint</summary>`argmax` of the mask is the position of its first 1.</details>
# 2. ★★ `transfer_loss`: compare at which tokens the hidden states are large (Zagoruyko and Komodakis
#    2017), for any two widths.
#    <details><summary>Hint</summary>Set padding to 0 before you normalize.</details>
# 3. ★★ `best_projection`: the W with the smallest hidden loss, without training.
#    <details><summary>Hint</summary>`torch.linalg.lstsq` solves A X ≈ B. Use real tokens only. On
#    which side is W?</details>
#
# **Change and measure:** in section 4, change the weight of the relation loss to 0.3 and to 100.
# How much does the accuracy change?
#
# ## Summary
#
# 1. The hidden loss compares vectors token by token, and needs a projection W for other widths.
# 2. The relation loss compares T × T similarities: any width, and no rotation changes it.
# 3. Here relations helped about as much as many more texts. In another setting they helped little.
#
# **Next:** [lesson 19](19_distill_generation.py), a teacher that writes.
#
# More: [deep dive](deep/18_distill_features.py) · [how to compare two
# runs](topics/compare_two_runs.py) · [glossary](GLOSSARY.md)
#
# ## On the real thing
#
# These commands need a network, and a GPU helps. We did not run them. There
# are 12 relation heads: 12 divides both widths, 384 and 768.
#
# ```bash
# python -m training --task sst2 --model bert-base-uncased --method full --out runs/teacher
# python -m distill --teacher runs/teacher/adapter --student copy:2,4,6,8,10,12,hidden=384,heads=6,intermediate=1536 \
#     --losses kd:T=2,a=0.9 "relations:6->12,heads=12" --train-rows 1000 --transfer-rows 30000 --steps 6000
# ```
