# %% [markdown]
# # 18 · Deep dive: logits alone do not bring the teacher's relations
#
# **Needs** [lesson 18](../18_distill_features.py) · **Read and do** 50 minutes
# · **Runs in** about 60 s on one CPU thread · **Memory** 2 GB
#
# On the core page, relations had the higher mean gain. Here we look
# inside: what do hidden states and relations contain? Which losses need equal widths or equal
# numbers of heads? On which texts do relations help? And how do you notice a projection that is
# never trained?

# %% tags=["fold"]
# set-up: imports, our folders, one thread
import statistics
import sys
import tempfile
import time
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
from distill.losses.relations import attention_transfer, relations
from distill.losses.states import forward_with_states
from distill.losses.terms import make_projections, make_terms, needs
from distill.runs.fidelity import answers_of, distance_to_truth, fidelity, teachers_answers
from distill.runs.trainer import Distiller, DistillSteps
from distill.student.copy_spec import read_copy
from distill.student.student import copy_student
from distill.teacher.rows import load_rows
from distill.teacher.teacher import Teacher
from distill.teacher.teacher_cache import build_cache
from distill.teacher.truth import posteriors
from training import train_model
from training.data.batching import Steps, batches
from training.loop import loop
from training.loop.randomness import seeded
from training.models.trained import load_trained
from training.reports.paired import paired_gap
from tutorials.answers import true_option
from tutorials.show import prepare_page, show

prepare_page()  # one thread, no progress bars, our plot style
folder, cpu = Path(tempfile.mkdtemp()), torch.device("cpu")

# %% tags=["fold"]
# set-up: the teacher of the core page, test examples, and one batch of 16 texts
options = {"train_rows": 2000, "steps": 150, "eval_every": 150, "eval_rows": 100}
train_model("sentiment", method="full", out=str(folder / "teacher"), **options)
trained = load_trained(folder / "teacher" / "adapter")
teacher_model, tokenizer = trained.base.model, trained.base.tokenizer
teacher = Teacher([teacher_model], "classification")


def examples_of(seed: int, labelled: int, unlabelled: int, test: int = 1):
    reader = (tokenizer, trained.max_length)
    return load_rows(trained.spec, None, seed, (labelled, unlabelled), test, reader, reader)


examples = examples_of(1, 400, 0, test=1000)
test, labels = examples.held_out, torch.tensor(examples.held_out.rows["label"])
features = test.encoded.features
batch = next(batches(examples.train[:16], tokenizer, 16))
mask = batch["attention_mask"]  # (B, T)
truth = posteriors("sentiment", test.rows)
v_test = torch.cat(teachers_answers(teacher, features, tokenizer, cpu))
SEEDS = (1, 2, 3)

# %% [markdown]
# ## 1. What do hidden states know, layer by layer?
#
# The classification head reads one hidden state only: that of `[CLS]`, the first token, after
# layer 2. For each layer, we fit a linear function from the hidden state of `[CLS]` to the label
# on 400 texts, and test it on 500 others. This is called a **probe** (Alain and Bengio 2016).
#
# ??? For which part of the texts is the probe right after layer 0, the embeddings?
# - [x] about a half || The embedding of `[CLS]` is the same for all texts, so this is guessing.
# - [ ] about three quarters || This needs information about the other tokens of the text.
# - [ ] nearly all || Only attention brings the other tokens to `[CLS]`.


# %%
def cls_states(texts: list[dict]) -> list[torch.Tensor]:
    """After each layer, the hidden state of [CLS] and a 1 for the constant: (N, D + 1)."""
    states = [
        [h[:, 0] for h in teacher.see(b, hidden=True).hidden]
        for b in batches(texts, tokenizer, 100)
    ]
    layers = [torch.cat(layer).double() for layer in zip(*states, strict=True)]
    return [torch.cat([x, torch.ones(len(x), 1)], 1) for x in layers]


