# %% [markdown]
# # 19 · Forward KL keeps all ways to say it, reverse KL and beam texts trade ways for truth, and a colder pen does it too
#
# | | |
# |:--|:--|
# | **Needs** | lessons [02](02_lora_for_generation.py) and [17](17_distill_logits.py); what sampling from a softmax is |
# | **Read and do** | 70 minutes |
# | **Runs in** | about 65 s on one CPU thread |
# | **Memory** | 2 GB |
#
# A classifier gives one answer for a text. A writer has *many* right answers: each list of facts can be said in many ways. So a
# teacher that writes is a distribution over whole texts, and a student too small for all of it must give something up. It
# can keep every way of the teacher and put some weight on wrong texts between them: **mode-covering**. Or it can write a few ways
# only, and those well: **mode-seeking**. (A **mode** is a peak of a distribution.) In the small world we know each right text
# and its exact probability. So here both words become numbers.
#
# | symbol | code | meaning | shape |
# |:--|:--|:--|:--|
# | $x$, $y$, $y_t$ | | the facts, a whole text, its token $t$ | |
# | $p^*(y \mid x)$ | `truth` | the grammar's exact probability of a text | M × Y |
# | $p$, $q$ | `v`, `z` | the teacher's and the student's distribution; in code their logits | N × V |
# | $q(\text{right})$ | `right` | probability that a text sampled from the student is one of the grammar's | |
# | | `ways` | $e^{\text{entropy}}$ of the student's right texts: as many as if all were equally likely | |
# | $\tau$ | `pen` | temperature when a text is sampled; the losses here all have $T = 1$ | |
#
# M meanings (lists of facts) have Y texts each. A batch has B texts of T tokens; N of the tokens are answers. V words are in the
# vocabulary. Beside the name of a loss, $T$ is its temperature.

# %%
import copy
import itertools
import math
import random
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

# %% [markdown]
# ## 1. All texts for one list of facts
#
# The grammar of data to text (lesson 02) makes up to five choices: the place last or first; "X was there too" or "then NAME met
# X"; one of eight adjectives; "it was a A day" or "the day was A"; friend or mood first. Its probabilities are known, so we can
# write down *all* texts for a list of facts.
#
# **Predict:** how many texts are there for a list of five facts? And how much likelier is the likeliest than the least likely
# one: twice, about 8 times, or 100 times?

# %%
from training.data.small_world import BAD, GOOD
from training.data.world_tasks import realise


def facts_of(meaning: str) -> dict:
    return dict.fromkeys(("name", "place", "action", "friend", "mood")) | dict(p.split(" : ") for p in meaning.split(" ; "))


def all_texts(meaning: str) -> dict[str, float]:
    """{text: its exact probability}, for a meaning with all five facts."""
    name, place, action, friend, mood = facts_of(meaning).values()
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


# %%
from training.data.data import load_task
from training.evaluation.generation import references_by_prompt
from training.data.tasks import find_task

spec = find_task("data2text")
test = load_task(spec, seed=0)["test"]
meanings = [m for m, _ in references_by_prompt(test, spec) if m.count(" ; ") == 4][:8]
texts = [all_texts(m) for m in meanings]
truth = torch.tensor([list(t.values()) for t in texts], dtype=torch.float64)  # (M, Y)
print(meanings[0])
for text, p in sorted(texts[0].items(), key=lambda item: -item[1])[:: len(texts[0]) // 3]:
    print(f"   {p:.4f}  {text}")
all_ways = float((-(truth[0] * truth[0].log()).sum()).exp())
print(f"{truth.shape[1]} texts; by their entropy as many as {all_ways:.0f} equally likely ones")
rng = random.Random(0)
drawn = [realise(facts_of(meanings[0]), rng) for _ in range(50)]
assert all(abs(math.log(texts[0][text]) - log_p) < 1e-9 for text, log_p in drawn), "each text of the grammar, with its chance"
assert torch.allclose(truth.sum(1), torch.ones(len(meanings), dtype=torch.float64)), "all texts are there: their sum is 1"
assert truth.shape[1] == 2 * 2 * 16 * 2 and 8 < truth[0].max() / truth[0].min() < 9, "five independent choices multiply"

# %% [markdown]
# So there are 2 · 2 · 8 · 2 · 2 = 128 texts, and the likeliest is about 8 times as likely as the least likely one.
#
# The teacher is the pretrained decoder, trained on 4,000 texts (seed 0): *one* text for each list of facts. Its probability of a
# whole text is the product of its tokens' probabilities, so we can compute $q(y \mid x)$ of all 128 texts. Their sum is
# the probability that a sampled text is right.
#
# **Predict:** we sample 256 texts for the first list of facts. Nobody ever showed the teacher two texts for one list. Will it say
# "in PLACE" first in about 40 % of them, or nearly always write the likelier form?

# %%
from training.data.encoding import encode, prompt_ids
from training.evaluation.generation import continue_prompts
from training.loop.randomness import seeded
from training.runs.run import train_model
from training.models.trained import load_trained

folder = Path(tempfile.mkdtemp())
size = {"train_rows": 4000, "steps": 400, "batch_size": 32, "learning_rate": 4e-3}
quiet = {"eval_every": 400, "eval_rows": 100, "samples": 0, "trackers": "", "out": str(folder / "teacher")}
train_model("data2text", method="full", **size, **quiet)
trained = load_trained(folder / "teacher" / "adapter")
big, tokenizer = trained.base.model, trained.base.tokenizer
PLAIN = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}  # each token as its probability says


