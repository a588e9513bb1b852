# %% [markdown]
# # 15 · Multitask learning: sampling decides which task gains
#
# **Needs** lessons [03](03_lora_for_classification.py) and [04](04_lora_against_full.py)
# · **Read and do** 60 minutes · **Runs in** about 35 s on one CPU thread · **Memory** 2 GB
#
# Three tasks, three fine-tuned models: this needs three times the disk, and no task learns from
# another. Could one model do all three?
#
# ![Examples of three tasks go through one backbone, and each to the head of its task](diagrams/15_mixed_batch.svg)
#
# Yes. **Multitask learning** with **hard sharing** (Caruana 1997) has one **backbone** (the
# model without its last layer) for all tasks, and a small head for each. On this page you look
# at what a head reads, at the loss of a batch with several tasks, and at how often each task is
# sampled. Then you measure whether a task with 40 labels gains.

# %% tags=["fold"]
# set-up: imports, our folders, one thread
import sys
from dataclasses import replace
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import numpy as np
import torch
import transformers
from matplotlib import pyplot as plt
from torch.nn import functional as F

# %% tags=["fold"]
# set-up: our library
from multitask.balancing.balancing import make_balancing
from multitask.data.data_manager import MultitaskDataManager
from multitask.data.sampling import task_probabilities
from multitask.model.task_heads import TaskHeads, pool
from multitask.runs.run import build_model, load_rows
from multitask.runs.settings import MultitaskSettings
from multitask.runs.steps import Learner
from multitask.runs.trainer import MultitaskTrainer
from training.data.batching import batches
from training.models.base_models import Source, load_backbone
from training.reports.paired import paired_gap
from tutorials.answers import true_option
from tutorials.show import prepare_page, show

prepare_page()  # one thread, no progress bars, our plot style

# %% tags=["fold"]
# set-up: five tasks of the small world, and a model with five heads
FIVE = MultitaskSettings(
    tasks="sentiment,topic,nli,tagging,qa",
    train_rows="sentiment=100,topic=200,nli=500,tagging=40,qa=300",
    eval_rows=120,
)
model, tokenizer, _ = build_model(FIVE)  # with seed 0
model.eval()
tasks = load_rows(FIVE, tokenizer, limit=128)
features = {task: part.train for task, part in tasks.items()}

# %% [markdown]
# ## 1. A head needs one vector for each text
#
# A backbone returns one vector for each token. A label belongs to the whole text, so a head
# needs one vector: this step is called **pooling**. In an encoder, each token has read the whole
# text, and we take the mean over the tokens. In a decoder, a token has read only itself
# and the tokens before it.
#
# ??? A classifier on a decoder reads the vector of the *first* token. Two texts differ only in
#   their last word. Can it tell them apart?
# - [ ] yes || In a decoder, the first token sees only itself.
# - [ ] only if the texts are short || The length does not matter.
# - [x] no || The two vectors are equal. So we take the last token of the text.


# %%
decoder = load_backbone(Source("decoder"))[0].eval()
texts = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 8, 30]])
distance = {}
with torch.no_grad():
    for name, backbone in (("decoder", decoder), ("encoder", model.backbone)):
        one, other = backbone(input_ids=texts).last_hidden_state  # (T, D) each
        distance[name] = (one - other).norm(dim=1)
        print(
            f"{name}: first token {distance[name][0]:.2f}, last token {distance[name][-1]:.2f}"
        )

# %% tags=["fold"]
# check: and our pooling against the library's
same = distance["decoder"][0] == 0
true_option(not same, False, bool(same))
assert distance["encoder"][0] > 0.01, "an encoder's first token reads the last word"
states, mask = torch.randn(2, 4, 8), torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
assert torch.allclose(pool(states, mask, "mean"), mean, atol=1e-6), (
    "padding must not be counted"
)
last = torch.stack([states[0, 2], states[1, 3]])
assert torch.equal(pool(states, mask, "last"), last), "the last real token, not the last place"
assert sum(p.numel() for p in TaskHeads(768, {"nli": model.tasks["nli"]}).parameters()) == 2307

