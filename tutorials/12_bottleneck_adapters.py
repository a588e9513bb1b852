# %% [markdown]
# # 12 · A bottleneck adapter is a small network inside each layer: few numbers to train, and a price at inference for ever
#
# | | |
# |:--|:--|
# | **Needs** | lessons [01](01_lora_by_hand.py), [03](03_lora_for_classification.py) and [05](05_lora_family.py) |
# | **Read and do** | 60 minutes |
# | **Runs in** | about 75 s on one CPU thread |
# | **Memory** | 2 GB |
#
# LoRA changes a weight. A **bottleneck adapter** (Houlsby et al. 2019) leaves every weight alone and puts a *new small network*
# into each layer: down to a few neurons (the bottleneck), a non-linearity, and up again. You will build one, choose its place,
# train it beside LoRA, and count what it costs. One thing it can never do is merge.
#
# | symbol | code | meaning |
# |:--|:--|:--|
# | d, m | `width`, `width / reduction_factor` | width of the model, and of the bottleneck |
# | $D, b$ | `down.weight`, `down.bias` | the way down (m × d); here D is a matrix, not the width |
# | $U, c$ | `up.weight`, `up.bias` | the way up (d × m) |
# | $f, s$ | `activation`, `scale` | the non-linearity, and a fixed factor (1; parallel 4) |
# | $h, z$ | | a sub-layer's output, and the sum $h$ + residual that goes into a norm |
#
# Differences from the papers: Houlsby et al. start U near zero and train the norms too; we start U *at* zero and train no norm.
# They use models of 110 M and more. Ours has 115 thousand, so its scores say nothing about theirs; its counts do.

# %%
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path.cwd() if Path("loralib").is_dir() else Path.cwd().parent
sys.path.insert(0, str(ROOT))  # so that our folders are found, from the project's root and from tutorials/

import datasets
import torch
import transformers
from matplotlib import pyplot as plt
from torch.nn import functional as F

import loralib
from training.models.base_models import load_base
from training.data.data import load_task
from training.reports.records import COLOURS, use_style
from training.data.tasks import find_task
from tutorials.show import show

# %%
torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
datasets.disable_progress_bars()
use_style()
folder = Path(tempfile.mkdtemp())
spec, PURPLE = find_task("qa"), COLOURS["bottleneck"]

# %% [markdown]
# ## 1. The adapter by hand
#
# $$A(x) = s \cdot \big(U f(D x + b) + c\big), \qquad \text{and the layer goes on with } x + A(x).$$
#
# D has m·d numbers, U has d·m, the biases m and d: together 2dm + m + d. How narrow the bottleneck is, a **reduction factor**
# says: m = d / factor, and 16 is the default (`parallel`, below, has 2). For f we take relu, the default.
#
# **Predict:** RoBERTa-base has d = 768 and 12 layers. With one adapter in each layer and m = 768 / 16 = 48: how many numbers is
# that, to the nearest hundred thousand? And with two in each layer?

# %%
from adapters.bottleneck.bottleneck import Bottleneck, BottleneckConfig

# init="bert" makes U random (section 3): with U = 0, the default, we would compare zeros with zeros
adapter = Bottleneck(64, BottleneckConfig(init="bert"), torch.Generator().manual_seed(0))
D, b, U, c = adapter.down.weight, adapter.down.bias, adapter.up.weight, adapter.up.bias
x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1))  # (B, T, d)
neurons = F.relu(F.linear(x, D, b))  # (B, T, m)
by_hand = F.linear(neurons, U, c)  # (B, T, d)
print(f"d = 64, m = {len(D)}: {sum(p.numel() for p in adapter.parameters())} numbers")
assert torch.equal(adapter(x), by_hand), "U f(D x + b) + c, with relu for f and s = 1; the residual is added by the place"
assert sum(p.numel() for p in adapter.parameters()) == 2 * 64 * 4 + 4 + 64, "2dm + m + d: was a bias forgotten?"

# %% [markdown]
# Now the real size, without its memory: on the device `meta` tensors have shapes and no content.

# %%
from adapters import attach

PLACEMENTS = ("pfeiffer", "houlsby", "parallel")


