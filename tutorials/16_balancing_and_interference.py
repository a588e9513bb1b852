# %% [markdown]
# # 16 · Balancing: tasks conflict, and equal weights are hard to beat
#
# **Needs** lessons [04](04_lora_against_full.py) and [15](15_multitask_heads_and_sampling.py)
# · **Read and do** 60 minutes · **Runs in** about 35 s on one CPU thread · **Memory** 2 GB
#
# Several tasks train one backbone. One task wants to increase a parameter, another one wants to
# decrease it. Which task should win?
#
# ![Two gradients conflict, and PCGrad projects each before it adds them](diagrams/16_conflict.svg)
#
# Two tasks **conflict** if the inner product of their gradients is negative: a small step for one
# task raises the loss of the other. There are many methods for **balancing** tasks. Some combine
# gradients, others weight the losses.

# %% tags=["fold"]
# set-up: imports, our folders, one thread
import json
import sys
from dataclasses import replace
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import torch
from matplotlib import pyplot as plt

# %% tags=["fold"]
# set-up: our library
from multitask.balancing.balancing import Uncertainty
from multitask.balancing.gradients import cagrad, equal, mgda, nash_mtl, pcgrad
from multitask.runs.run import build_model, load_rows
from multitask.runs.settings import MultitaskSettings
from multitask.runs.trainer import MultitaskTrainer
from training.data.tasks import TASKS, find_task
from training.evaluation.evaluation import HeldOut
from training.reports.paired import paired_gap
from training.reports.records import COLOURS
from training.reports.seed_dots import dots_by_seed
from tutorials.answers import true_option
from tutorials.show import prepare_page, show

prepare_page()  # one thread, no progress bars, our plot style

# %% [markdown]
# ## 1. Combine the gradients: a walk on a plane
#
# Let $g_i$ be the gradient of the loss of task $i$ for the $n$ shared parameters. With equal
# weights, a step follows the sum of all $g_i$. **PCGrad** (Yu et al. 2020, algorithm 1) changes
# $g_i$ where it conflicts with $g_j$. It subtracts the part along $g_j$:
#
# $$g_i' = g_i - \frac{g_i \cdot g_j}{\lVert g_j \rVert^2}\, g_j$$
#
# and then adds the results, as in the figure.
#
# ??? $g_1 = (-4, 1, 1)$ and $g_2 = (6, 1, 1)$. Their sum is $(2, 2, 2)$. What does PCGrad do to the
#   first component of the update?
# - [ ] It becomes larger. || The tasks disagree about this component.
# - [ ] It stays 2. || The gradients conflict: the inner product is -22.
# - [x] It becomes smaller. || And the other two, where the tasks agree, become larger.

# %%
J = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)  # (K, n): one row per task


def pcgrad_by_hand(J):
    projected = J.clone()
    for i in range(len(J)):
        for j in range(len(J)):
            product = projected[i] @ J[j]  # J[j] is the given gradient, not the projected one
            if i != j and product < 0:
                projected[i] -= product / (J[j] @ J[j]) * J[j]
    return projected.sum(0)


for name, d in (("sum", J.sum(0)), ("PCGrad", pcgrad_by_hand(J))):
    rounded = [[round(x, 1) for x in vector.tolist()] for vector in (d, J @ d)]  # (n,), (K,)
    print(f"{name:6} d = {rounded[0]!s:16} inner products with g1, g2: {rounded[1]}")

# %% tags=["fold"]
# check: against the library, which sees only the inner products
first = float(pcgrad_by_hand(J)[0])
true_option(first > 2.01, abs(first - 2) < 0.01, first < 1.99)
assert torch.allclose(J.T @ pcgrad(J @ J.T), pcgrad_by_hand(J)), "two ways to write one method"

