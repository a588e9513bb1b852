# %% [markdown]
# # 06 · Many adapters share one base; their exact sum can lose skills
#
# **Needs** lessons [01](01_lora_by_hand.py) and [03](03_lora_for_classification.py)
# · **Read and do** 45 minutes · **Runs in** about 35 s on one CPU thread · **Memory** 2 GB
#
# Your company has one language model and a hundred customers. Each customer has its own task.
# Do you need a hundred models in memory?
#
# ![A batch with texts for two adapters and for the base goes through one frozen weight](diagrams/06_mixed_batch.svg)
#
# No. With LoRA the base model is frozen, so all customers can share it. Each customer adds a
# small file. On this page you put two adapters into one model, use both in one batch, and
# combine them into one adapter. The last step is easy to get wrong, and the wrong way gives no
# error message.

# %% tags=["fold"]
# set-up: imports, our folders, one thread
import json
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
from training.data.data import load_task
from training.data.tasks import find_task
from training.models.base_models import load_base
from training.reports.records import COLOURS, file_size, use_style
from tutorials.answers import true_option
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
datasets.disable_progress_bars()
use_style()
folder = Path(tempfile.mkdtemp())
spec = find_task("sentiment")

# the second task: music or sport (0) against food or science (1), written as files of one's own
(folder / "two_topics").mkdir()
for split, rows in load_task(find_task("topic"), seed=0).items():
    labels = [label // 2 for label in rows["label"]]  # music 0, sport 1, food 2, science 3
    pairs = zip(rows["sentence"], labels, strict=True)
    lines = [json.dumps({"sentence": s, "label": label}) for s, label in pairs]
    (folder / "two_topics" / f"{split}.jsonl").write_text("\n".join(lines))

# %% [markdown]
# ## 1. Two tasks, two small files
#
# Both tasks read the stories of the small world:
#
# - `mood`: was it a good or a bad day? (This is `sentiment` of lesson 03.)
# - `topic`: is the story about music or sport, or about food or science?
#
# We train one adapter for each, on the same base. Its file contains the LoRA matrices and the
# head.
#
# ??? The base with a head has 120 thousand parameters: 480 kB. LoRA has r = 8, on all 13 linear
#   layers. How large is the file of an adapter?
# - [ ] about 5 kB || Each of the 13 layers has at least 8 · (64 + 64) parameters, of 4 bytes
#   each.
# - [x] about 80 kB || About 20,000 parameters of 4 bytes.
# - [ ] about 480 kB || That is the whole model.

# %%
from training import train_model

options = {"method": "lora", "steps": 250, "eval_every": 10**6, "trackers": "", "threads": 1}
topics = str(folder / "two_topics")
runs = {
    "mood": train_model("sentiment", out=str(folder / "mood"), **options),
    "topic": train_model("sentiment", data_dir=topics, out=str(folder / "topic"), **options),
}
base_bytes = sum(4 * p.numel() for p in load_base(spec, seed=0).model.parameters())
for name, run in runs.items():
    print(f"{name:5}  accuracy {run.metric:.3f}   file {file_size(run.file_bytes)}")
whole, shared = 100 * base_bytes, base_bytes + 100 * runs["mood"].file_bytes
print(f"100 tasks: {file_size(whole)} as whole models, {file_size(shared)} as adapters")

# %% tags=["fold"]
# check
size = runs["mood"].file_bytes
true_option(size < 2e4, 5e4 < size < 1.2e5, size > 4e5)
assert all(run.metric > 0.8 for run in runs.values()), (
    "a task was not learned: are its labels right?"
)
assert base_bytes / size > 5, "the file is too large: was the whole model saved?"

# %% [markdown]
# Here an adapter is a sixth of its base, because the base is tiny. With a base of 22 M
# parameters, an adapter of r = 8 is 1.5 % of that base (table at the end of the page).
#
# ## 2. Switch between adapters
#
# `load_adapter` puts the matrices and the head of a file next to the base. Several adapters can
# be loaded at once. `set_active` says which one is used.
#
# ??? After `set_active(model, [])` no adapter is active. What does the model compute?
# - [x] the same as the base, bit for bit || The weights of the base were never changed.
# - [ ] the same as the base, up to rounding || That would be so if the adapter had been added
#   to the weights and subtracted again.
# - [ ] something else, because the head is trained || The head belongs to the adapter. Without
#   the adapter, the old head is used.

# %%
base = load_base(spec, seed=0)
model, tokenizer = base.model.eval(), base.tokenizer
texts = load_task(spec, seed=0)["test"]["sentence"][:8]
inputs = tokenizer(texts, return_tensors="pt", padding=True)
outputs = {}
with torch.no_grad():
    outputs[None] = model(**inputs).logits  # None: the base
    for name, run in runs.items():
        loralib.load_adapter(model, run.folder / "adapter", name, trainable=False)
        loralib.set_active(model, name)
        outputs[name] = model(**inputs).logits
    loralib.set_active(model, [])
    change = (model(**inputs).logits - outputs[None]).abs().max().item()
print("largest change of the base's outputs:", change)

# %% tags=["fold"]
# check
true_option(change == 0, 0 < change < 1e-4, change > 1e-2)
with torch.no_grad():
    for name, run in runs.items():
        assert torch.allclose(outputs[name], run.model(**inputs).logits, atol=1e-5), (
            "not the trained model: is its head loaded?"
        )

# %% [markdown]
# ## 3. Two adapters in one batch
#
# Eight requests arrive together: three for `mood`, three for `topic`, two for the base. Three
# separate batches would need three passes through the model. But all requests use the same
# frozen weight $W$. Only the small part differs:
#
# $$y_i = x_i W^\top + b + s_{a(i)} (x_i A_{a(i)}^\top) B_{a(i)}^\top.$$
#
# Here $x_i$ is example i of the batch, and $a(i)$ is the adapter that it asks for. (For the
# base, the last term is missing. $W$ is the frozen $W_0$ of lesson 01. The idea is that of
# [Punica](https://arxiv.org/abs/2310.18547) and [S-LoRA](https://arxiv.org/abs/2311.03285).)
# This is called a **mixed batch**.
#
# ??? One linear layer, eight examples for two adapters and the base. How many matrix
#   multiplications with W do we need?
# - [x] 1 || All examples go through W together.
# - [ ] 3 || That is the way with three separate batches.
# - [ ] 8 || One for each example would be slower still.

# %%
names = ["mood", "topic", None, "mood", "topic", "topic", "mood", None]
count = {"W": 0, "A": 0}


def mixed_by_hand(layer, x, names):
    """One linear layer for a mixed batch; x: (B, T, d_in)."""
    y = x @ layer.weight.T + layer.bias  # (B, T, d_out), all examples at once
    count["W"] += 1
    for adapter in {name for name in names if name}:
        chosen = [i for i, name in enumerate(names) if name == adapter]
        A, B = layer.lora_A[adapter], layer.lora_B[adapter]
        scaling = layer.variants[adapter].scaling
        y[chosen] += scaling * (x[chosen] @ A.T) @ B.T  # only the examples of this adapter
        count["A"] += 1
    return y


layer = model.bert.encoder.layer[0].attention.self.query
x = torch.randn(8, 5, 64, generator=torch.Generator().manual_seed(0))  # (B, T, D)
with torch.no_grad():
    y = mixed_by_hand(layer, x, names)
print("matrix multiplications:", count)

# %% tags=["fold"]
# check: the layer and the whole model against the library, and against running each example alone
true_option(count["W"] == 1, count["W"] == 3, count["W"] == 8)
with torch.no_grad():
    with loralib.mixed_batch(model, names):
        assert torch.allclose(layer(x), y, atol=1e-5), (
            "each adapter acts on its own examples only"
        )
        together = model(**inputs).logits
    alone = torch.stack([outputs[name][i] for i, name in enumerate(names)])
    assert torch.allclose(together, alone, atol=1e-5), (
        "an example must not see the adapters of the others"
    )

# %% [markdown]
# The library does the same for a whole model: `with loralib.mixed_batch(model, names):`.
# Servers with thousands of adapters use special kernels for the small part ([lesson
# 11](11_many_adapters_kernel.py)).
#
# ## 4. Break it on purpose: add the factors
#
# We want one adapter that does the work of two: $\Delta W = B_1 A_1 + B_2 A_2$ (with $s = 1$).
# The tensors of two files have the same names and shapes. So it is tempting to add them:
# $A = A_1 + A_2$ and $B = B_1 + B_2$.
#
# ![Factors added, and factors next to each other](diagrams/06_factors.svg)
#
# But $(B_1 + B_2)(A_1 + A_2) = B_1 A_1 + B_2 A_2 + B_1 A_2 + B_2 A_1$. The last two terms are
# **cross terms**. Nobody trained them. The correct way keeps the **factors** ($A$ and $B$)
# apart: the rows of $A_2$ below those of $A_1$, and the columns of $B_2$ next to those of
# $B_1$.
#
# ??? Two random adapters of the same size. How large are the cross terms, compared with the sum
#   that we want?
# - [ ] about 1 % || They are not a rounding error.
# - [ ] about 10 % || Count the terms: two are wanted, and two are not.
# - [x] about 100 % || Two cross terms have the same size as the two terms that we want.

# %%
g = torch.Generator().manual_seed(1)
A1, A2 = torch.randn(2, 8, 64, generator=g)  # (r, d_in) each
B1, B2 = torch.randn(2, 64, 8, generator=g)  # (d_out, r) each
wanted = B1 @ A1 + B2 @ A2
added = (B1 + B2) @ (A1 + A2)
apart = torch.cat([B1, B2], 1) @ torch.cat([A1, A2])  # (d_out, 2r) @ (2r, d_in)
errors = [((got - wanted).norm() / wanted.norm()).item() for got in (added, apart)]
print(f"factors added: {errors[0]:.0%} wrong; factors kept apart: {errors[1]:.0e}")

# %% tags=["fold"]
# check: random and trained adapters
true_option(errors[0] < 0.03, 0.05 < errors[0] < 0.3, 0.8 < errors[0] < 1.2)
assert errors[1] < 1e-6, "each column of B must meet its own row of A"
combined = {
    method: loralib.combine_adapters(
        model, list(runs), [0.5, 0.5], method, method, head_from="mood"
    )
    for method in ("linear", "cat")
}
A, B = layer.lora_A["cat"], layer.lora_B["cat"]
slots = layer.variants
by_hand = sum(0.5 * slots[n].scaling * layer.lora_B[n] @ layer.lora_A[n] for n in runs)
assert torch.allclose(slots["cat"].scaling * B @ A, by_hand, atol=1e-5), (
    "the weighted sum of both"
)
assert combined["cat"].error < 1e-5 < 0.05 < combined["linear"].error, (
    "trained adapters have cross terms, too"
)

# %% [markdown]
# The sum is exact, and its rank is at most 2r. Our `combine_adapters` works this way by default
# (`method="cat"`).
#
# ## 5. Is the sum of two skills both skills?
#
# The arithmetic is exact. But does the combined model solve both tasks? We take
# $\Delta W = (1 - w)\, \Delta W_{mood} + w\, \Delta W_{topic}$ and move $w$ from 0 to 1. Each
# task uses its own head. Guessing gives 0.5. Each update was trained alone. Now each layer gets
# inputs that the other update has changed, and each update is smaller than its head expects.
#
# ??? At which of six weights w are *both* tasks within 0.05 of their own adapter?
# - [ ] around w = 0.5 || There `mood` is still good, but `topic` is near guessing.
# - [x] at none of them || A likely reason: the two updates were trained alone, and they change
#   the same matrices.
# - [ ] at all of them || At w = 0, the adapter of `topic` is absent.

# %%
from training.data.encoding import encode
from training.evaluation.evaluation import HeldOut, evaluate
from training.loop.processes import make_accelerator

held = {}
for task, test in {"mood": load_task(spec, seed=0), "topic": load_task(spec, topics)}.items():
    rows = test["test"].select(range(250))
    held[task] = HeldOut(spec, rows, encode(rows[:], spec, tokenizer, 128))


def accuracy(w: float, task: str) -> float:
    loralib.combine_adapters(model, ["mood", "topic"], [1 - w, w], "mix", "cat", head_from=task)
    loralib.set_active(model, "mix")
    score = evaluate(model, held[task], tokenizer, make_accelerator())["accuracy"]
    loralib.delete_adapter(model, "mix")
    return score


# %%
weights = [0.0, 0.25, 0.5, 0.6, 0.75, 1.0]
curves = {task: [accuracy(w, task) for w in weights] for task in held}
shown = (0, 2, 4, 5)  # the plot has all of them
print("w    ", *(f"{weights[i]:5}" for i in shown))
for task, values in curves.items():
    print(f"{task:5}", *(f"{values[i]:5.2f}" for i in shown))

# %% tags=["fold"]
# plot: both tasks against the weight
figure, panel = plt.subplots(figsize=(6.4, 3.2))
for (task, values), style in zip(curves.items(), ("o-", "s:"), strict=True):
    panel.plot(weights, values, style, color=COLOURS["lora"], label=task)
panel.axhline(0.5, color=COLOURS["random"], linestyle="--", label="guessing")
panel.set(
    title="none of the six weights keeps both skills",
    xlabel="weight w of topic",
    ylabel="accuracy",
    ylim=(0.4, 1.05),
)
panel.legend(loc="center left")
show(figure, "06_two_skills")

# %% tags=["fold"]
# check
alone = (curves["mood"][0], curves["topic"][-1])
pairs = zip(*curves.values(), strict=True)
good = [mood > alone[0] - 0.05 and topic > alone[1] - 0.05 for mood, topic in pairs]
true_option(good[2] and not all(good), not any(good), all(good))
assert curves["mood"][0] > 0.9 and curves["topic"][-1] > 0.8, "weight 1 is the adapter itself"

# %% [markdown]
# So exact addition is no promise. Measure what each skill keeps. If you need both in one
# adapter, train on both tasks ([lesson 15](15_multitask_heads_and_sampling.py)).
#
# ## The same in peft
#
# peft has `add_weighted_adapter`. Its `combination_type="cat"` is exact, like ours. Its
# `"linear"` adds the factors, so it has the cross terms:

# %% tags=["fold"]
# the same in peft: cat and linear on one layer
import logging

logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # it looks for a GPU
from peft import LoraConfig, get_peft_model

config = LoraConfig(r=8, lora_alpha=8, target_modules=["0"])
peft_model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(64, 64)), config, "one")
peft_model.add_adapter("two", config)
peft_layer = peft_model.base_model.model[0]
for name, A, B in (("one", A1, B1), ("two", A2, B2)):
    peft_layer.lora_A[name].weight.data.copy_(A)
    peft_layer.lora_B[name].weight.data.copy_(B)