def roberta_base() -> transformers.RobertaModel:
    config = transformers.RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
    with torch.device("meta"):
        return transformers.RobertaModel(config)


counts = {placement: attach(roberta_base(), BottleneckConfig(placement=placement)).parameters for placement in PLACEMENTS}
of_one = lambda d, m: 2 * d * m + m + d  # noqa: E731
for placement, count in counts.items():
    print(f"RoBERTa-base, {placement:8}  {count:>9,}")
assert counts["pfeiffer"] == 12 * of_one(768, 48) == 894_528, "one a layer, m = 48"
assert counts["houlsby"] == 24 * of_one(768, 48) == 1_789_056, "two a layer, m = 48"
assert counts["parallel"] == 12 * of_one(768, 384) == 7_091_712, "one a layer, but its reduction factor is 2: m = 384"

# %% [markdown]
# These are **placements**: where the adapter sits, the subject of section 2. Never compare them at their defaults: `parallel` has
# a reduction factor of 2, so m = 384, and about eight times the numbers of `pfeiffer`.
#
# ## 2. Where it goes
#
# A layer has two **sub-layers**, attention and feed-forward; each ends in a sum with its input (the **residual**) and, in BERT,
# in a **layer norm** *after* the sum (**post-norm**; a layer norm rescales each token's vector, "norm" from here on). Three
# placements have names:
#
# - `houlsby`: after both sub-layers, before the sum: $h + A(h)$.
# - `pfeiffer`: once, on the second sum: $z + A(\mathrm{norm}(z))$, then BERT's norm.
# - `parallel` (He et al. 2022): beside the feed-forward part, on its input: $\mathrm{FFN}(x) + A(x)$.
#
# **Predict:** our encoder has two layers. How many rows has the report of each placement? (In a report, *way* is the formula:
# `output` is $h + A(h)$, `sum_norm` is $z + A(\mathrm{norm}(z))$. The last line names the head, which learns beside the adapter.)

# %%
models, reports = {}, {}
for placement in PLACEMENTS:
    models[placement] = load_base(spec, seed=0).model.eval()
    config = BottleneckConfig(placement=placement, reduction_factor=4, init="bert")  # m = 64 / 4 = 16
    reports[placement] = attach(models[placement], config, seed=0)
    print(f"--- {placement}\n{reports[placement]}")
assert [len(report.rows) for report in reports.values()] == [2, 4, 2], "houlsby has two places a layer, the others one"


# %%
ROUND = {"boxstyle": "round,pad=0.35", "edgecolor": "#444444"}
TEXT = {"ha": "center", "va": "center", "fontsize": 9}
PARTS = {1.1: "attention", 2.9: "+", 3.7: "norm", 4.9: "FFN", 6.5: "+", 8.2: "norm"}


def draw(panel, placement: str, adapters: list[tuple[float, float]]) -> None:  # from bottom to top
    panel.plot([0, 0], [0, 8.8], color="#888888", zorder=0, linewidth=1.2)
    for low, high in ((0.3, 2.9), (4.25, 6.5)):  # the residual goes round the sub-layer
        panel.plot([0, -2.5, -2.5, 0], [low, low, high, high], color="#888888", zorder=0, linewidth=1.2)
    for y, text in PARTS.items():
        panel.text(0, y, text, bbox={**ROUND, "facecolor": "white"}, **TEXT)
    for x, y in adapters:
        if x:  # beside, not in the way
            panel.plot([0, x, x, 0], [4.25, 4.25, 5.6, 5.6], color=PURPLE, zorder=0)
        panel.text(x, y, "adapter", color="white", bbox={**ROUND, "facecolor": PURPLE}, **TEXT)
    panel.set(xlim=(-4.4, 4.4), ylim=(-0.2, 9), xlabel=placement, xticks=[], yticks=[])
    panel.spines[:].set_visible(False)


# %%
figure, panels = plt.subplots(1, 3, figsize=(7.6, 4.6))
where = {"pfeiffer": [(0, 7.35)], "houlsby": [(0, 2.0), (0, 5.75)], "parallel": [(3.1, 4.9)]}
for panel, (placement, adapters) in zip(panels, where.items(), strict=True):
    draw(panel, placement, adapters)