# %% [markdown]
# A step subtracts $d$. The inner product of the sum with $g_1$ is negative, so this step *raises*
# loss 1. PCGrad's update lowers both losses. (With more than two tasks, PCGrad does not guarantee
# this, and its order is random.)
#
# The K gradients are the rows of $J$ (K × n). A projected gradient is a weighted sum of them, so
# the update is $d = J^\top w$ with K weights $w$. They depend only on the inner products
# $G = J J^\top$, the **Gram matrix** (K × K). So they cost K backward passes, memory for K gradients,
# and a little arithmetic with $G$:
#
# - *equal*: $w = 1$. One backward pass is enough.
# - *MGDA* (Sener and Koltun 2018): the shortest weighted average of the gradients.
# - *CAGrad* (Liu et al. 2021): of all updates close to the mean gradient (c = 0.5), the one that
#   lowers the loss of the worst task most.
# - *Nash-MTL* (Navon et al. 2022; our $w$ is their α): $G w = 1 / w$, so $w_i\, g_i \cdot d = 1$.
#
# Now we walk on a plane (x, y). Loss 1 has its minimum at (-1, 0). Loss 2
# has its minimum at (1, 1), and is multiplied by 20. Between them lies a curve where no step
# lowers both losses: these points are **Pareto-optimal**. In each step, all methods walk the same
# distance. Only the direction differs.
#
# ??? Where does the walk with equal weights end?
# - [ ] near minimum 1 || The gradient of loss 1 is much shorter, so it changes the sum little.
# - [x] near minimum 2 || The gradient of loss 2 is much longer, so the sum follows it.
# - [ ] in the middle || The sum has one minimum, and it depends on the scale of the losses.

# %%
CURVATURE = torch.tensor([[1.0, 4.0], [4.0, 1.0]]).double()  # of each loss, in x and y
MINIMA = torch.tensor([[-1.0, 0.0], [1.0, 1.0]]).double()


def walk(method, start, scale=20.0, steps=60):
    """The positions (steps + 1, 2) of a walk. Loss 2 is multiplied by `scale`."""
    position = torch.tensor(start, dtype=torch.float64)
    positions, scales = [position], torch.tensor([[1.0], [scale]], dtype=torch.float64)
    for step in range(steps):
        J = scales * CURVATURE * (position - MINIMA)
        d = J.T @ method(J @ J.T)
        length = 0.13 * (1 - step / steps)
        position = position - length * d / d.norm().clamp(min=1e-9)
        positions.append(position)
    return torch.stack(positions)


METHODS = {"equal": equal, "PCGrad": pcgrad, "MGDA": mgda, "Nash-MTL": nash_mtl}
METHODS["CAGrad"] = lambda G: cagrad(G, steps=15)
STARTS = [(-1.5, 2.0), (1.2, -1.2)]
walks = {name: [walk(method, start) for start in STARTS] for name, method in METHODS.items()}
print("x at the end, for two starts:")
for name, paths in walks.items():
    print(f"{name:9}", *(f"{path[-1, 0]:5.2f}" for path in paths))

# %% tags=["fold"]
# plot: a panel for each method, with the contours of both losses
x, y = torch.meshgrid(torch.linspace(-2, 2, 80), torch.linspace(-2, 2.4, 80), indexing="xy")
points = torch.stack([x, y], -1)[:, :, None]  # (80, 80, 1, 2)
losses = (0.5 * CURVATURE * (points - MINIMA) ** 2).sum(-1) * torch.tensor([1.0, 20.0])


def pareto_point(share):
    """The minimum of share · loss 1 + (1 - share) · 20 · loss 2."""
    shares = torch.tensor([[share], [20 * (1 - share)]], dtype=torch.float64)
    return (shares * CURVATURE * MINIMA).sum(0) / (shares * CURVATURE).sum(0)


curve = torch.stack(
    [pareto_point(1 - (1 - t) ** 3) for t in torch.linspace(0, 1, 400).tolist()]
)
figure, panels = plt.subplots(2, 3, figsize=(5.2, 3.4), sharey=True, sharex=True)
panels = panels.flatten()
for panel, (name, paths) in zip(panels[:5], walks.items(), strict=True):
    for loss, colour in ((losses[..., 0], "#D1720A"), (losses[..., 1], "#2F8A4A")):
        panel.contour(x, y, loss, levels=(0.5, 2.0), colors=colour, linewidths=0.6)
    panel.plot(*curve.T, color="#BBBBBB", linewidth=3, zorder=0)
    for path in paths:
        panel.plot(*path.T, color=COLOURS["full"], linewidth=1.4)
        panel.plot(*path[0], "s", color=COLOURS["full"], markersize=4)
        panel.plot(*path[-1], "o", color=COLOURS["lora"], markersize=4)
    panel.set(title={"equal": "equal weights"}.get(name, name), xlim=(-2, 2), ylim=(-2, 2.4))
    panel.grid(visible=False)
    panel.plot(*MINIMA.T, "k+", markersize=7)
