# %% [markdown]
# # 12 · Bottleneck adapters: small networks inside each layer
#
# **Needs** lessons [01](01_lora_by_hand.py) and [03](03_lora_for_classification.py)
# · **Read and do** 60 minutes · **Runs in** about 35 s on one CPU thread · **Memory** 2 GB
#
# LoRA learns an update of a weight. Could we also leave every weight as it is, and put a new
# small network into each layer?
#
# ![An adapter takes d values down to m, applies relu, goes up to d, and adds its input](diagrams/12_hourglass.svg)
#
# Yes. Houlsby et al. did this in 2019 ([arXiv 1902.00751](https://arxiv.org/abs/1902.00751)),
# two years before LoRA. The network has few parameters because its middle is narrow. On this
# page you write one, choose where it sits, train it next to LoRA, and find out why it can never
# be merged.

# %% tags=["fold"]
# set-up: imports, our folders, the base model
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
from torch.nn import functional as F

import loralib
from training.data.data import load_task
from training.data.tasks import find_task
from training.models.base_models import load_base
from training.reports.records import COLOURS, use_style
from training.reports.seed_dots import dots_by_seed
from tutorials.answers import true_option
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
datasets.disable_progress_bars()
use_style()
folder = Path(tempfile.mkdtemp())
spec = find_task("qa")
base = load_base(spec, seed=0)
test = load_task(spec, seed=0)["test"].select(range(200))
few = test[:8]
inputs = base.tokenizer(few["question"], few["context"], return_tensors="pt", padding=True)


@torch.no_grad()
def logits_of(model) -> torch.Tensor:
    return model.eval()(**inputs).start_logits  # (B, T)


# %% [markdown]
# ## 1. The adapter by hand
#
# A **bottleneck adapter** is a network with one hidden layer. $D$ (m × d) maps the d values of
# a token to m neurons, and $U$ (d × m) maps them back. $b$ and $c$ are biases. Between the two
# is a non-linearity, here relu, which sets negative values to 0:
#
# $$A(x) = U\,\text{relu}(D x + b) + c.$$
#
# The layer passes on $x + A(x)$. The $x$ in this sum is the **residual**: if $A(x)$ is 0,
# nothing changes. (In other lessons $D$ is the width of the model. Here the width is d, and $D$
# is a matrix, as in the paper of Pfeiffer et al.) The **reduction factor** d / m says how
# narrow the middle is. A usual value is 16.
#
# ??? RoBERTa-base has width d = 768 and 12 layers. One adapter per layer with m = 768 / 16 = 48:
#   how many parameters do all adapters have?
# - [ ] about 75 thousand || That is one adapter: 2 · 768 · 48 and its biases.
# - [x] about 0.9 million || 12 times (2dm + m + d). The model has 125 million.
# - [ ] about 7 million || That is one adapter per layer with m = 384.


# %%
def adapter_by_hand(x, D, b, U, c):
    return F.linear(F.relu(F.linear(x, D, b)), U, c)  # (B, T, d) → (B, T, m) → (B, T, d)


d, m = 768, 48
of_one = 2 * d * m + m + d
print(f"one adapter: {of_one:,} parameters, twelve: {12 * of_one:,}")

# %% tags=["fold"]
# check: against the library's adapter, and its count on RoBERTa-base
# (init="bert": U is random, else we would compare zeros; tensors on `meta` have no content)
from adapters import BottleneckConfig, attach
from adapters.bottleneck.bottleneck import Bottleneck

true_option(12 * of_one < 1e5, 8e5 < 12 * of_one < 1e6, 12 * of_one > 5e6)
ours = Bottleneck(64, BottleneckConfig(init="bert"), torch.Generator().manual_seed(0))
x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1))
weights = ours.down.weight, ours.down.bias, ours.up.weight, ours.up.bias
assert torch.equal(ours(x), adapter_by_hand(x, *weights)), "relu between D and U"
with torch.device("meta"):
    config = transformers.RobertaConfig(vocab_size=50265, type_vocab_size=1)
    roberta = transformers.RobertaModel(config)