panels[0].set_title("Three placements of the same small network in a post-norm layer (read upwards)")
show(figure, "placements")

# %% [markdown]
# Not drawn: the residual inside the adapter ($h + A(h)$), and that the adapter of `pfeiffer` reads norm(z), not z. So the norm's
# weights are used twice. We check that one by hand, in layer 0.
#
# **Predict:** GPT-2 has its norms *before* the sub-layers (**pre-norm**), so no norm follows the second sum. What can `pfeiffer`
# look at there, a norm's output or the plain sum: which *way* will the report show?

# %%
layer = models["pfeiffer"].bert.encoder.layer[0]
h = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(2))  # (B, T, d)
norm = layer.output.LayerNorm
adapter = norm.adapter_site.bottlenecks["default"]
with torch.no_grad():
    z = layer.output.dense(layer.intermediate(h)) + h
    normed = lambda t: F.layer_norm(t, (64,), norm.weight, norm.bias, norm.eps)  # noqa: E731
    assert torch.allclose(layer.output(layer.intermediate(h), h), normed(z + adapter(normed(z))), atol=1e-6), "norm twice"
decoder = load_base(find_task("data2text"), seed=0).model
print(attach(decoder, BottleneckConfig(reduction_factor=4), seed=0))
assert "sum_norm" in str(reports["pfeiffer"]), "post-norm: the adapter sees norm(z), and its change is normed once more"
assert "sum_norm" not in str(attach(decoder, BottleneckConfig(), "b")), "pre-norm: h + A(h) on the layer's output, the plain sum"

# %% [markdown]
# The way is `output`: with no norm to look through, `pfeiffer` on GPT-2 is $h + A(h)$ on what the layer gives.
#
# ## 3. The start
#
# A new adapter should not spoil the base. Three starts are in use: `identity` (U = 0, ours), `houlsby` (D and U normal with
# standard deviation 0.01) and `bert` (0.02, as BERT's own weights).
#
# **Predict:** order them by how far they move the logits. For which is the distance exactly 0?

# %%
rows = load_task(spec, seed=0)["test"][:8]
tokenizer = load_base(spec, seed=0).tokenizer
inputs = tokenizer(rows["question"], rows["context"], return_tensors="pt", padding=True)


@torch.no_grad()
def answers(model) -> torch.Tensor:
    return model.eval()(**inputs).start_logits  # (B, T)


of_the_base, moved = answers(load_base(spec, seed=0).model), {}
for init in ("identity", "houlsby", "bert"):
    model = load_base(spec, seed=0).model
    attach(model, BottleneckConfig(placement="houlsby", reduction_factor=4, init=init), seed=0)
    moved[init] = float((answers(model) - of_the_base).norm() / of_the_base.norm())
    print(f"{init:8}  moves the logits by {moved[init]:.2%}")
    assert init != "identity" or torch.equal(answers(model), of_the_base), "U = 0 and c = 0: it adds exact zeros"
assert 0 == moved["identity"] < moved["houlsby"] < moved["bert"], "the larger the weights, the further from the base"

# %% [markdown]
# At width 64 even `bert` is a small push; but only zero is zero at every size. And U = 0 can learn: the gradient of U is the
# error times $f(Dx + b)$, and D is not zero, so from the first step on U moves. (With D = 0 and b = 0 as well, the neurons are 0
# and pass no gradient to U, and U = 0 passes none to D: only c would ever move.)
#
# ## 4. Train it
#
# The question answering of lesson 05, 120 steps, three seeds. The **seed** draws the training rows, the new head, the start of
# the adapter and the order of the batches; all methods share it, so the runs are paired. Reduction factor 4 (m = 16), as 16
# would leave 4 neurons here; LoRA has r = 2 on all linear layers, about the same number of weights. On two other
# seeds, 1000 and 1001, half and twice each learning rate below were worse in the mean (for the head, twice was 0.01 better).
#
# **Predict:** `pfeiffer` and `parallel` have the same 4,256 adapter weights. A head alone gets about 0.4 of the answers exactly
# right, LoRA about 0.65. Where do the two lie?

