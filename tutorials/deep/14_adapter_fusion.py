# %% [markdown]
# # 14 · Deep dive: what a fusion learns, weight decay, static fusion, and fused LoRA
#
# **Needs** [lesson 14](../14_adapter_fusion.py) · **Read and do** 50 minutes
# · **Runs in** about 45 s on one CPU thread · **Memory** 2 GB
#
# On the core page, a fusion with 48 labels was not clearly better than its own adapter. Here it
# gains on question answering, and you find out why. Then you see which matrix must not decay.

# %% tags=["fold"]
# set-up: imports, our folders, one thread
import copy
import sys
import tempfile
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import datasets
import torch
import transformers
from matplotlib import pyplot as plt

import loralib
from adapters import (
    AdapterFusionConfig,
    PrefixTuningConfig,
    activate,
    attach,
    load,
)
from adapters.bottleneck.attachment import sites
from adapters.bottleneck.composition import Average, Fuse
from adapters.fusion.fusion import AdapterFusion, fusion_penalty, no_decay
from training import train_model
from training.data.data import load_task
from training.data.encoding import encode
from training.data.tasks import find_task
from training.evaluation.evaluation import HeldOut, evaluate
from training.loop.processes import make_accelerator
from training.models.base_models import load_base
from training.models.trained import load_trained
from training.reports.records import COLOURS, use_style
from tutorials.answers import true_option
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
datasets.disable_progress_bars()
use_style()
folder = Path(tempfile.mkdtemp())

# %% tags=["fold"]
# set-up: the task of section 1
spec = find_task("qa")
tokenizer = load_base(spec, seed=0).tokenizer
test = load_task(spec, seed=0)["test"].select(range(250))
held_out = HeldOut(spec, test, encode(test[:], spec, tokenizer, 128))


def exact_match(model) -> float:
    return evaluate(model, held_out, tokenizer, make_accelerator())["exact_match"]


# %% [markdown]
# ## 1. Question answering: more training is better
#
# The task is question answering with 500 training examples. The fusion has two adapters: its
# own one (100 steps), and one for *topic*. It is trained for 100 steps. The same adapter,
# trained twice as long, has 200.
#
# ??? Three seeds. Which of the two is better: the fusion, or the adapter trained twice as long?
# - [ ] the fusion, with every seed || It is better than its own adapter on average, but not than the
#   longer-trained one.
# - [ ] It depends on the seed. || The order is the same with all three seeds.
# - [x] the adapter trained twice as long, with every seed || And it needs no second adapter.

# %%
ADAPTER = {"method": "bottleneck", "placement": "parallel", "reduction_factor": 4}
COMMON = {"eval_every": 10**6, "trackers": "", "threads": 1, "eval_rows": 250}


def run(task: str, name: str, steps: int, rate: float, seed: int = 0, **settings):
    out = str(folder / f"{name}-{seed}")
    options = {"steps": steps, "learning_rate": rate, "seed": seed, "out": out}
    return train_model(task, **options, **COMMON, **settings)


topic = run("topic", "topic", 100, 2e-2, **ADAPTER)
scores = {"own": [], "average": [], "fusion": [], "longer": []}
fusions = {}
for seed in (0, 1, 2):
    own = run("qa", "own", 100, 2e-2, seed, **ADAPTER)
    members = ",".join(str(r.folder / "adapter") for r in (own, topic))
    fusions[seed] = run("qa", "fusion", 100, 1e-2, seed, method="fusion", members=members)
    longer = run("qa", "longer", 200, 2e-2, seed, **ADAPTER)
    base = load_base(spec, seed=seed)
    for name, trained in (("own", own), ("topic", topic)):
        load(base.model, trained.folder / "adapter", name, with_heads=name == "own")
    activate(base.model, Average("own", "topic"), "own")
    values = own.metric, exact_match(base.model), fusions[seed].metric, longer.metric
    for name, value in zip(scores, values, strict=True):
        scores[name].append(value)

# %%
mean = {name: sum(values) / 3 for name, values in scores.items()}
print("qa mean:", "   ".join(f"{name} {value:.2f}" for name, value in mean.items()))
for name, values in scores.items():
    print(f"{name:8}", *(f"{value:.2f}" for value in values))

