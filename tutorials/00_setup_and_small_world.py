# %% [markdown]
# # 00 · The small world: every score has a ceiling that you can compute
#
# **Needs** basic Python, PyTorch and probability; no other lesson · **Read and do** 50 minutes
# · **Runs in** about 15 s on one CPU thread · **Memory** 2 GB
#
# You trained a model, and its accuracy is 0.86. Is that good?
#
# On real data nobody knows. Some labels are wrong, some texts can be read in two ways, and some
# labels are a matter of chance. So you never know how much of the missing 0.14 could be
# learned.
#
# ![A score between 0 and 1, with chance and the ceiling marked](diagrams/00_ceiling.svg)
#
# In this course the data come from a **small world**: a tiny language that a program generates.
# The program knows the hidden cause of every text. So we can compute the best accuracy that
# *any* model can expect. We call it the **ceiling**, and we compare every score of the course
# with it.
#
# After this page you can compute a ceiling with a few lines of code, and you know the small
# pretrained model that the next lessons adapt. ([How to install and run the pages](README.md).)

# %% tags=["fold"]
# set-up: imports, our folders, one thread
import math
import random
import sys
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import torch
import transformers
from matplotlib import pyplot as plt

from training.reports.records import COLOURS, use_style
from tutorials.answers import true_option
from tutorials.show import show

torch.set_num_threads(1)  # the models are tiny: a second thread would only wait
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
use_style()

# %% [markdown]
# ## 1. Read one story
#
# A text of the small world is a short story. Two hidden causes shape it:
#
# ![A hidden topic and a hidden polarity make three events and five clauses](diagrams/00_story.svg)
#
# - The topic is music, sport, food or science. The story has three events: somebody does
#   something, and the verb shows a topic. This topic is the true one with probability `RHO`;
#   otherwise it is one of the other three.
# - The polarity says whether the day was good or bad. The story has five clauses, such as
#   `the room was warm`. Each clause shows the true polarity with probability `Q`. The word
#   `not` (in one clause of ten) reverses a clause.
#
# Two more sentences say who was where and who met whom. Other tasks use them. Here is one story
# (`paris` is a person in it). Read it, and guess its topic.

# %%
from training.data.small_world import Q, RHO, TOPICS, sample_passage

story = sample_passage(random.Random(0))
print(f"RHO = {RHO}, Q = {Q}\n")
print(story.text.replace(" . ", " .\n"))

# %% [markdown]
# ??? Two events show sport (`kicked`, `chased`), and one shows science (`studied`). Which topic
#   is hidden behind this story?
# - [ ] Sport, for sure. || Each event can mislead, so two events do not prove it.
# - [x] Most likely sport, but it may be another one. || Two events make sport much more likely.
#   They do not make it certain.
# - [ ] Nobody can say anything about it. || If that were true, reading would not help at all.
#   Two of three events say a lot.

# %%
from training.data.small_world import VERBS

TOPIC_OF = {verb: i for i, topic in enumerate(TOPICS) for verb in VERBS[topic]}


def votes_in(text: str) -> list[int]:
    """What the events of a story show, read from its verbs."""
    return [TOPIC_OF[word] for word in text.split() if word in TOPIC_OF]


events = [TOPICS[vote] for vote in votes_in(story.text)]
print("events show: ", events)
print("hidden topic:", TOPICS[story.topic])

# %% tags=["fold"]
# check
likely = max(story.topic_posterior())
true_option(likely == 1, 0.5 < likely < 1, likely < 0.3)
assert sorted(events) == ["science", "sport", "sport"], "this is another story than the text's"
assert events.count(TOPICS[story.topic]) < 2, "take a story whose best guess is wrong"