# %%
from training import train_model
from training.reports.paired import paired_gap

adapters = {"method": "bottleneck", "reduction_factor": 4, "learning_rate": 0.04}
WAYS = {
    "head": {"method": "head", "learning_rate": 0.04},
    "pfeiffer": adapters,
    "parallel": {**adapters, "placement": "parallel"},
    "LoRA r=2": {"method": "lora", "r": 2, "lora_alpha": 4, "learning_rate": 0.02},
    "full": {"method": "full", "learning_rate": 0.003},
}
common = {"steps": 120, "eval_every": 10**6, "trackers": "", "samples": 0, "threads": 1, "eval_rows": 200}
runs, scores = {}, {name: [] for name in WAYS}
for seed in (0, 1, 2):
    for name, options in WAYS.items():
        runs[name] = train_model("qa", seed=seed, out=str(folder / f"{name}-{seed}"), **common, **options)
        scores[name].append(runs[name].metric)
mean = {name: statistics.mean(values) for name, values in scores.items()}
for name, run in runs.items():
    print(f"{name:9} {[round(v, 2) for v in scores[name]]}   mean {mean[name]:.2f}   {run.trainable:>7,} trained")
for other in ("head", "pfeiffer", "LoRA r=2", "full"):
    print("parallel - {:9} {:+.2f}, standard error {:.2f}".format(other, *paired_gap(scores["parallel"], scores[other])))
assert mean["parallel"] > mean["head"] + 0.1, "an adapter between the layers can do what a head on top cannot"
assert abs(mean["parallel"] - mean["full"]) < 0.2, "with 4 % of the numbers it is in the range of full fine-tuning"
assert mean["pfeiffer"] < mean["parallel"], "the same size at another place: here it is slower"

# %%
colours = dict(zip(WAYS, (COLOURS["head"], PURPLE, PURPLE, COLOURS["lora"], COLOURS["full"]), strict=True))
figure, panel = plt.subplots(figsize=(6.8, 3.6))
for (name, values), shift in zip(scores.items(), (1, 0.8, 1, 1.25, 1), strict=True):
    at = runs[name].trainable * shift
    panel.plot([at] * 3, values, "s" if name == "pfeiffer" else "o", color=colours[name], alpha=0.6, label=name)
    panel.plot(at, mean[name], "_", color=colours[name], markersize=20, markeredgewidth=2.5)
panel.set(xscale="log", ylim=(0, 1), xlabel="trained parameters (two are moved aside)", ylabel="exact match (dots: seeds)")
panel.set_title("After 120 steps parallel is where full is; pfeiffer, of the same size, is behind")
panel.legend(ncols=2, loc="lower right", fontsize=8)
show(figure, "adapters_trained")

# %% [markdown]
# Bars are means; `pfeiffer` and LoRA are drawn a little aside, as `parallel` has nearly the same number. Read it with care. The
# seeds of one method lie up to 0.2 apart, so nobody wins among `parallel`, LoRA and full: their mean differences are below two
# standard errors. What holds in each of three pairs: `parallel` is above the head, and above `pfeiffer`. How far above
# `pfeiffer`, the seeds do not agree: on the two on which the rates were tried it is 0.02 and 0.04, here 0.21 in the mean.
#
# `pfeiffer` is slower, not lost: after 400 steps it has 0.70, 0.74 and 0.66 on the same seeds, and `parallel` 0.74, 0.78 and 0.75
# (the last command on this page, with `--seed` 0, 1 and 2, and `--placement`). And the place is not their only difference:
# `parallel` also multiplies its change by s = 4. Which of the two helps is the open exercise.
#
# ## 5. What it costs
#
# LoRA's $BA$ is a matrix, so it can be added to a weight. $U f(Dx + b)$ is not one: f bends. No single matrix does the same for
# all x, so the adapter stays in the model, and each token pays 2dm multiplications at each place.
#
# **Predict:** how many multiplications a token does the adapter add in our encoder (two places, d = 64, m = 16)? LoRA r = 2, not
# merged, if each of the two layers has four matrices of 64 × 64, one of 64 × 256 and one of 256 × 64? And merged?