# %% tags=["fold"]
# check
wins = [a > b for a, b in zip(scores["longer"], scores["fusion"], strict=True)]
true_option(not any(wins), any(wins) and not all(wins), all(wins))
assert mean["fusion"] > mean["own"], "does the fusion start from the trained adapter?"
assert mean["average"] < mean["own"], "an untrained average only makes the own adapter weaker"

# %% [markdown]
# On average the fusion is better than its own adapter, but not with every seed. Where does the
# gain come from? We look at the fusion of seed 0, which gained most. What share does *topic*
# get? Then we set V back to the identity, and leave everything else as it is.
#
# ??? What do you expect?
# - [ ] topic gets a large share, so the gain comes from topic || Its share is almost zero.
# - [x] topic gets almost nothing, and with V = I most of the gain is lost || So the gain comes from
#   V, a new trained matrix behind a frozen adapter. That is more training, not knowledge of topic.
# - [ ] topic gets almost nothing, and V does not matter || Then nothing could explain the gain.

# %%
model = load_trained(fusions[0].folder / "adapter").base.model.eval()
places = [next(iter(site.fusions.values())) for site in sites(model).values()]
for place in places:
    place.keep = True  # so that it stores its shares
batch = tokenizer(
    test["question"][:32], test["context"][:32], padding=True, return_tensors="pt"
)
with torch.no_grad():
    model(**batch)
    of_topic = max(float(place.weights[..., 1].mean()) for place in places)
    identity = copy.deepcopy(model)
    for place in (m for m in identity.modules() if isinstance(m, AdapterFusion)):
        place.value.weight.copy_(torch.eye(64))
reset = exact_match(identity)
print(f"largest mean share of topic in a layer: {of_topic:.2f}")
print(f"own {scores['own'][0]:.2f}, fusion {scores['fusion'][0]:.2f}, with V = I {reset:.2f}")

# %% tags=["fold"]
# check
gain, left = scores["fusion"][0] - scores["own"][0], reset - scores["own"][0]
lost_most = left < 0.5 * gain
true_option(of_topic > 0.2, of_topic < 0.2 and lost_most, of_topic < 0.2 and not lost_most)

# %% [markdown]
# (One seed; and the head was trained together with the new V.)
#
# ## 2. Break it on purpose: weight decay on V
#
# **Weight decay** makes each weight a little smaller in each step. Q and K start near zero, so
# zero is a natural place for them. But V should stay near the *identity*, so that the outputs
# of the adapters pass unchanged. So AdapterFusion adds a penalty to the loss: $0.01\,\lVert V -
# I \rVert^2$ in each layer, called the pull. So V must be excluded from weight decay. (In
# AdapterHub's `adapters`
# 1.3.0 both go wrong: the penalty has a backward pass of its own after the optimizer's step,
# and the pattern that should exclude V from the decay fits no name.)
#
# ??? Each step multiplies a weight by 1 − learning rate · decay. The learning rate is 0.01, the
#   decay 0.5 (0.01 is usual; 0.5 makes the effect visible in 200 steps). Where is the diagonal of V
#   after 200 steps, if nothing else acts on it?
# - [ ] at 0.99 || That is about one or two steps.
# - [ ] at 0.7 || (1 − 0.005)²⁰⁰ is smaller.
# - [x] at 0.37 || (1 − 0.005)²⁰⁰.

# %% tags=["fold"]
# set-up: what the first place of the fusion reads, and a new fusion that learns to copy its own adapter
caught = []
handle = places[0].register_forward_pre_hook(lambda module, args: caught.append(args))
with torch.no_grad():
    model(**batch)
handle.remove()
x, outputs = (tensor.flatten(0, 1) for tensor in caught[0])  # (tokens, D), (tokens, N, D)


def new_fusion(decay_V: bool, pull: float):
    """A new fusion, and AdamW with a large decay; V is excluded from it unless `decay_V`."""
    generator = torch.Generator().manual_seed(0)
    part = torch.nn.ModuleDict(
        {"place": AdapterFusion(64, 2, AdapterFusionConfig(pull=pull), generator)}
    )
    excluded = set() if decay_V else no_decay(part)
    decayed = [p for name, p in part.named_parameters() if name not in excluded]
    free = [part.get_parameter(name) for name in excluded]
    groups = [{"params": decayed}, *([{"params": free, "weight_decay": 0.0}] if free else [])]
    return part, torch.optim.AdamW(groups, lr=0.01, weight_decay=0.5)