# %% [markdown]
# Here the best guess is wrong: two of the three events misled us. No reader can know that. This
# is why the ceiling is below 1.
#
# ## 2. The best guess, computed by hand
#
# Write $t$ for the topic, $v_1, v_2, v_3$ for what the three events show, and $\rho$ for `RHO`.
# Before we read, all topics are equally likely. **Bayes' rule** then says how likely each topic
# is after reading:
#
# $$p(t \mid v) \;\propto\; \prod_i p(v_i \mid t), \qquad
# p(v_i \mid t) = \rho \text{ if } v_i = t,\ \text{ else } (1 - \rho) / 3.$$
#
# In words: multiply one factor per event, then divide so that the sum is 1. The result is
# called the **posterior**.


# %%
def posterior(votes, choices: int, right: float) -> list[float]:
    """p(cause | votes). A vote is right with probability `right`."""
    wrong = (1 - right) / (choices - 1)
    weights = [
        math.prod(right if vote == cause else wrong for vote in votes)
        for cause in range(choices)
    ]
    return [weight / sum(weights) for weight in weights]


# %% [markdown]
# ??? Two events show sport, one shows science. How likely is sport?
# - [ ] about 2/3 || The share of the events is not the probability. Each event is right with
#   probability 0.75, and two of them agree.
# - [x] about 9/10 || The odds of sport against science are 0.75 to 0.083, so 9 to 1. (Music and
#   food have a little probability, too.)
# - [ ] 1 || The third event says something else, so we cannot be certain.

# %%
for topic, p in zip(TOPICS, posterior(story.votes, len(TOPICS), RHO), strict=True):
    print(f"p({topic:<7} | story) = {p:.3f}")

# %% tags=["fold"]
# check: our function against the library's, on 500 stories
sport = posterior(story.votes, len(TOPICS), RHO)[TOPICS.index("sport")]
true_option(abs(sport - 2 / 3) < 0.05, abs(sport - 0.9) < 0.05, sport == 1)
rng = random.Random(1)
for _ in range(500):
    p = sample_passage(rng)
    by_hand = posterior(p.votes, 4, RHO) + posterior(p.signs, 2, Q)
    library = p.topic_posterior() + p.polarity_posterior()
    equal = all(math.isclose(a, b) for a, b in zip(by_hand, library, strict=True))
    assert equal, "the posteriors differ: did you share (1 - right) among the *other* choices?"

# %% [markdown]
# ## 3. The ceiling of a test set
#
# Take the rule that always answers the most likely topic. On one story it is right with
# probability $\max_t p(t \mid v)$. We take the mean of this number over all stories of a test
# set. On average, no model scores higher. There are two tasks: `topic` asks for the topic, and
# `sentiment` asks for the polarity.
#
# ??? One event alone is right with probability `RHO`. A story has three events. Where is the
#   ceiling of `topic`?
# - [ ] below `RHO` || More events cannot make the best reader worse.
# - [ ] exactly at `RHO` || That would be true if a story had a single event.
# - [x] above `RHO`, and below 1 || Three events say more than one, but all three can mislead.

# %%
from training.data.world_tasks import build, ceiling

tests = {task: build(task)["test"] for task in ("topic", "sentiment")}
best = [max(posterior(votes_in(text), 4, RHO)) for text in tests["topic"]["sentence"]]
by_hand = sum(best) / len(best)
print(f"by hand, topic: {by_hand:.3f}")
for task, test in tests.items():
    print(f"library, {task}: {ceiling(task, test):.3f} on {len(test)} test stories")

# %% tags=["fold"]
# check
true_option(by_hand < RHO - 0.01, abs(by_hand - RHO) < 0.01, RHO + 0.01 < by_hand < 1)
assert math.isclose(by_hand, ceiling("topic", tests["topic"])), "is every event counted once?"

# %% [markdown]
# If the 0.86 of the start was measured on `topic`, it is nearly all that can be learned. From
# now on we use the library's `ceiling`.
#
# ## 4. Simple rules first
#
# Before you train a model, write the simplest rule. It shows how much of the score is easy.
#
# - `constant` always gives the first label.
# - `first event` reads one verb and nothing else.
# - `all events` takes the topic that most verbs show.
# - `adjectives` says "good" if a story has more good adjectives than bad ones.

