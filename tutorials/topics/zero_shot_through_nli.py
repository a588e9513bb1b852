# %% [markdown]
# # Zero-shot classification through NLI: only as good as the NLI model
#
# **Needs** lesson [15](../15_multitask_heads_and_sampling.py) · **Read and do** 25 minutes
# · **Runs in** about 35 s on one CPU thread · **Memory** 2 GB
#
# You want to know whether a text is positive or negative, and you have no labelled example. Can
# a model that was trained for another task answer?
#
# ![The text and one sentence for each label go to an NLI model; the surest label wins](../diagrams/zero_shot_nli.svg)
#
# Natural language inference (**NLI**) asks whether a sentence follows from a text. It has three
# labels: entailment (it follows), contradiction, and neutral. So we write one sentence for each
# label of our task, and take the one with the highest probability of entailment (Yin et al.
# 2019, [arXiv 1909.00161](https://arxiv.org/abs/1909.00161), section 4). This is called
# **zero-shot** classification: zero labelled examples of the new task.

# %% tags=["fold"]
# set-up: imports, our folders, the data
import sys
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import datasets
import torch
import transformers
from matplotlib import pyplot as plt

from multitask.model.zero_shot_classes import zero_shot
from multitask.runs.run import build_model
from multitask.runs.settings import MultitaskSettings
from multitask.runs.trainer import MultitaskTrainer
from training.data import small_world
from training.data.data import load_task
from training.data.encoding import encode
from training.data.tasks import find_task
from training.reports.records import COLOURS, use_style
from tutorials.answers import true_option
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
datasets.disable_progress_bars()
use_style()
test = {t: load_task(find_task(t))["test"].select(range(200)) for t in ("sentiment", "topic")}
nli = load_task(find_task("nli"), train_rows=4000)["train"]
day = nli.filter(lambda example: example["hypothesis"].startswith("it was"))

# %% [markdown]
# ## 1. Sentences for labels
#
# The NLI task of the small world is hard. So we use only its examples about the day, 993 of
# them. Their sentence is "it was a good day ." or "it was a bad day .", and it follows or
# contradicts the text. *Sentiment* gets the sentences "it was a bad day ." and "it was a good
# day .". *Topic* gets "it is about sport ." and so on. None of the 993 examples is about a
# topic.
#
# We train the NLI model with four seeds, 400 steps each. Its loss starts near ln 3 = 1.1 (three
# labels). A model that always says "half entailment, half contradiction" has ln 2 = 0.69.
#
# ??? What do you expect for *sentiment* (guessing: 0.5) and *topic* (guessing: 0.25)?
# - [ ] both well above guessing, with every seed || The NLI training had no sentence about topics.
# - [x] topic near guessing; sentiment high only where the NLI loss is low || The prediction can only be
#   as good as the NLI model.
# - [ ] both near guessing || Where NLI was learned, sentiment is answered.

# %%
SENTENCES = {
    "sentiment": [small_world.verdict(i) for i in range(2)],
    "topic": [small_world.about(i) for i in range(4)],
}
losses, accuracy = [], {"sentiment": [], "topic": []}
for seed in (0, 1, 2, 3):
    settings = MultitaskSettings(
        tasks="nli",
        max_length=48,
        steps=400,
        eval_every=400,
        save_every=10**6,
        learning_rate=2e-3,
        seed=seed,
    )
    model, tokenizer, _ = build_model(settings)
    features, log = encode(day[:], find_task("nli"), tokenizer, 48).features, []
    MultitaskTrainer(model, tokenizer, settings).train({"nli": features}, on_row=log.append)
    losses.append(sum(row["loss"] for row in log[-20:]) / len(log[-20:]))
    for task, sentences in SENTENCES.items():
        scores = zero_shot(model, tokenizer, test[task]["sentence"], sentences, max_length=48)
        correct = scores.argmax(1) == torch.tensor(test[task]["label"])
        accuracy[task].append(float(correct.float().mean()))

# %%
print("seed       ", *(f"{seed:5}" for seed in range(4)))
print("NLI loss   ", *(f"{loss:5.2f}" for loss in losses))
for task, values in accuracy.items():
    print(f"{task:11}", *(f"{value:5.2f}" for value in values))

# %% tags=["fold"]
# plot: accuracy by NLI loss
figure, panel = plt.subplots(figsize=(6.4, 3))
for task, marker, guess in (("sentiment", "o", 0.5), ("topic", "s", 0.25)):
    colour = COLOURS["lora" if task == "sentiment" else "random"]
    panel.plot(losses, accuracy[task], marker, color=colour, markersize=8, label=task)
    panel.axhline(guess, color=colour, linestyle="--", linewidth=1)
panel.set(
    title="sentiment is answered where NLI was learned (dashed: guessing)", ylim=(0, 1.05)
)
panel.set(xlabel="NLI loss at the end of training (each dot: one seed)", ylabel="accuracy")
panel.legend(loc="center", bbox_to_anchor=(0.6, 0.72))
show(figure, "zero_shot")

# %% tags=["fold"]
# check
learned = [loss < 0.4 for loss in losses]
follows = all((a > 0.8) == low for a, low in zip(accuracy["sentiment"], learned, strict=True))
near_guessing = max(accuracy["topic"]) < 0.4
true_option(
    min(accuracy["sentiment"]) > 0.8 and min(accuracy["topic"]) > 0.4,
    near_guessing and follows and any(learned) and not all(learned),
    near_guessing and max(accuracy["sentiment"]) < 0.6,
)

# %% [markdown]
# With two seeds the NLI model has learned to compare a sentence with a text, and its
# *sentiment* is right for more than nine of ten texts. With the other two its loss is still
# near ln 2, and *sentiment* is at 0.47 and 0.60. *Topic* is near guessing with every seed.
#
# So look at the NLI loss first. And it is no magic: whoever labelled "it was a good day" has
# labelled the sentiment in other words. With real NLI data and a large model this is a strong
# method. Our model is far too small to show that.
#
# ## The same in transformers
#
# transformers has this as a pipeline. We did not run it: it needs a model from the Hub.
#
# ```python
# classify = transformers.pipeline("zero-shot-classification", model="facebook/bart-large-mnli")
# classify("The food was excellent.", candidate_labels=["good", "bad"], hypothesis_template="This is {}.")
# ```
#
# ## Summary
#
# 1. Write one sentence for each label, and take the one with the highest probability of entailment.
# 2. It works only where the NLI model can judge the sentences.
# 3. Measure the NLI model first, with more than one seed.
#
# **Next:** [lesson 16](../16_balancing_and_interference.py), tasks that conflict.
#
# ## On the real thing
#
# The command trains an NLI model on real data. It needs a network, and we did not run it:
#
# ```bash
# python -m multitask --tasks mnli --model roberta-base
# ```