def sampled(model, prompts: list[list[int]], seed: int = 0) -> list[list[int]]:
    """One sampled continuation of each prompt, at most 24 tokens (the longest right text has fewer)."""
    with seeded(seed):
        return continue_prompts(model, tokenizer, prompts, 24, 256, **PLAIN)


# %%
from training.data.batching import batches
from training.evaluation.evaluation import model_inputs

columns = {"meaning_representation": [m for m, t in zip(meanings, texts, strict=True) for _ in t]}
columns["human_reference"] = [text for t in texts for text in t]
all_rows = encode(columns, spec, tokenizer, 96).features  # M · Y rows


@torch.no_grad()
def log_q(model, pens=(1.0,)) -> torch.Tensor:
    """log q(y | x) of all right texts (pens, M, Y), if each token is sampled at the temperature of the pen."""
    found = []
    for batch in batches(all_rows, tokenizer, 256):
        z, y = model(**model_inputs(batch)).logits[:, :-1], batch["labels"][:, 1:]  # (B, T, V), (B, T)
        answer = y != -100
        for pen in pens:
            of_token = (z[answer] / pen).log_softmax(-1).gather(-1, y[answer][:, None])[:, 0].double()  # (N,)
            found.append(torch.zeros(y.shape, dtype=torch.float64).masked_scatter(answer, of_token).sum(1))
    parts = [torch.cat(found[k :: len(pens)]) for k in range(len(pens))]  # every len(pens)-th entry is of the same pen
    return torch.stack(parts).view(len(pens), *truth.shape)


# %%
def right_and_ways(log_q: torch.Tensor) -> tuple[float, float]:
    """(probability of a right text, effective number of right texts), means over the meanings (M, Y)."""
    among = log_q.log_softmax(1)  # q(y | x, right)
    return float(log_q.exp().sum(1).mean()), float((-(among.exp() * among).sum(1)).exp().mean())


# %%
prompts = [prompt_ids(m, spec, tokenizer) for m in meanings]
written = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in sampled(big, [prompts[0]] * 256)]
exact = log_q(big)[0]
seen = [t for t in written if t in texts[0]]
place_first = torch.tensor([t.startswith("in ") for t in texts[0]])  # the same places in every row of `truth`
shares = exact.softmax(1)[:, place_first].sum(1)
print(f"right: {len(seen) / 256:.2f} of the samples, {float(exact[0].exp().sum()):.2f} computed")
print(f"place first: grammar 0.40, teacher {float(shares.mean()):.2f} (by list {shares.min():.2f} to {shares.max():.2f})")
print("over all meanings: right {:.2f}, ways {:.0f} (of {:.0f})".format(*right_and_ways(exact), all_ways))
error = (0.25 / 256) ** 0.5  # the largest standard error of a share
assert abs(len(seen) / 256 - float(exact[0].exp().sum())) < 4 * error, "the sum over all right texts is what sampling estimates"
assert abs(float(shares.mean()) - 0.4) < 0.12, "the teacher writes both forms, about as often as the grammar"
assert right_and_ways(exact)[0] > 0.7 and right_and_ways(exact)[1] > 0.8 * all_ways, "a teacher worth copying"

# %% [markdown]
# From one text for each of many lists it has learnt the chances, as the teacher of lesson 17 did. We need no sampling any more:
# `right` and `ways` are computed from all 128 texts.
#
# ## 2. Two divergences, and a student that cannot be its teacher
#
# $$\text{forward: } \mathrm{KL}(p \,\Vert\, q) = \sum_w p_w \log \frac{p_w}{q_w}, \qquad
# \text{reverse: } \mathrm{KL}(q \,\Vert\, p) = \sum_w q_w \log \frac{q_w}{p_w}.$$
#
# Who stands first decides where one looks. Forward looks where the *teacher* writes: there $q$ must not be small. Reverse looks
# where the *student* writes: there $p$ must not be small. If $q$ can be equal to $p$, both are 0 at the same place. So we
# need a student that cannot: a single bump of two numbers, middle $\mu$ and width $\sigma$, for a teacher with two bumps.
#
# **Predict:** the teacher has 60 % around word 15 and 40 % around word 42. Where will $\mu$ end with forward KL, where with
# reverse KL? And where, for each, if the student has a logit of its own for each word?

# %%
from distill.losses.losses import generalized_jsd, reverse_kl, soft_targets