# %%
from training.data.small_world import BAD, GOOD

RULES = {
    ("topic", "constant"): lambda text: 0,
    ("topic", "first event"): lambda text: votes_in(text)[0],
    ("topic", "all events"): lambda text: max(votes_in(text), key=votes_in(text).count),
    ("sentiment", "constant"): lambda text: 0,
    ("sentiment", "adjectives"): lambda text: int(
        sum((word in GOOD) - (word in BAD) for word in text.split()) > 0
    ),
}


def accuracy(rule, test) -> float:
    pairs = zip(test["sentence"], test["label"], strict=True)
    return sum(rule(text) == label for text, label in pairs) / len(test)


# %% [markdown]
# Another test set would give a slightly different score. The **standard error** says how
# different: with $n$ examples and accuracy $a$ it is $\sqrt{a (1 - a) / n}$. We say that a
# score reaches the ceiling if it is less than three standard errors away from it.
#
# ??? Which rules reach their ceiling?
# - [x] only `all events` || It uses all that a story says about its topic. The other rules
#   ignore a part of the text.
# - [ ] `all events` and `adjectives` || `adjectives` reads "not warm" as good, so it is wrong
#   too often.
# - [ ] none: a rule cannot be as good as a model || A ceiling holds for every way to answer. A
#   rule that uses all the information reaches it.

# %%
scores = {(task, name): accuracy(rule, tests[task]) for (task, name), rule in RULES.items()}
for (task, name), score in scores.items():
    print(f"{task:<9} {name:<11} {score:.3f}")

# %% tags=["fold"]
# plot: the rules and their ceilings
figure, panels = plt.subplots(1, 2, sharey=True, width_ratios=(3, 2))
titles = {
    "topic": "topic: all events reach the ceiling",
    "sentiment": "sentiment: blind to 'not'",
}
for panel, (task, title) in zip(panels, titles.items(), strict=True):
    names = [name for owner, name in scores if owner == task]
    values = [scores[task, name] for name in names]
    errors = [3 * math.sqrt(v * (1 - v) / len(tests[task])) for v in values]
    panel.errorbar(names, values, errors, fmt="o", color=COLOURS["random"], capsize=5)
    top = ceiling(task, tests[task])
    panel.axhline(top, color=COLOURS["ceiling"], linestyle="--")
    panel.annotate("ceiling", (-0.5, top + 0.03), color=COLOURS["ceiling"])
    panel.set(title=title, xlabel="rule", ylim=(0, 1.1), xlim=(-0.6, len(names) - 0.4))
panels[0].set(ylabel="accuracy (bars: three standard errors)")
show(figure, "00_rules_and_ceilings")

# %% tags=["fold"]
# check
gap = {key: ceiling(key[0], tests[key[0]]) - score for key, score in scores.items()}
error = {k: math.sqrt(s * (1 - s) / len(tests[k[0]])) for k, s in scores.items()}
reached = {key for key in scores if abs(gap[key]) < 3 * error[key]}
both = {("topic", "all events"), ("sentiment", "adjectives")}
true_option(reached == {("topic", "all events")}, reached == both, not reached)
sentiment, adjectives = tests["sentiment"], RULES["sentiment", "adjectives"]
pairs = list(zip(sentiment["sentence"], sentiment["label"], strict=True))
missed = [text for text, label in pairs if adjectives(text) != label]
with_not = sum(" not " in text for text in missed) / len(missed)
assert with_not > 0.8, f"`not` should explain most mistakes, found it in {with_not:.0%}"

# %% [markdown]
# **Break it on purpose:** test stories get into the training set. Our broken model knows half
# of the test stories and their labels by heart. For the other half it uses the rule
# `all events`.
#
# ??? What is its accuracy on `topic`?
# - [ ] at the ceiling || The ceiling holds for a model that has not seen the labels of the test
#   stories.
# - [x] about half of the way from the ceiling to 1 || Half of the answers are copied, so they
#   are all right. The other half is at the ceiling.
# - [ ] 1 || It knows only half of the stories.