# %%
import copy

from torch.utils.flop_counter import FlopCounterMode

merged = copy.deepcopy(runs["LoRA r=2"].model)
loralib.merge_and_unload(merged)
serving = {"base": load_base(spec, seed=2).model, "LoRA": runs["LoRA r=2"].model, "LoRA merged": merged}
serving["adapter"] = runs["parallel"].model
tokens = inputs["input_ids"].numel()


def multiplications(model) -> int:
    """Of the linear layers in one forward pass, for each token. (This counter does not see inside attention.)"""
    # LoRA's second product is added in place, which torch's counter does not know; it hands us shapes
    in_place = {torch.ops.aten.addmm_: lambda y, a, b, **more: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        answers(model)
    return counter.get_total_flops() // 2 // tokens  # it counts an addition with each


# %%
products = {name: multiplications(model) for name, model in serving.items()}
for name, count in products.items():
    print(f"{name:11}  {count:>7,} multiplications a token, {count - products['base']:>+6,}")
linear = [m for m in serving["base"].bert.modules() if isinstance(m, torch.nn.Linear)]
assert products["adapter"] - products["base"] == 2 * (2 * 64 * 16), "2dm at each of two places, for ever"
assert products["LoRA"] - products["base"] == sum(2 * (m.in_features + m.out_features) for m in linear), "r (d_in + d_out)"
assert products["LoRA merged"] == products["base"], "a merged adapter is free"

# %% [markdown]
# Time is another thing than multiplications: four small operations in a row wait for each other. We take the models in turn, so
# that a slow moment of the machine meets them all, and compare each round with its own base. (No assert: it is a time.)

# %%
times = {name: [] for name in serving}
for _ in range(40):
    for name, model in serving.items():
        start = time.perf_counter()
        answers(model)
        times[name].append(time.perf_counter() - start)
for name, values in times.items():
    ratio = statistics.median(mine / base for mine, base in zip(values, times["base"], strict=True))
    print(f"{name:11}  {ratio:.2f} times the base's forward")

# %% [markdown]
# Look at the LoRA row: **not merged**, it may be slower than the adapter, as it has small products beside every linear layer and
# the adapter has two places. But LoRA can merge and be as fast as the base. The adapter's row can never become 1.
#
# ### Break it on purpose: merge it all the same
#
# Take the f away, and the adapter is the matrix $s\,UD$ with the bias $s\,(Ub + c)$. One matrix beside another: that could be
# merged.
#
# **Predict:** the trained adapter, without its f: does it answer as before, a little worse, or as if it had learnt nothing?

# %%
from adapters.bottleneck.attachment import sites
from training.data.encoding import encode
from training.evaluation.evaluation import HeldOut, evaluate
from training.loop.processes import make_accelerator

test = load_task(spec, seed=0)["test"].select(range(200))
held_out = HeldOut(spec, test, encode(test[:], spec, tokenizer, 96))


def exact_match(model) -> float:
    return evaluate(model, held_out, tokenizer, make_accelerator())["exact_match"]


straight = copy.deepcopy(runs["parallel"].model)
with torch.no_grad():
    for site in sites(straight).values():
        a = site.bottlenecks["default"]
        flat = torch.nn.Linear(64, 64)
        flat.weight.copy_(a.scale * a.up.weight @ a.down.weight)
        flat.bias.copy_(a.scale * (a.up.weight @ a.down.bias + a.up.bias))
        site.bottlenecks["default"] = flat
bent, flat_score = exact_match(runs["parallel"].model), exact_match(straight)
print(f"exact match with f {bent:.2f}, with its linear part only {flat_score:.2f}")
assert flat_score < bent - 0.1, "without f, every neuron that was cut to zero speaks again"

# %% [markdown]
# Not one answer is right, where a head alone has 0.41: this head learnt to read states that are no longer there.
#
# ## 6. AdapterDrop: leave the lower layers out
#
# Rücklé et al. (2021) give the lower layers no adapter. They then cost nothing, many tasks share their output, and backward need
# not go down to them: it keeps no activations below the first adapter.
#
# **Predict:** our encoder without an adapter in layer 0: which share of the adapter's numbers is left? Of the bytes kept for
# backward, is it more or less than a half?

# %%
from kernels.measure import saved_bytes

kept = {}
for leave_out in ((), (0,)):
    model = load_base(spec, seed=0).model.train()
    report = attach(model, BottleneckConfig(reduction_factor=4, leave_out=leave_out), seed=0)
    kept[leave_out] = report.parameters, saved_bytes(lambda m=model: m(**inputs).start_logits.sum(), model.parameters())
    print(
        f"adapters in layers {[row.layer for row in report.rows]}: "
        f"{kept[leave_out][0]:,} numbers, {kept[leave_out][1]:,} bytes kept"
    )
five = attach(roberta_base(), BottleneckConfig(leave_out=(0, 1, 2, 3, 4))).parameters
print(f"RoBERTa-base without its lowest 5 layers: {five:,} of {counts['pfeiffer']:,}")
assert kept[0,][0] * 2 == kept[()][0] and five * 12 == counts["pfeiffer"] * 7, "the numbers go with the layers"
assert kept[0,][1] < 0.5 * kept[()][1], "nothing below the first adapter is kept: no gradient goes there"

# %% [markdown]
# A fifth, not a half: the `pfeiffer` adapter sits at the end of its layer, so layer 1's attention and feed-forward keep nothing
# either.
#
# ## 7. Two adapters at once
#
# `activate` says which adapters act, and how: `Stack` (b sees what a has changed), `Average` (the mean of the changes) or
# `BatchSplit` (each row its own). It does not say which **learn**: that is `train_only`.
#
# AdapterHub's library (version 1.3.0; its numbers are in `tests/golden`) weights each change by 1/n and then takes the *mean*
# over n: it divides twice.
#
# **Predict:** two equal adapters are averaged. At which strength do they act: in our library, and in AdapterHub's?

# %%
from adapters import activate, train_only
from adapters.bottleneck.composition import Average, BatchSplit, Stack

model = load_base(spec, seed=0).model
for i, name in enumerate(("a", "b")):  # large random adapters, so that we see what they do
    attach(model, BottleneckConfig(reduction_factor=4, init="bert"), name, seed=i)
    for site in sites(model).values():
        site.bottlenecks[name].requires_grad_(False).up.weight.mul_(20)
site = model.bert.encoder.layer[0].output.LayerNorm.adapter_site
A, B = site.bottlenecks["a"], site.bottlenecks["b"]
same = lambda t: t  # noqa: E731
with torch.no_grad():
    assert torch.allclose(site.change(h, same, Stack("a", "b")), A(h) + B(h + A(h)), atol=1e-5), "b sees h + A(h)"
    assert torch.allclose(site.change(h, same, Average("a", "b")), (A(h) + B(h)) / 2, atol=1e-5), "the mean of the changes"
    ours = site.change(h, same, Average("a", "a"))
    theirs = torch.stack([A(h) / 2, A(h) / 2]).mean(0)  # weights 1/n, then the mean
strength = lambda change: float(change.norm() / A(h).norm())  # noqa: E731
print(f"two equal adapters: ours act at {strength(ours):.2f}, divided twice at {strength(theirs):.2f}")
assert abs(strength(ours) - 1) < 1e-5 and abs(strength(theirs) - 0.5) < 1e-5, "a mean of equal things is that thing"

# %%
alone = {}
for name in ("a", "b", None):  # None: no adapter. Each attach made a copy of the head, so we say which head answers
    activate(model, name, head="a" if name is None else name)
    alone[name] = answers(model)
order = ["a", "b", None, "b", "a", "a", None, "b"]
activate(model, BatchSplit(*order), head="a")
mixed = answers(model)
gap = max(float((mixed[i] - alone[name][i]).abs().max()) for i, name in enumerate(order))
print(f"BatchSplit: largest difference to the rows alone {gap:.1e}")
assert gap < 1e-4 and not torch.allclose(alone["a"], alone["b"], atol=1e-2), "a row must not see its neighbours' adapters"
train_only(model, "a")
activate(model, "b")
learning = {path.split("bottlenecks.")[1][0] for path, p in model.named_parameters() if p.requires_grad and "bottlenecks" in path}
print(f"acting: {site.active}; learning: {learning}")
assert learning == {"a"}, "activate does not choose who learns: here a training loop would find no gradient"

# %% [markdown]
# ## 8. Save and load
#
# A folder holds the adapter at each place and its head (lesson 03). Loading is strict: all tensors fit, or none is taken.
#
# **Predict:** are the loaded model's logits equal to six digits, or bit for bit? And what does a model of width 32 say?

# %%
from adapters import load, save
from loralib import AdapterFileError

saved = save(runs["parallel"].model, folder / "saved")
fresh = load_base(spec, seed=5).model  # the same base; another seed, so another random head
print(load(fresh, saved), [f"{file.name} {file.stat().st_size:,}" for file in sorted(saved.iterdir())])
assert torch.equal(answers(fresh), answers(runs["parallel"].model)), "adapter and head came back to the bit"
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 145}
other = transformers.BertForQuestionAnswering(transformers.BertConfig(**sizes))
try:
    load(other, saved)
    refused = ""
