# %% [markdown]
# # 16 · Deep dive: conflicts are normal, and balancing decides little
#
# **Needs** [lesson 16](../16_balancing_and_interference.py) · **Read and do** 60 minutes
# · **Runs in** about 80 s on one CPU thread · **Memory** 2 GB
#
# The core page compared methods on a plane and in a short training. Here you build two more
# methods by hand, measure whether three tasks conflict, and repeat the comparison with more seeds
# and three learning rates. You also reproduce a bug, and see which task is a good start for
# which other task.

# %% tags=["fold"]
# set-up: imports, our folders, one thread
import sys
from dataclasses import replace
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import torch
from matplotlib import pyplot as plt

# %% tags=["fold"]
# set-up: our library
from multitask.balancing.balancing import (
    DynamicWeightAverage,
    GradNorm,
    Uncertainty,
    make_balancing,
)
from multitask.runs.interference import Interference, mean_matrices, task_gram
from multitask.runs.run import build_model, load_rows
from multitask.runs.settings import MultitaskSettings
from multitask.runs.steps import Learner
from multitask.runs.trainer import MultitaskTrainer
from training.data.tasks import TASKS, find_task
from training.evaluation.evaluation import HeldOut
from training.reports.paired import paired_gap
from training.reports.records import COLOURS
from tutorials.answers import true_option
from tutorials.show import prepare_page, show, show_table

prepare_page()  # one thread, no progress bars, our plot style

# %% [markdown]
# ## 1. DWA and GradNorm by hand
#
# K is the number of tasks, $w$ (K,) are their weights, and T is a temperature here.
#
# - **DWA** (Liu et al. 2019, "Dynamic Weight Average"): $w = K\,\mathrm{softmax}(r / T)$ with T = 2. A period
#   is a fixed number of steps (in the paper, an epoch). $r_i$ is the mean loss of this period, divided by that of the
#   previous period. (The paper writes $w$ for $r$, and λ for $w$.)
# - **GradNorm** (Chen et al. 2018, algorithm 1) moves each $w_i \lVert g_i \rVert$ towards a
#   target: their mean, times $f_i^{1.5}$. To get $f_i$, divide each loss by its value at step 1,
#   then by the mean of these fractions over all tasks. (The paper writes $r_i$ for $f_i$, and α
#   for 1.5.) Here $g_i$ is the gradient of the last matrix that the tasks share. The paper uses a
#   learning rate. Ours moves a weight by 0.025 times the norm of its task, divided by the mean norm, so that
#   the unit of a loss does not matter. Then it scales the weights to the sum K.
#
# ??? The loss of task A halves, the loss of task B stays the same. Both gradients have the same norm.
#   Who gives B the larger weight?
# - [ ] only DWA || Look at GradNorm's target for B.
# - [ ] only GradNorm || For DWA, r is 0.5 for A and 1 for B.
# - [x] both || Uncertainty weighting would do the opposite.

# %%
fractions = torch.tensor([0.5, 1.0], dtype=torch.float64)  # (K,): loss over the loss before
norms = torch.tensor([3.0, 3.0], dtype=torch.float64)  # (K,): of w_i g_i, with w = 1
target = norms.mean() * (fractions / fractions.mean()) ** 1.5
moved = 1 - 0.025 * torch.sign(norms - target) * norms / norms.mean()
both = {"DWA": 2 * (fractions / 2.0).softmax(0), "GradNorm": 2 * moved / moved.sum()}
for name, weights in both.items():
    print(f"{name:9} A {weights[0]:.3f}  B {weights[1]:.3f}")

# %% tags=["fold"]
# plot: the weights of both methods
figure, panel = plt.subplots(figsize=(5.6, 2.4))
for place, (name, colour) in enumerate((("A: halved", "darkgray"), ("B: the same", "black"))):
    heights = [float(weights[place]) for weights in both.values()]
    x = [i + 0.3 * (place - 0.5) for i in range(2)]
    panel.bar(x, heights, width=0.28, color=colour, label=name)
panel.axhline(1, color="black", linewidth=0.8, linestyle=":")
panel.set_xticks(range(2), list(both))
panel.set(title="both give the slow task B more weight", ylabel="weight w", ylim=(0, 1.9))
panel.legend(title="loss of the task", loc="upper center", ncols=2)
show(figure, "16_slow_tasks")