# %%
topic = tests["topic"]
known = dict(zip(topic["sentence"][::2], topic["label"][::2], strict=True))  # the leak
all_events = RULES["topic", "all events"]
leaked = accuracy(lambda text: known.get(text, all_events(text)), topic)
print(f"ceiling {by_hand:.3f}, with the leak {leaked:.3f}")

# %% tags=["fold"]
# check
share = (leaked - by_hand) / (1 - by_hand)
true_option(abs(share) < 0.1, 0.35 < share < 0.65, leaked == 1)
assert leaked > by_hand + 3 * error["topic", "all events"], "a leak must be above the ceiling"

# %% [markdown]
# A score far above the ceiling is a bug. On real data you do not know the ceiling, so a leak is
# harder to see.
#
# %% [markdown]
# ## 5. A pretrained model and its ceiling
#
# The repository contains a small **encoder**: a BERT (Devlin et al. 2018), a model that reads
# the whole text at once. It has 64 numbers per token (hidden size D = 64; the BERT paper writes
# H). Its **pretraining** was to guess masked words of stories. (Half of the stories were
# followed by a remark in words, such as `it was a good day .` The model has never seen a label
# as a number.)
#
# We put `[MASK]` in the place of the first adjective of a new story. A guess is right if it has
# the polarity of that adjective. This task has a ceiling, too. If the clause has a second
# adjective ("good and calm"), the answer is certain. If not, the other four clauses say how
# likely a good day is. On a good day a clause shows "good" with probability `Q`, on a bad day
# with $1 - Q$. (With `not` in the clause, the best guess is the opposite adjective. It is right
# equally often.)


# %%
def hide_first_adjective(text: str) -> tuple[str, str]:
    words = text.split()
    place = next(i for i, word in enumerate(words) if word in GOOD + BAD)
    return " ".join([*words[:place], "[MASK]", *words[place + 1 :]]), words[place]


def best_masked_guess(text: str) -> float:
    """The probability of the better guess for the polarity of the first adjective."""
    clauses = [c.split() for c in text.split(" . ") if {*c.split()} & {*GOOD, *BAD}]
    first, *others = [[w in GOOD for w in clause if w in GOOD + BAD] for clause in clauses]
    if len(first) == 2:
        return 1.0  # both adjectives of a clause have one polarity
    # `^`: with `not`, a good adjective says that the day was bad
    signs = [kinds[0] ^ ("not" in c) for kinds, c in zip(others, clauses[1:], strict=True)]
    good_day = posterior(signs, 2, Q)[1]
    good_sign = good_day * Q + (1 - good_day) * (1 - Q)
    return max(good_sign, 1 - good_sign)


stories = tests["sentiment"]["sentence"][:400]
hidden = [hide_first_adjective(text) for text in stories]
top = sum(map(best_masked_guess, stories)) / len(stories)


# %%
from transformers import AutoConfig, BertForMaskedLM

from training.data.tokenizers import encoder_tokenizer
from training.models.base_models import SMALL

tokenizer = encoder_tokenizer()
pretrained = BertForMaskedLM.from_pretrained(SMALL["encoder"]).eval()
torch.manual_seed(0)
untrained = BertForMaskedLM(AutoConfig.from_pretrained(SMALL["encoder"])).eval()


@torch.no_grad()
def share_of_good(model) -> torch.Tensor:
    """For each story: p(a good adjective) / p(any adjective), shape (B,): B stories."""
    batch = tokenizer([text for text, _ in hidden], padding=True, return_tensors="pt")
    logits = model(**batch).logits  # (B, T, V): stories, tokens, vocabulary
    p = logits[batch["input_ids"] == tokenizer.mask_token_id].softmax(-1)  # (B, V)
    good, bad = (
        p[:, tokenizer.convert_tokens_to_ids(list(kind))].sum(1) for kind in (GOOD, BAD)
    )
    return good / (good + bad)