except AdapterFileError as error:
    refused = str(error)
print("refused:", refused.split("saved: ")[-1])  # without the folder's name
assert "width 64" in refused and not sites(other), "the wrong width raises, and the model is left as it was"

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | far more numbers than in the paper | another placement has another default factor | section 1: print the report |
# | the score falls before the first step | a start that is not the base | section 3: `init="identity"`, `torch.equal` |
# | it learns far slower than LoRA | the learning rate was taken over, or the place | section 4: try rates and `parallel` |
# | serving is slower than the base | adapters do not merge | section 5; merge LoRA, or leave layers out |
# | nothing learns | another adapter is active than the one that trains | section 7: `activate` and `train_only` |
#
# ## Exercises
#
# Write in [exercises/12_bottleneck_adapters.py](exercises/12_bottleneck_adapters.py), then `python -m tutorials check 12`.
#
# 1. ★ `adapter_numbers`: of a whole model, for each placement, with layers left out.
#    <details><summary>Hint</summary>First count the places: which placement has two in a layer? Each has 2dm + m + d.</details>
# 2. ★★ `pfeiffer_sublayer`: the end of a post-norm layer with its adapter, from the formula.
#    <details><summary>Hint</summary>z is the sum of h and the residual. `norm` is called twice: on what, each time?</details>
# 3. ★★ `change_by_rows`: what `BatchSplit` adds at one place.
#    <details><summary>Hint</summary>Collect the rows of one adapter, run it once on them, and put the results back.</details>
#
# An open one (★★★, no check): in section 4, is it the place or the factor s = 4 that makes `parallel` faster? Attach both with
# `BottleneckConfig(scaling=...)` set to 1 and to 4, train them on three seeds, and decide. (`train_model` has no such option: use
# `apply_method` and `loop.train`, as the function `learn` of lesson 13 does.)
#
# ## Summary
#
# 1. An adapter is U f(Dx + b) + c beside a residual: 2dm + m + d numbers at each place, and the base exactly while U = 0.
# 2. At equal size the placement (with its factor s) and the learning rate decide how fast it learns; `parallel` equalled LoRA.
# 3. f keeps it from merging: it costs 2dm multiplications a token for ever; in return it can be stacked, mixed and left out.
#
# **Next:** [lesson 13](13_prefix_and_prompt.py), prefix and prompt tuning.
#
# ## On the real thing
#
# Three placements on RoBERTa-base and real reviews; at reduction factor 16, `parallel` is as large as the default, `pfeiffer`.
# The last command needs no network: it is `pfeiffer` of section 4, trained for longer.
#
# ```bash
# python -m training --task sst2 --model roberta-base --method bottleneck
# python -m training --task sst2 --model roberta-base --method bottleneck --placement houlsby
# python -m training --task sst2 --model roberta-base --method bottleneck --placement parallel --reduction-factor 16
# python -m training --task qa --method bottleneck --reduction-factor 4 --learning-rate 0.04 --steps 400 --eval-rows 200
# ```
