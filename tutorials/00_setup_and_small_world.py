# %% [markdown]
# # 00 · Every score in this course is judged against a ceiling that you can compute
#
# | | |
# |:--|:--|
# | **Needs** | basic Python and PyTorch; no other lesson |
# | **Read and do** | 35 minutes |
# | **Runs in** | about 10 s on one CPU thread |
# | **Memory** | 2 GB |
#
# You trained a model and it reaches an accuracy of 0.86. Is that good? On real data nobody knows: some of the labels are
# noise, and no model can guess noise. In this course the data come from a **small world**, a language that we generate.
# We know its hidden causes, so we can compute the best accuracy that *any* model can reach: the **ceiling**.
#
# After this lesson you know that your machine is ready, you can compute a ceiling by hand, and you have met the small
# **base model** that later lessons adapt. New words are explained in the [glossary](GLOSSARY.md). At each **Predict**, stop
# and write your guess down: on this page the answer follows at once.
#
# Letters for shapes, in the whole course:
#
# | B | T | D | H | R |
# |:--|:--|:--|:--|:--|
# | batch (texts) | tokens | width of the model | attention heads | rank |

# %%
import importlib.metadata
import math
import platform
import random
import sys
from pathlib import Path

ROOT = Path.cwd() if Path("loralib").is_dir() else Path.cwd().parent
sys.path.insert(0, str(ROOT))  # so that our folders are found, from the project's root and from tutorials/

import torch
import transformers

torch.set_num_threads(1)  # the models here are tiny: a second thread would only make them wait
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

device = "cuda" if torch.cuda.is_available() else "cpu"
print(f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}")
print(f"device: {device}")

# %% [markdown]
# ## 1. Your machine is ready
#
# Three of our folders have names that are also packages on PyPI: `kernels`, `adapters` and `loralib`. If you install one
# of those, Python may import that other package instead of our code, and transformers may look into our folder for things
# that are not there. So we look for such strangers.
#
# **Predict:** `import kernels` is our folder of GPU code. On a computer without a GPU, will this import fail?
#
# <details><summary>Answer</summary>
#
# No. Our `kernels/__init__.py` holds one text and nothing else. transformers imports any package of that name, so an
# error there would break transformers too. The GPU code is in modules that you import by name.
#
# </details>

# %%
import adapters
import kernels
import loralib