word = torch.arange(60, dtype=torch.float64)
bump = lambda middle, width: (-((word - middle) ** 2) / (2 * width**2)).softmax(0)  # noqa: E731
p = 0.6 * bump(15, 3) + 0.4 * bump(42, 3)  # (V,)
HAND = {"forward": lambda q: (p * (p / q).log()).sum(), "reverse": lambda q: (q * (q / p).log()).sum()}
LIBRARY = {"forward": soft_targets, "reverse": reverse_kl}


def fit(loss, shape, numbers: list[float], steps: int = 500) -> torch.Tensor:
    """Adam on the numbers of a student whose logits (V,) are shape(numbers); returns q."""
    free = torch.tensor(numbers, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([free], lr=0.1)
    for _ in range(steps):
        adam.zero_grad()
        loss(shape(free), p.log()).backward()
        adam.step()
    return shape(free.detach()).softmax(0)


# %%
one_bump = lambda n: -((word - n[0]) ** 2) / (2 * n[1].exp() ** 2)  # n: the middle, and the log of the width  # noqa: E731
mean = lambda q: float((q * word).sum())  # noqa: E731
fitted = {name: fit(loss, one_bump, [22.0, 1.0]) for name, loss in LIBRARY.items()}
fitted |= {f"reverse from {m}": fit(reverse_kl, one_bump, [m, w]) for m, w in ((35.0, 1.0), (22.5, 2.0))}
for name, q in fitted.items():
    print(f"{name:18} middle {mean(q):4.1f}   KL(p‖q) {HAND['forward'](q):6.2f}   KL(q‖p) {HAND['reverse'](q):.2f}")
    assert all(torch.allclose(HAND[k](q), f(q.log(), p.log())) for k, f in LIBRARY.items()), "who stands first is the average"
for name, loss in LIBRARY.items():
    off = float((fit(loss, lambda n: n, [0.0] * 60) - p).abs().sum() / 2)
    print(f"a free student with {name} KL: {off:.3f} of its probability is misplaced")
    assert off < 0.02, "a student that can be its teacher becomes it, with either loss"
assert abs(mean(fitted["forward"]) - mean(p)) < 0.5, "forward: the mean of p, where p itself has next to nothing"
assert abs(mean(fitted["reverse"]) - 15) < 0.5, "reverse: one bump, the other is given up"
assert abs(HAND["reverse"](fitted["reverse"]) + math.log(0.6)) < 0.02, "its price: -log of the share that it kept"
assert abs(mean(fitted["reverse from 35.0"]) - 42) < 0.5, "another start, another bump"

# %%
figure, axes = plt.subplots(figsize=(6.4, 2.8))
axes.fill_between(word, p, color=COLOURS["ceiling"], alpha=0.3, label="teacher p")
axes.plot(word, fitted["forward"], color=COLOURS["lora"], label="forward KL")
axes.plot(word, fitted["reverse"], color=COLOURS["bottleneck"], label="reverse KL")
axes.plot(word, fitted["reverse from 35.0"], ":", color=COLOURS["bottleneck"], label="reverse, other start")
axes.set(title="forward KL covers both bumps and the gap, reverse KL takes one")
axes.set(xlabel="word", ylabel="probability", ylim=(0, 0.19))
axes.legend(loc="upper center", ncols=2)
show(figure, "distill_two_bumps")

# %% [markdown]
# Forward fills the gap, where the teacher never writes: there a sampled word is *wrong*. Reverse writes no wrong words and has
# lost 40 % of what can be said. And it depends on the start. From 35 it takes the other bump. From a *wide* start it stays wide,
# although that costs more: to get narrow it would have to pay first. It seeks *a* mode near its start, not the best one.
#
# Between them stands, with the mixture $m = \beta p + (1 - \beta) q$ (Agarwal et al. 2024, section 2; of *probabilities*, not of
# logits),
#
# $$\mathrm{JSD}_\beta = \beta\, \mathrm{KL}(p \Vert m) + (1 - \beta)\, \mathrm{KL}(q \Vert m).$$
#
# **Predict:** JSD goes to 0 for β → 0, for *every* student. What does JSD / β go to?

# %%
q = fitted["forward"]
forward = float(HAND["forward"](q))
for beta in (0.5, 0.1, 1e-4):
    m = beta * p + (1 - beta) * q
    by_hand = beta * (p * (p / m).log()).sum() + (1 - beta) * (q * (q / m).log()).sum()
    jsd = float(generalized_jsd(q.log(), p.log(), beta=beta))
    assert abs(float(by_hand) - jsd) < 1e-9, "mix probabilities, then take two KLs to the mixture"
    print(f"β {beta:6}: JSD {jsd:.5f}   JSD / β {jsd / beta:.3f}   forward KL {forward:.3f}")
assert abs(jsd / beta / forward - 1) < 0.01, "near β = 0 it is β times forward KL: a small β wants a large weight"

# %% [markdown]
# So for β → 0 the loss is β times forward KL: who takes a small β has to take a large weight for the loss, too.
#
# ## 3. A text is a chain: whose texts stand before the next word?
#
# A loss of a writer compares *next words*, after some beginning of a text. Write $p_t$, $q_t$ for the distributions of word $t$
# after the beginning $y_1 \dots y_{t-1}$. For whole texts the chain rule says
#
# $$\mathrm{KL}(p \Vert q) = \mathbb{E}_{y \sim p} \sum_t \mathrm{KL}(p_t \Vert q_t):$$
#
# the beginnings are drawn from whoever stands *first*. So forward KL wants texts of the teacher (or of the people whom it learnt
# from), and reverse KL wants the **student's own** texts. We hold the formula to our 128 texts, with the grammar's $p^*$ in the
# first place and the teacher in the second.
#
# **Predict:** a text has 15 to 20 tokens and five choices. At how many of its tokens can the KL between $p^*$ and a good model be
# more than nearly nothing?

# %%
batch = next(batches(all_rows[: truth.shape[1]], tokenizer, truth.shape[1]))  # all texts of the first meaning
with torch.no_grad():
    q_next = big(**model_inputs(batch)).logits[:, :-1].double().log_softmax(-1)  # (Y, T, V)
y, after, nothing = batch["labels"][:, 1:], {}, torch.zeros(q_next.shape[-1], dtype=torch.float64)
for row, chance in zip(y.tolist(), truth[0].tolist(), strict=True):
    for t in (t for t, token in enumerate(row) if token != -100):
        after.setdefault(tuple(row[:t]), nothing.clone())[row[t]] += chance  # how often p* goes on so after this beginning
answer = y != -100
p_next = torch.stack([torch.stack([after.get(tuple(row[:t]), nothing) for t in range(len(row))]) for row in y.tolist()])
p_next /= p_next.sum(-1, keepdim=True)  # p*(next word | beginning), (Y, T, V); what is no answer is masked below
by_token = torch.special.xlogy(p_next, p_next).sub(p_next * q_next).sum(-1).masked_fill(~answer, 0)  # (Y, T)
by_text = (truth[0] * (truth[0].log() - exact[0])).sum()
chain = (truth[0] * by_token.sum(1)).sum()
counts = ((by_token > 0.01) & answer).sum(1).double().mean()
print(f"KL of whole texts {float(by_text):.4f}, sum over tokens {float(chain):.4f} nats")
print(f"on average {float(counts):.1f} of {float(answer.sum(1).double().mean()):.1f} tokens have more than 0.01 nats")
assert abs(float(by_text - chain)) < 1e-6, "each beginning counts as often as p* writes it"
assert counts < 0.6 * answer.sum(1).double().mean(), "most tokens are certain, for both"

# %% [markdown]
# In a batch the same sum is taken over **answer tokens only**: the prompt is read, not learnt. And it is divided once by their
# number, not text by text (lesson 02). The library's terms do this.
#
# **Predict:** two texts, of 5 and of 20 tokens. If someone takes the mean of each text first and then the mean of both, how much
# more does a token of the short text count?

# %%
from distill.losses.loss_specs import read_losses
from distill.student.copy_spec import read_copy
from distill.student.student import copy_student
from distill.teacher.teacher import Teacher
from distill.losses.terms import make_terms
from distill.runs.trainer import Distiller, DistillSteps
from training.data.batching import Steps

NONE, SMALL = torch.nn.ModuleDict(), read_copy("copy:1,hidden=32,heads=2,intermediate=128")
teacher = Teacher([big], "generation")
held_out = encode(test.select(range(200))[:], spec, tokenizer, 96).features
batch = next(batches(held_out[:32], tokenizer, 32))
blank = copy_student(big, SMALL).eval()  # half the width and one layer of two: before training it knows nothing
z, v = (m(**model_inputs(batch)).logits[:, :-1].detach() for m in (blank, big))  # (B, T, V)
each, learnt = soft_targets(z, v), (batch["labels"][:, 1:] != -100).float()  # (B, T)
(term,) = make_terms(read_losses(["kd:T=1,a=1"]), "generation", NONE, causal=True)
ours = Distiller(blank, NONE, [term], None, teacher).sums(batch, 0.0)["kd"].detach() / term.count(batch)
assert torch.allclose(ours, (each * learnt).sum() / learnt.sum()), "position t answers for token t + 1; -100 is left out"
text_by_text = ((each * learnt).sum(1) / learnt.sum(1)).mean()
print(f"mean over tokens {float(ours):.3f}, mean of the texts' means {float(text_by_text):.3f}")
weight_of_a_token = {length: 1 / (2 * length) for length in (5, 20)}
assert weight_of_a_token[5] == 4 * weight_of_a_token[20], "in the mean of two means each text has the weight 1/2"
assert abs(text_by_text / ours - 1) > 1e-3, "so it is another loss, which cares more for short texts"

# %% [markdown]
# So in a mean of two means a token of the short text counts 4 times as much. In the library all tokens count alike.
#
# ## 4. One small student, four ways to teach it
#
# The student has one layer of two and half the width (`copy:1,hidden=32`). Reverse KL needs a start that already writes. So, as
# in the papers, each student first learns from 800 references (260 steps). From this start go four ways, 80 steps each:
#
# | way | target | texts before the next word |
# |:--|:--|:--|
# | `references` | the next word of the reference | the references |
# | `beam texts` | the teacher's likeliest text, by beam search with 2 beams (Kim & Rush 2016) | the teacher's |
# | `forward KL` | all the teacher's probabilities, $\mathrm{KL}(p \Vert q)$ | the references |
# | `reverse KL` | the same, $\mathrm{KL}(q \Vert p)$ | the references |
#
# A seed draws the 800 rows and their order. (Seed 0 drew the teacher's, so we use 1, 2, 3.) A fifth way, on the student's own
# texts, is for section 5.
#
# **Predict:** which way writes a right text most often when sampled? Which keeps most ways? And beam texts are one text for each
# list: how many ways are left, of about 100?

# %%
from distill.teacher.rows import load_rows
from distill.teacher.sequence import OnPolicy, teacher_rows
from training.loop import loop
from training.models.base_models import Base

SEEDS, READER = (1, 2, 3), (tokenizer, 96)


def rows_for(seed: int, rewrite=lambda rows: rows) -> list[dict]:
    """800 encoded training rows, drawn with the seed; rewrite may put other texts in the place of the references."""
    return load_rows(spec, None, seed, (800, 0), 1, READER, READER, rewrite).train


def by_beams(seed: int) -> list[dict]:
    return rows_for(seed, lambda rows: teacher_rows(rows, spec, trained.base, 2, 24, folder / f"beams{seed}", 0))


# %%
def taught(start, features: list[dict], loss: str, seed: int, steps: int, rate: float, own: float = 0.0, asked=teacher):
    """A copy of the model `start`, trained with one loss. own: in this share of the steps it writes the texts itself."""
    student = copy.deepcopy(start).requires_grad_(True)
    terms = make_terms(read_losses([loss]), "generation", NONE, causal=True)
    distiller = Distiller(student, NONE, terms, None, None if loss == "hard" else asked)
    data = Steps(features, tokenizer, 16, seed)
    data = OnPolicy(data, Base(student, tokenizer, (), trained.base.source), own, 24, seed) if own else data
    settings = loop.LoopSettings(steps=steps, learning_rate=rate, eval_every=steps, save_every=steps)
    with seeded(seed):
        loop.run(DistillSteps(distiller, data, settings), lambda: {"eval_loss": 0.0}, lambda row: None)
    return student.eval()


# %%
from distill.runs.fidelity import answers_of
from distill.losses.losses import hard_targets, masked_mean

gold = torch.cat([b["labels"][:, 1:][b["labels"][:, 1:] != -100] for b in batches(held_out, tokenizer, 64)])
NAMES = ("right", "ways", "loss on references")
FORWARD, REVERSE = "kd:T=1,a=1", "reverse_kl:T=1,a=1"


def measured(model) -> dict[str, float]:
    z = torch.cat(answers_of(model, held_out, tokenizer, "generation", torch.device("cpu")))
    loss = float(masked_mean(hard_targets(z, gold), torch.ones_like(gold)))
    return dict(zip(NAMES, (*right_and_ways(log_q(model)[0]), loss), strict=True))


students, found = {}, {("teacher", 0): measured(big)}
for seed in SEEDS:
    people, beams = rows_for(seed), by_beams(seed)
    start = students["start", seed] = taught(blank, people, "hard", seed, 260, 1e-2)
    ways = {"references": (people, "hard"), "beam texts": (beams, "hard")}
    ways |= {"forward KL": (people, FORWARD), "reverse KL": (people, REVERSE), "own texts": (people, REVERSE)}
    for way, (features, loss) in ways.items():
        students[way, seed] = taught(start, features, loss, seed, 80, 5e-3, own=0.5 * (way == "own texts"))
found |= {key: measured(student) for key, student in students.items()}

# %% [markdown]
# The rule is that of lesson 04, fixed before: a paired difference counts if its mean is more than two standard errors from zero.
# With three seeds it says "counts" about once in five for no difference at all. Steps, rates and questions were chosen after
# pilot runs with these seeds, so they may flatter (section 6 says how to run new ones). In the first table ± is the
# standard deviation over seeds; below it, ± is one standard error of the paired difference.

# %%
from training.reports.paired import paired_gap, spread

of = lambda way, name: [found[way, seed][name] for seed in SEEDS]  # noqa: E731
told = lambda gap, error: "more" if gap > 2 * error else "less" if gap < -2 * error else "no clear difference"  # noqa: E731
gaps = {}


def compare(one: str, other: str) -> None:
    for name in NAMES[:2]:
        gap, error = gaps[one, other, name] = paired_gap(of(one, name), of(other, name))
        digits = 3 if name == "right" else 1
        print(f"{one:12} against {other:12} {name:6} {gap:+8.{digits}f} ± {error:5.{digits}f}  {told(gap, error)}")


print(f"{'':12}" + "".join(f"{name:>20}" for name in NAMES))
print(f"{'grammar':12}{1:20.3f}{all_ways:20.1f}")
print(f"{'teacher':12}" + "".join(f"{found['teacher', 0][name]:20.3f}" for name in NAMES))
for way in ("start", *ways):
    print(f"{way:12}" + "".join(f"{spread(of(way, name), 1 if name == 'ways' else 3):>20}" for name in NAMES))
print()
for one, other in (("forward KL", "references"), ("beam texts", "references"), ("reverse KL", "forward KL")):
    compare(one, other)

# %%
clearly = lambda one, other, name: all(a > b for a, b in zip(of(one, name), of(other, name), strict=True))  # noqa: E731
assert clearly("forward KL", "references", "ways"), "all probabilities teach more ways than one text for each list"
assert clearly("reverse KL", "forward KL", "right"), "reverse KL should write right texts more often, on every seed"
assert clearly("forward KL", "reverse KL", "ways"), "and pay with ways, on every seed"
assert max(of("beam texts", "ways")) < 0.2 * min(of("references", "ways")), "one text for each list teaches one way"
assert clearly("reverse KL", "forward KL", "loss on references"), "a lower loss on references does not mean more right texts"

# %%
figure, axes = plt.subplots(figsize=(6.6, 3.0))
forms = lambda chances: chances[0].view(2, 2, 8, 2, 2).sum(2).flatten()  # 8 adjectives make one form  # noqa: E731
order = forms(truth).argsort(descending=True, stable=True)
axes.semilogy(forms(truth)[order], color=COLOURS["ceiling"], linewidth=5, alpha=0.4, label="grammar")
for way, colour in (("forward KL", "lora"), ("reverse KL", "bottleneck"), ("beam texts", "head")):
    mine = forms(log_q(students[way, SEEDS[0]])[0].softmax(1))[order]
    axes.semilogy(mine, "o-", color=COLOURS[colour], markersize=4, linewidth=1, label=way)
axes.set(title="beam texts starve most forms, reverse KL some, forward KL none")
axes.set(xlabel="form of the first list of facts, by the grammar's probability", ylabel="share of the right texts")
axes.legend(loc="lower left")
show(figure, "distill_forms")

# %% [markdown]
# - **Forward KL against the references:** many more ways. A reference is one draw of 128, and 800 of them, read more than once,
#   are partly learnt by heart. The teacher's probabilities tell all ways at every word.
# - **Reverse KL against forward KL:** more often right, fewer ways. This is section 2, in a writer. The loss on references does
#   not show it: reverse KL has the *higher* loss of the two.
# - **Beam texts:** one text for each list, and that is nearly all that the student writes. Right more often than with references,
#   since there is less to learn; nearly all other ways are gone, and the loss on references is awful. If one good text is all you
#   want, that is no fault. And it needs no logits, so teacher and student may have different vocabularies.
#
# With reverse KL no form is *lost*: at each choice the softmax has a number for each word, as the free student of section 2. Rare
# forms are starved. And where a student can be its teacher, all divergences end at the same place: put `copy:1` for `SMALL` (full
# width) and see which differences are left.
#
# ## 5. The student's own texts
#
# At its own beginnings a student has made its own mistakes. References do not show them, so nobody teaches how to go on after
# one: **exposure bias**. By section 3, reverse KL even *means* the student's own texts. The fifth way, `own texts`, is reverse
# KL where in half of the steps the student continues the lists itself, by sampling, and the teacher judges each of its words:
# **on-policy** distillation (GKD, Agarwal et al. 2024). Nothing is learnt through the sampling itself; MiniLLM (Gu et al. 2024)
# does that too.
#
# **Predict:** is the student further from the teacher on references, or on its own texts? Will practice on own texts close the
# gap, and will it write more right texts?

# %%
test_prompts = [prompt_ids(m, spec, tokenizer) for m, _ in references_by_prompt(test, spec)[:150]]
logits_of = lambda model, rows: torch.cat(answers_of(model, rows, tokenizer, "generation", torch.device("cpu")))  # noqa: E731


def own_texts(model) -> list[dict]:
    """Rows of what the model itself writes for test lists of facts."""
    pairs = zip(test_prompts, sampled(model, test_prompts), strict=True)
    return [{"input_ids": a + b, "attention_mask": [1] * len(a + b), "labels": [-100] * len(a) + b} for a, b in pairs]


def apart(model) -> tuple[float, float]:
    """Mean reverse KL per answer token: on references, on the model's own texts."""
    own = own_texts(model)
    pairs = ((logits_of(model, held_out), v), (logits_of(model, own), logits_of(big, own)))
    return tuple(float(reverse_kl(z, its).mean()) for z, its in pairs)


v = logits_of(big, held_out)

# %%
print("reverse KL per token  on references       on own texts   ratio")
for way in ("start", "forward KL", "reverse KL", "own texts"):
    for seed in SEEDS:
        there, here = apart(students[way, seed])
        found[way, seed] |= {"there": there, "here": here, "ratio": here / there}
    print(f"{way:14}{spread(of(way, 'there')):>20}{spread(of(way, 'here')):>20}   {spread(of(way, 'ratio'), 2)}")
print()
compare("own texts", "reverse KL")
assert clearly("forward KL", "reverse KL", "here"), "reverse KL is what reverse training makes small"
astray = statistics.mean(of("start", "ratio") + of("forward KL", "ratio"))
assert astray > 1.05, "on average a student is further from its teacher where its own mistakes stand before"

# %% [markdown]
# On references a student looks better than it is: the start and the student of forward KL are further from the teacher on their
# own texts. With reverse KL the ratio is nearer to 1, and it is so *without* own texts: this loss takes weight from words that
# the teacher would not write, so fewer beginnings go astray. Own texts bring no more right texts here (and about 2 ways fewer),
# and each such step takes longer, since the student must write first.
#
# **It may depend on the start.** Ours already writes. In pilot runs with a weaker start (600 rows, 250 steps) own texts helped
# reverse KL much; with another weak start two seeds did not agree. These runs are not kept, so take this as a question, and try
# it: give `taught` fewer rows and steps for `start`. GKD and MiniLLM report gains on longer texts, where an early mistake spoils
# what follows. Ours are short.
#
# ## 6. The rival: a colder pen
#
# Reverse KL is right more often because it writes less of what it is unsure of. There is an old way to do that without any
# training: sample at a temperature $\tau$ below 1 (the **pen**). We take the student of *forward* KL and let it write colder. Our
# last question: forward KL at $\tau = 0.8$ against reverse KL as it is.
#
# **Predict:** forward KL had more ways, reverse KL more right texts. At $\tau = 0.8$, which of the two is ahead, and in what?

# %%
PENS = (1.0, 0.8, 0.6)
curves = {}
for way in ("references", "forward KL", "reverse KL", "beam texts"):
    each_seed = [[right_and_ways(at_pen) for at_pen in log_q(students[way, seed], PENS)] for seed in SEEDS]
    curves[way] = torch.tensor(each_seed)  # (seeds, pens, 2)
    line = "   ".join(f"τ {pen}: {a:.2f}, {b:3.0f}" for pen, (a, b) in zip(PENS, curves[way].mean(0).tolist(), strict=True))
    print(f"{way:11}{line}")
for seed, (right, number) in zip(SEEDS, curves["forward KL"][:, PENS.index(0.8)].tolist(), strict=True):
    found["forward, 0.8", seed] = {"right": right, "ways": number}
print("(each: right, ways)\n")
compare("forward, 0.8", "reverse KL")
assert gaps["forward, 0.8", "reverse KL", "right"][0] > -0.02, "the colder pen should not be behind in right texts"
assert gaps["forward, 0.8", "reverse KL", "ways"][0] > -5, "and not behind in ways"

# %%
figure, axes = plt.subplots(figsize=(6.6, 3.4))
for way, colour in (("references", "full"), ("forward KL", "lora"), ("reverse KL", "bottleneck"), ("beam texts", "head")):
    right, number = curves[way].mean(0).T
    axes.plot(number, right, "o-", color=COLOURS[colour], label=way, markersize=4)
    axes.plot(number[:1], right[:1], "s", color=COLOURS[colour], markersize=8)
axes.plot([all_ways], [1.0], "*", color=COLOURS["ceiling"], markersize=13, label="grammar")
axes.set(title="a colder pen moves along a line, and forward KL's line lies highest", xlabel="ways (effective number)")
axes.set(ylabel="probability of a right text")
axes.legend(title="square: τ = 1", loc="lower left", bbox_to_anchor=(0.12, 0.0))
show(figure, "distill_pen")

# %% [markdown]
# In this run the colder pen is ahead in both. It is no trick of one point: wherever two lines have the same number of ways, that
# of forward KL is the higher one. A student that has all the ways lets you choose *afterwards* how much to trade for truth; one
# that has lost them cannot get them back. So hold a mode-seeking loss against this rival before you believe that it "writes
# better texts".
#
# Three seeds are few, and we had seen them when we chose steps and questions. To check the verdicts with six new ones, write
# `SEEDS = (4, 5, 6, 7, 8, 9)` in the file and run the lesson. (We print no figures for that here, because no such run was kept.)
#
# Not shown: that it is so for a student much too small for its task, for long texts, or where one learns through the sampling.
#
# ## 7. Break it on purpose: targets off by one, and tokens that should not count
#
# At position $t$ a decoder answers for token $t + 1$. Student and teacher must be shifted alike. Suppose a loader hands out the
# teacher's answers one token too early.
#
# **Predict:** at each word the student gets the teacher's distribution for the word *after next*. What will it write? And how
# large is the loss of a student that is exactly the teacher?

# %%
from training.evaluation.generation import generate_texts


class OneEarly:
    """A teacher whose answers are off by one token."""

    def answers(self, batch, first=None):
        return teacher.answers(batch).roll(-1, 0)  # (N, V): token n gets the answer of token n + 1


itself = {name: float(soft_targets(v, v.roll(by, 0)).mean()) for name, by in (("aligned", 0), ("off by one", -1))}
print("loss of a student that is the teacher:", {name: round(abs(loss), 2) for name, loss in itself.items()})
odd = taught(start, people, FORWARD, SEEDS[-1], 60, 5e-3, asked=OneEarly())
for name, model in (("aligned", students["forward KL", SEEDS[-1]]), ("off by one", odd)):
    print(f"{name:11}", generate_texts(model, tokenizer, prompts[:1], max_new_tokens=24)[0])
assert abs(itself["aligned"]) < 1e-6 < 1 < itself["off by one"], "the test of alignment: against itself a teacher has loss 0"
assert measured(odd)["right"] < 0.01, "it trains without an error, and never writes a right text"

# %% [markdown]
# Nothing raises. So run your loss once with the teacher as its own student: it must be 0. This test does not see the next
# mistake, prompt tokens that count. Nobody ever learnt to *write* lists of facts, the teacher neither.
#
# **Predict:** what share of the summed KL do prompts have for a student that writes well, if they are counted? And what should a
# loss do with two models of different vocabularies?

# %%
batch = next(batches(held_out, tokenizer, 200))
with torch.no_grad():
    z, v = (model(**model_inputs(batch)).logits[:, :-1] for model in (students["forward KL", SEEDS[-1]], big))
each = soft_targets(z, v)  # (B, T)
real, asked = batch["attention_mask"][:, 1:] == 1, batch["labels"][:, 1:] != -100
share = float(each[real & ~asked].sum() / each[real].sum())
print(f"prompts have {float((real & ~asked).sum() / real.sum()):.0%} of the tokens and {share:.0%} of the summed KL")
assert share > 0.7, "most of the gradient would go into guesses about prompts, which nobody wants"
try:
    soft_targets(z, v[..., :-5])
    raise AssertionError("two vocabularies cannot be compared word by word")
except ValueError as error:
    print("refused:", error)

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | the student skips or repeats words | targets off by one | section 7: the loss of the teacher against itself is 0 |
# | the loss hardly falls, the texts are bad | prompt tokens count | section 7: the share of the prompts |
# | short texts are learnt better than long ones | a mean for each text first | section 3: sum, then divide once |
# | JSD with a small β does nothing | it vanishes like β | section 2: JSD / β |
# | always the same text for the same facts | beam texts as targets, or a very cold pen | section 4: `ways` |
# | reverse KL does not get going | its start cannot write yet, or is too wide | sections 2 and 5: another start, own texts |
# | "our loss writes better texts" | it only writes colder | section 6: the rival at τ = 0.8 |
# | the loss on references is awful, the texts are fine | the student has few ways | section 4: count right texts too |
#
# ## Exercises
#
# Write in [exercises/19_distill_generation.py](exercises/19_distill_generation.py), then `python -m tutorials check 19`.
#
# 1. ★ `reverse_by_hand`: reverse KL for each token, from logits.
#    <details><summary>Hint</summary>`log_softmax` of both, of the teacher's after `detach`; the average is over q.</details>
# 2. ★★ `texts_of`: all texts of any small grammar, with their probabilities.
#    <details><summary>Hint</summary>`itertools.product(*choices)`; two ways to one text add up.</details>
# 3. ★★ `coverage`: from samples alone, the share that is right and the share of the grammar's probability that was seen.
#    <details><summary>Hint</summary>For the first count samples; for the second a `set`, since a text counts once.</details>
#
# ## Summary
#
# 1. A writer is a distribution over texts; a student too small for its teacher keeps ways with forward, truth with reverse KL.
# 2. Whoever stands first in KL writes the beginnings: references or teacher for forward, the student itself for reverse.
# 3. Beam texts leave one way; and before a mode-seeking loss is praised, let forward KL write with a colder pen.
#
# **Next:** smaller in other ways, distil and prune and quantise: [lesson 20](20_distil_prune_quantise.py).
#
# ## On the real thing
#
# The same with GPT-2 and E2E: forward KL; from there reverse KL, with own texts in half of the steps; beam texts. We did not run
# these. We did measure a real model of 260 thousand weights ([report](../distill/results/e2e/report.md), three seeds). There too
# reverse KL has a higher loss than forward KL, and beam texts have the highest of all with a BLEU like the others; forward KL on
# own texts has the lowest mean loss. On real text nobody knows all right texts, so `right` and `ways` cannot be computed.
#
# ```bash
# python -m training --task e2e_nlg --model gpt2 --method full --out runs/teacher
# python -m distill --teacher runs/teacher/adapter --student copy:1,3,5,7,9,11 --losses kd:T=1,a=1 \
#     --max-length 192 --steps 4000 --score-texts 600 --out runs/forward
# python -m distill --teacher runs/teacher/adapter --student runs/forward/adapter --losses reverse_kl:T=1,a=1 \
#     --on-policy 0.5 --max-length 192 --steps 1000 --score-texts 600 --out runs/reverse
# python -m distill --teacher runs/teacher/adapter --student copy:1,3,5,7,9,11 --losses hard --targets teacher --beams 4 \
#     --max-length 192 --steps 4000 --score-texts 600 --out runs/beams
# ```
