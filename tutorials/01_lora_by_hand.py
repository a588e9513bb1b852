# %% [markdown]
# # 01 · LoRA: two thin matrices can replace the update of a whole weight
#
# **Needs** [lesson 00](00_setup_and_small_world.py); matrices, `nn.Linear`, the chain rule, Adam
# · **Read and do** 75 minutes · **Runs in** about 40 s on one CPU thread · **Memory** 2 GB
#
# Full fine-tuning changes every weight of a model. For a large model this needs a lot of
# memory, and every task needs its own copy of all weights. Is it possible to change only a
# small part, and still learn the task?
#
# ![The frozen weight W0, and next to it the thin matrices A and B](diagrams/01_layer.svg)
#
# **LoRA** (low-rank adaptation; Hu et al. 2021, [arXiv
# 2106.09685](https://arxiv.org/abs/2106.09685), section 4.1) keeps the weight $W_0$ **frozen**:
# training does not change it. Next to it stand two thin matrices, $A$ and $B$. Only they are
# trained. The short side of both is called $r$. For a weight of 4096 × 4096 and r = 8, these
# are 65,536 parameters instead of 16,777,216.
#
# You will write this layer, break it, and compare LoRA with full fine-tuning.

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

import loralib
from training.reports.records import COLOURS, use_style
from tutorials.answers import true_option
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
use_style()
D = 64

# %% [markdown]
# ## 1. The layer, by hand
#
# A linear layer computes $y = x W_0^\top + b$. LoRA adds one term:
#
# $$y = x W_0^\top + b + s \, (x A^\top) B^\top, \qquad s = \alpha / r.$$
#
# $A$, of shape (r, d_in), turns d_in numbers into r. $B$, of shape (d_out, r), turns these into
# d_out. Together they are an **update** of the weight, $\Delta W = s B A$. The number of
# independent directions of a matrix is its **rank**. $B A$ passes everything through r numbers,
# so its rank is r at most. The scale $s$ contains $\alpha$ (**alpha**), a number that you
# choose. The $A$ and $B$ of all layers are called an **adapter**.
#
# (The paper writes $x$ as a column: $h = W_0 x + B A x$, with $d$, $k$ for d_out, d_in. It
# gives the scale in the text, not in the formula.)


# %%
class HandLinear(nn.Module):
    def __init__(self, base: nn.Linear, r: int, alpha: float):
        super().__init__()
        self.base = base.requires_grad_(False)  # frozen
        d_out, d_in = base.weight.shape
        self.A = nn.Parameter((2 * torch.rand(r, d_in) - 1) / math.sqrt(d_in))
        self.B = nn.Parameter(torch.zeros(d_out, r))
        self.scaling = alpha / r

    def forward(self, x):  # (B, T, d_in) -> (B, T, d_out); B examples, T tokens
        low = x @ self.A.T  # (B, T, r)
        return self.base(x) + self.scaling * low @ self.B.T


# %% [markdown]
# ??? We put this layer in the place of a trained layer. How much does the output change, before
#   any training?
# - [x] not at all: every bit is the same || B is zero, so the new term is exactly zero.
# - [ ] by about $10^{-7}$ || That is a typical rounding error. Adding an exact zero has no
#   rounding error.
# - [ ] by about $\alpha / r$ || The scale multiplies B A, and B is zero.

# %%
torch.manual_seed(0)
base = nn.Linear(D, D)
x = torch.randn(2, 5, D)  # (B, T, d_in)
hand = HandLinear(base, r=4, alpha=8)
print("largest change of the output:", (hand(x) - base(x)).abs().max().item())

# %% tags=["fold"]
# check: the start, and our layer against the library's
change = (hand(x) - base(x)).abs().max()
true_option(torch.equal(hand(x), base(x)), 0 < change < 1e-5, change > 0.1)
layer = loralib.Linear(D, D, r=4, lora_alpha=8)
layer.load_state_dict(base.state_dict(), strict=False)
nn.init.normal_(hand.B)  # with B = 0 a wrong A would not be noticed
layer.lora_A["default"].data.copy_(hand.A)  # adapters have names; this one is "default"
layer.lora_B["default"].data.copy_(hand.B)
assert torch.allclose(hand(x), layer(x), rtol=1e-4, atol=1e-5), "is the scale applied once?"