target = 2 * torch.tensor([text["labels"] for text in examples.train]).double() - 1  # -1 or 1
probes = []
for x, x_test in zip(cls_states(examples.train), cls_states(features[:500]), strict=True):
    line = torch.linalg.solve(x.T @ x + 0.1 * torch.eye(65), x.T @ target)  # least squares
    probes.append(float(((x_test @ line > 0) == labels[:500].bool()).double().mean()))
print("layers 0, 1, 2:", *(f"{probe:.3f}" for probe in probes))

# %% tags=["fold"]
# check
true_option(abs(probes[0] - 0.5) < 0.06, 0.65 < probes[0] < 0.85, probes[0] > 0.95)
assert probes[0] + 0.1 < probes[1] < probes[2], (
    "each layer should bring more to [CLS]: is the state of another token read?"
)

# %% [markdown]
# So it matters which layer of the student learns from which layer of the teacher (the **layer map**).
# In our library, `hidden:1->2` means: the student's layer 1 from the teacher's layer 2.
#
# ## 2. What do relations know?
#
# In attention, each token has a **value**: the vector that it gives to the tokens that attend to
# it. We compute the relations of the values of layer 2 for the text "the day was good . the
# garden was bad . the street was not bad . the light was not good ."
#
# ??? "The street was *not* bad." Is the value of this "not" more similar to that of "good" or "bad"?
# - [ ] bad: it stands next to it || The teacher was trained to predict the mood.
# - [x] good || "Not bad" is a good sign, and the teacher adds the signs of the text up.
# - [ ] equally similar to both || It is several times more similar to one of them.

# %%
text = (
    "the day was good . the garden was bad . the street was not bad . the light was not good ."
)
words = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
inputs = dict(tokenizer([text], return_tensors="pt"))
V = teacher.see(inputs, attention=True).attentions[1].joined("value")[0]  # (T, D)
R = (V @ V.T / V.shape[1] ** 0.5).softmax(-1)  # (T, T)
chosen = [k for k, word in enumerate(words) if word in ("good", "bad", "not")]
good, bad, not_bad, _, not_good, _ = chosen
for name, k in (("not (bad)", not_bad), ("not (good)", not_good)):
    print(f"{name:10} with good {float(R[k, good]):.2f}, with bad {float(R[k, bad]):.2f}")

# %% tags=["fold"]
# plot: the relations of six tokens
figure, panel = plt.subplots(figsize=(5.4, 4.2))
names = ["good", "bad", "not (bad)", "(not) bad", "not (good)", "(not) good"]
image = panel.imshow(R[chosen][:, chosen], cmap="Greens", vmin=0, vmax=1)
figure.colorbar(image, shrink=0.75, label="similarity R (each line adds up to at most 1)")
panel.set_xticks(range(6), names, rotation=40, ha="right")
panel.set_yticks(range(6), names)
for i, j in ((2, 0), (4, 1)):
    panel.add_patch(plt.Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, color="tab:red", lw=2))
panel.set(
    title='"not" before "bad" is similar to "good"', ylabel="token", xlabel="compared with"
)
panel.grid(False)
show(figure, "18_not")

# %% tags=["fold"]
# check
ratio = float(R[not_bad, good] / R[not_bad, bad])
true_option(ratio < 1 / 3, ratio > 3, 1 / 3 <= ratio <= 3)
assert R[not_good, bad] > 3 * R[not_good, good], 'and "not" before "good" is similar to "bad"'

# %% [markdown]
# (Each line has a softmax of its own, so R is not symmetric.) Neither the label nor the teacher's
# probability says anything about a single token. Relations
# do, for each text.
#
# ## 3. Rotations, and half the width
#
# On the core page, we multiplied the teacher's hidden states by an orthogonal matrix $U$. The hidden
# loss changed, and relations did not. Does a trained projection $W$ help? And can 32 dimensions hold what 64 hold?
#
# ??? The squared lengths of the teacher's hidden states, added up over tokens: which part lies outside of
#   their best 32 of 64 directions?
# - [ ] about a half || The hidden states do not use all directions equally.
# - [ ] 5 to 20 % || A few directions hold almost everything.
# - [x] below 5 % || So a student of half the width can come close to the teacher's hidden states.