# %% [markdown]
# The heads are small: for 3 labels on BERT-base, a head has 3 · 768 + 3 = 2,307 parameters.
#
# ## 2. A mixed batch needs one pass
#
# A batch mixes several tasks. `task_ids` stores the task of each example. The backbone
# runs once on the whole batch. Then each head takes the examples of its task, and computes the
# mean loss of this task, $L_k$. The loss of the step is
#
# $$L = \sum_k s_k\, L_k, \qquad s_k = \frac{\text{examples of task } k}{\text{examples in the batch}}.$$
#
# Why not take the mean over all answers in the batch? A *topic* example has one answer, its
# label. A *tagging* example (for each word: is it the name of a person, of a place, or no
# name?) has an answer for each word.
#
# ??? In the batch below, 3 of 25 examples are *tagging*, with about 55 words each. If we took the mean
#   over all answers, what fraction would come from *tagging*?
# - [ ] about 12 % || That is its fraction of the examples, s_k.
# - [ ] about 50 % || Count the words of three texts, against 22 other examples.
# - [x] more than 80 % || Three long texts have far more words than the others have answers.

# %%
manager = MultitaskDataManager(features, model.tasks, tokenizer, 25, kind="equal", seed=0)
batch = manager.get_mixed_batch()
task_of = batch["task_ids"]  # (B,): the number of the task of each example
answers = {task: int(batch[f"{k}.count"]) for k, task in enumerate(model.names)}
part = answers["tagging"] / sum(answers.values())
print(f"tagging: {(task_of == model.names.index('tagging')).sum()} of {len(task_of)} examples")
print(f"tagging: {answers['tagging']} of {sum(answers.values())} answers, {part:.0%}")

# %% tags=["fold"]
# check: the loss of the step by hand, for the tasks with one label, and for the others
true_option(part < 0.2, 0.4 < part < 0.6, part > 0.8)
inputs = {n: batch[n] for n in ("input_ids", "attention_mask", "token_type_ids")}
hidden_states = model.backbone(**inputs).last_hidden_state  # one pass: (B, T, D)
by_hand = 0.0
for k, task in enumerate(model.names):
    of_task = task_of == k
    labels = {n.split(".")[1]: v for n, v in batch.items() if n.startswith(f"{k}.")}
    h, m, head = hidden_states[of_task], batch["attention_mask"][of_task], model.heads[task]
    if task == "tagging":
        loss = F.cross_entropy(head.classifier(h).flatten(0, 1), labels["labels"].flatten())
    elif task == "qa":
        logits = head.qa_outputs(h).masked_fill(m[..., None] == 0, -torch.inf)
        ends = labels["start_positions"], labels["end_positions"]
        loss = sum(F.cross_entropy(logits[..., i], end) for i, end in enumerate(ends)) / 2
    else:
        loss = F.cross_entropy(head.classifier(pool(h, m, "mean")), labels["labels"])
    by_hand = by_hand + of_task.float().mean() * loss
kinds = [spec.kind for spec in model.tasks.values()]
total = Learner(model, make_balancing("equal", kinds)).total(batch)
assert abs(float((total - by_hand).detach())) < 1e-5, "share times mean loss, for each task"

# %% [markdown]
# So the weight of a task is its fraction of the examples, not of the answers.
#
# ## 3. How often is each task sampled?
#
# Let $n_k$ be the number of training examples of task $k$. The probability that an example of a
# batch is from task $k$ is
#
# $$p_k = \frac{n_k^{1/T}}{\sum_j n_j^{1/T}}$$
#
# (Raffel et al. 2020, section 3.5.2; they write $e_m$ for $n_k$, and also limit it to a largest
# value). This T is a temperature, not the number of tokens. T = 1 is
# **proportional sampling**: a task with twice the examples is sampled twice as often. With a
# larger **temperature** T the probabilities become more equal.
#
# ??? The sizes are 50, 100 and 200, and T = 2. How many times more often is the largest task
#   sampled than the smallest?
# - [ ] 4 times || That is T = 1.
# - [x] 2 times || The square root of 4.
# - [ ] 1.4 times || That is T = 4: the fourth root of 4.


# %%
def probabilities(sizes, temperature: float):
    powers = np.array(sizes) ** (1 / temperature)
    return powers / powers.sum()


sizes = (50, 100, 200)
for temperature in (1, 2, 4):
    p = probabilities(sizes, temperature)
    print(f"T = {temperature}:", *(f"{value:.2f}" for value in p))

# %% tags=["fold"]
# check: against the library
p = probabilities(sizes, 2)
true_option(abs(p[2] / p[0] - 4) < 0.05, abs(p[2] / p[0] - 2) < 0.05, p[2] / p[0] < 1.5)
named = dict(zip("abc", sizes, strict=True))
library = task_probabilities(named, "temperature", temperature=2)
assert np.allclose(list(library.values()), p), "1/T is the exponent"