figure.suptitle("from this start, the methods end at different places of one curve")
panels[0].set(ylabel="y")
panels[3].set(ylabel="y", xlabel="x")
panels[4].set(xlabel="x")
meanings = {
    "contours of loss 1": "#D1720A",
    "contours of loss 2": "#2F8A4A",
    "Pareto-optimal (+: minima)": "#BBBBBB",
    "a walk (square: start)": COLOURS["full"],
    "its end": COLOURS["lora"],
}
for meaning, colour in meanings.items():
    panels[5].plot([], [], color=colour, linewidth=3, label=meaning)
panels[5].axis("off")
panels[5].legend(loc="center")
show(figure, "16_plane")

# %% tags=["fold"]
# check: all walks end on the curve; which ends depend on the scale of loss 2
end = float(walks["equal"][0][-1, 0])
true_option(end < -0.5, end > 0.9, -0.5 <= end <= 0.5)
for name, paths in walks.items():
    ends = torch.stack([path[-1] for path in paths])
    distance = torch.cdist(ends, curve).min(1).values.max()
    assert distance < 0.05, f"{name}: a walk stops only where no step lowers both losses"
moved = {
    name: float((walk(method, STARTS[0], scale=1.0)[-1] - walks[name][0][-1]).norm())
    for name, method in METHODS.items()
}
assert moved.pop("Nash-MTL") < 1e-6, "Nash-MTL must not depend on the scale of a loss"
assert min(moved.values()) > 0.1, "the other methods depend on it"

# %% [markdown]
# All methods end on the curve. The sum and CAGrad end at the same point, near the minimum of the
# steep loss. PCGrad equals the sum where there is no conflict. MGDA and Nash-MTL end elsewhere.
# Of these five, only Nash-MTL does not depend on the scale of a loss. So methods choose a
# compromise.
#
# <div class="widget" data-widget="balancing">
#
# ![The walks of five methods from one start](diagrams/widget_balancing.svg)
#
# *In the book (`python -m tutorials book`) you can drag the start, and change the scale of loss 2.*
#
# </div>
#
# ## 2. Learn the weights of the losses
#
# **Uncertainty weighting** (Kendall et al. 2018, section 3.2) learns one parameter $s_i$ for each
# task together with the model. The cross-entropy $L_i$ of a task enters the total loss as
#
# $$e^{-s_i} L_i + \tfrac{1}{2} s_i.$$
#
# So $e^{-s_i}$ is the weight (the paper writes $\sigma_i^2 = e^{s_i}$). The second term stops
# $s_i$ from growing without limit.
#
# ??? Two losses stay at 2.0 and 0.02. When $s_1$ and $s_2$ no longer change, which task has the
#   larger weight?
# - [x] the one with the loss 0.02, by a factor of 100 || The weight becomes 1 / (2 L).
# - [ ] the one with the loss 2.0 || Set the derivative to zero: $-e^{-s} L + \tfrac12 = 0$.
# - [ ] both have the same weight || The losses are different.

# %%
losses = torch.tensor([2.0, 0.02])
s = torch.zeros(2, requires_grad=True)
optimizer = torch.optim.Adam([s], lr=0.05)
for _ in range(400):
    terms = torch.exp(-s) * losses + 0.5 * s
    optimizer.zero_grad()
    terms.sum().backward()
    optimizer.step()
weights = torch.exp(-s.detach())
print("weights:        ", [round(w, 2) for w in weights.tolist()])
print("weight x loss:  ", [round(w, 2) for w in (weights * losses).tolist()])
print("terms:          ", [round(t, 2) for t in terms.tolist()])