assert attach(roberta, BottleneckConfig()).parameters == 12 * of_one, "was a bias forgotten?"

# %% [markdown]
# ## 2. Three insertion points
#
# A Transformer layer has two sub-layers: attention and a feed-forward network (FFN). Each ends
# with a sum (its own residual) and, in BERT, a norm. Three placements have names. `pfeiffer`
# and `parallel` are from [Pfeiffer et al. 2021](https://arxiv.org/abs/2005.00247) and [He et
# al.
# 2022](https://arxiv.org/abs/2110.04366):
#
# ![One layer, three times: where the adapters sit in houlsby, pfeiffer and parallel](diagrams/12_placements.svg)
#
# In `houlsby` one adapter follows attention and another one follows the FFN, before each sum.
# In `pfeiffer` one adapter follows the second sum. In `parallel` it reads the input of the FFN,
# and $s\,A(x)$ is added to the output of the FFN. The factor $s$ is fixed; our default is 4.
# (`pfeiffer` has a detail that is not in the picture, see the [deep
# dive](deep/12_bottleneck_adapters.py). Houlsby et al. also train the norms; we do not. Our
# `houlsby` has swish in place of relu, as AdapterHub's.)
#
# ??? Our encoder has 2 layers. All adapters have m = 16. Which placement has the most
#   parameters?
# - [x] houlsby || It has two adapters per layer. The others have one.
# - [ ] pfeiffer || It has one adapter per layer, of the same size as in `parallel`.
# - [ ] parallel || It has one adapter per layer. It only has more if you use its default
#   reduction factor, 2.

# %%
parameters = {}
for placement in ("houlsby", "pfeiffer", "parallel"):
    model = load_base(spec, seed=0).model
    config = BottleneckConfig(placement=placement, reduction_factor=4)  # m = 64 / 4
    report = attach(model, config, seed=0)
    parameters[placement] = report.parameters
    print(f"{placement:8} {report.parameters:,}")

# %% tags=["fold"]
# check
houlsby, pfeiffer, parallel = parameters.values()
true_option(houlsby > max(pfeiffer, parallel), pfeiffer > houlsby, parallel > houlsby)
assert pfeiffer == parallel == 2 * (2 * 64 * 16 + 16 + 64), "one adapter in each of 2 layers"
assert BottleneckConfig(placement="parallel").reduction_factor in (None, 2), "the default is 2"

# %% [markdown]
# So compare placements with the same m. With the defaults, `parallel` has about eight times the
# parameters of `pfeiffer`.
#
# ## 3. The start: the model must not change
#
# LoRA starts with $B = 0$. An adapter can do the same with $U = 0$ and $c = 0$. (Houlsby et al.
# start near zero: random values with standard deviation 0.01.)
#
# ??? U = 0 and D is random. Can such an adapter learn?
# - [ ] No: all gradients are zero. || The gradient of D is zero at first, but not that of U.
# - [x] Yes: U moves in the first step. After that, D has a gradient too. || The gradient of U contains relu(Dx + b),
#   which is not zero.
# - [ ] Only c can learn. || This happens if D and b are zero too: then all neurons are 0.

# %%
model = load_base(spec, seed=0).model
attach(model, BottleneckConfig(placement="parallel", reduction_factor=4), seed=0)
change = (logits_of(model) - logits_of(base.model)).abs().max().item()
print(f"largest change of the logits at the start: {change}")
answers = torch.tensor([3] * 8), torch.tensor([4] * 8)  # any targets will do here
model(**inputs, start_positions=answers[0], end_positions=answers[1]).loss.backward()
gradients = {}
for part in ("down", "up"):
    grads = [p.grad.norm() for name, p in model.named_parameters() if f".{part}.weight" in name]
    gradients[part] = sum(grads).item()
    print(f"gradient of {part:4}: {gradients[part]:.4f}")

# %% tags=["fold"]
# check
true_option(
    gradients["up"] == 0,
    gradients["up"] > 0 and gradients["down"] == 0,
    gradients["up"] == 0 and gradients["down"] == 0,
)
assert change == 0, "U = 0 and c = 0 add exact zeros"