# %% tags=["fold"]
# check: the library's classes
by_dwa, by_gradnorm = (bool(w[1] > w[0]) for w in both.values())
true_option(by_dwa and not by_gradnorm, by_gradnorm and not by_dwa, by_dwa and by_gradnorm)
two = ["classification"] * 2
dwa, gradnorm = DynamicWeightAverage(two, period=1), GradNorm(two)
G = torch.diag(norms**2)  # (K, K): inner products of the gradients
for step, losses in enumerate(({0: 1.0, 1: 1.0}, {0: 0.5, 1: 1.0}), 1):
    dwa.after(losses)
    gradnorm.solve(G, G, [0, 1], losses, step=step)
assert torch.allclose(dwa.weights, both["DWA"]), "is r this period over the previous one?"
assert torch.allclose(gradnorm.weights, both["GradNorm"]), (
    "did you move the weights towards the target before you scaled them to the sum K?"
)

# %% [markdown]
# ## 2. Do three tasks of the small world conflict?
#
# We train *sentiment*, *topic* and *tagging* as on the core page (and evaluate on 150 examples in
# place of 100). With
# `--analyze_interference`, an evaluation measures two matrices on 32 examples of each task:
#
# - the cosines of the gradients of two tasks,
# - the *affinity* $Z_{ij} = 1 - L_j(\theta - \eta g_i) / L_j(\theta)$ (Fifty et al. 2021), here with
#   η = 0.01: by which fraction a small step for task $i$ lowers the loss of task $j$.
#
# There are two evaluations (after 20 and 40 steps) and three seeds: 18 cosines of two tasks.
#
# ??? On average over the evaluations, what does a step for *sentiment* do to the loss of *tagging*?
# - [ ] it lowers the loss || Both tasks read texts of the same kind, but this is not enough.
# - [x] it raises the loss || The mean cosine of this pair is negative, too.
# - [ ] it changes the loss by less than 0.1 % || The change is several times as large.

# %% tags=["fold"]
# set-up: examples of each seed, a training run, and the scores of a model
COMMON = {"steps": 40, "learning_rate": 3e-3, "task_sampling": "equal", "max_length": 40}
THREE = "sentiment,topic,tagging"
names = THREE.split(",")
tokenizer = build_model(MultitaskSettings())[1]


def examples_of(**options) -> dict:
    settings = MultitaskSettings(**options)
    return load_rows(settings, tokenizer, settings.max_length)


def trained(examples: dict, **options):
    """(model, rows of the log)"""
    settings = MultitaskSettings(**COMMON | {"threads": 1, "eval_every": 10**6} | options)
    model, log = build_model(settings)[0], []
    train = {task: part.train for task, part in examples.items()}
    MultitaskTrainer(model, tokenizer, settings).train(train, on_row=log.append)
    return model, log


# %% tags=["fold"]
# set-up: the score of a model, and the examples of a seed
def mean_score(model, examples: dict) -> float:
    held_out = {task: part.held_out for task, part in examples.items()}
    values = model.evaluate_all_tasks(held_out, tokenizer)
    return sum(values[task][spec.metric] for task, spec in model.tasks.items()) / len(values)


def three_tasks(seed: int) -> dict:
    return examples_of(tasks=THREE, eval_rows=150, max_length=40, seed=seed)


# %%
examples = {seed: three_tasks(seed) for seed in (0, 1, 2)}
analyzed = {"tasks": THREE, "analyze_interference": True, "eval_every": 20}
runs = {seed: trained(examples[seed], seed=seed, **analyzed) for seed in examples}
by_seed = [mean_matrices(log, names) for _, log in runs.values()]
# (3, 3) each: means over seeds and evaluations
cosines, affinity = (torch.stack(matrices).mean(0) for matrices in zip(*by_seed, strict=True))
pairs = torch.tensor(
    [
        value
        for _, log in runs.values()
        for row in log
        for key, value in row.items()
        if key.startswith("cosine/")
    ]
)
print(
    f"{(pairs < 0).sum()} of {len(pairs)} cosines are negative, the mean is {pairs.mean():.2f}"
)