# %% tags=["fold"]
# check: the closed form, and the library
ratio = float(weights[1] / weights[0])
true_option(abs(ratio - 100) < 3, ratio < 0.5, 0.5 <= ratio <= 2)
assert torch.allclose(weights, 1 / (2 * losses), rtol=0.02), (
    "the derivative is zero at 1 / (2 L)"
)
library = Uncertainty(["classification"] * 2)
library.log_vars.data.copy_(s.data)
own_terms = [float(library.term(k, losses[k], 1.0).detach()) for k in range(2)]
assert torch.allclose(torch.tensor(own_terms), terms.detach(), atol=2e-3)
assert terms[1] < -1, "the term of a small loss is negative"

# %% [markdown]
# When $s$ no longer changes, each weighted loss is ½. So a task that is nearly solved gets the
# largest weight. The term of a small loss is negative: no bug. Two other methods (DWA,
# GradNorm) prefer the task that learns slowly ([deep
# dive](deep/16_balancing_and_interference.py), section 1).
#
# ## 3. Does it help?
#
# We train three tasks of the small world together: *sentiment* (100 labels), *topic* (200) and
# *tagging* (40). Runs of one seed have the same start, and the same examples in the same order.
# The score is the mean over the three tasks after 40 steps.
#
# PCGrad needs a backward pass for each task, so its steps take longer. A fair comparison
# includes a run with equal weights and more steps: 60. We also try two other learning rates.
#
# ??? Which change has the largest effect on the mean score, up or down?
# - [ ] PCGrad in place of equal weights || It changes the mean score by less than 0.01.
# - [x] a learning rate of 1e-3 or 1e-2 in place of 3e-3 || Both are worse. So tune it first.
# - [ ] uncertainty weighting in place of equal weights || In 40 steps its weights stay near 1.

# %% tags=["fold"]
# set-up: examples of each seed, a training run, and the scores of a model
COMMON = {"steps": 40, "learning_rate": 3e-3, "task_sampling": "equal", "max_length": 40}
THREE = "sentiment,topic,tagging"
tokenizer = build_model(MultitaskSettings())[1]


def examples_of(**options) -> dict:
    settings = MultitaskSettings(**options)
    return load_rows(settings, tokenizer, settings.max_length)


def trained(examples: dict, **options):
    """(model, log: a dict for each step)"""
    settings = MultitaskSettings(**COMMON | {"threads": 1, "eval_every": 10**6} | options)
    model, log = build_model(settings)[0], []
    train = {task: part.train for task, part in examples.items()}
    MultitaskTrainer(model, tokenizer, settings).train(train, on_row=log.append)
    return model, log


def scores_of(model, examples: dict) -> dict[str, float]:
    held_out = {task: part.held_out for task, part in examples.items()}
    values = model.evaluate_all_tasks(held_out, tokenizer)
    return {task: values[task][spec.metric] for task, spec in model.tasks.items()}


# %%
RUNS = {
    "equal": {},
    "uncertainty": {"loss_weighting": "uncertainty"},
    "PCGrad": {"loss_weighting": "pcgrad"},
    "equal, 60 steps": {"steps": 60},
    "equal, lr 1e-3": {"learning_rate": 1e-3},
    "equal, lr 1e-2": {"learning_rate": 1e-2},
}
mean_scores = {run: [] for run in RUNS}
for seed in (0, 1, 2):
    examples = examples_of(tasks=THREE, eval_rows=100, max_length=40, seed=seed)
    for run, options in RUNS.items():
        model, log = trained(examples, tasks=THREE, seed=seed, **options)
        mean_scores[run].append(sum(scores_of(model, examples).values()) / 3)
        if run == "uncertainty":
            last_weights = [log[-1][f"weight/{task}"] for task in THREE.split(",")]
for run, values in mean_scores.items():
    print(f"{run:16} {sum(values) / 3:.3f}")
print("uncertainty, last weights:", *(f"{weight:.2f}" for weight in last_weights))

# %% tags=["fold"]
# plot: each seed as a dot
figure, panel = plt.subplots(figsize=(7.6, 3.2))
colours = ("equal", "lora", "pcgrad", "equal", "untouched", "untouched")
columns = {run.replace(", ", ",\n"): values for run, values in mean_scores.items()}
dots_by_seed(panel, columns, colours)
panel.set(title="the learning rate matters more than the weights", ylim=(0, 1))
panel.set(ylabel="mean score (line: mean)", xlabel="what is different")
panel.legend(loc="lower left", ncols=3)
show(figure, "16_does_it_help")