# %% [markdown]
# ## 4. Train it next to LoRA
#
# The task is question answering, as in lesson 01: 120 steps, three seeds. The adapters have m =
# 16, which are 4,256 parameters (without the head). LoRA with r = 2 on all linear layers has
# 4,608. The learning rates are 0.04 for the head and the adapters, and 0.02 for LoRA. (We did
# not tune them for this page, so a small difference proves nothing.)
#
# ??? The head alone answers about 40 % of the questions. Where are the means of the two
#   placements?
# - [ ] Both are closer to the head. || Then the adapters would have learned almost nothing.
# - [x] `parallel` is closer to LoRA, `pfeiffer` to the head. || The size is the same. Different are the
#   insertion point and the factor s = 4, which acts much like a larger learning rate.
# - [ ] Both are closer to LoRA. || After more steps, `pfeiffer` is (deep dive, section 2).

# %%
from training import train_model

adapter = {"method": "bottleneck", "reduction_factor": 4, "learning_rate": 0.04}
METHODS = {
    "head": {"method": "head", "learning_rate": 0.04},
    "pfeiffer": adapter,
    "parallel": {**adapter, "placement": "parallel"},
    "LoRA": {"r": 2, "lora_alpha": 4, "learning_rate": 0.02},
}
common = {"steps": 120, "eval_every": 10**6, "trackers": "", "threads": 1, "eval_rows": 200}
scores, runs = {name: [] for name in METHODS}, {}
for seed in (0, 1, 2):
    for name, options in METHODS.items():
        out = str(folder / f"{name}-{seed}")
        runs[name] = train_model("qa", seed=seed, out=out, **common, **options)
        scores[name].append(runs[name].metric)
for name, values in scores.items():
    print(f"{name:8}", *(f"{value:.2f}" for value in values))

# %% tags=["fold"]
# plot: each seed as a dot
figure, panel = plt.subplots(figsize=(6.4, 3.2))
dots_by_seed(panel, scores, ("head", "bottleneck", "bottleneck", "lora"))
panel.set(title="parallel is near LoRA after 120 steps; pfeiffer is slower", ylim=(0, 1))
panel.set(ylabel="exact match (line: mean)", xlabel="method")
panel.legend(loc="lower right", ncols=3)
show(figure, "12_trained")

# %% tags=["fold"]
# check
means = {name: sum(values) / 3 for name, values in scores.items()}
middle = (means["head"] + means["LoRA"]) / 2
pfeiffer, parallel = means["pfeiffer"], means["parallel"]
true_option(
    max(pfeiffer, parallel) < middle,
    pfeiffer < middle < parallel,
    min(pfeiffer, parallel) > middle,
)
for other in ("head", "pfeiffer"):
    pairs = zip(scores["parallel"], scores[other], strict=True)
    assert all(a > b for a, b in pairs), f"parallel lost to {other}: is the adapter trained?"

# %% [markdown]
# With every seed, `parallel` is better than the head and than `pfeiffer`. (With seed 0,
# `pfeiffer` is even below the head.) Between `parallel` and LoRA the seeds do not agree, so
# these runs cannot say which is better. On four of five tasks of the small world, `parallel`
# with 16 neurons reaches or nearly reaches full fine-tuning
# ([report](../training/results/gap/report.md)).
#
# ## 5. Break it on purpose: take relu away
#
# LoRA's $BA$ is a matrix, so it can be added to a weight. An adapter is not a matrix: relu sets
# negative values to 0, and *which* values are negative depends on x. So the adapter stays in the
# model, and each token needs 2dm more multiplications at each insertion point.
#
# Without relu, $A(h) = UDh + Ub + c$ is a matrix and a bias. Let $h$ be the input of the
# adapter. In `houlsby` it comes from a linear layer with a weight W, so $h + UDh$ could be
# merged: the new weight is $(I + UD)\,W$. (In the other two placements, another operation is in
# between, so not even this would help.) Does the trained adapter still work without relu?
#
# ??? We remove relu from the trained `parallel` adapter. How many questions does it still answer?
# - [ ] about as many as before || Then relu would not matter.
# - [ ] about as many as the head alone || The hidden states become worse than those of the base
#   model: the negative values, which relu had removed, are now added too.
# - [x] almost none || The head was trained with hidden states that no longer occur.