# %% tags=["fold"]
# plot: cosines, and who acts on whom
figure, panels = plt.subplots(1, 2, figsize=(7.6, 3.6))
largest = float(100 * affinity.abs().max())
matrices = (
    ("most pairs conflict: cosines", cosines, 1.0),
    ("a step helps some, hurts others", 100 * affinity, largest),
)
for panel, (title, matrix, limit) in zip(panels, matrices, strict=True):
    panel.imshow(matrix, cmap="RdBu", vmin=-limit, vmax=limit)
    panel.set_title(title)
    panel.set_xticks(range(3), names)
    panel.set_yticks(range(3), names, rotation=90, va="center")
    panel.grid(visible=False)
    for i in range(3):
        for j in range(3):
            dark = abs(float(matrix[i, j])) > 0.6 * limit
            colour = "white" if dark else "black"
            panel.text(j, i, f"{matrix[i, j]:.2f}", ha="center", va="center", color=colour)
panels[0].set(xlabel="task", ylabel="task")
panels[1].set(xlabel="how much this loss falls, in %", ylabel="by a step for this task")
figure.tight_layout()
show(figure, "16_interference")

# %% tags=["fold"]
# check
raised = -float(affinity[names.index("sentiment"), names.index("tagging")])
true_option(raised < -0.001, raised > 0.001, abs(raised) <= 0.001)
assert (pairs < 0).float().mean() > 0.5, (
    "most pairs conflict: are cosines of a task with itself in it?"
)
assert affinity.sum(0).min() > 0, (
    "the joint step should lower each loss: is its size small enough?"
)

# %% [markdown]
# Most cosines are negative, and a step for *sentiment* raises the loss of *tagging*. But the
# steps are taken together. In the right panel, the sum of each column is positive: to first
# order, a step for all three tasks lowers each of the three losses (*tagging* only just). So
# despite conflicts, a small joint step lowers all three losses on average.
#
# ## 3. At a minimum of the sum, some gradients point against each other
#
# At a minimum of the sum of the losses, the gradients sum to zero: $\sum_i g_i = 0$. Then
#
# $$\sum_{i \ne j} g_i \cdot g_j = -\sum_i \lVert g_i \rVert^2 < 0,$$
#
# unless each $g_i$ is zero. So some pairs must conflict. This is normal. We measure how far our
# runs are from such a minimum: $\lVert \sum_i g_i \rVert^2 / \sum_i \lVert g_i \rVert^2$. This
# ratio is 3 for three equal gradients, 1 for orthogonal ones, and 0 at such a minimum.
#
# ??? What is the ratio after 40 steps?
# - [ ] above 1 || Most pairs conflict.
# - [x] between 0.05 and 1 || The gradients partly cancel. The training is not finished.
# - [ ] below 0.05 || Then more steps would change almost nothing.


# %%
def ratio_of_sum(model, examples: dict) -> float:
    kinds = [spec.kind for spec in model.tasks.values()]
    learner = Learner(model.eval(), make_balancing("equal", kinds))
    train = {task: part.train for task, part in examples.items()}
    batch = Interference(learner, train, tokenizer, seed=0).batch  # 32 examples of each task
    G = task_gram(learner, batch)  # (K, K)
    return float(G.sum() / G.diagonal().sum())


ratios = [ratio_of_sum(model, examples[seed]) for seed, (model, _) in runs.items()]
print("by seed:", *(f"{ratio:.2f}" for ratio in ratios))

# %% tags=["fold"]
# plot: the ratio of each seed between its three landmarks
figure, panel = plt.subplots(figsize=(6.4, 1.9))
panel.plot(ratios, [0] * 3, "o", color=COLOURS["equal"], markersize=9, alpha=0.7)
landmarks = ((0, "minimum of\nthe sum"), (1, "orthogonal\ngradients"), (3, "equal\ngradients"))
for x, text in landmarks:
    panel.axvline(x, color="black", linewidth=0.8, linestyle=":")
    panel.text(x, 0.62, text, ha="center", va="bottom")
panel.set(xlim=(-0.4, 3.4), ylim=(-0.6, 0.6), yticks=[])
panel.set_title("our runs are not at a minimum", pad=34)
panel.set_xlabel("ratio after 40 steps (dots: three seeds)")
show(figure, "16_ratio")