# %% tags=["fold"]
# check
gaps = {run: paired_gap(values, mean_scores["equal"]) for run, values in mean_scores.items()}
effect = {run: abs(gap) for run, (gap, _) in gaps.items()}
rates = max(effect["equal, lr 1e-3"], effect["equal, lr 1e-2"])
true_option(
    effect["PCGrad"] > rates, rates == max(effect.values()), effect["uncertainty"] > rates
)
assert effect["PCGrad"] < 0.03 and effect["uncertainty"] < 0.03, "is one clearly different now?"
longer = sum(mean_scores["equal, 60 steps"]) / 3
assert longer > sum(mean_scores["PCGrad"]) / 3, "60 plain steps should be at least as good"

# %% [markdown]
# The gradients do conflict here: most cosines between two tasks are negative (deep dive, section
# 2). Still, PCGrad is less than 0.01 above equal weights with these seeds. And 60 plain steps,
# which take less time, are at least as good. With six more seeds, neither difference is
# larger than two standard errors ([deep dive](deep/16_balancing_and_interference.py), section 4).
# The uncertainty weights (printed for seed 2) have a learning rate of 0.01: 40 steps are too few
# for them.
#
# Kurin et al. (2022) and Xin et al. (2022) found on large benchmarks that plain sums match such methods. A balancing method
# can still be useful if the losses have very different scales and you cannot tune their weights.
#
# Now **break it on purpose:** we make two tasks that must conflict. *Sarcasm* has the texts of
# *sentiment*, the opposite labels, and the same head.
#
# ??? What is the mean accuracy of the two tasks, with equal weights and with PCGrad?
# - [x] 0.5 with both || This is arithmetic: each prediction is correct for exactly one task.
# - [ ] 0.5 with equal weights, more with PCGrad || One function cannot give two answers to one text.
# - [ ] about 0.9 with both || One head gives one answer to one text.

# %% tags=["fold"]
# set-up: the examples of sentiment, and the same examples with the opposite labels
TASKS["sarcasm"] = replace(find_task("sentiment"), name="sarcasm")  # so that settings know it


def opposite(features: list[dict]) -> list[dict]:
    return [feature | {"labels": 1 - feature["labels"]} for feature in features]


def conflicting(seed: int) -> dict:
    options = {"train_rows": "500", "eval_rows": 200, "max_length": 32}
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
SHARED = {"tasks": "sentiment,sarcasm", "share_heads": "sarcasm=sentiment", "steps": 75}
pair = {seed: conflicting(seed) for seed in (0, 1, 2)}


def mean_accuracy(seed: int, **options) -> float:
    model, _ = trained(pair[seed], seed=seed, **SHARED, **options)
    return sum(scores_of(model, pair[seed]).values()) / 2


without_task = {
    weights: mean_accuracy(0, loss_weighting=weights) for weights in ("equal", "pcgrad")
}
print({weights: round(value, 3) for weights, value in without_task.items()})

# %% tags=["fold"]
# check
plain, surgery = without_task["equal"], without_task["pcgrad"]
true_option(abs(plain - 0.5) + abs(surgery - 0.5) < 1e-9, surgery > 0.51, plain > 0.8)
assert abs(plain - 0.5) < 1e-9, "the two accuracies add up to 1 for every model"

# %% [markdown]
# No weights can solve this: the model does not know which task is asked. So tell it. A **task
# embedding** is a learned vector of a task. It is added to the embedding of each token:
#
# ![One text goes in twice, with the vector of each task, and gets two answers](diagrams/16_task_embedding.svg)
#
# ??? The hidden size is 64, so this adds 64 parameters for each task. What is the mean accuracy now,
#   with equal weights and 75 steps?
# - [ ] still 0.5 || Now the function can give two answers to one text.
# - [x] more than 0.8 || The vector reaches all layers, and they learn what to do with it.
# - [ ] 0.7 or less || One vector in the input is enough for all layers to see the task.

# %%
informed = [mean_accuracy(seed, use_task_embeddings=True) for seed in pair]
print("with task embeddings:", *(f"{value:.2f}" for value in informed))