# %%
from adapters.bottleneck.attachment import sites
from training.data.encoding import encode
from training.evaluation.evaluation import HeldOut, evaluate
from training.loop.processes import make_accelerator

held_out = HeldOut(spec, test, encode(test[:], spec, base.tokenizer, 96))


def exact_match(model) -> float:
    return evaluate(model, held_out, base.tokenizer, make_accelerator())["exact_match"]


linear = copy.deepcopy(runs["parallel"].model)
with torch.no_grad():
    for site in sites(linear).values():
        a, matrix = site.bottlenecks["default"], torch.nn.Linear(64, 64)
        matrix.weight.copy_(a.scale * a.up.weight @ a.down.weight)  # a.scale is s = 4
        matrix.bias.copy_(a.scale * (a.up.weight @ a.down.bias + a.up.bias))
        site.bottlenecks["default"] = matrix
with_relu, without_relu = exact_match(runs["parallel"].model), exact_match(linear)
print(f"exact match with relu: {with_relu:.2f}, without: {without_relu:.2f}")

# %% tags=["fold"]
# check
head_alone = means["head"]
true_option(
    without_relu > with_relu - 0.1,
    abs(without_relu - head_alone) < 0.1,
    without_relu < 0.1,
)
assert with_relu == scores["parallel"][2], (
    "this is the run with seed 2, on the same 200 questions"
)

# %% [markdown]
# What does the adapter cost, then? We count the multiplications of one forward pass.
#
# ??? Which model needs the most multiplications per token: LoRA with r = 2 at 12 linear layers
#   (not merged), LoRA merged, or the adapter with m = 16 at 2 insertion points?
# - [x] LoRA, not merged || r (d_in + d_out) for each of 12 layers are 4,608.
# - [ ] LoRA, merged || It has those of the base model.
# - [ ] the adapter || 2dm at 2 insertion points are 4,096.

# %% tags=["fold"]
# count: multiplications in linear layers for each token (not inside attention)
from torch.utils.flop_counter import FlopCounterMode

# PyTorch's counter does not know `addmm_`, the in-place multiplication that LoRA uses
IN_PLACE = {torch.ops.aten.addmm_: lambda y, a, b, **_: 2 * a[0] * a[1] * b[1]}


def multiplications(model) -> int:
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        logits_of(model)
    return counter.get_total_flops() // 2 // inputs["input_ids"].numel()


# %%
merged = copy.deepcopy(runs["LoRA"].model)
loralib.merge_and_unload(merged)
models = {"base": base.model, "LoRA": runs["LoRA"].model, "LoRA merged": merged}
models["adapter"] = runs["parallel"].model
counts = {name: multiplications(model) for name, model in models.items()}
for name, count in counts.items():
    print(f"{name:11} {count:,} multiplications per token")

# %% tags=["fold"]
# plot: multiplications in addition to the base model
figure, panel = plt.subplots(figsize=(6.4, 2))
names = ("LoRA", "LoRA merged", "adapter")
extra = [counts[name] - counts["base"] for name in names]
colours = [COLOURS[kind] for kind in ("lora", "lora", "bottleneck")]
panel.bar_label(panel.barh(names, extra, color=colours, height=0.6), fmt="{:,.0f}", padding=4)
panel.invert_yaxis()
panel.set(title="only LoRA can become free", xlim=(0, 5500), ylabel="method")
panel.set(xlabel="multiplications per token in addition to the base")
show(figure, "12_cost")