# %% tags=["fold"]
# check
true_option(min(ratios) > 1, min(ratios) > 0.05 and max(ratios) < 1, max(ratios) < 0.05)
assert max(ratios) < 1, "the gradients should partly cancel: is `G` that of all three tasks?"

# %% [markdown]
# The gradients cancel only partly (on these 32 examples of each task), so this law does not explain our
# negative cosines. It predicts them for the end of a long training, unless each gradient becomes zero.
#
# ## 4. More seeds, and a learning rate for each method
#
# The core page used three seeds, and only one learning rate for the balancing methods. First we
# train with six *new* seeds. The rule is that of lesson 04: a difference is clear if the mean of
# the paired differences is larger than two standard errors. (± below is one standard error.)
#
# ??? PCGrad needs the gradient of each of the three tasks. How long does one of its steps take, compared with
#   a step with equal weights?
# - [ ] about as long || PCGrad has three backward passes in place of one.
# - [x] about twice as long || The forward pass and the optimizer run only once.
# - [ ] more than three times as long || Only the backward passes are repeated.

# %%
NEW_SEEDS = range(3, 9)
WAYS = {"equal": {}, "PCGrad": {"loss_weighting": "pcgrad"}, "60 steps": {"steps": 60}}
new_scores, seconds = {way: [] for way in WAYS}, dict.fromkeys(WAYS, 0.0)
for seed in NEW_SEEDS:
    seed_examples = three_tasks(seed)
    for way, options in WAYS.items():
        model, log = trained(seed_examples, tasks=THREE, seed=seed, **options)
        new_scores[way].append(mean_score(model, seed_examples))
        seconds[way] += sum(row["seconds"] for row in log)
longer = (seconds["PCGrad"] / 40) / (seconds["60 steps"] / 60)
print(f"a step of PCGrad takes {longer:.1f} times as long")
clear = {}
for way in ("PCGrad", "60 steps"):
    gap, error = paired_gap(new_scores[way], new_scores["equal"])
    clear[way] = gap > 2 * error
    print(f"{way:9} {gap:+.3f} ± {error:.3f}")

# %% tags=["fold"]
# check
true_option(longer < 1.3, 1.3 <= longer <= 3, longer > 3)
assert not any(clear.values()), (
    "the text says: none is clearly better. Other seeds, or examples?"
)

# %% [markdown]
# Neither PCGrad nor 60 plain steps is clearly better than equal weights with 40 steps: six seeds
# do not decide. The small gain of PCGrad with the seeds 0 to 2 is not confirmed.
#
# Is the learning rate of 3e-3 unfair to one of the methods? We try three learning rates for
# three methods, with three seeds.
#
# ??? Which learning rates are best for the three methods?
# - [x] the same one for all three || So 3e-3 was not unfair to one of them.
# - [ ] a smaller one for GradNorm || Its weights change how much each task counts, not the size of a step with AdamW.
# - [ ] a larger one for PCGrad || AdamW divides a gradient by its size, so a step has about the same length.

# %%
RATES, METHODS = (1e-3, 3e-3, 1e-2), ("equal", "gradnorm", "pcgrad")
GRID = {(w, rate): [] for w in METHODS for rate in RATES}
for weights, rate in GRID:
    options = {"tasks": THREE, "loss_weighting": weights, "learning_rate": rate}
    for seed in examples:
        known = (weights, rate) == ("equal", 3e-3)  # these runs are those of section 2
        model = (runs[seed] if known else trained(examples[seed], seed=seed, **options))[0]
        GRID[weights, rate].append(mean_score(model, examples[seed]))
grid_means = {key: sum(values) / 3 for key, values in GRID.items()}
for weights in METHODS:
    print(f"{weights:12}", *(f"{grid_means[weights, rate]:.2f}" for rate in RATES))

# %% tags=["fold"]
# plot: mean score by learning rate
figure, panel = plt.subplots(figsize=(6.4, 3.4))
markers = {"equal": "o", "gradnorm": "^", "pcgrad": "D"}
for weights, marker in markers.items():
    colour = COLOURS[weights]
    for seed in range(3):
        values = [GRID[weights, rate][seed] for rate in RATES]
        panel.plot(RATES, values, color=colour, alpha=0.25, linewidth=0.8)
    means = [grid_means[weights, rate] for rate in RATES]
    panel.plot(RATES, means, color=colour, marker=marker, label=weights)