# %% tags=["fold"]
# check
informed_mean = sum(informed) / 3
true_option(max(informed) < 0.55, min(informed) > 0.8, 0.55 <= informed_mean <= 0.7)
assert min(informed) > 0.8, "with the task known, one head should answer both"

# %% [markdown]
# The reason for the conflict was missing information. So before you choose a balancing method,
# ask: could one function answer both tasks? If not, tell the model which task it has: with a
# task embedding, a head or an adapter for each task.
#
# ## The same in TorchJD
#
# TorchJD computes the gradients of all losses, and combines them with an *aggregator*:
#
# ```python
# from torchjd.aggregation import PCGrad
# from torchjd.autojac import jac_to_grad, mtl_backward
#
# mtl_backward([loss_1, loss_2], features=hidden_states)
# jac_to_grad(backbone.parameters(), PCGrad())  # the heads already have their gradients
# optimizer.step()
# optimizer.zero_grad()
# ```
#
# Only this comparison needs TorchJD. So we ran it in an environment of its own
# (`tests/golden/make_torchjd.py`) and stored its results. Here we compare them with ours:

# %% tags=["fold"]
# the same in TorchJD: its stored updates for given gradients (version 0.18.0)
golden = json.loads((ROOT / "tests/golden/torchjd.json").read_text())["cases"]
ours = {"equal": equal, "pcgrad": pcgrad, "mgda": mgda, "cagrad": cagrad, "nash_mtl": nash_mtl}
factors = {}
for name, method in ours.items():
    for case in golden.values():
        if name not in case["updates"]:
            continue  # PCGrad with more than two tasks: its order is random
        gradients = torch.tensor(case["J"], dtype=torch.float64)
        library_update = torch.tensor(case["updates"][name], dtype=torch.float64)
        update = gradients.T @ method(gradients @ gradients.T)
        factors[name, len(gradients)] = float(update.norm() / library_update.norm())
        difference = update / update.norm() - library_update / library_update.norm()
        assert difference.norm() < 1e-4, "TorchJD solves CAGrad numerically, to about 1e-5"
for (name, tasks_count), factor in factors.items():
    expected = (
        tasks_count**0.5 if name == "nash_mtl" else 1
    )  # it limits the length of the update
    assert abs(factor - expected) < 1e-3, (name, tasks_count, factor)
print("TorchJD and ours: the same directions (2 to 4 tasks; PCGrad: 2 tasks)")

# %% [markdown]
# One difference: TorchJD limits the length of Nash-MTL's update to 1, ours has the length √K.
#
# ## Find the bug
#
# A reader adds uncertainty weighting. Training works, but all weights stay at 1.
#
# ```python
# model = build_model()
# log_vars = torch.nn.Parameter(torch.zeros(3))
# optimizer = torch.optim.AdamW(model.parameters())
# total = sum(torch.exp(-log_vars[k]) * loss + 0.5 * log_vars[k] for k, loss in enumerate(losses))
# ```
#
# ??? What is wrong?
# - [x] The optimizer does not have `log_vars`. || Add them as a parameter group, without weight decay.
# - [ ] The factor 0.5 must be 1. || The weights would still stay at 1. If they were trained, all would double.
# - [ ] `log_vars` must start at 1. || They can start anywhere, if they are trained.

# %% tags=["fold"]
# check: who updates log_vars?
small_model, log_vars = torch.nn.Linear(2, 2), torch.nn.Parameter(torch.zeros(3))
optimizer = torch.optim.AdamW(small_model.parameters())
updated = {id(p) for group in optimizer.param_groups for p in group["params"]}
true_option(id(log_vars) not in updated, False, False)