# %% tags=["fold"]
# check
true_option(
    counts["LoRA"] > counts["adapter"] > counts["LoRA merged"],
    counts["LoRA merged"] > counts["LoRA"],
    counts["adapter"] > counts["LoRA"],
)
assert counts["adapter"] - counts["base"] == 2 * (2 * 64 * 16), "2dm in each of two layers"
assert counts["LoRA merged"] == counts["base"], "a merged LoRA costs nothing"
layers = [m for m in base.model.bert.modules() if isinstance(m, torch.nn.Linear)]
extra = sum(2 * (layer.in_features + layer.out_features) for layer in layers)
assert counts["LoRA"] - counts["base"] == extra, "r (d_in + d_out) for each linear layer"

# %% [markdown]
# Without merging, LoRA needs more multiplications than the adapter here. But LoRA can be merged,
# and then it costs nothing. The adapter always costs.
#
# ## The same in AdapterHub
#
# peft has no bottleneck adapters. The library that people use is AdapterHub's `adapters`:
#
# ```python
# import adapters
# adapters.init(model)
# model.add_adapter("mine", config=adapters.SeqBnConfig(reduction_factor=4))
# model.train_adapter("mine")
# ```
#
# Its names are `seq_bn` for `pfeiffer`, `double_seq_bn` for `houlsby` and `par_bn` for
# `parallel`. It cannot be installed next to our folder, because both are called `adapters`. So
# we ran it in an environment of its own (`tests/golden/make_adapterhub.py`) and stored its
# weights and its outputs. Here we load the weights into our adapter and compare the outputs:

# %% tags=["fold"]
# the same in AdapterHub: its stored weights in our adapter (version 1.3.0)
from safetensors.torch import load_file

golden = load_file(ROOT / "tests/golden/adapterhub.safetensors")
sizes = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "vocab_size": 20}
config = transformers.BertConfig(**sizes, num_attention_heads=2, max_position_embeddings=12)
bert = transformers.BertModel(config).eval()
bert.load_state_dict(
    {name[5:]: tensor for name, tensor in golden.items() if name.startswith("base.")},
    strict=False,
)
attach(bert, BottleneckConfig(reduction_factor=4, modules_to_save=[]), "seq_bn_a")
for path, site in sites(bert).items():
    prefix = f"adapter.encoder.layer.{path.split('.')[2]}.output.adapters.seq_bn_a."
    for part, their_name in (("down", "adapter_down.0"), ("up", "adapter_up")):
        layer = getattr(site.bottlenecks["seq_bn_a"], part)
        layer.weight.data.copy_(golden[f"{prefix}{their_name}.weight"])
        layer.bias.data.copy_(golden[f"{prefix}{their_name}.bias"])
with torch.no_grad():
    hidden_states = bert.eval()(golden["ids"], attention_mask=golden["mask"]).last_hidden_state
assert torch.allclose(hidden_states, golden["out.seq_bn_a"], atol=1e-5), "another placement?"
assert not torch.allclose(hidden_states, golden["out.base"], atol=0.1), "is it active?"
print("AdapterHub's seq_bn and our pfeiffer give the same hidden states")

# %% [markdown]
# ## Find the bug
#
# ```python
# class WithAdapter(nn.Module):
#     def forward(self, x):
#         h = self.layer(x)
#         return self.up(torch.relu(self.down(h)))  # up.weight and up.bias start at zero
# ```
#
# Before the first step, the model with this layer gives every input the same logits.
#
# ??? What is wrong?
# - [ ] `up` must not start at zero. || It may. The residual should carry h then.
# - [x] The residual is missing. || It must return h plus the adapter's output. Now the layer
#   returns zeros.
# - [ ] relu cuts off half of h. || It only acts inside the adapter.

# %% tags=["fold"]
# check: zeros come out, whatever goes in
down, up = torch.nn.Linear(8, 2), torch.nn.Linear(2, 8)
torch.nn.init.zeros_(up.weight), torch.nn.init.zeros_(up.bias)
h = torch.randn(3, 8)
true_option(False, not up(torch.relu(down(h))).any() and torch.equal(h + up(down(h)), h), False)

