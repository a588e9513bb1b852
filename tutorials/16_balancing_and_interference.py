# %% [markdown]
# # 16 · Tasks do fight, what ends a fight is information, and equal weights are hard to beat at equal cost
#
# | | |
# |:--|:--|
# | **Needs** | lessons [04](04_lora_against_full.py) and [15](15_multitask_heads_and_sampling.py); gradients as vectors |
# | **Read and do** | 75 minutes |
# | **Runs in** | about 75 s on one CPU thread |
# | **Memory** | 2 GB |
#
# One model learns several tasks, so several losses pull at the same weights. What if they pull in opposite directions? There are
# many methods that **balance** tasks: some weigh the *losses*, some mix the *gradients*. A task that becomes better beside others
# shows **positive transfer**, and one that becomes worse shows **negative transfer**. You will build the best-known ones, see
# them on a plane, measure whether our tasks fight at all, make two tasks that must fight, and find what ends the fight. Then you
# will ask whether balancing pays, with pairs of runs and a rule that was fixed before.
#
# | symbol | code | meaning | shape |
# |:--|:--|:--|:--|
# | K, n | | tasks, and numbers in the weights that they **share** | |
# | $L_i$, $g_i$ | `losses`, a row of `J` | loss of task $i$, and its gradient in the shared weights | 1, n |
# | $G = J J^\top$ | `G` | all products $g_i \cdot g_j$: the **Gram matrix** | K × K |
# | $w$, $d = J^\top w$ | `w`, `d` | weights of the gradients, and the update's direction | K, n |
# | $s_i$ | `log_vars` | uncertainty's learnt number for task $i$, $\log \sigma_i^2$ | 1 |
#
# Two tasks **conflict** where $g_i \cdot g_j < 0$: a small step for one raises the loss of the other.

# %%
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path.cwd() if Path("loralib").is_dir() else Path.cwd().parent
sys.path.insert(0, str(ROOT))  # so that our folders are found, from the project's root and from tutorials/

import datasets
import torch
import transformers
from matplotlib import pyplot as plt

from multitask.balancing.gradients import cagrad, equal, mgda, nash_mtl, pcgrad
from training.reports.paired import clearly_better, paired_gap
from training.reports.records import COLOURS, use_style
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
datasets.disable_progress_bars()
use_style()

# %% [markdown]
# ## 1. Two losses on a plane
#
# **PCGrad** (Yu et al. 2020): where $g_i$ conflicts with $g_j$, take out of $g_i$ its part along $g_j$. Then add up. The cell
# prints four others beside it: `equal` is the sum; **MGDA** takes the shortest mix, with weights of at least 0 that sum to 1;
# **CAGrad** the update near the mean that helps the worst task most; **Nash-MTL** solves $G w = 1 / w$.
#
# **Predict:** $g_1 = (-4, 1, 1)$ and $g_2 = (6, 1, 1)$. The sum is $(2, 2, 2)$. Is the first number of PCGrad's update larger or
# smaller than 2?

# %%
J = torch.tensor([[-4.0, 1, 1], [6, 1, 1]], dtype=torch.float64)


def pcgrad_by_hand(J):
    """In the order of the tasks; with two of them the order does not matter."""
    projected = J.clone()
    for i in range(len(J)):
        for j in range(len(J)):
            product = projected[i] @ J[j]
            if i != j and product < 0:
                projected[i] -= product / (J[j] @ J[j]) * J[j]
    return projected.sum(0)


G = J @ J.T
print(f"G = {G.tolist()}, cosine {G[0, 1] / (G[0, 0] * G[1, 1]).sqrt():.3f}")
for method in (equal, pcgrad, mgda, cagrad, nash_mtl):
    w = method(G)
    print(f"{method.__name__:9} w = {[round(x, 3) for x in w.tolist()]!s:16} d = {[round(x, 3) for x in (J.T @ w).tolist()]}")
by_hand = pcgrad_by_hand(J)
assert torch.allclose(J.T @ pcgrad(G), by_hand), "project on the *given* g_j, not on the projected one"
# g_1 + 22/38 g_2 = (-0.526, 1.579, 1.579), g_2 + 22/18 g_1 = (1.111, 2.222, 2.222); their sum:
wanted = torch.tensor([0.5848, 3.8012, 3.8012], dtype=torch.float64)
assert torch.allclose(by_hand, wanted, atol=1e-4), "each g_i loses its part along the other one, then add up"