# %%
h = teacher.see(batch, hidden=True).hidden[2]  # (B, T, 64)
random = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
U = torch.linalg.qr(random).Q  # orthogonal
real, rotated = (x[mask != 0].double() for x in (h, h @ U))  # (tokens, 64)
best_W = torch.linalg.lstsq(real, rotated).solution.T  # the W with the smallest hidden loss
print(f"hidden loss without W:      {float(((real - rotated) ** 2).mean()):.3f}")
print(f"hidden loss with the best W: {float(((real @ best_W.T - rotated) ** 2).mean()):.6f}")
squares = torch.linalg.svdvals(real) ** 2  # squared lengths along the best directions
outside = float(squares[32:].sum() / squares.sum())
print(f"outside of the best 32 directions: {outside:.1%}")

# %% tags=["fold"]
# check: the best W is the same rotation, and which losses a rotation changes
true_option(0.4 < outside < 0.6, 0.05 <= outside <= 0.2, outside < 0.05)
assert torch.allclose(best_W.float(), U.T, atol=1e-3), (
    "W x must equal the rotated x: did you leave the padding out?"
)
rotation_losses = {
    "hidden": lambda a, b: masked_mean(hidden_mse(a, b), mask),
    "cosine": lambda a, b: masked_mean(cosine(a, b), mask),
    "transfer": lambda a, b: attention_transfer(a, b, mask).mean(),
    "relations, 1 head": lambda a, b: masked_mean(relations(a, b, mask, 1), mask),
    "relations, 4 heads": lambda a, b: masked_mean(relations(a, b, mask, 4), mask),
}
after = {name: float(loss(h, h @ U)) for name, loss in rotation_losses.items()}
print("after the rotation:", {name: round(value, 4) for name, value in after.items()})
unchanged = {name for name, value in after.items() if value < 1e-4}
assert unchanged == {"transfer", "relations, 1 head"}, "they see lengths or inner products only"

# %% [markdown]
# The best $W$ rotates the states in the same way. And only a small part lies outside of 32 directions, so
# 32 values can nearly hold the teacher's hidden states. (This does not say that training finds them.) One **relation
# head** is not changed by any rotation. MiniLM v2 splits the vectors into several relation heads.
# Then a rotation that mixes the heads changes the loss.
#
# ## 4. All losses on features
#
# | `--losses` | compares | widths | heads | source |
# |:--|:--|:--|:--|:--|
# | `hidden` | hidden states, squared difference | W if they differ | any | TinyBERT (Jiao et al. 2020) |
# | `cosine` | directions of hidden states | W if they differ | any | DistilBERT (Sanh et al. 2019) |
# | `patient` | the normalized hidden state of `[CLS]` | W if they differ | any | PKD (Sun et al. 2019) |
# | `transfer` | at which tokens the hidden states are large | any | any | Zagoruyko and Komodakis 2017 |
# | `scores`, `attention` | attention maps before and after softmax | any | equal | TinyBERT, MiniLM |
# | `values` | relations of the values, head by head | any | equal | MiniLM (Wang et al. 2020) |
# | `relations` | relations of queries, keys and values | any | any | MiniLM v2 (Wang et al. 2021) |
#
# ??? Our student has two attention heads, the teacher has four. What does our library do for
#   `attention:2->2`?
# - [ ] It compares the first two heads. || Which of the four the student should learn is unclear.
# - [ ] It takes the mean over the heads. || Then it would be another loss than the paper's.
# - [x] It raises an error. || A silent choice would be a loss that nobody asked for.


# %%
def narrow_student():
    spec = read_copy("copy:1,2,hidden=32,heads=2,intermediate=64")
    return copy_student(teacher_model, spec).requires_grad_(True)