def version_on_pypi(name: str) -> str | None:
    """The version of an installed package of that name; None when there is none, as it should be."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


for module in (kernels, adapters, loralib):
    name, stranger = module.__name__, version_on_pypi(module.__name__)
    assert stranger is None, f"a package {name} {stranger} is installed beside us: run  pip uninstall {name}"
    ours = ROOT.resolve() in Path(module.__file__).resolve().parents
    assert ours, f"{name} comes from {module.__file__}, not from this project: start Python in the project's root"
    print(f"{name:<9} ours")
assert sys.version_info >= (3, 11), "Python is too old: the course needs 3.11 or newer"

# %% [markdown]
# ## 2. Read one story
#
# A **passage** of the small world is a very short story. Two hidden things shape it:
#
# - a **topic**: music, sport, food or science. The story has three *events* (somebody does something). Each event shows
#   the topic with probability `RHO`, and otherwise one of the three other topics;
# - a **polarity**: a good day or a bad day. The story has five *clauses* (`the room was ...`). Each clause shows the
#   polarity with probability `Q`. Some clauses hide it behind a `not`: `not warm` shows a bad day.
#
# Two more sentences say who was where and who met whom. They matter for other tasks. Then all sentences are shuffled.
#
# **Predict:** read the story below. What is the topic? Was the day good or bad?

# %%
from training.data.small_world import CLAUSES, EVENTS, Q, RHO, TOPICS, VERBS, VERDICTS, sample_passage

passage = sample_passage(random.Random(0))
print(passage.text.replace(" . ", " .\n"))

# %%
print("hidden topic    ", TOPICS[passage.topic])
print("its events show ", [TOPICS[vote] for vote in passage.votes], f"(right with probability {RHO})")
print("hidden polarity ", VERDICTS[passage.polarity])
print("its clauses show", [VERDICTS[sign] for sign in passage.signs], f"(right with probability {Q})")
assert len(passage.votes) == EVENTS and len(passage.signs) == CLAUSES, "this is another world than the lesson's"
assert TOPICS[max(passage.votes, key=passage.votes.count)] != TOPICS[passage.topic], "take a story that misleads its reader"

# %% [markdown]
# (The list of events has the order in which they were drawn, before the shuffling.) You most likely said *sport*. That is
# the best guess, and it is wrong: two of the three events happened to show another topic than the hidden one. No reader,
# no rule and no model can know better from this text. This is why the ceiling lies below 1.
#
# ## 3. The best guess is Bayes' rule, computed by hand
#
# Write $t$ for the topic and $v_1, v_2, v_3$ for what the events show. All topics are equally likely at first, so
#
# $$p(t \mid v) \;\propto\; \prod_i p(v_i \mid t), \qquad
# p(v_i \mid t) = \rho \text{ if } v_i = t,\ \text{ else } (1 - \rho) / 3.$$
#
# **Predict:** two events show sport, one shows science. Is $p(\text{sport} \mid v)$ nearest to 2/3, 3/4 or 9/10?


# %%
def posterior(votes, choices: int, right: float) -> list[float]:
    """p(cause | votes): a vote names the true cause with probability `right`; the other choices share the rest."""
    wrong = (1 - right) / (choices - 1)
    weights = [math.prod(right if vote == c else wrong for vote in votes) for c in range(choices)]
    return [weight / sum(weights) for weight in weights]


for topic, p in zip(TOPICS, posterior(passage.votes, len(TOPICS), RHO), strict=True):
    print(f"p({topic:<7} | story) = {p:.3f}")
print(f"one vote more makes a topic {RHO / ((1 - RHO) / 3):.0f} times likelier")

# %% [markdown]
# The last line is $\rho$ divided by $(1 - \rho) / 3$. For the polarity the same function serves: five votes (the clauses)
# for two choices, each right with probability $Q$. Now we compare it with the library's, on many stories, for both.

# %%
rng = random.Random(1)
for _ in range(500):
    p = sample_passage(rng)
    by_hand = posterior(p.votes, 4, RHO) + posterior(p.signs, 2, Q)
    library = p.topic_posterior() + p.polarity_posterior()
    equal = all(math.isclose(a, b) for a, b in zip(by_hand, library, strict=True))
    assert equal, "the posteriors differ: did you divide (1 - right) among the *other* choices, and normalise?"
print("500 stories: our posterior is the library's")

# %% [markdown]
# ## 4. The ceiling of a test set
#
# A rule that always gives the likeliest topic is right with probability $\max_t p(t \mid v)$. The mean of this number
# over the test stories is the best accuracy that one can expect on them. It is called the **Bayes accuracy**. There are two
# tasks: `topic` asks for the topic of a story, and `sentiment` for its polarity (was the day good or bad?).
#
# **Predict:** `RHO` is the accuracy of a rule that looks at *one* event. Three events are known. Is the ceiling below
# `RHO`, the same, or above?

# %%
from training.data.world_tasks import build, ceiling

tests = {task: build(task)["test"] for task in ("topic", "sentiment")}
TOPIC_OF = {verb: i for i, topic in enumerate(TOPICS) for verb in VERBS[topic]}


def votes_in(text: str) -> list[int]:
    """What the events of a story show, read from its verbs."""
    return [TOPIC_OF[word] for word in text.split() if word in TOPIC_OF]


best = [max(posterior(votes_in(text), 4, RHO)) for text in tests["topic"]["sentence"]]
by_hand = sum(best) / len(best)
assert math.isclose(by_hand, ceiling("topic", tests["topic"])), "not the library's ceiling: is every event counted once?"
assert by_hand > RHO, "three votes must tell more than one"
for task, rows in tests.items():
    print(f"{task:<9} {len(rows)} test stories, ceiling {ceiling(task, rows):.3f}")

# %% [markdown]
# From now on we use the library's `ceiling`.
#
# ## 5. Simple rules against the ceiling
#
# Before you train anything, write the simplest rule. It shows how much of a score is easy. Four rules:
#
# - `constant`: always the first label;
# - `first event`: the topic of the first verb, and nothing else;
# - `all events`: the topic that most verbs show;
# - `adjectives`: good if there are more good adjectives than bad ones, whatever stands before them.
#
# **Predict:** order the three topic rules. Which one, if any, reaches the ceiling? And what does `adjectives` overlook?

# %%
from training.data.small_world import BAD, GOOD


def adjectives(text: str) -> int:
    """1 (good) if the story has more good adjectives than bad ones."""
    return int(sum((word in GOOD) - (word in BAD) for word in text.split()) > 0)


def accuracy(rule, rows) -> float:
    return sum(rule(text) == label for text, label in zip(rows["sentence"], rows["label"], strict=True)) / len(rows)


RULES = {
    ("topic", "constant"): lambda text: 0,
    ("topic", "first event"): lambda text: votes_in(text)[0],
    ("topic", "all events"): lambda text: max(votes_in(text), key=votes_in(text).count),
    ("sentiment", "constant"): lambda text: 0,
    ("sentiment", "adjectives"): adjectives,
}
scores = {(task, name): accuracy(rule, tests[task]) for (task, name), rule in RULES.items()}
for (task, name), score in scores.items():
    print(f"{task:<9} {name:<11} {score:.3f}   ceiling {ceiling(task, tests[task]):.3f}")

# %% [markdown]
# A test set is a sample, so a score wobbles. With $n$ rows and accuracy $a$, the **standard error** is
# $\sqrt{a (1 - a) / n}$. Two scores closer than two or three standard errors are "the same" as far as we can tell. The
# bars in the picture are two standard errors long on each side.

# %%
from matplotlib import pyplot as plt

from training.reports.records import COLOURS, use_style
from tutorials.show import show


def standard_error(score: float, rows: int) -> float:
    return math.sqrt(score * (1 - score) / rows)


use_style()
figure, panels = plt.subplots(1, 2, sharey=True, width_ratios=(3, 2))
titles = {"topic": "topic: all events reach the ceiling", "sentiment": "sentiment: blind to 'not'"}
for panel, (task, title) in zip(panels, titles.items(), strict=True):
    names = [name for owner, name in scores if owner == task]
    values = [scores[task, name] for name in names]
    bars = [2 * standard_error(value, len(tests[task])) for value in values]
    panel.errorbar(names, values, bars, fmt="o", color="black", capsize=5)
    panel.axhline(ceiling(task, tests[task]), color=COLOURS["ceiling"], linestyle="--", label="ceiling")
    panel.set(title=title, ylim=(0, 1.08), xlim=(-0.6, len(names) - 0.4))
panels[0].set(ylabel="accuracy on the test set")
panels[0].legend(loc="lower right")
show(figure, "00_rules_and_ceilings")

# %%
rows = len(tests["topic"])
gap = ceiling("topic", tests["topic"]) - scores["topic", "all events"]
assert abs(gap) < 3 * standard_error(scores["topic", "all events"], rows), "the best rule must lie at the ceiling"
assert abs(scores["topic", "first event"] - RHO) < 0.05, "one event is right with probability RHO: read the first verb only"
missed = ceiling("sentiment", tests["sentiment"]) - scores["sentiment", "adjectives"]
assert missed > 3 * standard_error(scores["sentiment", "adjectives"], rows), "this rule should fall for the word 'not'"
print(f"'adjectives' stays {missed:.3f} below the ceiling: writing the better rule is exercise 2")

# %% [markdown]
# ## 6. Break it on purpose: a score that is too good
#
# A ceiling also finds bugs. Here is a common one: test rows got into the training set. Our "model" learns the training
# set by heart.
#
# **Predict:** what is its accuracy on the test set, and how do you notice, if you do not know about the leak?

# %%
leaked = dict(zip(tests["topic"]["sentence"], tests["topic"]["label"], strict=True))
honest = build("topic")["train"]
learnt = dict(zip(honest["sentence"], honest["label"], strict=True))


def too_good(score: float, task: str) -> bool:
    """Above the ceiling by more than chance explains."""
    best = ceiling(task, tests[task])
    return score > best + 3 * standard_error(best, len(tests[task]))


for name, memory in (("without the leak", learnt), ("with the leak", leaked)):
    score = accuracy(lambda text, memory=memory: memory.get(text, 0), tests["topic"])
    print(f"{name:<17} {score:.3f}   too good to be true: {too_good(score, 'topic')}")
assert too_good(score, "topic"), "a leaked test set must be noticed: compare with the ceiling, not with 1"
assert not any(too_good(value, task) for (task, _), value in scores.items()), "an honest rule was called a leak"

# %% [markdown]
# On real data nothing would tell you that 1.000 is too much. Here the ceiling does.
#
# ## 7. Words become numbers
#
# A model reads numbers. Our tokenizer gives each word one id, and adds `[CLS]` at the start and `[SEP]` at the end of
# each text. For a pair of texts, `token_type_ids` says which of the two a token belongs to.
#
# **Predict:** a passage of 4 tokens (with its full stop) and a second text of 5 make a pair. What is T, the number of
# tokens? How many of them have type 1?

# %%
from training.data.tokenizers import encoder_tokenizer

tokenizer = encoder_tokenizer()
pair = tokenizer("the soup was .", "it was about food .")
tokens = tokenizer.convert_ids_to_tokens(pair["input_ids"])
for row in zip(tokens, pair["input_ids"], pair["token_type_ids"], strict=True):
    print("{:<6} id {:>3}   type {}".format(*row))
assert len(tokens) == 4 + 5 + 3, "T counts both texts, one [CLS] and two [SEP]"
assert sum(pair["token_type_ids"]) == 5 + 1, "type 1: the second text and the [SEP] that ends it"

# %% [markdown]
# The tokenizer knows the words of the small world only. A real sentence would turn into `[UNK]`, quietly, and a model
# would learn nothing from it. The library stops instead.

# %%
from training.data.encoding import encode
from training.data.tasks import find_task

print("a real sentence:", tokenizer.tokenize("the movie was great"), "->", tokenizer("the movie was great")["input_ids"])
try:
    encode({"sentence": ["the movie was great"], "label": [1]}, find_task("sentiment"), tokenizer, 96)  # at most 96 tokens
    message = ""
except ValueError as error:
    message = str(error)
print("ValueError:", message.partition(":")[0])
assert "vocabulary" in message, "an unknown word must stop the run: a quiet [UNK] hides that the data do not fit"

# %% [markdown]
# ## 8. The pretrained model has already learnt what "good" is
#
# The repository also holds a small **encoder** (a BERT with width D = 64), the *committed* base: its file came with `git
# clone`. It was trained once to guess hidden words of stories (**pretraining**). It has never read a task's labels. But
# half of its stories carried a short remark, such as `it was a good day .`, as texts on the web do. And to guess a hidden
# adjective, you must know whether the day is good or bad. So it should have learnt polarity. We hide the first adjective
# of each story and ask for it.
#
# **Predict:** how often does its guess have the right polarity? And a model with random weights?

# %%
from transformers import AutoConfig, BertForMaskedLM

from training.models.base_models import SMALL

trained = BertForMaskedLM.from_pretrained(SMALL["encoder"]).eval()
torch.manual_seed(0)
random_weights = BertForMaskedLM(AutoConfig.from_pretrained(SMALL["encoder"])).eval()
assert trained.config.hidden_size == 64, "another model than the one this text describes"


def hide_first_adjective(text: str) -> tuple[str, str]:
    """(the story with [MASK] in place of its first adjective, that adjective)"""
    words = text.split()
    place = next(i for i, word in enumerate(words) if word in GOOD + BAD)
    return " ".join([*words[:place], tokenizer.mask_token, *words[place + 1 :]]), words[place]


masked, truth = zip(*map(hide_first_adjective, tests["sentiment"]["sentence"][:400]), strict=True)
print(masked[0].replace(" . ", " .\n"))
print("hidden word:", truth[0])


# %%
@torch.no_grad()
def share_of_good(model) -> torch.Tensor:
    """For each masked story: p(a good adjective) / p(any adjective)."""
    batch = tokenizer(list(masked), padding=True, return_tensors="pt")
    logits = model(**batch).logits[batch["input_ids"] == tokenizer.mask_token_id]  # (B, T, words) -> (B, words)
    p = logits.softmax(-1)
    good, bad = (p[:, tokenizer.convert_tokens_to_ids(list(group))].sum(1) for group in (GOOD, BAD))
    return good / (good + bad)


is_good = torch.tensor([word in GOOD for word in truth])
shares = {"random weights": share_of_good(random_weights), "pretrained": share_of_good(trained)}
right = {name: ((p > 0.5) == is_good).float().mean().item() for name, p in shares.items()}
for name, value in right.items():
    print(f"{name:<15} polarity of the guess is right in {value:.3f} of {len(truth)} stories")
assert right["pretrained"] > 0.85, "the committed encoder should know polarity: is it the pretrained file?"
assert right["random weights"] < 0.7, "random weights cannot know polarity: does a label leak into the input?"

# %%
figure, panels = plt.subplots(1, 2, sharey=True)
titles = {"random weights": "random weights: no opinion", "pretrained": "pretrained: sure, and mostly right"}
for panel, (name, title) in zip(panels, titles.items(), strict=True):
    for kind, flag, colour in (("bad", False, COLOURS["broken"]), ("good", True, COLOURS["lora"])):
        values = shares[name][is_good == flag].numpy()
        panel.hist(values, bins=20, range=(0, 1), color=colour, alpha=0.65, label=f"hidden word is {kind}")
    panel.set(title=title, xlabel="share of 'good' in the guess")
panels[0].set(ylabel="stories")
panels[1].legend(loc="upper center")
show(figure, "00_masked_words")

# %% [markdown]
# This is why **fine-tuning** can be cheap. The model already holds what the task needs, and a small change brings it
# out. The next lesson makes such a change as small as possible.
#
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | `cannot import name ... from 'kernels'` | the PyPI package `kernels` is installed too | section 1; `pip uninstall kernels` |
# | a score clearly above the ceiling | test rows in the training set, or the label in the input | `too_good`, section 6 |
# | two runs "differ" by 0.01 | the gap is smaller than the standard error | `standard_error`, section 5; more rows or seeds |
# | a model stays at chance on your own text | every word became `[UNK]` | count `unk_token_id` in `input_ids`, section 7 |
# | accuracy 0.25 with four topics, 0.5 with two | the model learnt nothing: this is chance | compare with `constant`, section 5 |
#
# ## Exercises
#
# Write your answers in [exercises/00_small_world.py](exercises/00_small_world.py), then run
# `python -m tutorials check 00`. Our answers are in `solutions/`; look after you tried.
#
# 1. ★ `rows_needed`: how many test rows until a gap of that size is three standard errors?
# 2. ★★ `sentiment_rule`: a rule for sentiment that reaches the ceiling.
#    <details><summary>Hint</summary>A clause is one vote, however many adjectives it has. <code>not</code> turns it
#    round.</details>
# 3. ★★ `ceiling_with_flipped_labels`: an annotator flips each label of a two-class test set with probability f. Where
#    is the ceiling now?
# 4. ★★★ `zero_shot`: tell good days from bad ones with the masked-word model, without any training
#    (**zero-shot**).
#    <details><summary>Hint</summary>Its pretraining has read stories followed by a second text, such as
#    <code>it was a good day .</code></details>
#
# ## Summary
#
# 1. A story's hidden cause can be guessed only as well as its text allows; Bayes' rule gives the best guess exactly.
# 2. The mean of the best guess's probability is the ceiling: judge a score against it, with the standard error in mind.
# 3. The committed encoder has learnt polarity without any task's labels, so a small change may be enough to use it.
#
# **Next:** [01, LoRA by hand](01_lora_by_hand.py): how small can that change be?
#
# ## On the real thing
#
# Real data have no known ceiling, but the commands are the same. These two run here, on the small world:
#
# ```bash
# python -m training --task topic --method head
# python -m training --task sentiment --method lora
# ```
#
# and this one on a real data set and a real model from the Hub (it needs a network; a GPU helps):
#
# ```bash
# python -m training --task sst2 --model roberta-base --method lora
# ```