# %% [markdown]
# ## Quiz
#
# ??? When do two tasks conflict?
# - [ ] when one has a larger loss || The size of a loss says nothing about the angle between gradients.
# - [x] when the inner product of their gradients is negative || Then a small step for one raises the
#   other's loss.
# - [ ] when they have different labels || Tasks with different labels can agree.
#
# ??? Two gradients do not conflict. What does PCGrad do?
# - [x] It adds them, as equal weights do. || Nothing is projected.
# - [ ] It makes them orthogonal. || Only a part against the other task is removed.
# - [ ] It takes the shorter one. || That is closer to MGDA.
#
# ??? A loss is measured in cents in place of dollars, so it becomes 100 times larger. Which method's
#   update keeps its direction?
# - [ ] equal weights || The sum follows the larger loss.
# - [x] Nash-MTL || It depends only on the directions of the gradients.
# - [ ] PCGrad || After the projection, the longer gradient still has more influence on the sum.
#
# ??? A paper reports that a method with K backward passes per step is better than equal weights after
#   the same number of steps. What is missing?
# - [ ] more tasks || This does not make the comparison fair.
# - [x] equal weights with as much time, and a tuned learning rate || Here this baseline was at least as
#   good.
# - [ ] a larger model || Also interesting, but the baseline comes first.
#
# ??? Two tasks with one head stay at chance level together, and their cosine is near -1. What do you
#   try first?
# - [x] tell the model which task is asked || With a task embedding or a head for each task.
# - [ ] PCGrad || No weights let one function give two answers.
# - [ ] a smaller learning rate || The conflict does not depend on the step size.

# %% tags=["fold"]
# check of the third answer
scaled = torch.tensor([[1.0], [100.0]], dtype=torch.float64) * J
same_direction = {}
for name, method in METHODS.items():
    before, after = J.T @ method(J @ J.T), scaled.T @ method(scaled @ scaled.T)
    same_direction[name] = bool(torch.allclose(before / before.norm(), after / after.norm()))
assert same_direction["Nash-MTL"] and not (same_direction["equal"] or same_direction["PCGrad"])

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | all uncertainty weights stay at 1 | the optimizer does not have `log_vars` | find the bug |
# | the total loss is below 0 | uncertainty weighting with small losses | section 2: not a bug |
# | two tasks stay at chance level together | one function cannot answer both | section 3 |
# | PCGrad is "better" | its baseline had less time | section 3: 60 plain steps |
# | cosines are negative late in training | this is normal near convergence | deep dive, section 3 |
#
# ## Exercises
#
# Write in [exercises/16_balancing.py](exercises/16_balancing.py),
# then run `python -m tutorials check 16`.
#
# 1. ★ `dwa_weights`: the weights of DWA from the losses of two periods (deep dive, section 1).
#    <details><summary>Hint</summary>Divide the losses, then take the softmax; K is the number of
#    losses.</details>
# 2. ★★ `mgda_of_two`: the shortest weighted average of two gradients, from G alone.
#    <details><summary>Hint</summary>Its squared length is a parabola in w. Then limit w to 0 and
#    1.</details>
# 3. ★★ `affinity_to_first_order`: how much a small step for one task lowers the loss of another one,
#    from G and the losses (deep dive, section 2).
#    <details><summary>Hint</summary>A small step $-\eta g_i$ changes $L_j$ by $-\eta g_i \cdot g_j$.
#    By which loss do you divide?</details>
#
# **Change and measure:** in section 3, add a run with `loss_weighting="nash_mtl"`. Is it better
# than equal weights with all seeds?
#
# ## Summary
#
# 1. All methods here are weights on gradients. They choose a compromise; they do not remove the conflict.
# 2. Uncertainty weighting gives the largest weight to the task with the smallest loss.
# 3. Here the learning rate mattered more than the methods that we trained. Two tasks that one function cannot
#    answer need information about the task.
#
# **Next:** [lesson 17](17_distill_logits.py), a small model learns from a large one.
#
# More: [deep dive](deep/16_balancing_and_interference.py) · [zero-shot
# classification](topics/zero_shot_through_nli.py) · [how to compare two
# runs](topics/compare_two_runs.py) · [glossary](GLOSSARY.md)
#
# ## On the real thing
#
# These commands need a network, and a GPU helps. We did not run them:
#
# ```bash
# python -m multitask --tasks sst2,mrpc,rte --model roberta-base --loss_weighting pcgrad \
#     --out runs/pcgrad
# python -m multitask --tasks sst2,mrpc,rte --model roberta-base --analyze_interference
# python -m training --task rte --model roberta-base --method full   # one of them alone
# ```