def distiller_of(student, losses: list[str], answers=teacher, seed: int = 1) -> Distiller:
    specs = read_losses(losses)
    projections = make_projections(specs, 32, 64, seed)
    terms = make_terms(specs, "classification", projections, causal=False)
    answers = answers if needs_teacher(specs) else None
    return Distiller(student, projections, terms, teacher, answers, **needs(specs))


student, error = narrow_student(), None
try:
    distiller_of(student, ["attention:2->2"]).sums(batch, 0.0)
except ValueError as refusal:
    error = refusal
    print("refused:", refusal)

# %% tags=["fold"]
# check: and `relations` is the sum over queries, keys and values of the loss of the core page
true_option(error is None, error is None, error is not None)


def relation(x, mask):
    scores = x @ x.mT / x.shape[-1] ** 0.5
    return scores.masked_fill(mask[:, None, :] == 0, -torch.inf).softmax(-1)


def relation_loss(x_s, x_t, mask) -> float:
    """x_s: (B, T, 32), x_t: (B, T, 64)."""
    p, q = relation(x_t, mask), relation(x_s, mask)
    kl = (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)
    return float((kl * mask).sum() / mask.sum())


with torch.no_grad():
    of_student = forward_with_states(student, batch, attention=True).attentions[1]
of_teacher = teacher.see(batch, attention=True).attentions[1]
vectors = ("query", "key", "value")
parts = [relation_loss(of_student.joined(x), of_teacher.joined(x), mask) for x in vectors]
sums = distiller_of(student, ["relations:2->2,heads=1"]).sums(batch, 0.0)
library = float(next(iter(sums.values())).detach()) / int(mask.sum())
assert abs(library - sum(parts)) < 1e-4, "the sum of three losses, a mean over real tokens"

# %% [markdown]
# ## 5. Do they help? With distances and costs
#
# The four ways of the core page and a fifth, with 1,000 test texts, 100 steps and a learning rate of
# 2e-3 (core page: 400, 60 and 3e-3). `relations:2->2,heads=1` adds the
# losses of queries, keys and values. The weights of 10 were chosen with other seeds (11 to 13),
# from 1, 10, 100 for `hidden` and 0.3, 1, 10 for `relations` (so 10 was the largest).
#
# ??? On 1,600 texts, relations gain how much in accuracy, compared with their gain on 100 texts?
# - [ ] more || With more texts, the student is already closer to the teacher.
# - [x] less || There is less left to gain.
# - [ ] nothing || They still gain something here.

# %% tags=["fold"]
# set-up: training runs
KD, HIDDEN, RELATIONS = "kd:T=2,a=0.9", "hidden:2->2,w=10", "relations:2->2,heads=1,w=10"
WAYS = {
    "100, logits": (100, [KD]),
    "100, + hidden states": (100, [KD, HIDDEN]),
    "100, + relations": (100, [KD, RELATIONS]),
    "1,600, logits": (1600, [KD]),
    "1,600, + relations": (1600, [KD, RELATIONS]),
}


def train(distiller: Distiller, texts: list[dict], seed: int, steps: int = 100):
    """Trains and returns the student."""
    settings = loop.LoopSettings(
        steps=steps, learning_rate=2e-3, eval_every=steps, save_every=steps
    )
    with seeded(seed):
        trainer = DistillSteps(distiller, Steps(texts, tokenizer, 16, seed), settings)
        loop.run(trainer, lambda: {"eval_loss": 0.0}, lambda row: None)
    return distiller.student.eval()


# %%
students, logits, seconds = {}, {}, {}
for seed in SEEDS:
    texts = examples_of(seed, 100, 1500).train
    cache = build_cache(folder / f"cache{seed}", teacher, texts, tokenizer)
    for way, (count, losses) in WAYS.items():
        start = time.process_time()
        answers = teacher if len(losses) > 1 else cache
        distiller = distiller_of(narrow_student(), losses, answers, seed)
        students[way, seed] = model = train(distiller, texts[:count], seed)
        seconds[way, seed] = time.process_time() - start
        answers = answers_of(model, features, tokenizer, "classification", cpu)
        logits[way, seed] = torch.cat(answers)