# %% [markdown]
# ??? A reader sees only the clause with `[MASK]`, not the rest of the story. In 42 % of the
#   stories it has a second adjective. How often is this reader right?
# - [ ] in about 42 % of the stories || In the others a guess is right half of the time.
# - [ ] in about 94 % || For this, one has to read the other clauses.
# - [x] in about 71 % || 0.42 + 0.58 / 2. The ceiling must be higher, because the other four
#   clauses help.

# %%
is_good = torch.tensor([word in GOOD for _, word in hidden])
for name, model in (("random weights", untrained), ("pretrained", pretrained)):
    right = ((share_of_good(model) > 0.5) == is_good).float().mean().item()
    print(f"{name:<15} {right:.3f}")
certain = sum(best_masked_guess(text) == 1 for text in stories) / len(stories)
one_clause = certain + (1 - certain) / 2
print(f"one clause only {one_clause:.3f}")
print(f"ceiling         {top:.3f}   ({len(hidden)} stories)")

# %% tags=["fold"]
# check
error = math.sqrt(top * (1 - top) / len(hidden))
is_share = [abs(one_clause - share) < 0.03 for share in (0.42, 0.94, 0.71)]
true_option(is_share[0], is_share[1], is_share[2])
assert abs(right - top) < 3 * error < right - one_clause, "is it the committed model?"
random_right = ((share_of_good(untrained) > 0.5) == is_good).float().mean().item()
assert random_right < 0.7, (
    "random weights cannot know polarity: does a label leak into the input?"
)

# %% [markdown]
# The pretrained model is far above the reader of one clause, and it reaches the ceiling: the
# distance is less than three standard errors. So it uses nearly all that the other clauses say.
#
# **Fine-tuning** is further training of a pretrained model for one task. It can be cheap: the
# model already contains much of what the task needs, so a small update may be enough. Lesson 01
# makes this update small.
#
# ## The same in transformers
#
# A pipeline hides the batching and the softmax. The probabilities are the same:

# %% tags=["fold"]
# the same in transformers: the fill-mask pipeline
from transformers import pipeline

fill = pipeline("fill-mask", model=pretrained, tokenizer=tokenizer, device="cpu")
[guess] = fill(hidden[0][0], top_k=1)
with torch.no_grad():
    ids = tokenizer(hidden[0][0], return_tensors="pt")
    p = pretrained(**ids).logits[ids["input_ids"] == tokenizer.mask_token_id].softmax(-1)
assert guess["token_str"] == tokenizer.decode(p.argmax()), "the pipeline guesses another word"
assert math.isclose(guess["score"], p.max().item(), rel_tol=1e-4), "another probability"
print("best guess of both:", guess["token_str"])

# %% [markdown]
# ## Find the bug
#
# This function should compute a standard error. A colleague uses it and finds that almost every
# difference is "significant".
#
# ```python
# def standard_error(accuracy, n):
#     return accuracy * (1 - accuracy) / n
# ```
#
# ??? What is wrong?
# - [ ] It should divide by n − 1. || With 1,000 examples that changes almost nothing.
# - [x] The square root is missing. || This is the variance of the mean. It is much smaller than
#   the standard error.
# - [ ] `1 - accuracy` should be squared. || The variance of a yes-or-no answer is a (1 − a).
#
# ## Quiz
#
# ??? Your model has an accuracy of 0.97 (standard error 0.01). The ceiling is 0.90. What do you
#   do first?
# - [ ] publish it || A score this high is suspicious.
# - [x] look for a leak || A score far above the ceiling means that the answer is in the input,
#   or that test stories were trained on.
# - [ ] train longer || The score is already too high.
#
# ??? Why is the ceiling of a task below 1?
# - [x] The text does not always show the hidden cause. || Events and clauses can mislead, so
#   even the best guess is sometimes wrong.
# - [ ] The model is too small. || The ceiling does not depend on the model.
# - [ ] The test set is too small. || A larger test set gives a more exact ceiling, not a higher
#   one.
#
# ??? You have 1,000 test examples, and the accuracy is 0.9. How large is the standard error?
# - [ ] about 0.0001 || That is 0.9 · 0.1 / 1000: the square root is missing.
# - [x] about 0.01 || √(0.9 · 0.1 / 1000) is 0.0095.
# - [ ] about 0.1 || That would be so with about 10 examples.
#
# ??? What does the rule `constant` tell you?
# - [ ] the ceiling || The ceiling is the other end of the scale.
# - [x] the score of a model that ignores the text || Every useful model must be better than
#   this.
# - [ ] whether the labels are right || It does not look at the texts or check the labels.
#
# ??? Where did the encoder learn what "good" means?
# - [ ] from the labels of `sentiment` || It was not trained on them.
# - [x] from guessing hidden words || A hidden adjective is easier to guess if you know the
#   polarity of the day. Some texts also had a remark such as `it was a good day .`
# - [ ] from the tokenizer || The tokenizer only turns words into numbers.

