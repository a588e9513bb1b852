# %% [markdown]
# # 05 · LoRA variants: change the scale, the start or the shape
#
# **Needs** lesson [01](01_lora_by_hand.py); the singular value decomposition by name
# · **Read and do** 45 minutes · **Runs in** about 35 s on one CPU thread · **Memory** 2 GB
#
# Many papers promise a better LoRA: rsLoRA, PiSSA, DoRA, LoRA+, (IA)³, VeRA. What does each of
# them change? And is one of them really better?
#
# ![The five points of W + s B A where the variants act](diagrams/05_variants.svg)
#
# LoRA computes $y = x W^\top + b + s\,(x A^\top) B^\top$. ($W$ is the frozen $W_0$ of lesson
# 01.) Each variant changes one point of this formula: the scale, the start of $A$ and $B$, the
# learning rate, the length of the rows, or the shape of what is trained. On this page you write
# five of them in a few lines each. Then you compare two methods with three seeds.

# %% tags=["fold"]
# set-up: imports, our folders, one thread
import math
import sys
import tempfile
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import torch
import transformers
from matplotlib import pyplot as plt
from torch import nn
from torch.nn import functional as F

import loralib
from training.reports.records import COLOURS, use_style
from training.reports.seed_dots import dots_by_seed
from tutorials.answers import true_option
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
use_style()
folder = Path(tempfile.mkdtemp())
x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))  # (T, d_in)