for kind in ("cat", "linear"):
    peft_model.add_weighted_adapter(["one", "two"], [1.0, 1.0], kind, combination_type=kind)
    error = ((peft_layer.get_delta_weight(kind) - wanted).norm() / wanted.norm()).item()
    assert error < 1e-5 if kind == "cat" else error > 0.8, f"peft's {kind} has changed"
    print(f"peft, {kind:6} {error:.0%} wrong")

# %% [markdown]
# ## Find the bug
#
# This program should serve a mixed batch. Each customer says that the answers are wrong, except
# the last one.
#
# ```python
# for name in customers:
#     loralib.load_adapter(model, files[name], name, trainable=False)
#     loralib.set_active(model, name)
# outputs = model(**batch).logits   # one example for each customer
# ```
#
# ??? What is wrong?
# - [ ] The adapters overwrite each other. || Each has its own name, so all of them are in the
#   model.
# - [x] One adapter is active for the whole batch: the last one. || A mixed batch needs
#   `mixed_batch(model, names)`, with one name for each example.
# - [ ] The base has changed. || It is frozen.

# %% tags=["fold"]
# check: with the last adapter active, only its own examples are right
loralib.set_active(model, "topic")
with torch.no_grad():
    answers = model(**inputs).logits
right = [
    torch.allclose(answers[i], outputs[name][i], atol=1e-5) for i, name in enumerate(names)
]
true_option(False, right == [name == "topic" for name in names], False)

