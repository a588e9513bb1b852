# %% [markdown]
# # 01 · Deep dive: singular values, what a rank can learn, and counting
#
# **Needs** [lesson 01](../01_lora_by_hand.py) · **Read and do** 35 minutes
# · **Runs in** about 30 s on one CPU thread · **Memory** 2 GB
#
# The core page of lesson 01 says that $B A$ has rank $r$ at most. This page shows what that
# means, what such an update can and cannot learn, and how a count of parameters finds a wrong
# claim.

# %% tags=["fold"]
# set-up: imports, our folders, one thread
import sys
from itertools import islice
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import torch
import transformers
from matplotlib import pyplot as plt

import loralib
from training.reports.records import COLOURS, use_style
from tutorials.answers import true_option
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
use_style()
D, R = 64, 4

# %% [markdown]
# ## 1. Two thin matrices, multiplied, have a low rank
#
# The **singular values** of a matrix say how strongly it acts in its independent directions.
# Its rank is the number of singular values that are not zero.
#
# ??? A is 4 × 64 and B is 64 × 4, all random. How many of the 64 singular values of B A are not
#   zero?
# - [x] 4 || Everything passes through 4 numbers, so only 4 directions can come out.
# - [ ] 8 || The ranks of the two matrices are not added.
# - [ ] 64 || Its shape is 64 × 64, but its rank is that of the thin matrices.

# %%
generator = torch.Generator().manual_seed(0)
A = torch.randn(R, D, generator=generator)
B = torch.randn(D, R, generator=generator)
W = torch.randn(D, D, generator=generator)
values = {"W": torch.linalg.svdvals(W), "B A": torch.linalg.svdvals(B @ A)}
above = int((values["B A"] > 1e-5 * values["B A"].max()).sum())  # smaller ones are rounding
print(f"parameters in a full update: {D * D:,}, in A and B: {A.numel() + B.numel():,}")
print(f"singular values of B A that are not zero: {above}")

# %% tags=["fold"]
# plot: the singular values of both matrices
figure, panel = plt.subplots()
panel.semilogy(
    range(1, D + 1), values["W"], color=COLOURS["full"], label="a full 64 × 64 matrix"
)
small = values["B A"].clamp_min(1e-7)
panel.semilogy(
    range(1, D + 1), small, color=COLOURS["lora"], marker=".", label="B A with r = 4"
)
panel.set(title="B A acts in r directions and in no other", ylabel="size (log scale)")
panel.set(xlabel="number of the singular value")
panel.annotate("rounding error, cut at 10⁻⁷", (30, 3e-5), color=COLOURS["lora"])
panel.legend()
show(figure, "01_singular_values")

# %% tags=["fold"]
# check
true_option(above == 4, above == 8, above == 64)

# %% [markdown]
# ## 2. What a rank can and cannot learn
#
# Let us hide an update of rank 4 in a layer: $W^\ast = W_0 + T$, where $T$ has the singular
# values 4, 3, 2, 1 and no others. LoRA has to find $T$ by gradient descent. Write
# $\sigma_1 \ge \sigma_2 \ge \dots$ for the singular values of $T$. Eckart and Young (1936) say
# how much the best matrix of rank $r$ leaves over (the sum of the squares of all entries):
#
# $$\min_{\text{rank} \le r} \lVert T - \Delta W \rVert^2 = \sum_{i > r} \sigma_i^2.$$
#
# ??? What is left over for r = 2?
# - [ ] 3 || That is 2 + 1, without the squares.
# - [x] 5 || 2² + 1².
# - [ ] 25 || That is 4² + 3², the part that rank 2 learns.

# %%
generator = torch.Generator().manual_seed(3)
U, V = (torch.linalg.qr(torch.randn(D, D, generator=generator)).Q for _ in range(2))
sigma = torch.zeros(D)
sigma[:4] = torch.tensor([4.0, 3.0, 2.0, 1.0])
T = U @ torch.diag(sigma) @ V.T


def error_left(r: int, steps: int = 400) -> float:
    """Squared error after training a LoRA layer of rank r towards W0 + T."""
    torch.manual_seed(1)
    layer = loralib.Linear(D, D, r=r, lora_alpha=r, bias=False)
    inputs, wanted = torch.eye(D), (layer.weight + T).T  # every unit vector once
    trained = [p for p in layer.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.02)
    for _ in range(steps):
        loss = (layer(inputs) - wanted).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