def one_layer(config) -> nn.Module:
    """A linear layer from 64 to 64 with an adapter. The weight W is always the same."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64))  # the layer has the name "0"
    loralib.inject(model, config, seed=0)
    return model[0]


# %% [markdown]
# ## 1. rsLoRA: another scale
#
# LoRA divides by $r$: $s = \alpha / r$. $B A$ is a sum of r terms: a column of $B$ times a row of
# $A$. In the first step of lesson 01, all r terms point in the same useful direction. Their sum
# grows like r, so dividing by r is right. Later the terms differ. If they are independent random
# matrices, their sum grows only like $\sqrt r$. (The paper argues with the size of
# activations and gradients.)
#
# So $\alpha / r$ makes the update smaller when you raise the rank. **rsLoRA** (rank-stabilized
# LoRA; Kalajdzievski 2023, [arXiv 2312.03732](https://arxiv.org/abs/2312.03732)) divides by
# $\sqrt r$ instead: $s = \alpha / \sqrt r$.
#
# ??? A and B are random. The rank grows from 4 to 64. How does the size of LoRA's update
#   (the standard deviation of its entries) change, with $s = \alpha / r$?
# - [ ] It stays the same. || That is what rsLoRA does.
# - [x] It shrinks to 1/4. || The sum grows by √16 = 4, and the scale shrinks by 16.
# - [ ] It shrinks to 1/16. || The scale shrinks by 16, but the sum of more terms grows.


# %%
def size_of_update(r: int, scaling: float) -> float:
    """Standard deviation of the entries of s B A, for random A and B."""
    generator = torch.Generator().manual_seed(r)
    A = torch.randn(r, 64, generator=generator)
    B = torch.randn(64, r, generator=generator)
    return (scaling * B @ A).std().item()


ranks, alpha = (4, 16, 64), 8
lora_sizes = [size_of_update(r, alpha / r) for r in ranks]
rslora_sizes = [size_of_update(r, alpha / math.sqrt(r)) for r in ranks]
print("rank  ", *(f"{r:6}" for r in ranks))
print("LoRA  ", *(f"{size:6.2f}" for size in lora_sizes))
print("rsLoRA", *(f"{size:6.2f}" for size in rslora_sizes))

# %% tags=["fold"]
# plot: the size of the update for more ranks
figure, panel = plt.subplots(figsize=(6.4, 2.6))
many = [4, 8, 16, 32, 64]
panel.loglog(many, [size_of_update(r, alpha / r) for r in many], "o-", color=COLOURS["lora"])
sizes = [size_of_update(r, alpha / math.sqrt(r)) for r in many]
panel.loglog(many, sizes, "s--", color=COLOURS["lora"])
panel.annotate("LoRA: α / r", (16, 1.9), xytext=(6, 4), textcoords="offset points")
panel.annotate("rsLoRA: α / √r", (16, 7.5), xytext=(0, 6), textcoords="offset points")
panel.set_xticks(many, [str(r) for r in many])
panel.minorticks_off()
panel.set(title="with α / r, a larger rank has a smaller update", ylim=(0.7, 14))
panel.set(xlabel="rank r (log scale)", ylabel="size of s B A")
show(figure, "05_scale")

# %% tags=["fold"]
# check
shrinks = lora_sizes[2] / lora_sizes[0]
true_option(shrinks > 0.9, 0.2 < shrinks < 0.3, shrinks < 0.1)
assert abs(rslora_sizes[2] / rslora_sizes[0] - 1) < 0.1, "alpha over the root of r, not over r"
for config in (
    loralib.LoraConfig(r=16, lora_alpha=8),
    loralib.LoraConfig(r=16, lora_alpha=8, use_rslora=True),
):
    expected = 8 / math.sqrt(16) if config.use_rslora else 8 / 16
    assert config.scaling == expected, "the library's scale is another one"

# %% [markdown]
# So "r = 64 is no better than r = 8" may only mean that the scale became smaller. Raise
# $\alpha$ with the rank, or use rsLoRA.
#
# ## 2. PiSSA: another start
#
# LoRA starts with $B A = 0$. **PiSSA** (Meng et al. 2024, [arXiv
# 2404.02948](https://arxiv.org/abs/2404.02948), section 3) starts with the most important part
# of $W$. The singular value decomposition writes $W$ as a sum of matrices of rank 1, sorted by
# their size (the singular values). PiSSA puts the r largest of them into $B_0$ and
# $A_0$, so that $s B_0 A_0$ is their sum. It trains these two.
#
# ??? The model must start unchanged. But $s B_0 A_0$ is not zero at the start. What has to be
#   done?
# - [ ] nothing || Then the r largest directions would count twice.
# - [x] subtract $s B_0 A_0$ from the frozen weight || Frozen rest plus adapter is then $W$
#   again.
# - [ ] set B to zero || Then it would be LoRA, with another A.

# %%
pissa = one_layer(
    loralib.LoraConfig(r=8, lora_alpha=8, target_modules=["0"], init_lora_weights="pissa")
)
W = pissa.weight.detach()
U, S, Vh = torch.linalg.svd(W)
largest = U[:, :8] * S[:8] @ Vh[:8]  # the best part of rank 8: (64, 64)
B0 = U[:, :8] * S[:8].sqrt()  # (d_out, r)
A0 = S[:8].sqrt()[:, None] * Vh[:8]  # (r, d_in)
with torch.no_grad():
    by_hand = F.linear(x, W - B0 @ A0, pissa.bias) + (x @ A0.T) @ B0.T  # s = 8/8 = 1
    start = (by_hand - F.linear(x, W, pissa.bias)).abs().max().item()
share = (largest.norm() / W.norm()).item()
print(f"largest change of the output at the start: {start:.0e}")
print(f"the 8 largest of 64 directions have {share:.0%} of the norm of W")

# %% tags=["fold"]
# check: our start against the library's
true_option(
    torch.allclose(by_hand, F.linear(x, W + B0 @ A0, pissa.bias)), start < 1e-5, B0.norm() == 0
)
A, B = (pissa.get_parameter(f"lora_{letter}.default").detach() for letter in "AB")
assert torch.allclose(B @ A, B0 @ A0, atol=1e-5), "B A is not the best part of rank 8"
assert torch.allclose(pissa(x), by_hand, atol=1e-5), (
    "the same part must be subtracted next to it"
)

# %% [markdown]
# (The paper subtracts it from $W$ itself. Our library does not change $W$: it subtracts the output
# of $s B_0 A_0$ from the output of the layer. The result is the same, and many adapters can share
# one base.)
#
# ## 3. DoRA: length and direction
#
# A row of a weight is a vector. It has a length and a direction.
#
# ![LoRA changes a row of W. DoRA takes its direction, and gives it the trained length m.](diagrams/05_dora.svg)
#
# **DoRA** (Liu et al. 2024, [arXiv 2402.09353](https://arxiv.org/abs/2402.09353), section 4)
# trains the two separately: $A$ and $B$ change the direction, and a new vector $m$, the
# **magnitude**, gives the length of each row:
#
# $$y = m \odot \frac{x (W + s B A)^\top}{\lVert W + s B A \rVert_{\text{row}}} + b.$$
#
# Here $\lVert \cdot \rVert_{\text{row}}$ is the vector of the lengths of all rows, and ⊙
# multiplies entry by entry. $m$ starts as the lengths of the rows of $W$. (The paper speaks of
# columns and has no $s$; peft and our code take the rows of the (d_out, d_in) weight.)
#
# ??? At the start B is zero. How much does DoRA change the output?
# - [x] not at all, except for rounding || Each row is divided by its length and multiplied by
#   the same length.
# - [ ] clearly: each row of the weight now has length 1 || It would have without m.
# - [ ] completely: all outputs are zero || B A is zero, but W is still there.


# %%
def dora_by_hand(x, W, b, A, B, m, s):
    rows = W + s * B @ A  # (d_out, d_in)
    length = rows.norm(dim=1)  # (d_out,)
    return m * (x @ rows.T) / length + b


W, b = pissa.weight.detach(), pissa.bias.detach()
A, B, m = torch.randn(4, 64) / 8, torch.zeros(64, 4), W.norm(dim=1)
start = (dora_by_hand(x, W, b, A, B, m, s=2.0) - F.linear(x, W, b)).abs().max().item()
print(f"largest change at the start: {start:.0e}")
print(
    f"DoRA trains {A.numel() + B.numel() + m.numel()} parameters, LoRA {A.numel() + B.numel()}"
)

# %% tags=["fold"]
# check: with a B that is not zero, against the library
outputs = dora_by_hand(x, W, b, A, B, m, s=2.0)
unit_rows = torch.allclose(
    (m / W.norm(dim=1))[:, None] * W.norm(dim=1, keepdim=True), torch.ones(64, 1)
)
true_option(start < 1e-5, unit_rows, not outputs.any())
settings = {"use_dora": True, "init_lora_weights": False}  # False: B is random too
dora = one_layer(loralib.LoraConfig(r=4, lora_alpha=8, target_modules=["0"], **settings))
with torch.no_grad():
    trained = dora.trained("default").values()  # A, B, m
    assert torch.allclose(dora_by_hand(x, W, b, *trained, 2.0), dora(x), atol=1e-5), (
        "the norm is that of each row"
    )

# %% [markdown]
# This code forms the whole matrix $W + s B A$ to compute its norm. The [deep
# dive](deep/05_lora_family.py) computes the norm without that matrix.
#
# ## 4. (IA)³ and VeRA: vectors in place of matrices
#
# These two train far fewer parameters:
#
# - **(IA)³** (Liu et al. 2022, [arXiv 2205.05638](https://arxiv.org/abs/2205.05638), section
#   3.3) has no matrix at all. One vector $l$ multiplies the output:
#   $y = l \odot (x W^\top + b)$. It starts at 1. (In the feed-forward part, the paper scales
#   the input instead.)
# - **VeRA** (Kopiczko et al. 2024, [arXiv 2310.11454](https://arxiv.org/abs/2310.11454),
#   section 3) has a random $A$ and a random $B$. They are frozen, and all layers share them.
#   Only two vectors are trained, $d$ with r entries and $\beta$ with d_out entries (it starts
#   at 0; the paper calls it $b$): $\Delta W = \text{diag}(\beta)\, B\, \text{diag}(d)\, A$.
#
# ??? A layer from 64 to 64. LoRA has r = 8, VeRA has r = 256. Order them by trained parameters.
# - [ ] LoRA < (IA)³ < VeRA || LoRA has 8 · (64 + 64) = 1,024.
# - [ ] (IA)³ < LoRA < VeRA || The large matrices of VeRA are frozen.
# - [x] (IA)³ < VeRA < LoRA || 64, then 256 + 64 = 320, then 1,024.

# %%
factor, d, beta = torch.rand(64), torch.rand(256), torch.rand(64)  # l, d and β are trained
A, B = torch.randn(256, 64), torch.randn(64, 256)  # frozen and shared
ia3_output = factor * F.linear(x, W, b)
vera_output = F.linear(x, W, b) + beta * ((d * (x @ A.T)) @ B.T)
counts = {"(IA)³": factor.numel(), "VeRA": d.numel() + beta.numel(), "LoRA": 8 * (64 + 64)}
print("trained parameters:", counts)

# %% tags=["fold"]
# check: both against the library
order = sorted(counts, key=counts.get)
true_option(
    order == ["LoRA", "(IA)³", "VeRA"],
    order == ["(IA)³", "LoRA", "VeRA"],
    order == ["(IA)³", "VeRA", "LoRA"],
)
ia3 = one_layer(loralib.IA3Config(["0"]))
vera = one_layer(loralib.VeraConfig(target_modules=["0"], r=256))
for container, value in (
    (ia3.ia3_l, factor),
    (vera.vera_lambda_d, d),
    (vera.vera_lambda_b, beta),
    (vera.vera_A, A),
    (vera.vera_B, B),
):
    container["default"].data.copy_(value)
assert torch.allclose(ia3(x), ia3_output, atol=1e-5), "(IA)³ multiplies the bias too"
assert torch.allclose(vera(x), vera_output, rtol=1e-3, atol=1e-2), (
    "d between A and B, β after B"
)
assert sum(p.numel() for p in vera.trained("default").values()) == counts["VeRA"], (
    "A and B are frozen"
)

# %% [markdown]
# **LoRA+** (Hayou et al. 2024) is point 3 of the picture: $B$ gets a larger learning rate than
# $A$, for example 16 times. It is in the [deep dive](deep/05_lora_family.py).
#
# ## 5. Break it on purpose: choose the best variant with one seed
#
# Now the comparison that many tables show: one task, one seed. The task is question answering,
# as in lesson 01, but with 100 steps only. LoRA and PiSSA both use LoRA's default learning rate.
# Then we repeat it with two more seeds.
#
# ??? With seed 0, one of the two methods is better. Is it better with seeds 1 and 2, too?
# - [ ] Yes: a better method is better with every seed. || That needs differences between
#   methods that are larger than those between seeds.
# - [x] No: with at least one of them, the other method wins. || Two seeds of one method can be
#   far apart after so few steps.
# - [ ] Both have nearly the same score with each seed. || After few steps, the runs lie
#   far apart.

# %%
from training import train_model

VARIANTS = {"LoRA": {}, "PiSSA": {"pissa": True}}
common = {"steps": 100, "eval_every": 10**6, "trackers": "", "threads": 1, "eval_rows": 300}
scores = {name: [] for name in VARIANTS}
for seed in (0, 1, 2):
    for name, options in VARIANTS.items():
        out = str(folder / f"{name}-{seed}")
        scores[name].append(train_model("qa", seed=seed, out=out, **common, **options).metric)
print("seed     0     1     2")
for name, values in scores.items():
    print(f"{name:6}", *(f"{value:5.2f}" for value in values))

# %% tags=["fold"]
# plot: each seed as a dot
figure, panel = plt.subplots(figsize=(5.6, 3.2))
dots_by_seed(panel, scores, ("lora", "pissa"))
panel.set(title="the winner of seed 0 does not win with every seed", ylim=(0, 1))
panel.set(ylabel="exact match (line: mean)", xlabel="method")
panel.legend(loc="lower center", ncols=3)
show(figure, "05_seeds")

# %% tags=["fold"]
# check
winners = {max(scores, key=lambda name, i=i: scores[name][i]) for i in range(3)}
highest, lowest = max(map(max, scores.values())), min(map(min, scores.values()))
true_option(len(winners) == 1, len(winners) > 1, highest - lowest < 0.05)
spread = max(max(values) - min(values) for values in scores.values())
means = [sum(values) / 3 for values in scores.values()]
assert spread > max(means) - min(means), (
    "the seeds lie closer than the methods: then say which is better"
)

# %% [markdown]
# With seed 0, LoRA is better by more than 0.2. With seed 2, PiSSA is better by about as much. The
# two means are nearly equal. A paper with seed 0 would recommend LoRA, a paper with seed 2 would
# recommend PiSSA, and six runs can *not* say which one is better. Why do the seeds differ so much?
# After so few steps, the head alone reaches about 0.4 on this task (lesson 12, 120 steps). Four of
# the six runs have at most 0.42: their adapters have hardly begun to help. (Each method may also
# need its own learning rate.) [How to compare two
# runs](topics/compare_two_runs.py) has a rule for this. The [deep
# dive](deep/05_lora_family.py) applies it, with 150 steps, DoRA and (IA)³.
#
# These models are tiny, so a ranking here would say nothing about large models. The formulas
# hold for every size.
#
# ## The same in peft
#
# peft has all five methods. Three are options of `LoraConfig`: `use_rslora`, `use_dora` and
# `init_lora_weights="pissa"`. Two have a config of their own: `IA3Config` and `VeraConfig`. Its DoRA
# layer computes the same as `dora_by_hand`:

# %% tags=["fold"]
# the same in peft: a DoRA layer
import logging

logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # it looks for a GPU
from peft import LoraConfig, get_peft_model

base = nn.Linear(64, 64)
base.load_state_dict({"weight": W, "bias": b})
peft_model = get_peft_model(
    nn.Sequential(base), LoraConfig(r=4, lora_alpha=8, target_modules=["0"], use_dora=True)
)
peft_layer = peft_model.base_model.model[0]
A, B, m = (p.detach() for p in dora.trained("default").values())
peft_layer.lora_A["default"].weight.data.copy_(A)
peft_layer.lora_B["default"].weight.data.copy_(B)
peft_layer.lora_magnitude_vector["default"].weight.data.copy_(m)
assert torch.allclose(peft_model(x), dora_by_hand(x, W, b, A, B, m, 2.0), atol=1e-4), (
    "peft's DoRA differs"
)
print("peft's DoRA layer and ours give the same output")

# %% [markdown]
# ## Find the bug
#
# A report says: "The rank does not matter." It trained with this loop, and with one learning
# rate:
#
# ```python
# for r in (8, 64):
#     config = loralib.LoraConfig(r=r, lora_alpha=16, target_modules="all-linear")
#     train(model_with(config), learning_rate=1e-3)
# ```
#
# ??? What is wrong?
# - [ ] r = 64 is not allowed for a layer of width 64. || It is allowed: the update can then
#   have full rank.
# - [x] The scale changes with the rank: 16/8 = 2, but 16/64 = 0.25. || So two things changed at
#   once. The second run also had an 8 times smaller scale.
# - [ ] `all-linear` is too much. || Both runs adapt the same layers.

# %% tags=["fold"]
# check
small, large = (loralib.LoraConfig(r=r, lora_alpha=16).scaling for r in (8, 64))
true_option(False, small == 2 and large == 0.25, False)

# %% [markdown]
# ## Quiz
#
# ??? Which variant changes only the scale?
# - [x] rsLoRA || α/√r in place of α/r.
# - [ ] DoRA || It adds a trained length for each row.
# - [ ] PiSSA || It changes the start.
#
# ??? What must be true for every variant at the first step?
# - [ ] B is zero. || Not in PiSSA.
# - [x] The model computes what the base model computes. || So training starts from the
#   pretrained model.
# - [ ] A is zero. || LoRA starts with a random A. With A and B both zero it would learn
#   nothing.
#
# ??? A layer from 4096 to 4096. How many parameters does (IA)³ train?
# - [x] 4,096 || One for each output.
# - [ ] 65,536 || That is LoRA with r = 8.
# - [ ] 16,777,216 || That is the whole weight.
#
# ??? You go from r = 8, α = 16 to r = 32 and want the same scale α/r. Which α do you take?
# - [ ] 16 || Then the scale would be 4 times smaller.
# - [ ] 32 || Then s would be 1 in place of 2.
# - [x] 64 || 64/32 = 16/8.
#
# ??? A table shows that variant X has 81.2 and LoRA 80.9, one seed each. What do you conclude?
# - [ ] X is better. || The difference may come from the seed.
# - [x] Nothing yet: how far apart are two seeds of LoRA? || Without that number the difference
#   has no meaning.
# - [ ] They are equal. || That is not shown either.

# %% tags=["fold"]
# check of the third and the fourth answer
big = one_layer(loralib.IA3Config(["0"]))
assert big.ia3_l["default"].numel() == big.out_features, "one number for each output"
assert 64 / 32 == 16 / 8, "the scale is alpha / r"

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | a higher rank is no better | the scale fell with the rank | section 1: rsLoRA, or raise α with r |
# | the loss explodes with LoRA+ | A has the usual learning rate, so B has a too large one | divide the learning rate of A first |
# | DoRA is slow and large | the norm is formed from the whole matrix | deep dive, section 1 |
# | a PiSSA file gives nonsense on the base | it was made for a changed base | section 2; exercise 4 |
# | the best variant changes every day | one seed | section 5: three seeds, and show them all |
#
# ## Exercises
#
# Write in [exercises/05_lora_family.py](exercises/05_lora_family.py), then run
# `python -m tutorials check 05`.
#
# 1. ★ `alpha_for`: the α that gives LoRA at rank r the same scale as at another rank.
#    <details><summary>Hint</summary>Write α/r for both, and solve for the second α.</details>
# 2. ★★ `dora_weight`: the whole weight that DoRA computes with.
#    <details><summary>Hint</summary>Section 3: what multiplies x?</details>
# 3. ★★ `principal_part`: the best part of rank r of a matrix, and how far it is from the whole.
#    <details><summary>Hint</summary>The distance is the root of the sum of the squared singular
#    values that were left out.</details>
# 4. ★★★ `plain_lora`: turn a trained PiSSA adapter into a plain LoRA for the unchanged base.
#    Why is its rank 2r, and not r?
#    <details><summary>Hint</summary>Training changed the weight by s (B A − B₀ A₀). This
#    difference is one matrix multiplication of longer factors: put A on top of A₀.</details>
#
# **Change and measure:** in section 5, use 300 steps in place of 100. Are the seeds still so
# far apart? Is there one winner now?
#
# ## Summary
#
# 1. A variant changes one point: the scale (rsLoRA), the start (PiSSA), the learning rate
#    (LoRA+), the length (DoRA) or the shape ((IA)³, VeRA).
# 2. All of them start as the base model.
# 3. One seed does not show which one is better. Compare the difference between two methods with
#    the difference between two seeds of one method.
#
# **Next:** [lesson 06](06_many_adapters.py), many adapters on one base.
#
# More: [deep dive](deep/05_lora_family.py) · [how to compare two
# runs](topics/compare_two_runs.py) · [glossary](GLOSSARY.md)
#
# ## On the real thing
#
# These commands need a network, and a GPU helps. We did not run them:
#
# ```bash
# python -m training --task sst2 --model roberta-base --target-modules query,value --use-dora
# python -m training --task sst2 --model roberta-base --target-modules query,value --r 64 --use-rslora
# python -m training --task sst2 --model roberta-base --target-modules query,value --pissa
# python -m training --task sst2 --model roberta-base --method ia3 \
#   --target-modules key,value,output.dense --feedforward-modules output.dense
# ```