# %% [markdown]
# ## Quiz
#
# ??? Ten adapters with r = 8 are kept apart and added (`cat`). What is the rank of the result
#   at most?
# - [ ] 8 || The factors are put next to each other.
# - [x] 80 || Ten times 8.
# - [ ] 18 || The ranks are added, not the numbers of adapters.
#
# ??? Why can adapters of different tasks share one base, but fully fine-tuned models cannot?
# - [x] The base is frozen, so it is the same for all adapters. || Full fine-tuning changes it
#   for each task.
# - [ ] Adapters have no head. || They have one, and it is in the file.
# - [ ] Full fine-tuning needs a GPU. || That is not the reason.
#
# ??? A base has 100 MB, an adapter 2 MB. How much do 50 tasks need?
# - [ ] 5,000 MB || That is 50 whole models.
# - [x] 200 MB || 100 + 50 · 2.
# - [ ] 100 MB || The adapters need space, too.
#
# ??? You want 30 % of adapter 1 and 70 % of adapter 2. Where do you put the weights 0.3 and
#   0.7?
# - [ ] on A and on B || Then each term would get the square: 0.09 and 0.49.
# - [x] on one factor of each adapter || B A is linear in each factor.
# - [ ] on the base weight || That would change the base.
#
# ??? In a mixed batch, how often does the whole batch go through W?
# - [x] once || The frozen part is shared.
# - [ ] once for each adapter || Only the small part is computed for each adapter.
# - [ ] never || The base does most of the work.