# %% [markdown]
# ## Quiz
#
# ??? Which weights does adapter training change?
# - [ ] all weights of the layers that have an adapter || They are frozen.
# - [x] only the new small networks and the head || The base stays as it is.
# - [ ] attention only || Attention is frozen like everything else.
#
# ??? d = 1024, m = 64. About how many parameters does one adapter have?
# - [ ] 65 thousand || That is one of the two matrices.
# - [x] 132 thousand || 2 · 1024 · 64 + 64 + 1024.
# - [ ] 1 million || That is a whole weight of 1024 × 1024.
#
# ??? Why can an adapter not be merged into a weight?
# - [ ] It has biases. || A bias could be merged into a bias.
# - [x] It has relu between its two matrices. || No matrix does the same for every x.
# - [ ] It is too small. || The size does not matter.
#
# ??? A paper says: "`parallel` is better than `pfeiffer`." What do you check first?
# - [x] whether both have the same number of parameters || Their default reduction factors are
#   2 and 16.
# - [ ] whether both can be merged || Neither can.
# - [ ] whether both start at zero || The start does not change the number of parameters.
#
# ??? You serve one task, and latency matters most. Which of the two do you take?
# - [x] LoRA, merged || It has the speed of the base model.
# - [ ] an adapter, since it has fewer multiplications than LoRA || This is only true before LoRA is
#   merged.
# - [ ] There is no difference. || The adapter's extra multiplications stay.

# %% tags=["fold"]
# check of the second answer
assert 2 * 1024 * 64 + 64 + 1024 == 132_160, "2dm + m + d"

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | far more parameters than in the paper | this placement has another default reduction factor | section 2: print the report |
# | the score falls before the first step | the start is not the base model | section 3; find the bug |
# | it learns far more slowly than LoRA | a learning rate that suits LoRA | section 4: try others, and `parallel` |
# | inference is slower than with the base | adapters cannot be merged | section 5; deep dive, section 3 |
# | nothing learns | one adapter is active, another is trained | deep dive, section 4 |
#
# ## Exercises
#
# Write in [exercises/12_bottleneck_adapters.py](exercises/12_bottleneck_adapters.py), then run
# `python -m tutorials check 12`.
#
# 1. ★ `adapter_parameters`: the parameters of a whole model, for each placement.
#    <details><summary>Hint</summary>First count the insertion points: which placement has two
#    in a layer? Each has 2dm + m + d.</details>
# 2. ★★ `pfeiffer_sublayer`: the end of a layer with its adapter, from the formula in the deep
#    dive, section 1.
#    <details><summary>Hint</summary>z is the sum of h and the residual. `norm` is called twice:
#    on what, each time?</details>
# 3. ★★ `output_by_example`: each example in a batch gets its own adapter.
#    <details><summary>Hint</summary>Collect the examples of one adapter, run it once on them, and
#    put the results back.</details>
#
# **Change and measure:** in section 4, use `houlsby` in place of `pfeiffer`, first with the same
# learning rate, then with half and a quarter of it. What do you conclude about comparisons with
# one shared learning rate?
#
# ## Summary
#
# 1. An adapter computes U relu(Dx + b) + c, and the result is added to a hidden state. It has
#    2dm + m + d parameters, and the model starts unchanged if U and c are 0.
# 2. Adapters of the same size can learn at different speeds: after 120 steps, `parallel` (with its
#    factor 4) was near LoRA, and `pfeiffer` near the head. We did not tune the learning rates.
# 3. relu prevents merging: the adapter always costs 2dm multiplications per token and insertion
#    point.
#
# **Next:** [lesson 13](13_prefix_and_prompt.py), prefix and prompt tuning.
#
# More: [deep dive](deep/12_bottleneck_adapters.py) · [merge and
# save](topics/merge_and_save.py) · [glossary](GLOSSARY.md)
#
# ## On the real thing
#
# These commands need a network, and a GPU helps. We did not run them. With a reduction factor
# of 16, `parallel` is as large as `pfeiffer`, the default.
#
# ```bash
# python -m training --task sst2 --model roberta-base --method bottleneck
# python -m training --task sst2 --model roberta-base --method bottleneck --placement houlsby
# python -m training --task sst2 --model roberta-base --method bottleneck --placement parallel --reduction-factor 16
# ```