def diagonal(decay_V: bool, pull: float, steps: int = 200) -> list[float]:
    """Mean of V's diagonal in each step. The best solution is V = I and a share of 1."""
    part, optimizer = new_fusion(decay_V, pull)
    curve = []
    for step in range(steps):
        some = torch.arange(64 * step, 64 * (step + 1)) % len(x)
        copied = part["place"](x[some], outputs[some])
        loss = torch.nn.functional.mse_loss(copied, outputs[some, 0]) + fusion_penalty(part)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(float(part["place"].value.weight.detach().diagonal().mean()))
    return curve


# %%
alone = (1 - 0.01 * 0.5) ** 200
ways = {"no decay on V, with the pull": (False, 0.01), "decay and pull": (True, 0.01)}
ways |= {"decay, without the pull": (True, 0.0)}
curves = {name: diagonal(*settings) for name, settings in ways.items()}
print(f"decay alone: {alone:.2f}")
for name, curve in curves.items():
    print(f"{name:28}: diagonal of V after 200 steps {curve[-1]:.2f}")

# %% tags=["fold"]
# plot: the diagonal of V
figure, panel = plt.subplots(figsize=(6.8, 3))
for (name, curve), colour in zip(
    curves.items(), ("fusion", "untouched", "broken"), strict=True
):
    panel.plot(curve, color=COLOURS[colour], label=name)
panel.set(title="weight decay moves V away from the identity", xlabel="step", ylim=(0, 1.05))
panel.set(ylabel="mean of V's diagonal")
panel.legend(loc="lower left")
show(figure, "14_decay")

# %% tags=["fold"]
# check
true_option(alone > 0.9, 0.6 < alone < 0.8, 0.3 < alone < 0.45)
free, both, no_pull = (curve[-1] for curve in curves.values())
assert free > 0.95, "without decay V stays near I: is its name in `no_decay`?"
assert no_pull < both < 0.95, "the pull keeps V near I, but with decay it stays below"

# %% [markdown]
# No error was raised, and all shapes were right. The outputs of the adapters only became weaker.
# Our `train_model` excludes V from the decay, and adds the penalty to the loss that it reports.
#
# One of the five tensors never learns: $b_k$. The score $q \cdot (K a_i + b_k)$ contains $q
# \cdot b_k$ for every adapter, and softmax ignores a value that is added to all scores.
# AdapterHub's fusion has $b_k$, so ours has it too.
#
# ## 3. Static fusion: one score for each adapter
#
# `dynamic=False` removes Q and K. Each layer then learns one score for each adapter, the same
# for all tokens.
#
# ??? D = 64 and two adapters. How many parameters remain in a layer, of 12,416?
# - [ ] 2 || V is still there.
# - [x] 4,098 || V with 64 · 64, and one score for each adapter.
# - [ ] 8,192 || Only one matrix is left.

# %%
settings = {"method": "fusion", "fusion_dynamic": False, "members": members}
static = run("qa", "static", 100, 1e-2, 2, **settings)
of_layer = next(m for m in static.model.modules() if isinstance(m, AdapterFusion))
sizes = [sum(p.numel() for p in part.parameters()) for part in (of_layer, places[0])]
print(f"parameters in a layer: static {sizes[0]:,}, dynamic {sizes[1]:,}")
print(f"seed 2: static {static.metric:.2f}, dynamic {scores['fusion'][2]:.2f}")

# %% tags=["fold"]
# check: and all tokens have the same shares
true_option(sizes[0] == 2, sizes[0] == 4098, sizes[0] == 8192)
of_layer.keep = True
of_layer(torch.randn(7, 64), torch.randn(7, 2, 64))
assert (of_layer.weights == of_layer.weights[0]).all(), (
    "the shares must not depend on the token"
)