panel.set_xscale("log")
panel.set_xticks(RATES, [f"{rate:.0e}".replace("e-0", "e-") for rate in RATES])
panel.minorticks_off()
panel.set(title="three methods share the best of three learning rates", ylim=(0, 1))
panel.set(xlabel="learning rate", ylabel="mean score (thin: seeds)")
panel.legend(loc="lower right")
show(figure, "16_learning_rates")

# %% tags=["fold"]
# check
best = {w: max(RATES, key=lambda rate: grid_means[w, rate]) for w in METHODS}
true_option(len(set(best.values())) == 1, best["gradnorm"] < 3e-3, best["pcgrad"] > 3e-3)
by_rate, by_method = (
    max(grid_means[key] for key in keys) - min(grid_means[key] for key in keys)
    for keys in ([("equal", rate) for rate in RATES], [(w, 3e-3) for w in METHODS])
)
assert by_rate > 2 * by_method, (
    "the learning rate should matter more: does each run get its own one?"
)

# %% [markdown]
# Within this grid, the learning rate changes the score much more than the method. (DWA is not in the comparison:
# its period is 50 steps, so in 40 steps its weights stay 1.)
#
# ## 5. Break it on purpose: uncertainty weighting with one task per step
#
# Some code samples **one task per step**, and adds $e^{-s_i} L_i + \tfrac12 s_i$ for all tasks,
# with a loss of 0 for those that are absent. Then the term $\tfrac12 s_i$ pulls *every* $s_i$ down
# in each step, even if task $i$ is absent.
# No error is raised.
#
# ??? Two tasks have the same loss, 0.25. Task A is sampled in 90 % of the steps, B in 10 %. Around which
#   value does the weight of B settle, if the terms of all tasks are added in each step?
# - [ ] 2 || This needs the term of B only in the steps of B.
# - [ ] 0.2 || The weight grows: s of B is pulled down in nine steps of ten.
# - [x] about 20 || Then the rare task gets rare and very large steps.

# %%
PROBABILITIES = torch.tensor([0.9, 0.1])


def weights_by_step(all_terms: bool, steps=3000) -> torch.Tensor:
    """Weights (steps, 2) of a run that samples one task per step."""
    balancing, weights = Uncertainty(["classification"] * 2), []
    optimizer, g = torch.optim.SGD(balancing.parameters(), lr=0.03), torch.Generator()
    for step in range(steps):
        k = int(torch.multinomial(PROBABILITIES, 1, generator=g.manual_seed(step)))
        loss = balancing.term(k, torch.tensor(0.25), 1.0)
        if all_terms:
            loss = loss + 0.5 * balancing.log_vars[1 - k]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        weights.append([balancing.weight(0), balancing.weight(1)])
    return torch.tensor(weights)


weight_runs = {"correct": weights_by_step(False), "wrong": weights_by_step(True)}
correct, wrong = (weights[2000:].mean(0) for weights in weight_runs.values())  # (2,) each
print("only the term of the sampled task:", [round(w, 2) for w in correct.tolist()])
print("the terms of all tasks:           ", [round(w, 2) for w in wrong.tolist()])

# %% tags=["fold"]
# plot: the weights by step
figure, panel = plt.subplots(figsize=(6.4, 3))
for name, line in (("correct", "-"), ("wrong", "--")):
    for task, colour in enumerate(("darkgray", "black")):
        label = f"{name}: task {'AB'[task]}"
        weights = weight_runs[name][:, task]
        panel.plot(weights, line, color=colour, linewidth=1.3, label=label)
panel.set_yscale("log")
panel.set_yticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
panel.minorticks_off()
panel.set(title="with the terms of all tasks, the rare task B gets a weight of 20")
panel.set(xlabel="step", ylabel="weight")
panel.legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 0.3))
show(figure, "16_uncertainty")

# %% tags=["fold"]
# check; and the factor ½ of the second term is the same for all tasks
true_option(abs(wrong[1] - 2) < 0.4, wrong[1] < 0.4, 14 < wrong[1] < 26)
assert (correct - 2).abs().max() < 0.2, "the same loss, the same weight: one term per step?"
fixed, s = torch.tensor([2.0, 0.02, 0.5]).double(), torch.zeros(3).double().requires_grad_()
for _ in range(3000):
    (slope,) = torch.autograd.grad((torch.exp(-s) * fixed + s).sum(), s)
    s = (s - 0.05 * slope).detach().requires_grad_()