# %% [markdown]
# With T = 2, the smallest task gets 0.23 of the examples instead of 0.14:
#
# ![Shares of three tasks with proportional, temperature and equal sampling](diagrams/15_sampling.svg)
#
# ## 4. A task with 40 labels, and one with 1,000
#
# *qa* (find the answer to a question in a story) has 40 labels, *tagging* has 1,000. For both, a
# model needs to know who and where people are. We compare three ways. Each
# run has 120 steps of 16 examples, and there are three seeds:
#
# - *alone*: a model for *qa* only. It sees 1,920 examples of *qa*.
# - *equal*: one model for both. Each task has half of the examples (960 of *qa*).
# - *proportional*: one model for both, but only 1 of 26 examples is *qa*: about 74 in 120 steps.
#
# ??? Which of the three has the best score for *qa* at the end of its training?
# - [ ] alone || It sees the most examples of *qa*, but they are 40 texts, again and again.
# - [x] equal || Probably *tagging* teaches the backbone something that *qa* needs, too.
# - [ ] proportional || With only 74 examples it is not worse than alone with 1,920. But equal is
#   better.

# %% tags=["fold"]
# set-up: a training run that returns the scores by step
PAIR = MultitaskSettings(
    tasks="qa,tagging",
    train_rows="qa=40,tagging=1000",
    eval_rows=160,
    learning_rate=2e-3,
    schedule="constant_with_warmup",
    steps=120,
    eval_every=30,
    save_every=10**6,
)


def scores_by_step(settings: MultitaskSettings, tasks: dict) -> dict[int, dict[str, float]]:
    new, log = build_model(settings)[0], []
    held_out = {task: tasks[task].held_out for task in new.tasks}
    train = {task: tasks[task].train for task in new.tasks}
    MultitaskTrainer(new, tokenizer, settings).train(train, held_out, on_row=log.append)
    specs = new.tasks.items()
    return {
        row["step"]: {task: row[f"{task}/{spec.metric}"] for task, spec in specs}
        for row in log
        if "mean_score" in row
    }


# %%
WAYS = {
    "alone": {"tasks": "qa", "train_rows": "qa=40"},
    "equal": {"task_sampling": "equal"},
    "proportional": {"task_sampling": "proportional"},
}
curves = {way: [] for way in WAYS}
for seed in (0, 1, 2):
    of_seed = load_rows(replace(PAIR, seed=seed), tokenizer, limit=128)
    for way, options in WAYS.items():
        curves[way].append(scores_by_step(replace(PAIR, seed=seed, **options), of_seed))
last = {way: [scores[max(scores)]["qa"] for scores in runs] for way, runs in curves.items()}
for way, values in last.items():
    print(f"qa, {way:13}", *(f"{value:.2f}" for value in values))

# %% tags=["fold"]
# plot: both tasks by step; thin lines are seeds
figure, panels = plt.subplots(1, 2, figsize=(7.4, 3.1), sharey=True)
looks = {
    "alone": ("black", "^"),
    "equal": ("tab:cyan", "o"),
    "proportional": ("tab:olive", "s"),
}
for panel, task in zip(panels, ("qa", "tagging"), strict=True):
    for way, (colour, marker) in looks.items():
        runs = [scores for scores in curves[way] if task in scores[30]]
        for scores in runs:
            values = [score[task] for score in scores.values()]
            panel.plot(list(scores), values, color=colour, alpha=0.5, linewidth=0.8)
        if runs:
            means = [np.mean([scores[step][task] for scores in runs]) for step in runs[0]]
            panel.plot(list(runs[0]), means, color=colour, marker=marker, label=way)
    panel.set(xlabel="step", ylim=(0, 1.02), xticks=(30, 60, 90, 120))
panels[0].set(title="qa (40 labels): best with equal at the end")
panels[0].set_ylabel("exact match (thin: seeds)")
panels[1].set(title="tagging: only delayed with equal", ylabel="F1 of whole names")
panels[0].legend(loc="upper left")
show(figure, "15_sampling")

# %% tags=["fold"]
# check
mean = {way: np.mean(values) for way, values in last.items()}
true_option(
    mean["alone"] == max(mean.values()),
    mean["equal"] == max(mean.values()),
    mean["proportional"] == max(mean.values()),
)
gap, error = paired_gap(last["equal"], last["alone"])
print(f"equal against alone: {gap:+.2f} ± {error:.2f} (one standard error)")
assert gap > 2 * error, "the gain is not larger than two standard errors any more: say so"
early = {
    (way, task): np.mean([scores[30][task] for scores in curves[way]])
    for way in ("equal", "proportional")
    for task in ("qa", "tagging")
}
assert early["proportional", "tagging"] > early["equal", "tagging"], "more examples, ahead"
assert early["equal", "qa"] > early["proportional", "qa"], "more examples, ahead"
best_alone = max(
    np.mean([run[step]["qa"] for run in curves["alone"]]) for step in (30, 60, 90, 120)
)
assert best_alone < mean["equal"], "the text says: also below equal at its best step"
late = {way: np.mean([run[120]["tagging"] for run in curves[way]]) for way in list(WAYS)[1:]}
print("tagging after 120 steps:", {way: round(float(f1), 2) for way, f1 in late.items()})
assert abs(late["equal"] - late["proportional"]) < 0.05, "tagging should have caught up"