# %% tags=["fold"]
# check of the third answer
error = math.sqrt(0.9 * 0.1 / 1000)
assert abs(error - 0.0095) < 0.0001, "the standard error is the square root of a (1 - a) / n"

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | a score far above the ceiling | test stories in the training set | section 4; deep dive, section 2 |
# | two runs differ by 0.01 | the error of the test set | [how to compare two runs](topics/compare_two_runs.py) |
# | accuracy 0.25 with four classes, 0.5 with two classes | the model learned nothing | compare with `constant`, section 4 |
# | `cannot import name ... from 'kernels'` | a package of that name is installed | deep dive, section 1 |
#
# ## Exercises
#
# Write your answers in [exercises/00_small_world.py](exercises/00_small_world.py). Then run
# `python -m tutorials check 00`. Our answers are in `solutions/`.
#
# 1. ★ `rows_needed`: your accuracy is a. How many test examples do you need, so that three
#    standard errors are not larger than a given difference?
#    <details><summary>Hint</summary>Solve d = 3 √(a (1 − a) / n) for n.</details>
# 2. ★★ `sentiment_rule`: write a rule for `sentiment` that reaches the ceiling.
#    <details><summary>Hint</summary>Count each clause once, even if it has two adjectives.
#    <code>not</code> reverses it.</details>
# 3. ★★ `ceiling_with_flipped_labels`: somebody flips each label of a two-class test set with
#    probability f. Where is the ceiling now?
#    <details><summary>Hint</summary>The best guess is right if it was right before and the label
#    stayed, or if it was wrong and the label was flipped.</details>
# 4. ★★★ `zero_shot`: find good days with the masked-word model, without any training.
#    <details><summary>Hint</summary>In pretraining it has read stories that were followed by
#    <code>it was a good day .</code></details>
#
# **Change and measure:** in the line `best = ...` of section 3, write 0.9 in place of `RHO`,
# and do not run the check. The computed "ceiling" changes. Does the score of `all events`
# change too? Explain why the new number is not a ceiling.
#
# ## Summary
#
# 1. A text shows its hidden cause only with some probability. Bayes' rule gives the best guess.
# 2. The mean probability of the best guess is the ceiling. Compare every score with it.
# 3. On masked adjectives, the pretrained encoder already reaches the ceiling.
#
# **Next:** [01, LoRA by hand](01_lora_by_hand.py). How small can the update be?
#
# More about this page: [deep dive](deep/00_setup_and_small_world.py). Words:
# [glossary](GLOSSARY.md).
#
# ## On the real thing
#
# The commands are the same for real data; only the ceiling is missing. The first two run here,
# the third needs a network (a GPU helps):
#
# ```bash
# python -m training --task topic --method head
# python -m training --task sentiment --method lora
# python -m training --task sst2 --model roberta-base --method lora
# ```