# %% [markdown]
# ## 4. Other adapters
#
# LoRA also adds an output: $a_i = s_i B_i A_i x$. So the same attention works. The query is
# made from the output of the frozen layer, $y = W x + b$. A prefix is different: it adds keys
# that the tokens attend to, and no output at its own position.
#
# ??? What does our library do if you fuse a prefix with a LoRA adapter?
# - [ ] It fuses them. || A prefix has no output that could get a share.
# - [ ] It ignores the prefix. || It never ignores a request silently.
# - [x] It raises an error that says why. || A prefix adds nothing at an insertion point.

# %%
model = load_base(find_task("sentiment"), seed=0).model
options = {"r": 2, "target_modules": ["query", "value"], "modules_to_save": []}
config = loralib.LoraConfig(**options, init_lora_weights=False)
for i, name in enumerate(("a", "b")):
    loralib.add_adapter(model, config, name, seed=i)
attach(model, AdapterFusionConfig(), Fuse("a", "b"), seed=0)
print(f"fusion of LoRA at {len(sites(model))} insertion points")
prefix = PrefixTuningConfig(num_virtual_tokens=2, modules_to_save=[])
attach(model, prefix, "prefix")
try:
    attach(model, AdapterFusionConfig(), Fuse("prefix", "a"))
    message = ""
except ValueError as error:
    message = str(error)
print(message)

# %% tags=["fold"]
# check: the fused LoRA layer by hand
true_option(
    False, message == "", "nothing at a place" in message or "insertion point" in message
)
fresh = load_base(find_task("sentiment"), seed=0).model
for i, name in enumerate(("a", "b")):
    loralib.add_adapter(fresh, config, name, seed=i)
attach(fresh, AdapterFusionConfig(), Fuse("a", "b"), seed=0)
layer = fresh.bert.encoder.layer[0].attention.self.query
fusion = next(iter(layer.adapter_site.fusions.values()))
x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    y, scale = x @ layer.weight.T + layer.bias, config.lora_alpha / config.r
    updates = [scale * x @ layer.lora_A[n].T @ layer.lora_B[n].T for n in ("a", "b")]
    assert torch.allclose(layer(x), y + fusion(y, torch.stack(updates, 1)), atol=1e-5), (
        "asked by y"
    )

# %% [markdown]
# ## 5. One folder
#
# A fusion is useless without its adapters, their order, and its head. So all of this is saved in
# one folder.
#
# ??? Which is larger on disk: the two adapters together, or the fusion of them?
# - [ ] the adapters || Each has 2dm + m + d parameters per layer.
# - [x] the fusion || 3 D² + 2 D parameters per layer, whatever the number of adapters.
# - [ ] equal || They have different numbers of parameters.

# %%
saved = fusions[0].folder / "adapter"
files = {path: path.stat().st_size for path in sorted(saved.rglob("*.safetensors"))}
of_members = sum(size for path, size in files.items() if "members" in path.parts)
of_fusion = (saved / "fusion.safetensors").stat().st_size
print(f"adapters {of_members:,} bytes, fusion {of_fusion:,} bytes")

# %% tags=["fold"]
# check: loaded into a fresh base, the logits are the same bit for bit
true_option(of_members > of_fusion, of_members < of_fusion, of_members == of_fusion)
fresh = load_base(spec, seed=7).model  # another random head, which must not survive
load(fresh, saved)
with torch.no_grad():
    expected = fusions[0].model.eval()(**batch).start_logits
    assert torch.equal(fresh.eval()(**batch).start_logits, expected), "not one bit may differ"

# %% [markdown]
# ## Summary
#
# 1. On question answering the fusion gained on average, and its own adapter with more steps gained
#    more. With seed 0 the gain came from V, not from the other adapter.
# 2. V stays near the identity: a penalty in the loss, and no weight decay.
# 3. A static fusion has V and one score per adapter. LoRA can be fused, prefixes cannot.
#
# **Next:** [lesson 15](../15_multitask_heads_and_sampling.py).
#
# ## On the real thing
#
# ```bash
# python -m training --task sst2 --model roberta-base --method fusion --members runs/sst2/adapter,runs/mnli/adapter
# python -m adapters fuse --tasks sst2,mnli,squad --model roberta-base --static
# ```