# %% tags=["fold"]
# check of the first, the third and the fourth answer
ten = torch.randn(64, 80) @ torch.randn(80, 64)
assert torch.linalg.matrix_rank(ten) <= 80 and 100 + 50 * 2 == 200, "ranks and bytes add up"
both = torch.cat([0.3 * B1, 0.7 * B2], 1) @ torch.cat([A1, A2])
assert torch.allclose(both, 0.3 * B1 @ A1 + 0.7 * B2 @ A2, atol=1e-4), (
    "one factor carries the weight"
)

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | a combination is worse than each adapter | the factors were added | section 4: the error of `combine_adapters` |
# | in a mixed batch only one customer's answers are right | one adapter is active for all | section 3: `mixed_batch` |
# | an example answers differently in a batch | padding without a mask | run it alone, padded alike |
# | a sum of skills has lost one | each was trained alone | section 5: move w, or train on both |
# | "each have a head" is raised | the heads of two tasks cannot be added | choose `head_from` |
#
# ## Exercises
#
# Write in [exercises/06_many_adapters.py](exercises/06_many_adapters.py), then run
# `python -m tutorials check 06`.
#
# 1. ★ `storage`: the bytes of N tasks, as whole models and as adapters.
#    <details><summary>Hint</summary>The base is stored once in one case, N times in the other.</details>
# 2. ★★ `stack`: the factors of the exact weighted sum of several adapters.
#    <details><summary>Hint</summary>Section 4 with <code>torch.cat</code>; a weight may stand on
#    either factor, not on both.</details>
# 3. ★★ `group_rows`: for each adapter of a batch, the examples that ask for it.
#    <details><summary>Hint</summary>A dictionary of lists; examples of the base (None) are in none
#    of them.</details>
#
# **Change and measure:** in section 5, use the weights 1 and 1, so that each update has its
# full size. Does the sum keep both skills now?
#
# ## Summary
#
# 1. All tasks share one base. N tasks need one base and N small files, and one batch can mix
#    them.
# 2. Add adapters by keeping their factors apart. Added factors have cross terms.
# 3. The sum of two updates is exact, but it may lose a skill. Measure it.
#
# **Next:** [lesson 07](07_nf4.py), a weight in four bits.
#
# More: [deep dive](deep/06_many_adapters.py) (back to rank r, exchange while a compiled model
# runs) · [glossary](GLOSSARY.md)
#
# ## On the real thing
#
# They need a network, and a GPU helps. We did not run these two:
#
# ```bash
# python -m training --task sst2 --model roberta-base --target-modules query,value
# python -m training --task cola --model roberta-base --target-modules query,value
# ```
#
# Then load both folders (`runs/sst2-lora/adapter`, `runs/cola-lora/adapter`) into one model, as
# in section 2. On a base of 22 M parameters we measured the bytes for N tasks ("smaller"
# compares with N whole models):

# %% tags=["fold"]
# table: from the committed report on SST-2
from tutorials.show import show_table

show_table("training/results/sst2/report.md; N = 1; N = 10; N = 100; smaller at 100")