# %%
ranks = (1, 2, 4, 8)
errors = {r: error_left(r) for r in ranks}
best = {r: sigma[r:].square().sum().item() for r in ranks}
for r in ranks:
    print(f"r = {r}: error {errors[r]:7.3f}   best possible {best[r]:7.3f}")

# %% tags=["fold"]
# plot: the error that is left, and the best possible one
figure, panel = plt.subplots()
label = "best matrix of rank r (computed)"
panel.plot(ranks, list(best.values()), color=COLOURS["ceiling"], linestyle="--", label=label)
panel.plot(ranks, list(errors.values()), "o", color=COLOURS["lora"], label="LoRA, trained")
panel.set(title="rank 4 learns an update of rank 4; a larger rank changes nothing")
panel.set(xlabel="rank r", ylabel="squared error that is left")
panel.legend()
show(figure, "01_eckart_young")

# %% tags=["fold"]
# check
true_option(abs(best[2] - 3) < 0.1, abs(best[2] - 5) < 0.1, abs(best[2] - 25) < 0.1)
for r in ranks:
    assert best[r] - 0.01 < errors[r] < best[r] + 0.1, (
        "gradient descent should reach the optimum"
    )

# %% [markdown]
# A real update looks like this (the query weight of the encoder's last layer, after full
# fine-tuning on question answering, as in section 5 of the core page):
#
# <div class="widget" data-widget="rank">
#
# ![The singular values of a learned update](../diagrams/widget_rank.svg)
#
# *In the book (`python -m tutorials book`) you can move the rank here.*
#
# </div>
#
# Four of 64 directions leave about a fifth of the squared update out. With too small a rank, a
# part of the update is out of reach. Nobody can say in advance which rank a real task needs. We
# measure it.
#
# ## 3. A count that cannot be right
#
# GPT-2 small has 12 equal layers of width 768. `c_attn` computes queries, keys and values at
# once, from 768 to 3 · 768. We build the model on the `meta` device: shapes without memory.
#
# ??? How many parameters does LoRA with r = 8 add to all `c_attn` layers?
# - [x] 294,912 || 12 · 8 · (768 + 3 · 768).
# - [ ] 147,456 || That would be so if `c_attn` were square, from 768 to 768: 12 · 8 · (768 +
#   768).
# - [ ] 1,060,480 || Some pages on the web print this number. It cannot be right, as the next
#   cell shows.

# %%
from transformers import GPT2Config, GPT2LMHeadModel

by_hand = 12 * 8 * (768 + 3 * 768)
with torch.device("meta"):
    gpt2 = GPT2LMHeadModel(GPT2Config())
report = loralib.inject(gpt2, loralib.LoraConfig(r=8, target_modules=["c_attn"]))
share = loralib.count_parameters(gpt2).share
print(f"by hand {by_hand:,}, library {report.parameters:,} ({share:.2%} is trained)")
claimed = 1_060_480
print(f"{claimed:,} mod 12 = {claimed % 12}, mod 768 = {claimed % 768}")

# %% tags=["fold"]
# check
true_option(
    report.parameters == 294_912, report.parameters == 147_456, report.parameters == claimed
)
assert by_hand == report.parameters, (
    "12 layers, r = 8, d_in 768, d_out 2304: which one differs?"
)
assert claimed % 12 and claimed % 768, "then some choice of modules could give this number"
assert by_hand % 12 == 0 == by_hand % 768, "a correct count must pass the same two tests"

# %% [markdown]
# All 12 layers are equal, and every matrix in them has sides that are multiples of 768. If LoRA
# is put into the same modules of every layer, and not into the embeddings, the count can be
# divided by 12 and by 768. You can check this without any code. A count is the cheapest check
# of any claim about LoRA.
#
# ## 4. Freezing weights does not add LoRA layers
#
# `mark_only_lora_as_trainable(model)`, a function of Microsoft's library, freezes everything
# except LoRA layers. Our library has a function of the same name.
#
# ??? You call *our* function on a model that has no LoRA layers. What happens?
# - [ ] LoRA layers are added. || Marking changes `requires_grad` and nothing else.
# - [ ] Everything is frozen, without a message. || This is what Microsoft's function does. The
#   error comes later, in `backward()`.
# - [x] An error. || Our function raises an error, because the request has no effect.

# %%
from training.data.tasks import find_task
from training.models.base_models import load_base

spec = find_task("qa")
small = load_base(spec, "encoder", seed=0)
try:
    loralib.mark_only_lora_as_trainable(small.model)
    message = ""
except ValueError as error:
    message = str(error)
print(message)