# %% tags=["fold"]
# scores: accuracy, KL from p*, agreement with the teacher, and time
accuracy, kl, same = {}, {}, {}
for (way, _), z in logits.items():
    accuracy.setdefault(way, []).append(float((z.argmax(1) == labels).double().mean()))
    kl.setdefault(way, []).append(distance_to_truth(z, truth))
    agreement = fidelity("classification", [z], [v_test])["agreement"]
    same.setdefault(way, []).append(agreement)
first = statistics.median(seconds["100, logits", seed] for seed in SEEDS)
print(f"{'':21} accuracy  KL from p*  agreement  time of a step")
for way in WAYS:
    means = [statistics.mean(scores[way]) for scores in (accuracy, kl, same)]
    cost = statistics.median(seconds[way, seed] for seed in SEEDS) / first
    print(f"{way:21} {means[0]:8.3f}  {means[1]:10.3f}  {means[2]:9.3f}  {cost:13.1f}x")
pairs = [("100, + relations", "100, logits"), ("100, + relations", "100, + hidden states")]
pairs += [("100, + hidden states", "100, logits"), ("1,600, + relations", "1,600, logits")]
gaps = {}
print("\ndifference in accuracy ± one standard error:")
for one, other in pairs:
    gap, error = gaps[one, other] = paired_gap(accuracy[one], accuracy[other])
    print(f"{one} against {other}: {gap:+.3f} ± {error:.3f}")

# %% tags=["fold"]
# check
few, many = (gaps[f"{n}, + relations", f"{n}, logits"][0] for n in ("100", "1,600"))
true_option(many >= few, 0 < many < few, many <= 0)
assert few > 0.01, "with few texts, relations should help: is their weight 10?"

# %% [markdown]
# - A step with relations takes longer: the teacher runs in each step (a cache holds only logits), and
#   the relations are T × T.
# - The times of the two rows with logits can differ a little by chance: their steps do the same work.
# - With three seeds, a difference of less than two standard errors says little.
#
# **A setting where they did not help.** Our [report on nine
# losses](../../distill/results/features/report.md) has five seeds, a student of *one* layer of
# full width with *random* weights, 100 + 400 texts, 400 steps, and a weight of 1. No feature loss
# is clearly better than logits alone in accuracy. Relations have the best mean, and clearly more
# agreement. `patient` is clearly worse in KL from p*. The two settings differ in the start, the
# layers, the texts and the weights, so we do not know which of these decides.
#
# ## 6. On which texts do relations help?
#
# Section 2 showed that the teacher's values know "not". We split the test texts: without a "not",
# and with at least one.
#
# ??? On which texts do relations gain more accuracy over logits (100 training texts)?
# - [ ] without "not" || There, all students are already close to the teacher.
# - [x] with "not" || With 100 texts and logits only, the student sees few cases of "not".
# - [ ] about equally || The gains differ clearly.

# %%
negated = torch.tensor(["not" in text.split() for text in test.rows["sentence"]])
gain = {}
for part, chosen_texts in (("without not", ~negated), ("with not", negated)):
    right = {
        way: [
            float((logits[way, seed].argmax(1) == labels)[chosen_texts].double().mean())
            for seed in SEEDS
        ]
        for way in WAYS
    }
    gain[part], _ = paired_gap(right["100, + relations"], right["100, logits"])
    print(f"{part}, {int(chosen_texts.sum())} texts: gain {gain[part]:+.3f}")
    for way in ("100, logits", "100, + relations", "1,600, logits"):
        print(f"    {way:17} {statistics.mean(right[way]):.3f}")

# %% tags=["fold"]
# check
more = gain["with not"] - gain["without not"]
true_option(more < -0.005, more > 0.005, abs(more) <= 0.005)