# %% [markdown]
# Look at step 30 in the plot (*qa*: exact match, *tagging*: F1 of whole names). With equal
# sampling,
# *qa* is ahead and *tagging* behind. With proportional sampling it is the other way round: more
# examples of one task mean fewer of the other. After 120 steps, *tagging* has caught up, and
# *qa* is better with equal sampling than alone, by more than two standard errors.
#
# *alone* becomes worse with more steps: it learns its 40 texts by heart. Its best mean on the way is still
# below *equal* at the end.
#
# Do not expect this for every pair of tasks. We chose this pair after trying several, partly
# with these seeds, so the gain may look too large. The [deep
# dive](deep/15_multitask_heads_and_sampling.py) shows a report with six new seeds.
#
# ## 5. Break it on purpose: an evaluation that changes the training
#
# This loop evaluates the model after each epoch:
#
# ```python
# model.train()
# for epoch in range(3):
#     train_one_epoch(model)  # does not change the mode
#     evaluate(model)  # calls model.eval() at its beginning
# ```
#
# ??? The model has dropout. What is different in the second epoch?
# - [ ] nothing || `model.eval()` stays in force until someone calls `model.train()`.
# - [ ] an error is raised || Both modes can be trained.
# - [x] it trains without dropout || And so do all later epochs. No message says so.

# %%
example = next(batches(features["topic"][:16], tokenizer, 16))
torch.manual_seed(0)
model.train()
differ = {}
for epoch in (1, 2):
    with torch.no_grad():
        first, second = (float(model(**example, task_name="topic").loss) for _ in range(2))
    differ[epoch] = first != second
    print(f"epoch {epoch}: two passes over the same batch: {first:.4f} and {second:.4f}")
    model.eval()  # what the careless evaluation does

# %% tags=["fold"]
# check: ours leaves the mode as it was
true_option(differ[2] == differ[1], False, differ[1] and not differ[2])
model.train()
model.evaluate_task("topic", tasks["topic"].held_out, tokenizer)
assert model.training, "an evaluation must leave the mode of training as it found it"

# %% [markdown]
# With dropout, two passes over one batch have different losses. The check is one line after each
# evaluation: `assert model.training`.
#
# ## The same in transformers
#
# A model class of transformers has one head. For several heads, people load the backbone with
# `AutoModel` and add their own linear layers. With the same weights, its logits equal ours:

# %% tags=["fold"]
# the same in transformers: AutoModel, the mean over real tokens, and one linear layer for each task
encoder = ROOT / "training/models/base_models/encoder"
backbone = transformers.AutoModel.from_pretrained(encoder, add_pooling_layer=False).eval()
backbone.load_state_dict(model.backbone.state_dict(), strict=False)
heads = torch.nn.ModuleDict(
    {name: torch.nn.Linear(64, n) for name, n in (("topic", 4), ("nli", 3))}
)
for name, head in heads.items():
    head.load_state_dict(model.heads[name].classifier.state_dict())
words = tokenizer(["anna sang a song .", "omar"], padding=True, return_tensors="pt")
with torch.no_grad():
    states = backbone(**words).last_hidden_state  # one pass
    mask = words["attention_mask"][..., None]
    pooled = (states * mask).sum(1) / mask.sum(1)
    for name, head in heads.items():
        ours = model.eval()(**words, task_name=name).logits
        assert torch.allclose(head(pooled), ours, atol=1e-5), "is padding part of the mean?"
print("AutoModel with two linear layers gives the same logits")

# %% [markdown]
# ## Find the bug
#
# ```python
# def sampling_probabilities(sizes, temperature=1.0):
#     return torch.softmax(torch.tensor(sizes) ** temperature, dim=0)
# ```
#
# With the sizes 50., 100. and 200., training never sees the two smaller tasks.
#
# ??? What is wrong?
# - [ ] The temperature must be larger. || This makes it worse.
# - [x] softmax takes e to the power of the sizes. || e²⁰⁰ against e¹⁰⁰: the largest task gets
#   everything. Divide the powers by their sum. (The exponent must be 1/T, too.)
# - [ ] The sizes must be integers. || This does not change the result.