# %% tags=["fold"]
# check
has_layers = any("lora" in name for name, _ in small.model.named_parameters())
true_option(has_layers, not message, "no LoRA layers" in message)

# %% [markdown]
# ## 5. A training loop by hand
#
# In this section we write the loop ourselves.
#
# ??? After training, which parameters of the first query layer have changed?
# - [ ] the weight and both matrices || The weight is frozen.
# - [ ] only `lora_B` || B moves first, but A follows at the second step.
# - [x] `lora_A` and `lora_B` || Both are trained, and the weight and the bias are frozen.

# %%
from training.data.batching import Steps
from training.data.data import load_task
from training.data.encoding import encode

modules = list(small.new_modules)
config = loralib.LoraConfig(
    r=8, lora_alpha=16, target_modules="all-linear", modules_to_save=modules
)
loralib.inject(small.model, config, seed=0)
features = encode(load_task(spec, seed=0)["train"][:], spec, small.tokenizer, 96).features


def train_by_hand(model, steps: int) -> list[float]:
    """AdamW on whatever is trainable; returns the losses."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for [batch] in islice(Steps(features, small.tokenizer, batch_size=16, seed=0), steps):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# %%
start = {name: p.detach().clone() for name, p in small.model.named_parameters()}
losses = train_by_hand(small.model, steps=40)
changed = {n for n, p in small.model.named_parameters() if not torch.equal(p, start[n])}
for name in (n for n in start if "layer.0.attention.self.query" in n):
    print(f"{'changed' if name in changed else 'frozen ':<8} {name}")
print(f"loss: first 5 steps {sum(losses[:5]) / 5:.2f}, last 5 steps {sum(losses[-5:]) / 5:.2f}")

# %% tags=["fold"]
# check
query = {
    n.rpartition("query.")[2].split(".")[0]
    for n in changed
    if "layer.0.attention.self.query" in n
}
true_option("weight" in query, query == {"lora_B"}, query == {"lora_A", "lora_B"})
assert all("lora_" in n or ".copies." in n for n in changed), "a frozen weight moved"
assert sum(losses[-5:]) < 0.95 * sum(losses[:5]), (
    "the loss should fall: what is in the optimizer?"
)

# %% [markdown]
# (`.copies.` is part of the name of the trained head: `inject` keeps the old head next to it.)
#
# The library's loop does the same, and more: a learning rate that rises and falls, a limit for
# the length of the gradient, an evaluation, records on disk, and a check that every trainable
# parameter receives a gradient.
#
# ## 6. Overfitting, and more ranks
#
# The core page shows one run each for r = 1 and r = 8. Here is r = 2 as well. We compare the
# mean loss of the last 30 training steps with the loss on new stories.
#
# ??? After 300 steps of full fine-tuning, which loss is lower?
# - [x] the loss on training stories || The training set is small, so a part of it is learned by
#   heart. This is **overfitting**.
# - [ ] the loss on new stories || That would be strange: is the test set part of the training
#   set?
# - [ ] both are equal || With far more training stories they would come close.

# %%
import tempfile

from training import train_model

quick = {"steps": 300, "eval_every": 300, "eval_rows": 500, "trackers": ""}
runs = {}
for name, options in (("LoRA r=2", {"r": 2, "lora_alpha": 4}), ("full", {"method": "full"})):
    runs[name] = train_model("qa", out=tempfile.mkdtemp(), **options, **quick)
    visited = sum(row["loss"] for row in runs[name].rows[-30:]) / 30
    print(f"{name:<9} exact match {runs[name].metric:.3f}")
    print(f"          loss: training stories {visited:.2f}, new stories {runs[name].loss:.2f}")

# %% tags=["fold"]
# check
gap = runs["full"].loss - visited
true_option(gap > 0.05, gap < -0.05, abs(gap) < 0.05)
assert len(runs) == 2, "both runs are needed for the printed comparison"

# %% [markdown]
# ## Where our layers differ from the paper
#
# The paper starts $A$ with a normal distribution. The library starts it as PyTorch starts a
# linear layer, evenly between $\pm 1 / \sqrt{d_{in}}$. For **embeddings** the library starts
# the other way round, as Microsoft's does: $A$ is zero and $B$ is random.
#
# ## Summary
#
# 1. The rank limits what an update can learn, and Eckart and Young say exactly how much is
#    lost.
# 2. Correct counts have divisors that you know. Check a claim with them first.
# 3. Look at what changed after the first steps of any training.
#
# **Next:** [lesson 02](../02_lora_for_generation.py).