# %% [markdown]
# And whose relations are close to the teacher's, on texts that were not trained on? We compute the relation
# loss of the values.
#
# ??? A student learned from the logits of 1,600 texts. How far are its relations from the teacher's, compared with
#   the student before the training?
# - [ ] closer || Logits do not show how the teacher compares tokens.
# - [x] further away || It found hidden states of its own that give the same predictions.
# - [ ] equally far, within 0.05 || The training changes them clearly.

# %%
held_out = next(batches(features[:64], tokenizer, 64))
target = teacher.see(held_out, attention=True).attentions[1].joined("value")


def distance(model) -> float:
    with torch.no_grad():
        states = forward_with_states(model, held_out, attention=True).attentions[1]
    return relation_loss(states.joined("value"), target, held_out["attention_mask"])


distances = {"before training": distance(narrow_student())}
for way in ("100, logits", "1,600, logits", "100, + relations"):
    distances[way] = statistics.mean(distance(students[way, seed]) for seed in SEEDS)
for way, value in distances.items():
    print(f"{way:17} {value:.3f}")

# %% tags=["fold"]
# check
change = distances["1,600, logits"] - distances["before training"]
true_option(change < -0.05, change > 0.05, abs(change) <= 0.05)
assert distances["100, + relations"] < 0.6 * distances["1,600, logits"], (
    "relations should be closer: is the teacher asked for its values?"
)

# %% [markdown]
# The gain is on texts with "not". This fits section 2, but it does not prove that the values of
# "not" are the reason: more texts help at the same place.
#
# Logits alone do not bring the teacher's relations, even with 1,600 texts. Very different hidden
# states can give the same predictions.
#
# ## 7. Break it on purpose: nobody trains W
#
# $W$ belongs neither to the student nor to the teacher, so it is easily forgotten when the
# optimizer is created.
#
# ??? 30 steps with the hidden loss. Is there an error if nobody trains W?
# - [ ] yes: W has no gradient || The optimizer skips parameters that it does not have.
# - [x] no: W keeps its random values || Compare W before and after the training.
# - [ ] no: W is trained by the student's optimizer || It holds the student's parameters only.

# %%
moved = {}
for name in ("trained", "forgotten"):
    student = narrow_student()
    for part in (
        student.bert.pooler,
        student.classifier,
    ):  # the hidden loss does not reach them
        part.requires_grad_(False)
    distiller = distiller_of(student, ["hidden:2->2"])
    W = distiller.projections["hidden 2 to 2"].weight.requires_grad_(name == "trained")
    before = W.detach().clone()
    train(distiller, examples.train, seed=1, steps=30)
    moved[name] = float((W.detach() - before).norm())
print({name: round(value, 3) for name, value in moved.items()})

# %% tags=["fold"]
# check: our Distiller has the projection of every loss; and no loss reaches the teacher
true_option(False, moved["forgotten"] == 0 and moved["trained"] > 0, moved["forgotten"] > 0)
specs = read_losses(["hidden:2->2"])
terms = make_terms(specs, "classification", make_projections(specs, 32, 64, 1), causal=False)
try:
    Distiller(student, torch.nn.ModuleDict(), terms, teacher, None, hidden=True)
    raise AssertionError("a loss without its W must be refused")
except ValueError as refusal:
    print("refused:", refusal)
of_teacher = h.clone().requires_grad_(True)
of_student = torch.zeros_like(h).requires_grad_(True)
hidden_mse(of_student, of_teacher).sum().backward()
assert of_teacher.grad is None, "the library detaches the teacher in every loss"
assert not any(p.requires_grad for p in teacher_model.parameters()), (
    "and freezes its parameters"
)

# %% [markdown]
# (Here we froze W, as if the optimizer did not have it.) `Distiller` refuses a loss whose projection it
# does not hold. In a loop of your own, compare $W$
# before and after.
#
# ## Summary
#
# 1. The teacher's values know "not", and relations on 100 texts help most on texts with "not".
# 2. Logits alone do not bring the teacher's relations: other hidden states give the same predictions.
# 3. Compare W before and after the training. Nobody reports that it was forgotten.
#
# **Next:** [lesson 19](../19_distill_generation.py).