# %% [markdown]
# ($A$ starts as PyTorch starts a linear layer, uniformly between $\pm 1 / \sqrt{d_{in}}$; the
# paper uses a normal distribution.) For training we use `loralib.Linear` from here on.
# `loralib` is the library of this course, not Microsoft's package of the same name. The folded
# check above shows that its layer computes the same.
#
# ## 2. Which matrix learns first?
#
# Let $G$ be the gradient of the loss $L$ with respect to $y$. Put all tokens of the batch below
# each other, so that $x$ and $G$ are matrices with one row per token. The chain rule gives
#
# $$\frac{\partial L}{\partial B} = s\, G^\top (x A^\top), \qquad \frac{\partial L}{\partial A} = s\, (G B)^\top x.$$
#
# ??? Before the first step, A is random and B is zero. Which matrix gets a gradient that is not
#   zero?
# - [ ] A || Its gradient contains B, and B is zero.
# - [x] B || Its gradient contains A, and A is random.
# - [ ] both || Look for the zero in the two formulas.

# %%
target = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(1))


def train_layer(layer, steps: int) -> list[tuple[float, float, float]]:
    """(loss, gradient norm of A, gradient norm of B) of each step."""
    A, B = layer.lora_A["default"], layer.lora_B["default"]
    optimizer = torch.optim.Adam([A, B], lr=0.02)
    history = []
    for _ in range(steps):
        loss = (layer(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        history.append((loss.item(), A.grad.norm().item(), B.grad.norm().item()))
        optimizer.step()
    return history


torch.manual_seed(0)
healthy = train_layer(loralib.Linear(D, D, r=4, lora_alpha=8), steps=60)
for step, (loss, grad_a, grad_b) in enumerate(healthy[:2], start=1):
    print(f"step {step}: loss {loss:.3f}  gradient of A {grad_a:.4f}  of B {grad_b:.4f}")

# %% tags=["fold"]
# check
grad_a, grad_b = healthy[0][1:]
true_option(grad_a > 0 and grad_b == 0, grad_b > 0 and grad_a == 0, grad_a > 0 and grad_b > 0)
torch.manual_seed(0)
fresh = loralib.Linear(D, D, r=4, lora_alpha=8)
nn.init.normal_(fresh.lora_B["default"])
y = fresh(x)
y.retain_grad()
(y - target).square().mean().backward()
G, rows = y.grad.flatten(0, 1), x.flatten(0, 1)  # (tokens, D)
A, B = fresh.lora_A["default"], fresh.lora_B["default"]
assert torch.allclose(B.grad, 2 * G.T @ (rows @ A.T), atol=1e-5), "the formula of B, with s = 2"
assert torch.allclose(A.grad, 2 * (G @ B).T @ rows, atol=1e-5), "the formula of A, with s = 2"
assert healthy[1][1] > 0, "A gets no gradient at step 2: did the optimizer get B?"

# %% [markdown]
# $B$ moves at the first step. After that it is not zero any more, and $A$ learns too.
#
# ![The gradients of A and B at steps 1 and 2](diagrams/01_gradients.svg)
#
# **Break it on purpose.** Zero was a safe start for $B$. Somebody wants to be extra safe and
# starts *both* matrices at zero.
#
# ??? What happens to the loss in 60 steps?
# - [ ] It falls, but more slowly. || Then at least one matrix would get a gradient. Look at
#   both formulas.
# - [ ] PyTorch raises an error. || A gradient that is zero is allowed.
# - [x] It does not change at all. || The gradient of A contains B, and the gradient of B
#   contains A. Both are zero for ever.

# %%
torch.manual_seed(0)
layer = loralib.Linear(D, D, r=4, lora_alpha=8)
nn.init.zeros_(layer.lora_A["default"])  # B is zero already
both_zero = train_layer(layer, steps=60)
print(f"loss: first step {both_zero[0][0]:.4f}, last step {both_zero[-1][0]:.4f}")

# %% tags=["fold"]
# plot: the two losses
figure, panel = plt.subplots()
for name, run, colour in (
    ("A random, B = 0", healthy, "lora"),
    ("A = 0 and B = 0", both_zero, "broken"),
):
    panel.plot(range(1, 61), [row[0] for row in run], color=COLOURS[colour])
    panel.annotate(
        name, (40, run[40][0]), xytext=(0, 7), textcoords="offset points", color=COLOURS[colour]
    )
panel.set(title="if A and B start at zero, nothing is learned", ylim=(0, 1.2 * healthy[0][0]))
panel.set(xlabel="step", ylabel="loss")
show(figure, "01_two_zeros")

# %% tags=["fold"]
# check
first, last = both_zero[0][0], both_zero[-1][0]
true_option(last < 0.99 * first, False, first == last)
assert healthy[-1][0] < 0.8 * first, "the loss does not fall: is A random, and trained?"

# %% [markdown]
# ## 3. Why the scale is α/r
#
# You try $r = 4$, and then $r = 16$. You would like to keep the same learning rate. So the
# first step should have the same effect for both ranks.
#
# At the first step only $B$ moves, and Adam moves each of its entries by the learning rate. How
# far does $W$ move in the direction that lowers the loss? We measure it for random gradients of
# $W$. $B A$ is a sum of r terms: column i of $B$ times row i of $A$. Each column of $B$ moves
# so that its own term lowers the loss.


# %%
def first_update(r: int, scaling: float, seed: int) -> float:
    """How far Adam's first step moves W in the direction that lowers the loss."""
    generator = torch.Generator().manual_seed(seed)
    grad_W = torch.randn(D, D, generator=generator)  # a random gradient of W: (d_out, d_in)
    A = (2 * torch.rand(r, D, generator=generator) - 1) / math.sqrt(D)
    B = -0.01 * torch.sign(scaling * grad_W @ A.T)  # (d_out, r); learning rate 0.01
    return (-(scaling * B @ A * grad_W).sum() / grad_W.norm()).item()


ALPHA = 8


def mean_update(r: int, scaling: float) -> float:
    return sum(first_update(r, scaling, seed) for seed in range(20)) / 20


# %% [markdown]
# ??? Without a scale (s = 1), the rank grows from 4 to 16. How much further does the first step
#   move W in the direction that lowers the loss?
# - [ ] as far as before || Each new column of B moves too, and it moves in a useful direction.
# - [ ] 2 times as far || The size of the whole update grows about 2 times. But we ask for its
#   part in the direction that lowers the loss, and there all r terms add up.
# - [x] 4 times as far || The update is a sum of r terms, and each of them lowers the loss.

# %%
updates = {r: (mean_update(r, 1.0), mean_update(r, ALPHA / r)) for r in (4, 16, 64)}
for r, (plain, scaled) in updates.items():
    print(f"r = {r:>2}   s = 1: {plain:.4f}   s = α/r: {scaled:.4f}")

# %% tags=["fold"]
# plot: the first step with and without the scale
figure, panel = plt.subplots(figsize=(7, 2.8))
for i, (name, colour) in enumerate((("s = 1", "broken"), ("s = α/r", "lora"))):
    values = [update[i] for update in updates.values()]
    panel.plot(list(updates), values, "o-", color=COLOURS[colour], label=name)
panel.set(title="with α/r the useful part of the first step stays the same", ylim=(0, None))
panel.set(xlabel="rank r", ylabel="first step, downhill part")
panel.set_xticks(list(updates))
panel.legend()
show(figure, "01_scale")

# %% tags=["fold"]
# check
growth = updates[16][0] / updates[4][0]
true_option(growth < 1.2, 1.8 < growth < 2.2, 3.5 < growth < 4.5)
assert 0.9 < updates[16][1] / updates[4][1] < 1.1, "is s divided by r, or by the root of r?"

# %% [markdown]
# Dividing by $r$ removes this growth. (The whole update grows more slowly: lesson 05.) Always
# read alpha and $r$ together: the defaults of peft, `r=8, lora_alpha=8`, give $s = 1$.
# Microsoft's layer has `lora_alpha=1` by default, so with `r=8` it has $s = 1/8$.
#
# ## 4. LoRA in a whole model
#
# To **inject** LoRA means to replace linear layers of a model by LoRA layers:


# %%
def inject_by_hand(module: nn.Module, r: int, alpha: float) -> None:
    """Replace every nn.Linear inside `module`, at any depth."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, HandLinear(child, r, alpha))
        else:
            inject_by_hand(child, r, alpha)


# %% [markdown]
# ??? A small network has layers from 64 to 256 and from 256 to 64. We inject LoRA with r = 8.
#   How many parameters are trained afterwards?
# - [ ] 33,088 + 5,120 || The original 33,088 are frozen.
# - [x] 5,120 || 2 · 8 · (64 + 256). Everything else is frozen.
# - [ ] 33,088 || These are the parameters of the network before.

# %%
tiny = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
before = sum(p.numel() for p in tiny.parameters() if p.requires_grad)
inject_by_hand(tiny, r=8, alpha=16)
after = sum(p.numel() for p in tiny.parameters() if p.requires_grad)
print(f"trained parameters: {before:,} before, {after:,} after")

# %% tags=["fold"]
# check
true_option(after == before + 5120, after == 5120, after == before)
copy = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
for by_hand_layer, library_layer in ((tiny[0], copy[0]), (tiny[2], copy[2])):
    library_layer.load_state_dict(by_hand_layer.base.state_dict())
loralib.inject(copy, loralib.LoraConfig(r=8, lora_alpha=16, target_modules=["0", "2"]))
for by_hand_layer, library_layer in ((tiny[0], copy[0]), (tiny[2], copy[2])):
    nn.init.normal_(by_hand_layer.B)
    library_layer.lora_A["default"].data.copy_(by_hand_layer.A)
    library_layer.lora_B["default"].data.copy_(by_hand_layer.B)
z = torch.randn(3, 64)
assert torch.allclose(tiny(z), copy(z), rtol=1e-3, atol=1e-3), (
    "did `inject` miss a layer, or is the scale another one?"
)
assert after == 2 * 8 * (64 + 256), "were d_in and d_out added, or multiplied?"

# %% [markdown]
# The library's `inject` also freezes everything else. We use it for the encoder of lesson 00:
# every linear layer in its two Transformer layers gets an $A$ and a $B$. In each Transformer
# layer there are four linear layers of 64 × 64 and two between 64 and 256.
#
# The task is question answering: the input is a story and a question, such as `who chased ?`.
# The answer is a piece of the story. The model needs a new last layer, the **head**: for each
# token it computes a score for "the answer starts here", and one for "it ends here". The head
# starts random, so it must be trained too, and saved: `modules_to_save` names it.
#
# ??? LoRA adds r (d_in + d_out) parameters per layer, with r = 8. The head has 64 × 2 weights
#   and 2 biases. What share of all trained parameters belongs to the head?
# - [x] less than 5 % || 130 against 18,432: the A and B of twelve layers are much larger.
# - [ ] about half || Compute one layer: 8 · (64 + 64) is 1,024 already.
# - [ ] nearly all || Then the head would need many more than 18,000 parameters.

# %%
from training.data.tasks import find_task
from training.models.base_models import load_base

small = load_base(find_task("qa"), "encoder", seed=0)
config = loralib.LoraConfig(
    r=8, lora_alpha=16, target_modules="all-linear", modules_to_save=small.new_modules
)
report = loralib.inject(small.model, config, seed=0)
lines = str(report).splitlines()
print(*lines[:2], "...", *lines[-2:], sep="\n")

# %% tags=["fold"]
# check
counted = loralib.count_parameters(small.model)
head = 64 * 2 + 2
share = head / (counted.adapter + head)
true_option(share < 0.05, 0.4 < share < 0.6, share > 0.9)
by_hand = sum(8 * sum(row.shape) for row in report.rows)
assert by_hand == counted.adapter, "is the head counted as an adapter, or a layer twice?"

# %% [markdown]
# ## 5. LoRA, the head alone, and full fine-tuning
#
# Four runs with the same model, the same data and 300 steps. Each uses the default learning
# rate of its method: 1e-2 for the head, 5e-3 for LoRA, 1e-3 for **full fine-tuning**, which
# trains every weight. Exact match is the share of answers whose first and last word are both
# right.
#
# ??? On a scale of exact match, let the head alone be 0 % and full fine-tuning 100 %. Where is
#   LoRA with r = 8?
# - [ ] below 25 % || The head reads only what the frozen layers already compute. LoRA changes
#   the layers.
# - [ ] between || This can happen on another task. Measure it on yours.
# - [x] above 75 % || In this run r = 8 is about as good as full fine-tuning, with 16 % of its
#   parameters. For the 4096 × 4096 weight above, it would be 0.4 %.

# %%
from training import train_model

runs = Path(tempfile.mkdtemp())
plan = {
    "head alone": ("head", 8),
    "LoRA r=1": ("lora", 1),
    "LoRA r=8": ("lora", 8),
    "full": ("full", 8),
}
settings = {"steps": 300, "eval_every": 300, "eval_rows": 500, "trackers": ""}
results = {}
for name, (method, r) in plan.items():
    out = str(runs / f"{method}{r}")
    result = train_model("qa", method=method, r=r, lora_alpha=2 * r, out=out, **settings)
    results[name] = result
    print(f"{name:<11} {result.trainable:>7,} trained   exact match {result.metric:.3f}")

# %% tags=["fold"]
# plot: quality against the number of trained parameters
figure, panel = plt.subplots()
for name, result in results.items():
    place = (result.trainable, result.metric)
    error = 3 * math.sqrt(result.metric * (1 - result.metric) / 500)
    panel.errorbar(
        *place, error, fmt="o", color=COLOURS[result.method], markersize=7, capsize=4
    )
    shift = (-32, -4) if name == "full" else (7, -14)
    panel.annotate(name, place, xytext=shift, textcoords="offset points")
panel.axhline(results["full"].ceiling, color=COLOURS["ceiling"], linestyle="--")
panel.annotate("ceiling", (150, 0.92), color=COLOURS["ceiling"])
panel.set(title="r = 8 is about as good as full fine-tuning here", ylim=(0, 1.08), xscale="log")
panel.set(xlabel="trained parameters (log scale)")
panel.set(ylabel="exact match (bars: 3 standard errors)")
show(figure, "01_quality_against_size")

# %% tags=["fold"]
# check
head_alone, lora, full = (results[name].metric for name in ("head alone", "LoRA r=8", "full"))
position = (lora - head_alone) / (full - head_alone)
true_option(position < 0.25, 0.25 < position < 0.75, position > 0.75)
assert results["LoRA r=8"].trainable < 0.25 * results["full"].trainable, "is the base frozen?"

# %% [markdown]
# With 500 test examples, three standard errors are 0.06. So this does not say whether LoRA or
# full fine-tuning is better, and other seeds may differ: see [how to compare two
# runs](topics/compare_two_runs.py). But r = 1 is clearly behind. The ceiling is 1 here: the
# story states every answer. Full fine-tuning stays below it, because it learns a part of its
# 500 training stories by heart ([deep dive](deep/01_lora_by_hand.py), section 6).
#
# ## The same in peft
#
# peft wraps a model with `get_peft_model`. Its layer computes the same as ours:

# %% tags=["fold"]
# the same in peft: one layer with our matrices
import logging

logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # it looks for a GPU
from peft import LoraConfig, get_peft_model

nn.init.normal_(hand.B)  # with B = 0 a wrong A would not be noticed
peft_model = get_peft_model(
    nn.Sequential(base), LoraConfig(r=4, lora_alpha=8, target_modules=["0"])
)
peft_layer = peft_model.base_model.model[0]
peft_layer.lora_A["default"].weight.data.copy_(hand.A)
peft_layer.lora_B["default"].weight.data.copy_(hand.B)
assert torch.allclose(peft_model(x), hand(x), rtol=1e-4, atol=1e-5), (
    "peft computes something else"
)
print("peft's layer and ours give the same output")

# %% [markdown]
# ## Find the bug
#
# This layer trains, but its results are not those of `loralib.Linear`. It uses r = 8 and alpha
# = 16.
#
# ```python
# def forward(self, x):
#     update = self.scaling * (self.B @ self.A)  # (d_out, d_in)
#     return self.base(x) + self.scaling * x @ update.T
# ```
#
# ??? What is wrong?
# - [ ] `B @ A` has the wrong shape. || (d_out, r) times (r, d_in) is (d_out, d_in), as it
#   should be.
# - [x] The scale is applied twice. || Here s = 2, so the update is multiplied by 4, not by 2.
#   With s = 1 nobody would notice.
# - [ ] It is slow. || It is slow, too, but that does not change the result.

# %% tags=["fold"]
# check: the update of the buggy layer against the correct one
A, B, s = torch.randn(8, D), torch.randn(D, 8), 16 / 8
update = s * (B @ A)
buggy, correct = s * x @ update.T, s * (x @ A.T) @ B.T
true_option(
    update.shape != (D, D),
    torch.allclose(buggy, 2 * correct, rtol=1e-3, atol=1e-3),
    torch.allclose(buggy, correct, rtol=1e-3, atol=1e-3),
)

# %% [markdown]
# ## Quiz
#
# ??? A layer has d_in = 768 and d_out = 2304. How many parameters does LoRA with r = 8 add?
# - [ ] 6,144 || That is A alone.
# - [ ] 14,155,776 || That is r times d_in times d_out.
# - [x] 24,576 || 8 · (768 + 2304).
#
# ??? After training, you want one ordinary linear layer that gives the same outputs. What is
#   its weight?
# - [ ] B A || The original weight and the scale are missing.
# - [x] W₀ + s B A || Then the adapter costs nothing in use: see the page "merge and save".
# - [ ] W₀ || Then the training would be lost.
#
# ??? What is the rank of the update $\Delta W = s B A$?
# - [x] at most r || A has r rows, so the output of B A uses at most r directions.
# - [ ] exactly d_in || Then it would be a full update.
# - [ ] at most r/2 || Nothing halves it.
#
# ??? Why is the base weight frozen?
# - [ ] to make the forward pass faster || The forward pass still uses the whole weight, and the
#   adapter is added to it.
# - [x] so that it needs no gradient and no optimizer state, and many tasks can share it || This
#   saves memory, and each task has only a small file.
# - [ ] because its gradient is zero || Its gradient would not be zero. We do not compute it.
#
# ??? Another library uses r = 16 and alpha = 16; you use r = 16 and alpha = 32. How do the
#   scales compare?
# - [ ] They are equal. || The scale is alpha / r.
# - [ ] Yours is half as large. || A larger alpha gives a larger scale.
# - [x] Yours is twice as large. || 32/16 = 2, and 16/16 = 1.

# %% tags=["fold"]
# check of the first, the second and the last answer
assert loralib.Linear(768, 2304, r=8).lora_A["default"].numel() == 8 * 768, "A: (r, d_in)"
assert 8 * (768 + 2304) == 24_576, "r (d_in + d_out)"
merged = nn.functional.linear(x, base.weight + hand.scaling * hand.B @ hand.A, base.bias)
assert torch.allclose(merged, hand(x), rtol=1e-4, atol=1e-5), "W0 + s B A"
assert (32 / 16) / (16 / 16) == 2, "the scale is alpha / r"

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | LoRA is no better than the head alone | both matrices start at zero | section 2: print both gradient norms |
# | outputs change before training | $B$ does not start at zero | `torch.equal` before and after `inject`, in `eval()` |
# | a larger rank needs a smaller learning rate | the scale is not $\alpha / r$ | section 3: compute alpha / r |
# | good in training, random after loading | the new head was not saved | [merge and save](topics/merge_and_save.py) |
#
# ## Exercises
#
# Write in [exercises/01_lora_by_hand.py](exercises/01_lora_by_hand.py), then run
# `python -m tutorials check 01`.
#
# 1. ★ `largest_rank`: what is the largest rank whose parameters fit a budget?
#    <details><summary>Hint</summary>One layer costs r (d_in + d_out).</details>
# 2. ★ `gradients`: compute both gradients of section 2 without autograd.
#    <details><summary>Hint</summary>First make x and G matrices with one row per token.</details>
# 3. ★★ `best_factors`: the best $A$ and $B$ of rank $r$ for a given update, from its singular
#    values ([deep dive](deep/01_lora_by_hand.py), section 1).
#    <details><summary>Hint</summary><code>torch.linalg.svd</code>; give each matrix the square
#    root of the singular values.</details>
# 4. ★★★ `join`: replace the $A$, $B$ of two adapters on one layer by a single pair of rank $r$.
#    <details><summary>Hint</summary>Two adapters together add the sum of their updates. That sum
#    is a matrix, and you can find its best factors.</details>
#
# **Change and measure:** run section 5 with `r=2` and `r=4` as well. From which rank on does a
# larger rank not help any more? Use two seeds (`settings["seed"] = 1`) before you answer.
#
# ## Summary
#
# 1. LoRA adds $s B A$ to a frozen weight. It has $r (d_{in} + d_{out})$ parameters.
# 2. $B$ starts at zero, so the model starts unchanged. $A$ must start random, or $B$ gets no
#    gradient.
# 3. On this task the head alone is far behind, and LoRA with r = 8 is about as good as full
#    fine-tuning.
#
# **Next:** [lesson 02](02_lora_for_generation.py), the same layer in a model that writes text.
#
# More: [deep dive](deep/01_lora_by_hand.py) · [merge and save](topics/merge_and_save.py) ·
# [glossary](GLOSSARY.md)
#
# ## On the real thing
#
# The first command runs here. The second one needs a network, and a GPU helps:
#
# ```bash
# python -m training --task qa --method lora --r 8
# python -m training --task sst2 --model roberta-base --method lora --target-modules query,value
# ```