# %% tags=["fold"]
# check
wrong = torch.softmax(torch.tensor([50.0, 100.0, 200.0]) ** 1.0, dim=0)
larger = torch.softmax(torch.tensor([50.0, 100.0, 200.0], dtype=torch.float64) ** 1.5, dim=0)
true_option(larger[2] < 0.9, wrong[2] > 0.999 and probabilities(sizes, 1)[2] < 0.6, False)

# %% [markdown]
# ## Quiz
#
# ??? What do several tasks share in hard sharing?
# - [x] the backbone || Each task has a head of its own.
# - [ ] the head || The tasks have different labels.
# - [ ] only the embeddings || All layers of the backbone are shared.
#
# ??? Two tasks have 1,000 and 4,000 examples. How often is the larger one sampled with T = 2?
# - [ ] with probability 0.8 || That is T = 1.
# - [ ] with probability 0.5 || That is equal sampling.
# - [x] with probability 0.67 || √4 = 2, so 2 of 3.
#
# ??? A decoder's classifier always predicts the same label for texts that begin with the same
#   word. What do you check first?
# - [ ] the learning rate || First look at what the head reads.
# - [x] which token the head reads || The first token of a decoder sees only itself.
# - [ ] the temperature of the sampling || It does not change what a head can see.
#
# ??? A report says: "multitask learning improves all tasks." What do you ask?
# - [x] how many steps and examples each single model had || A single model that was trained less
#   is no fair baseline.
# - [ ] how many tasks there were || Also interesting, but it does not make the comparison fair.
# - [ ] whether the heads were linear || This is usually the same for both.
#
# ??? Proportional sampling, tasks with 40 and 1,000 examples, 16 examples per step, 100 steps. About
#   how many examples of the small task does the model see?
# - [ ] 800 || That is equal sampling.
# - [x] about 60 || 1,600 · 40 / 1,040.
# - [ ] 40 || The examples are sampled again when all were used.

# %% tags=["fold"]
# check of the second and the fifth answer
assert abs(probabilities((1000, 4000), 2)[1] - 2 / 3) < 1e-9 and round(1600 * 40 / 1040) == 62

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | the head of a decoder learns nothing | it reads the first token | section 1 |
# | predictions change with the batch size | padding is part of the mean | deep dive, section 1 |
# | one task dominates the loss | one mean over all answers | section 2: count answers |
# | the small task is far behind at first | proportional sampling | section 4, step 30 |
# | losses change after the first evaluation | dropout is off | section 5: `assert model.training` |
#
# ## Exercises
#
# Write in
# [exercises/15_multitask_heads_and_sampling.py](exercises/15_multitask_heads_and_sampling.py),
# then run `python -m tutorials check 15`.
#
# 1. ★ `task_chances`: the probabilities for sizes, a temperature and a largest size.
#    <details><summary>Hint</summary>Limit the sizes first, then take the root, then divide by the
#    sum.</details>
# 2. ★★ `last_real`: the vector of the last real token, with padding on either side.
#    <details><summary>Hint</summary>Number the positions, and give padding the number 0.</details>
# 3. ★★ `weights_for`: loss weights that give each task a wanted influence, whatever its
#    probability (deep dive, section 3).
#    <details><summary>Hint</summary>An average step has the weight p · w for each task. Solve for w.</details>
#
# **Change and measure:** in section 4, add temperature sampling with T = 3. Is *qa* closer to
# equal or to proportional sampling?
#
# ## Summary
#
# 1. One backbone and one pass serve all tasks. Each head takes its own examples.
# 2. The mean is taken inside each task, and the number of its examples decides how much a task counts.
# 3. More examples of one task mean fewer of the other. Here equal sampling helped the task with 40
#    labels, and delayed the other one.
#
# **Next:** [lesson 16](16_balancing_and_interference.py), tasks that conflict.
#
# More: [deep dive](deep/15_multitask_heads_and_sampling.py) · [how to compare two
# runs](topics/compare_two_runs.py) · [glossary](GLOSSARY.md)
#
# ## On the real thing
#
# These commands need a network, and a GPU helps. We did not run them:
#
# ```bash
# python -m multitask compare --tasks sst2,mrpc,rte --model roberta-base --samplings proportional equal --seeds 3
# python -m multitask --tasks sst2,mrpc,rte --model roberta-base --task_sampling temperature --temperature 2
# python -m training --task rte --model roberta-base --method full   # one of them alone
# ```