assert torch.allclose(
    torch.exp(-s.detach()) * 2 * fixed, torch.tensor(2.0).double(), atol=0.05
), "with s in place of s / 2, all weights are twice as large"

# %% [markdown]
# The wrong weights settle at $1 / (2 p_i L_i)$. An average step follows $p_i w_i$ (lesson 15), so
# the probability $p_i$ cancels: whatever sampling you choose, training undoes it. Our
# `Uncertainty.term` adds $s_i$ only with the loss of task $i$.
#
# Another version of the formula has $s_i$ in place of $\tfrac12 s_i$. This is not a bug: all
# weights become twice as large. With SGD this acts like a larger learning rate. With AdamW it
# changes almost nothing.
#
# ## 6. A head for each task is information, too
#
# On the core page, *sarcasm* (the texts of *sentiment* with opposite labels) and *sentiment* shared a
# head and conflicted. Now each has a head of its own, without task embeddings. For comparison, we
# run the two ways of the core page again (here with 300 test examples).
#
# ??? After 75 steps, what is the mean score of the two tasks with a head each (one seed)?
# - [ ] about 0.5 || This is so with one shared head without information.
# - [ ] 0.55 to 0.75 || The two heads can have opposite signs, so neither limits the other.
# - [x] above 0.75 || The backbone learns one thing for both, and the heads turn it around.

# %% tags=["fold"]
# set-up: the examples of sentiment, and the same examples with the opposite labels
TASKS["sarcasm"] = replace(find_task("sentiment"), name="sarcasm")


def opposite(features: list[dict]) -> list[dict]:
    return [feature | {"labels": 1 - feature["labels"]} for feature in features]


def conflicting(seed: int) -> dict:
    options = {"train_rows": "500", "eval_rows": 300, "max_length": 32}
    part = examples_of(tasks="sentiment", seed=seed, **options)["sentiment"]
    held_out = part.held_out
    labels = [1 - label for label in held_out.rows["label"]]
    table = held_out.rows.remove_columns("label").add_column("label", labels)
    encoded = replace(held_out.encoded, features=opposite(held_out.encoded.features))
    other = HeldOut(TASKS["sarcasm"], table, encoded)
    return {
        "sentiment": part,
        "sarcasm": replace(part, train=opposite(part.train), held_out=other),
    }


# %%
PAIR = {"tasks": "sentiment,sarcasm", "analyze_interference": True, "eval_every": 15}
HEADS = {
    "one head": {"share_heads": "sarcasm=sentiment"},
    "one head, task embeddings": {
        "share_heads": "sarcasm=sentiment",
        "use_task_embeddings": True,
    },
    "a head each": {},
}
pair, measured, head_scores = conflicting(0), {}, {}
for name, options in HEADS.items():
    model, log = trained(pair, steps=75, **PAIR, **options)
    key = "cosine/sentiment~sarcasm"
    measured[name] = [row[key] for row in log if key in row]
    head_scores[name] = mean_score(model, pair)
    print(f"{name:26} {head_scores[name]:.2f}, cosine {measured[name][0]:+.2f}", end=" ")
    print(f"at step 15, {measured[name][-1]:+.2f} at step 75")

# %% tags=["fold"]
# plot: the cosine by step
figure, panel = plt.subplots(figsize=(6.4, 3.2))
for (name, values), colour in zip(measured.items(), ("broken", "lora", "ceiling"), strict=True):
    panel.plot(range(15, 76, 15), values, marker="o", color=COLOURS[colour], label=name)
panel.axhline(0, color=COLOURS["untouched"], linewidth=1)
panel.set(
    title="one head without information: the conflict does not end", xlabel="step (seed 0)"
)
panel.set(ylabel="cosine of the two gradients", ylim=(-1.1, 1.1))
panel.set_xticks(range(15, 76, 15))
panel.legend(loc="center right", bbox_to_anchor=(1, 0.74))
show(figure, "16_heads")