# %% [markdown]
# Look at what the library got: not J, but **G**. A projected gradient is still a mix of the given ones, so its weights follow
# from the products alone. The same holds for all of them. So a model with $10^8$ shared numbers costs K backward passes and a
# little algebra on a K × K matrix.
#
# Now walk. Loss 1 is a bowl around (-1, 0). Loss 2 is **20 times as steep**, around (1, 1), and narrow in the other direction.
# Where neither can fall without the other rising, the point is **Pareto-optimal**: here a curve between the two minima. Every
# step has the same length for all methods (and shrinks to 0), so that only the *direction* differs.
#
# **Predict:** where on the curve does the sum end: near (-1, 0), in the middle, or near (1, 1)? Do other methods end elsewhere?

# %%
A = torch.tensor([[1.0, 4.0], [4.0, 1.0]], dtype=torch.float64)  # curvature of each bowl in x and y
CENTRES = torch.tensor([[-1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
nash_of_two = lambda G: 1 / (G.diagonal().sqrt() * (1 + G[0, 1] / (G[0, 0] * G[1, 1]).sqrt()).clamp(min=1e-12).sqrt())  # noqa: E731
assert torch.allclose(nash_of_two(G), nash_mtl(G)), "for two tasks w_i = 1 / (|g_i| √(1 + cos)), without Newton"
METHODS = {"equal": equal, "cagrad": lambda G: cagrad(G, steps=20), "pcgrad": pcgrad, "mgda": mgda, "nash_mtl": nash_of_two}
STARTS = [(-1.5, 2.0), (0.2, 2.2), (1.2, -1.2)]


def walk(method, start, scale=20.0, steps=100) -> torch.Tensor:
    """The places (steps + 1, 2) of a walk; scale: how much steeper loss 2 is."""
    at = torch.tensor(start, dtype=torch.float64)
    path, steep = [at], torch.tensor([[1.0], [scale]], dtype=torch.float64)
    for step in range(steps):
        J = steep * A * (at - CENTRES)  # the gradients of ½ Σ a (x - c)²
        d = J.T @ method(J @ J.T)
        at = at - 0.08 * (1 - step / steps) * d / d.norm().clamp(min=1e-9)
        path.append(at)
    return torch.stack(path)


def pareto(share):
    """Where share · loss 1 + (1 - share) · loss 2 is least."""
    shares = torch.tensor([[share], [20 * (1 - share)]], dtype=torch.float64)
    return (shares * A * CENTRES).sum(0) / (shares * A).sum(0)


# %%
paths = {name: [walk(method, start) for start in STARTS] for name, method in METHODS.items()}
front = torch.stack([pareto(1 - (1 - t) ** 3) for t in torch.linspace(0, 1, 400).tolist()])
least = pareto(0.5)
for name, found in paths.items():
    ends = torch.stack([path[-1] for path in found])
    off = torch.cdist(ends, front).min(1).values.max()
    print(f"{name:9} ends at x = {[round(x, 2) for x in ends[:, 0].tolist()]}, at most {off:.3f} off the curve")
    assert off < 0.05, "every method stops only where no step helps both"
    if name in ("equal", "cagrad"):
        assert (ends - least).norm(dim=1).max() < 0.05, "the sum has one minimum, and CAGrad (c < 1) goes there too"
steeper = [walk(method, STARTS[0], scale=2000.0)[-1] - paths[name][0][-1] for name, method in METHODS.items()]
moved = dict(zip(METHODS, (float(change.norm()) for change in steeper), strict=True))
print("loss 2 times 100 moves the end by", {name: round(far, 3) for name, far in moved.items()})
assert moved["nash_mtl"] < 1e-6 < moved["equal"], "Nash-MTL does not see the scale of a loss, the sum does"

# %%
figure, axes = plt.subplots(figsize=(6.2, 3.6), dpi=90)
axes.plot(*front.T, color="#BBBBBB", linewidth=6, label="Pareto-optimal", zorder=0)
for name, found in paths.items():
    for path in found:
        width = 3 if name == "equal" else 1.4  # wide, as pcgrad often walks on it
        axes.plot(*path.T, color=COLOURS[name], linewidth=width, label=name if path is found[0] else None)
        axes.plot(*path[-1], "o", color=COLOURS[name], markersize=5)
for number, centre in enumerate(CENTRES, 1):
    axes.annotate(f"minimum {number}", centre, (-12, 12 if number == 1 else 16), textcoords="offset points", fontsize=8)
axes.set(title="the method chooses the compromise, and often the start does too", xlabel="x", ylabel="y")
axes.set_ylim(-2.0, 2.4)
axes.legend(loc="lower left", fontsize=8)
show(figure, "balancing_plane")

# %% [markdown]
# The sum goes to the steep loss, near (1, 1), from every start, and nearer still when loss 2 is 100 times larger. MGDA and
# Nash-MTL end elsewhere, and each start has its own end; they do not see the size of a loss. PCGrad *is* the sum where the
# gradients do not conflict; it sees the size, and its end depends on the start.
#
# No end is *the* right one: all are Pareto-optimal. A balancing method chooses **which compromise** you get, not whether there is
# one. Two tasks with the same minimum need no compromise at all.
#
# ## 2. Learning the weights of the losses
#
# **Uncertainty weighting** (Kendall et al. 2018) learns one number $s_i$ for each task beside the model:
# $e^{-s} L + \tfrac12 s$ for a cross-entropy, $\tfrac12 e^{-s} L + \tfrac12 s$ for a squared error. For a fixed $L$ set the
# derivative to 0: $s^* = \log 2L$, or $\log L$.
#
# **Predict:** the losses 2.0 and 0.02 settle. How many times more does the small one count? Can its term be negative?

# %%
from multitask.balancing.balancing import DynamicWeightAverage, GradNorm, Uncertainty

KINDS, L = ["classification", "classification", "regression"], [2.0, 0.02, 0.5]
balancing = Uncertainty(KINDS)
optimizer = torch.optim.Adam(balancing.parameters(), lr=0.05)
for _ in range(400):
    total = sum(balancing.term(k, torch.tensor(loss), 1.0) for k, loss in enumerate(L))  # 1.0: all rows of the task
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
for k, (kind, loss) in enumerate(zip(KINDS, L, strict=True)):
    s, settled = balancing.log_vars[k].item(), torch.tensor(2 * loss if kind == "classification" else loss).log()
    print(f"{kind:14} L {loss:4}: s {s:6.3f}, weight {balancing.weight(k):6.2f} = 1 / (2 L)")
    assert abs(s - settled) < 0.01, "s settles at log 2L (cross-entropy) or log L (squared error)"
    assert abs(balancing.weight(k) * 2 * loss - 1) < 0.02, "in both cases the weight is 1 / (2 L)"
small = float(balancing.term(1, torch.tensor(L[1]), 1.0).detach())
print(f"the term of the small loss: {small:.3f}")
assert small < -1, "½ + ½ log 2L is negative for a small loss: no bug, but a strange thing to plot"

# %% [markdown]
# So at rest every weighted loss is ½, whatever the task: a task that is **nearly solved counts most**. That is a strong opinion.
#
# Much code, also the one that this course grew from, has $e^{-s} L + s$. Is the missing ½ a bug? There $s^* = \log L$ and the
# weight is $1/L$: twice ours, for *every* task (the cell checks it). One common factor acts as a learning rate does, so adding
# the ½ would not change how tasks count against each other. The real defects there are others:
#
# * `AdamW(model.parameters())`: the `log_vars` live outside the model, so **no optimizer moves them**;
# * weight decay would pull them to 0, that is, all weights to 1 (or ½): they need a group without it;
# * each step had *one* task. Then only that task's $+ s$ may be added: the others' would be pushed down for nothing.

# %%
fixed, s = torch.tensor(L, dtype=torch.float64), torch.zeros(3, dtype=torch.float64, requires_grad=True)
for _ in range(3000):
    (slope,) = torch.autograd.grad((torch.exp(-s) * fixed + s).sum(), s)
    s = (s - 0.05 * slope).detach().requires_grad_()
ours = torch.tensor([balancing.weight(k) for k in range(3)], dtype=torch.float64)
print("weights there / weights here:", [round(x, 2) for x in (torch.exp(-s.detach()) / ours).tolist()])
assert torch.allclose(torch.exp(-s.detach()) / ours, torch.tensor(2.0).double(), atol=0.05), "one factor for all tasks"
halves = sum(float(balancing.term(0, torch.tensor(1.0), 0.5).detach()) for _ in range(2))
assert abs(halves - float(balancing.term(0, torch.tensor(2.0), 1.0).detach())) < 1e-6, "a task's s is added once in a step"
model, left_out = torch.nn.Linear(2, 2), Uncertainty(KINDS)
moves = {id(p) for group in torch.optim.AdamW(model.parameters()).param_groups for p in group["params"]}
assert id(left_out.log_vars) not in moves, "the defect: nobody moves these, so every weight stays at its start"

# %% [markdown]
# Two methods that compute weights instead of learning them:
#
# * **DWA** (Liu et al. 2019): $w = K\,\mathrm{softmax}(r / T)$, $r_i$ = this period's loss over the last period's. Slow
#   tasks count more.
# * **GradNorm** (Chen et al. 2018): bring every $w_i \lVert g_i \rVert$ towards their mean times (relative loss)$^\alpha$: the
#   part of its first loss that a task still has, over the mean of these parts ($\alpha = 1.5$). Ours moves $w$ by the *sign* of
#   the difference, so that the unit of a loss does not matter. Then the weights get the sum K.
#
# **Predict:** task A's loss halves, task B's stands still. Which weight grows in DWA? And in GradNorm, at equal gradient norms?

# %%
two = ["classification"] * 2
dwa = DynamicWeightAverage(two, period=1)
for losses in ({0: 1.0, 1: 1.0}, {0: 0.5, 1: 1.0}):
    dwa.after(losses)
r = torch.tensor([0.5, 1.0], dtype=torch.float64)
print("DWA      w =", [round(w, 3) for w in dwa.weights.tolist()])
assert torch.allclose(dwa.weights, 2 * (r / 2.0).softmax(0)), "K softmax(r / T) with T = 2"

gradnorm, norms = GradNorm(two), torch.tensor([3.0, 3.0], dtype=torch.float64)
G = torch.diag(norms**2)
gradnorm.solve(G, G, [0, 1], {0: 1.0, 1: 1.0}, step=1)  # the first losses; equal norms, so no weight moves
relative = r / r.mean()
target = norms.mean() * relative**1.5
# 0.025 is our rate of the weights; the last factor is the slope of |w g| in w, over the mean
w = 1 - 0.025 * torch.sign(norms - target) * norms / norms.mean()
gradnorm.solve(G, G, [0, 1], {0: 0.5, 1: 1.0}, step=2)
print("GradNorm w =", [round(w, 3) for w in gradnorm.weights.tolist()])
assert torch.allclose(gradnorm.weights, 2 * w / w.sum()), "towards the target, then scaled to sum K"
assert dwa.weights[1] > 1 and gradnorm.weights[1] > 1, "both give more to the task that lags behind"

# %% [markdown]
# Note the opposite opinions: uncertainty weighting prefers the solved task, DWA and GradNorm the one that lags.
#
# ## 3. Do the tasks of the small world fight?
#
# Three tasks, one encoder: the *sentiment* of a passage (100 labels), its *topic* (200), and *tagging* of people and places (40
# sentences). Texts are cut at 40 tokens, to be quick. `--analyze_interference` measures at each evaluation, on 32 rows of every
# task: the **cosines** of the gradients, and the **affinity** $Z_{ij} = 1 - L_j(\theta - \eta g_i) / L_j(\theta)$: by how much
# a real small step for $i$ lowers $j$'s loss. The seed draws training rows, heads and batches.
#
# **Predict:** are the cosines between tasks nearer to 1, to 0, or to -1?

# %%
from multitask.runs.interference import mean_matrices
from multitask.runs.run import build_model, load_rows
from multitask.runs.settings import MultitaskSettings
from multitask.runs.trainer import MultitaskTrainer

SEEDS, STEPS = (0, 1, 2), 40
COMMON = {"steps": STEPS, "learning_rate": 3e-3, "task_sampling": "equal", "threads": 1, "max_length": 40}
THREE = "sentiment,topic,tagging"


def rows_of(**options) -> dict:
    """Encoded rows of the tasks; the small encoder's tokenizer is the same for all."""
    settings = MultitaskSettings(**options)
    return load_rows(settings, build_model(settings)[1], settings.max_length)


def trained(rows: dict, **options):
    """(model, what each step told) of a run on these rows."""
    settings, told = MultitaskSettings(**COMMON | options), []
    model, tokenizer, _ = build_model(settings)
    MultitaskTrainer(model, tokenizer, settings).train({n: part.train for n, part in rows.items()}, on_row=told.append)
    return model, told


# %%
tokenizer = build_model(MultitaskSettings())[1]
rows = {seed: rows_of(tasks=THREE, eval_rows=150, max_length=40, seed=seed) for seed in SEEDS}
options = {"tasks": THREE, "analyze_interference": True, "eval_every": 20}
runs = {("equal", seed): trained(rows[seed], seed=seed, **options) for seed in SEEDS}
names = THREE.split(",")
each = [mean_matrices(runs["equal", seed][1], names) for seed in SEEDS]
angles, affinity = (torch.stack(found).mean(0) for found in zip(*each, strict=True))
told = [row for seed in SEEDS for row in runs["equal", seed][1] if "affinity/topic>topic" in row]
every = torch.tensor([value for row in told for key, value in row.items() if key.startswith("cosine/")])
print(f"{len(every)} cosines: {every.min():.2f} to {every.max():.2f}, mean {every.mean():.2f}, {(every < 0).sum()} below 0")
for name, seen in {key: [round(row[key], 2) for row in told] for key in told[0] if key.startswith("cosine/")}.items():
    print(f"{name:26} {seen}")
assert -0.6 < every.mean() < 0, "on average the gradients conflict, but far from -1"
assert (every < 0).sum() > len(every) / 2, "most pairs conflict"

# %%
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.2))
shown = [("the gradients conflict a little: cosines", angles, 1.0)]
shown += [("a step for the row's task:\nthe column's loss falls by ... %", 100 * affinity, 0)]
for panel, (title, matrix, limit) in zip(panels, shown, strict=True):
    limit = limit or float(matrix.abs().max())
    panel.imshow(matrix, cmap="RdBu", vmin=-limit, vmax=limit)
    panel.set_title(title, fontsize=9)
    panel.set_xticks(range(3), names)
    panel.set_yticks(range(3), names)
    panel.grid(visible=False)
    for i, j in [(i, j) for i in range(3) for j in range(3)]:
        dark = abs(float(matrix[i, j])) > 0.6 * limit
        panel.text(j, i, f"{matrix[i, j]:.2f}", ha="center", va="center", color="white" if dark else "black")
show(figure, "balancing_heat")
own = affinity.diagonal().min()
assert own > 0 and own > (affinity - affinity.diagonal().diag()).abs().max(), "a step helps its own task most"

# %% [markdown]
# So they do conflict: most cosines are below 0. Yet look at the affinities: a step for one
# task lowers its own loss by about a percent, and raises another's by less. Is a negative cosine a sign that tasks do not fit?
# Not by itself. Training goes to a place where the sum of the gradients is **zero**. There $\sum_i g_i = 0$, so the gradients
# *must* point against each other: $\sum_{i \ne j} g_i \cdot g_j = -\sum_i \lVert g_i \rVert^2$. Near the end of any training,
# conflict is what being finished looks like.
#
# **Predict:** $\lVert \sum_i g_i \rVert^2 / \sum_i \lVert g_i \rVert^2$ is 3 for three equal gradients, 1 for orthogonal ones,
# and 0 at the minimum. What is it after training?

# %%
from multitask.balancing.balancing import make_balancing
from multitask.runs.interference import Interference, task_gram
from multitask.runs.steps import Learner


def together(model, rows: dict) -> float:
    """How much of the tasks' gradients is left in their sum, on the 32 rows of each that are measured."""
    learner = Learner(model.eval(), make_balancing("equal", [spec.kind for spec in model.tasks.values()]))
    measured = Interference(learner, {n: part.train for n, part in rows.items()}, tokenizer, seed=0)
    G = task_gram(learner, measured.batch)
    return float(G.sum() / G.diagonal().sum())


left = [together(runs["equal", seed][0], rows[seed]) for seed in SEEDS]
print("left in the sum, by seed:", [round(x, 2) for x in left])
assert max(left) < 1, "less than orthogonal gradients would leave: they cancel"

# %% [markdown]
# ## 4. Two tasks that must fight
#
# We make a conflict: **sarcasm** has the texts of *sentiment*, the opposite labels, and the **same head**. (Texts are cut at 32
# tokens here, to be quick: about half of each passage.)
#
# **Predict:** one head, the same texts, opposite labels: is the cosine of the two gradients near 1, 0 or -1? And what is the mean
# accuracy of the two tasks after training with equal weights? With PCGrad?

# %%
from training.evaluation.evaluation import HeldOut
from training.data.tasks import TASKS, find_task

TASKS["sarcasm"] = replace(find_task("sentiment"), name="sarcasm")  # so that the settings know it


def flipped(features: list[dict]) -> list[dict]:
    return [row | {"labels": 1 - row["labels"]} for row in features]


def fighting(seed: int) -> dict:
    """Rows of sentiment, and the same rows with the other label."""
    [part] = rows_of(tasks="sentiment", train_rows="500", eval_rows=300, max_length=32, seed=seed).values()
    held = part.held_out
    columns = held.rows.remove_columns("label").add_column("label", [1 - y for y in held.rows["label"]])
    other = HeldOut(TASKS["sarcasm"], columns, replace(held.encoded, features=flipped(held.encoded.features)))
    return {"sentiment": part, "sarcasm": replace(part, train=flipped(part.train), held_out=other)}


def scores(model, rows: dict) -> dict[str, float]:
    found = model.evaluate_all_tasks({n: part.held_out for n, part in rows.items()}, tokenizer)
    return {n: found[n][model.tasks[n].metric] for n in found}


# %%
pair = {seed: fighting(seed) for seed in SEEDS}
FIGHT = {"tasks": "sentiment,sarcasm", "share_heads": "sarcasm=sentiment", "analyze_interference": True, "eval_every": 15}
cosine = lambda told: [(r["step"], r["cosine/sentiment~sarcasm"]) for r in told if "cosine/sentiment~sarcasm" in r]  # noqa: E731
short = lambda found: {n: round(score, 3) for n, score in found.items()}  # noqa: E731
curves = {}
for method in ("equal", "pcgrad"):
    model, told = trained(pair[0], loss_weighting=method, **FIGHT | {"steps": 30})
    found, curves[method] = scores(model, pair[0]), cosine(told)
    print(f"{method:9} {short(found)}, cosines {[round(c, 2) for _, c in curves[method]]}")
    assert abs(sum(found.values()) - 1) < 1e-9, "one function, opposite labels: what one gains the other loses"
    assert min(c for _, c in curves[method]) < -0.5, "the gradients point against each other"

# %% [markdown]
# The two accuracies sum to 1 **exactly**, whatever the method and the seed: both tasks ask one function about one text, so a row
# that is right for one is wrong for the other. No weight of losses, and no surgery on gradients, can give two answers to one
# question. Now **tell the model which task is asked**: `--use_task_embeddings` adds a vector $t_k$ to every token of the
# input. Head and encoder stay shared. $t_k$ starts at 0.
#
# **Predict:** do 64 numbers for each task change anything? What mean accuracy after 75 steps, with plain equal weights?

# %%
reached = {}
for seed in SEEDS:
    model, told = trained(pair[seed], seed=seed, use_task_embeddings=True, **FIGHT | {"steps": 75})
    reached[seed], curves[seed] = scores(model, pair[seed]), cosine(told)
    print(f"seed {seed}: {short(reached[seed])}, cosines {[round(c, 2) for _, c in curves[seed]]}")
means = [sum(reached[seed].values()) / 2 for seed in SEEDS]
assert min(means) > 0.7 and clearly_better(means, [0.5] * 3), "told which task, one head answers both"
assert all(curves[seed][-1][1] > -0.3 for seed in SEEDS), "and the conflict is gone"

# %%
figure, axes = plt.subplots(figsize=(6.4, 3.0))
for name, colour in [("equal", "broken"), (0, "equal"), (1, "equal"), (2, "equal")]:
    label = {"equal": "not told (seed 0)", 0: "told the task (3 seeds)"}.get(name)
    axes.plot(*zip(*curves[name], strict=True), marker="o", color=COLOURS[colour], label=label)
axes.axhline(0, color=COLOURS["untouched"], linewidth=1)
axes.set(title="told which task is asked, the two tasks stop fighting", xlabel="step", ylabel="cosine", ylim=(-1.05, 1.05))
axes.legend(loc="lower right")
show(figure, "balancing_told")

# %% [markdown]
# The conflict was **missing information**. It takes a while: at $t_k = 0$ the two gradients cancel, and the model first has to
# leave that saddle. Then 64 numbers a task do what no weighting could. So before you reach for a balancing method, ask: *could
# one function answer both tasks?* If not, give it the task (an embedding, a head, an adapter of its own).
#
# ## 5. Does balancing pay?
#
# The same three tasks as in section 3, the same rows, heads and batches for each seed; only the balancing differs. The learning
# rate is the same for all, and it was not tuned for any of them. (DWA is left out: its period is 50 steps, so in a run of 40 its
# weights stay 1.) The rule is that of lesson 04: a difference counts if its mean is more than two standard errors from zero. With
# three seeds, chance alone says "counts" about once in five, in one direction or the other: a t-distribution with two degrees of
# freedom has 18 % outside ± 2.
#
# A fair rival is missing: PCGrad and GradNorm need K backward passes a step. So `equal, longer` takes 60 steps instead of 40.
#
# **Predict:** of the three methods, how many are clearly better than equal weights in the mean score? By how much?

# %%
WAYS = {way: {"loss_weighting": way} for way in ("equal", "uncertainty", "gradnorm", "pcgrad")}
WAYS["equal, longer"] = {"steps": 60, "eval_every": 60}
for way in list(WAYS)[1:]:
    runs |= {
        (way, seed): trained(rows[seed], **{"seed": seed, "tasks": THREE, "eval_every": STEPS} | WAYS[way]) for seed in SEEDS
    }
table = {key: scores(model, rows[key[1]]) for key, (model, _) in runs.items()}
mean = {way: [sum(table[way, seed].values()) / 3 for seed in SEEDS] for way in WAYS}
print(f"{'':13} {'mean by seed':24} {'sentiment':>10} {'topic':>10} {'tagging':>10}")
for way in WAYS:
    tasks = [sum(table[way, seed][name] for seed in SEEDS) / 3 for name in names]
    print(f"{way:13} {[round(m, 3) for m in mean[way]]!s:24} " + " ".join(f"{t:10.3f}" for t in tasks))

# %%
gaps = {}
for way in list(WAYS)[1:]:
    gaps[way], error = paired_gap(mean[way], mean["equal"])
    better, worse = clearly_better(mean[way], mean["equal"]), clearly_better(mean["equal"], mean[way])
    verdict = "counts: better" if better else "counts: worse" if worse else "no clear difference"
    weights = [round(runs[way, 0][1][-1][f"weight/{name}"], 2) for name in names]
    print(f"{way:13} {gaps[way]:+.3f} ± {error:.3f}, {verdict}; weights in the last step of seed 0: {weights}")
    assert -0.08 < gaps[way] < 0.05, "no method changes the picture by more than a few points"
gap, error = paired_gap(mean["equal, longer"], mean["pcgrad"])
seconds = {way: sum(row["seconds"] for seed in SEEDS for row in runs[way, seed][1]) / 3 for way in ("pcgrad", "equal, longer")}
took = {way: round(value, 1) for way, value in seconds.items()}
print(f"equal, longer against pcgrad: {gap:+.3f} ± {error:.3f}; seconds of training in our run: {took}")
assert gaps["pcgrad"] > 0 and gaps["equal, longer"] > 0.005, "PCGrad is a little higher than equal weights, and so are more steps"
assert gap > -0.01, "more plain steps are worth as much as surgery"

# %%
figure, axes = plt.subplots(figsize=(6.4, 2.8))
for place, way in enumerate(gaps):
    points = [100 * (a - b) for a, b in zip(mean[way], mean["equal"], strict=True)]
    axes.plot(points, [place] * 3, "o", color=COLOURS["lora"], alpha=0.7)
    axes.plot([100 * gaps[way]], [place], "|", color="black", markersize=18)
axes.axvline(0, color=COLOURS["ceiling"], linestyle="--")
axes.set(
    title="PCGrad gains a little; some more plain steps gain as much",
    xlabel="gain on equal weights, in points of the mean score (dots: seeds, line: mean)",
)
axes.set_yticks(range(len(gaps)), list(gaps))
axes.invert_yaxis()
show(figure, "balancing_gaps")

# %% [markdown]
# Read it coldly. In our run, with 40 steps, PCGrad is a point above equal weights, higher on all three seeds: just enough to
# count by our rule. But it paid: three backward passes a step. The same model with plain equal weights and 60 steps, which took
# less time, is as good or better. Uncertainty weighting makes no clear difference. GradNorm is below equal weights on all three
# seeds, by amounts too uneven to count.
#
# On large benchmarks Kurin et al. (2022) and Xin et al. (2022) found that tuned equal or fixed weights match such methods. So
# `equal` is the default here: first more steps and a tuned learning rate, then, if you have K times the compute, surgery.
#
# (An NLI head can answer other tasks without their labels: [zero-shot classification](topics/zero_shot_through_nli.py).)
#
# ## 6. Break it on purpose: uncertainty weighting with one task in a step
#
# The code that this course grew from draws **one task per step**, and adds up $e^{-s_i} L_i + s_i$ over a list of losses. Put the
# two together, let absent tasks have the loss 0, and *every* task's $s$ is added in each step. Nothing raises. Take two tasks
# with the same loss, 0.5; task A is drawn in 90 % of the steps, B in 10 %.
#
# **Predict:** with the same loss, both weights should be 1. What does B's weight become?


# %%
CHANCES = torch.tensor([0.9, 0.1])


def settle(every_s: bool, steps=1500) -> list[float]:
    """The weights in the second half of a run, mean; every_s: add s of absent tasks too."""
    balancing, g, kept = Uncertainty(["classification"] * 2), torch.Generator().manual_seed(0), torch.zeros(2)
    optimizer = torch.optim.SGD(balancing.parameters(), lr=0.03)
    for step in range(steps):
        k = int(torch.multinomial(CHANCES, 1, generator=g))
        loss = balancing.term(k, torch.tensor(0.5), 1.0)
        loss = loss + 0.5 * balancing.log_vars[1 - k] if every_s else loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        kept += torch.tensor([balancing.weight(0), balancing.weight(1)]) * (2 * step >= steps) / (steps / 2)
    return kept.tolist()


right, broken = settle(False), settle(True)
for name, weights in (("s of the task in the step", right), ("s of every task", broken)):
    products = [round(x, 2) for x in (CHANCES * torch.tensor(weights)).tolist()]
    print(f"{name:26} weights {[round(w, 2) for w in weights]}, chance x weight {products}")
assert max(abs(w - 1) for w in right) < 0.05, "the same loss, the same weight"
assert 7 < broken[1] < 13 and broken[0] < 1.3, "1 / (2 p L): the rarer a task, the larger its weight"

# %% [markdown]
# Sampling and weights multiply (lesson 15): a task's part of an average step is $p_i w_i$. The broken version settles at
# $w_i = 1 / (2 p_i L_i)$, so **$p_i$ cancels**: whatever sampling you choose, training undoes it, by rare and very large steps.
# Our `Uncertainty.term` adds a task's $s$ only with its own loss, `part` by part where a step has several batches.
#
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | all uncertainty weights stay at 1 | `log_vars` are in no optimizer | section 2: `param_groups`; `weight/TASK` in the rows |
# | a rare task has a huge weight | the $s$ of absent tasks is added | section 6: chance times weight |
# | the total loss is below 0 | uncertainty weighting with small losses | section 2: no fault; watch `loss/TASK` |
# | two tasks stay at chance together | one function cannot answer both | section 4: cosine near -1; tell it the task |
# | PCGrad "wins" | its rival had fewer backward passes | section 5: equal cost, three seeds, the size of the gap |
# | cosines are negative late in training | the sum is nearly minimal | section 3: what is left in the sum |
# | PCGrad differs from the paper's | applied to each tensor, or to heads | section 1: one G for all that is shared |
#
# ## Exercises
#
# Write in [exercises/16_balancing.py](exercises/16_balancing.py), then `python -m tutorials check 16`.
#
# 1. ★ `dwa_weights`: DWA's weights from the losses of two periods.
#    <details><summary>Hint</summary>Section 2's formula; K is the number of losses.</details>
# 2. ★★ `mgda_of_two`: the shortest mix of two gradients, from G alone.
#    <details><summary>Hint</summary>It is a parabola in w; then keep w between 0 and 1.</details>
# 3. ★★ `affinity_to_first_order`: the affinity of section 3 from G and the losses, without a step.
#    <details><summary>Hint</summary>A small step −η g_i changes L_j by −η g_i · g_j. By which loss is it divided?</details>
#
# ## Summary
#
# 1. Balancing chooses a compromise; all methods here are weights on the gradients, found from losses or from a K × K matrix.
# 2. A conflict may be missing information (tell the model the task) or just a finished training; it is not yet a harm.
# 3. Over paired seeds PCGrad gained a point on equal weights, and 20 more plain steps gained as much. Start with equal weights.
#
# **Next:** [lesson 17](17_distill_logits.py), a small model learns from a large one.
#
# ## On the real thing
#
# One model for three real tasks, from the Hub; the report has the heat maps of section 3. Then each task alone, to compare.
#
# ```bash
# python -m multitask --tasks sst2,mrpc,rte --model roberta-base --task_sampling temperature --analyze_interference
# python -m multitask --tasks sst2,mrpc,rte --model roberta-base --loss_weighting pcgrad --out runs/pcgrad
# python -m multitask compare --tasks sst2,mrpc,rte --model roberta-base
# python -m training --task rte --model roberta-base --method full
# ```