# %% tags=["fold"]
# check
value = head_scores["a head each"]
true_option(abs(value - 0.5) < 0.05, 0.55 <= value <= 0.75, value > 0.75)
assert measured["a head each"][0] > 0.5, (
    "the cosine should be near 1: does each task really have its own head?"
)
assert measured["one head"][0] < -0.5, (
    "the two gradients should cancel: does the input name the task?"
)

# %% [markdown]
# The task embeddings start at zero. So at first the two gradients cancel, as without them. Later the
# cosine is no longer near -1. Cosines change from measurement to measurement (also with one head,
# at step 45), and this is one seed.
#
# ## 7. Which task is a good start for which other task?
#
# In place of training tasks together, one can train them one after the other (Vu et al. 2020):
# first a source task, then a target task, starting with the source's backbone. The target can become
# better (**positive transfer**) or worse (**negative transfer**) than with the same steps without the
# source.
# [The report](../../multitask/results/transfer/report.md) has the command, and marks the clear
# differences. A row is a source, a column is a target; ± is the standard deviation over three
# seeds. We compare with the diagonal, the same task twice, since it has had as many steps.
#
# ??? For which target is every other source worse than a second training on the target itself?
# - [ ] topic || After *nli*, *tagging* and *qa*, its mean is higher than after itself.
# - [x] tagging || It has only 40 sentences. Perhaps more steps on them help it most.
# - [ ] nli || After *tagging* and *qa*, its mean is higher than after itself.

# %% tags=["fold"]
# table: from the committed report
show_table("multitask/results/transfer/report.md; sentiment; topic; nli; tagging; qa")

# %% tags=["fold"]
# read the report, with its marks
lines = (ROOT / "multitask/results/transfer/report.md").read_text().splitlines()
after = [line.split("|")[2:7] for line in lines if line.startswith("| after ")]
targets = ("sentiment", "topic", "nli", "tagging", "qa")
means = torch.tensor([[float(cell.split()[0]) for cell in row] for row in after])  # (5, 5)

# %% tags=["fold"]
# plot: the difference to the diagonal of each column
figure, panel = plt.subplots(figsize=(6.8, 3.6))
difference = means - means.diagonal()
panel.imshow(difference, cmap="RdBu", vmin=-0.2, vmax=0.2, aspect="auto")
panel.set_xticks(range(5), targets)
panel.set_yticks(range(5), targets)
panel.grid(visible=False)
for i, row in enumerate(after):
    for j, cell in enumerate(row):
        mark = next((f" {m}" for m in "▲▼" if m in cell), "")
        dark = abs(float(difference[i, j])) > 0.12
        text = "–" if i == j else f"{difference[i, j]:+.2f}{mark}"
        panel.text(j, i, text, ha="center", va="center", color="white" if dark else "black")
panel.set(title="7 of 20 differences are clear (▲ better, ▼ worse)", xlabel="target task")
panel.set_ylabel("source task")
show(figure, "16_transfer")

# %% tags=["fold"]
# check
worse = {name: sum("▼" in row[i] for row in after) for i, name in enumerate(targets)}
below = [all(means[i, j] < means[j, j] for i in range(5) if i != j) for j in range(5)]
true_option(below[1], below[3], below[2])
assert worse["tagging"] == 4, "the text says four: was the report measured again?"
assert sum("▲" in cell for row in after for cell in row) == 3, "the text names three"

# %% [markdown]
# Three pairs of source and target are clearly better than the diagonal: *nli* for *topic*, and *tagging* and *qa*
# for *nli*. With three seeds, chance alone marks about one pair in five, so a single mark means
# little. And the mean of *topic* is highest alone, with half of the steps. The four marks in the
# column of *tagging* agree, but they share one diagonal value.
#
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | rare tasks get very large weights | $s_i$ is in the loss of absent tasks | section 5 |
# | a method is better in one report only | few seeds | section 4: six new seeds |
# | many negative cosines | this is normal, also far from a minimum | section 2: does each loss fall? |
#
# ## Summary
#
# 1. Conflicts are normal: they are no reason for a balancing method by themselves.
# 2. With six new seeds, neither PCGrad nor 60 plain steps was clearly better than equal weights.
# 3. A head for each task lets two opposite tasks use one backbone.
#
# **Next:** [lesson 17](../17_distill_logits.py).
