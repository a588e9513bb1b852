# %% [markdown]
# # 06 · One base serves many tasks at once, and adding two adapters means adding their products
#
# | | |
# |:--|:--|
# | **Needs** | lessons [01](01_lora_by_hand.py) and [03](03_lora_for_classification.py) |
# | **Read and do** | 50 minutes |
# | **Runs in** | about 50 s on one CPU thread |
# | **Memory** | 2 GB |
#
# Full fine-tuning gives a whole model for every task. LoRA gives a small file, and the base stays. So one base in memory can
# serve many customers: switched between batches, **mixed inside one batch**, added together, or exchanged while a compiled
# model runs. Adding is easy to get wrong: what the library `peft` calls `linear` adds the wrong things, by design. You will
# measure by how much.
#
# | symbol | code | meaning |
# |:--|:--|:--|
# | $A_i, B_i, s_i$ | `lora_A`, `lora_B`, `scaling` | the factors and the scale of adapter $i$ |
# | $\Delta_i = s_i B_i A_i$ | `delta_weight` | what adapter $i$ adds to a weight |
# | $w_i$ | `weights` | how much of adapter $i$ we want; may be negative |
# | r | `r` | rank |
#
# Differences from the papers: work on adding whole models, such as TIES (Yadav et al. 2023) and DARE (Yu et al. 2024), writes
# $\Delta_i$ for trained model minus base. With a frozen base that is our $s_i B_i A_i$. This lesson needs the plain sum only;
# `combine_adapters` has their rules too (`method="ties"`, `"dare_linear"`).

# %%
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path.cwd() if Path("loralib").is_dir() else Path.cwd().parent
sys.path.insert(0, str(ROOT))  # so that our folders are found, from the project's root and from tutorials/

import datasets
import torch
import transformers
from matplotlib import pyplot as plt

import loralib
from training.reports.records import COLOURS, file_size, use_style
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
datasets.disable_progress_bars()
use_style()
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1. Two tasks, two small files
#
# Task one is sentiment. Task two asks for the topic: is a text about *music or sport*, or about *food or science*? We write it
# to files as you would write your own data.
#
# **Predict:** the base with a head is 120 thousand numbers, 480 kB. LoRA has rank 8, on all linear layers. How large is a file
# with adapter and head: about 5, 80 or 480 kB? What do 100 tasks cost, each way?

# %%
from training import train_model
from training.models.base_models import load_base
from training.data.data import load_task
from training.data.tasks import find_task

(folder / "two_topics").mkdir()
for split, rows in load_task(find_task("topic"), seed=0).items():
    labels = [label // 2 for label in rows["label"]]  # music 0, sport 1, food 2, science 3
    lines = [json.dumps({"sentence": s, "label": label}) for s, label in zip(rows["sentence"], labels, strict=True)]
    (folder / "two_topics" / f"{split}.jsonl").write_text("\n".join(lines))
options = {"method": "lora", "steps": 250, "eval_every": 10**6, "trackers": "", "samples": 0, "threads": 1, "seed": 0}
runs = {
    "mood": train_model("sentiment", out=str(folder / "mood"), **options),
    "topic": train_model("sentiment", data_dir=str(folder / "two_topics"), out=str(folder / "topic"), **options),
}
base_bytes = sum(4 * p.numel() for p in load_base(find_task("sentiment"), seed=0).model.parameters())  # 4 bytes a number
adapter_bytes = runs["mood"].file_bytes
for name, run in runs.items():
    print(f"{name:5}  accuracy {run.metric:.3f}   file {file_size(run.file_bytes)}")
print(f"100 tasks: {file_size(100 * base_bytes)} as models, {file_size(base_bytes + 100 * adapter_bytes)} as adapters")
assert all(run.metric > 0.8 for run in runs.values()), "both tasks are learnt: are the labels those of the sentence?"
assert base_bytes / adapter_bytes > 5, "an adapter with its head is a small part of its base: was the whole model saved?"

# %% [markdown]
# Here an adapter is a sixth of its base, since the base is tiny: r = 8 beside a width of 64. On a base of 22 M it is 1.5 % (the
# last section links the table).
#
# ## 2. Both in one model: switch, and switch back
#
# Each adapter brings its factors **and its head** (lesson 03). `load_adapter` puts both beside the base; `set_active` chooses.
#
# **Predict:** after `set_active(model, [])`, is the model the base: to six digits, or bit for bit?

# %%
base = load_base(find_task("sentiment"), seed=0)
model, tokenizer = base.model.eval(), base.tokenizer
texts = load_task(find_task("sentiment"), seed=0)["test"]["sentence"][:8]
inputs = tokenizer(texts, return_tensors="pt", padding=True)
with torch.no_grad():
    of_the_base = model(**inputs).logits
    for name, run in runs.items():
        print(name, loralib.load_adapter(model, run.folder / "adapter", name, trainable=False))
    answers = {}
    for name, run in runs.items():
        loralib.set_active(model, name)
        answers[name] = model(**inputs).logits
        assert torch.allclose(answers[name], run.model(**inputs).logits, atol=1e-5), f"{name} answers as when it was trained"
    loralib.set_active(model, [])
    assert torch.equal(model(**inputs).logits, of_the_base), "without an adapter it is the base, bit for bit"

# %% [markdown]
# 28 tensors: $A$ and $B$ of 13 linear layers, and the head's weight and bias.
#
# ## 3. Many adapters in one batch
#
# Eight requests arrive together: three for *mood*, three for *topic*, two for the base. Running them in three batches costs
# three passes. But the weight $W$ is the same for all of them. Only the thin part differs:
#
# $$y_i = x_i W^\top + s_{a(i)} (x_i A_{a(i)}^\top) B_{a(i)}^\top, \qquad a(i) = \text{adapter of row } i.$$
#
# **Predict:** one layer, eight rows of three kinds. How many products with $W$ do you need: 1, 3 or 8? And how many with an $A$?

# %%
names = ["mood", "topic", None, "mood", "topic", "topic", "mood", None]
layer = model.bert.encoder.layer[0].attention.self.query
x = torch.randn(8, 5, 64, generator=torch.Generator().manual_seed(0))  # (B, T, D)


def mixed_by_hand(layer, x, names):
    y = x @ layer.weight.T + layer.bias  # (B, T, D), once, for all rows
    for adapter in {n for n in names if n}:  # twice: the base has no factors
        rows = [i for i, n in enumerate(names) if n == adapter]
        A, B, slot = layer.lora_A[adapter], layer.lora_B[adapter], layer.variants[adapter]
        y[rows] += slot.scaling * (x[rows] @ A.T) @ B.T
    return y


with torch.no_grad():
    by_hand = mixed_by_hand(layer, x, names)
    with loralib.mixed_batch(model, names):
        assert torch.allclose(layer(x), by_hand, atol=1e-5), "one product with W, then each adapter on its own rows"
        together = model(**inputs).logits
    wanted = torch.stack([(of_the_base if n is None else answers[n])[i] for i, n in enumerate(names)])
print(f"largest difference to running each row alone: {(together - wanted).abs().max():.1e}")
assert torch.allclose(together, wanted, atol=1e-5), "a row must not see which adapters its neighbours use"

# %% [markdown]
# One product with $W$, two with an $A$. Servers for thousands of adapters do this with special kernels (lesson 11 will write
# one). The rule is the same.
#
# ## 4. Break it on purpose: adding factors instead of products
#
# We want one adapter that does $w_1 \Delta_1 + w_2 \Delta_2$. It is tempting to add the files: $A = A_1 + A_2$, $B = B_1 +
# B_2$. The sizes fit, nothing complains. But
#
# $$(B_1 + B_2)(A_1 + A_2) = B_1 A_1 + B_2 A_2 + \underbrace{B_1 A_2 + B_2 A_1}_{\text{nobody trained this}}.$$
#
# The right way is to keep the factors **apart**: the rows of $A_2$ below those of $A_1$, and the columns of $w_2 s_2 B_2$ to the
# right of those of $w_1 s_1 B_1$. Each column of $B$ then meets its own row of $A$. The rank doubles, and the product is exact.
#
# **Predict:** two random adapters of equal size. How large is the part that nobody trained, relative to the wanted sum: 1 %,
# 10 %, or about 100 %?

# %%
g = torch.Generator().manual_seed(1)
A1, A2 = torch.randn(2, 8, 64, generator=g)
B1, B2 = torch.randn(2, 64, 8, generator=g)
wanted = B1 @ A1 + B2 @ A2
added = (B1 + B2) @ (A1 + A2)
apart = torch.cat([B1, B2], 1) @ torch.cat([A1, A2])  # (64, 16) @ (16, 64)
of_added, of_apart = ((found - wanted).norm() / wanted.norm() for found in (added, apart))
print(f"random adapters: factors added {of_added:.0%} wrong, factors kept apart {of_apart:.0e}")
assert 0.8 < of_added < 1.2, "two cross terms of the size of the two wanted ones"
assert of_apart < 1e-6, "the product of the stacked factors is the sum of the products"

reports = {}
for method in ("linear", "cat"):
    reports[method] = loralib.combine_adapters(model, list(runs), [0.5, 0.5], f"both-{method}", method, head_from="mood")
    print(f"ours, {method:6} {reports[method]}")
assert reports["cat"].error < 1e-5 < 0.05 < reports["linear"].error, "trained adapters have cross terms as well"

# %% [markdown]
# `peft` calls the wrong one `linear` (it puts the square root of each weight on both factors, and the cross terms stay). Our
# `combine_adapters` uses `cat` unless you say otherwise, and tells the error of each.
#
# ## 5. What a combination keeps
#
# Exact arithmetic is one thing; whether the *sum of two skills* is both skills is another. $w$ moves from one adapter to the
# other: $\Delta = (1 - w)\,\Delta_{mood} + w\,\Delta_{topic}$. Each point answers both tasks, each with its own head. `svd`
# presses the sum back from rank 16 to rank 8: no matrix of rank 8 is nearer. Guessing gives 0.5 on both tasks.
#
# **Predict:** at $w = 0.5$, will the sum do both tasks, one of them, or none?

# %%
from training.data.encoding import encode
from training.evaluation.evaluation import HeldOut, evaluate
from training.loop.processes import make_accelerator

spec = find_task("sentiment")
tests = {"mood": load_task(spec, seed=0)["test"], "topic": load_task(spec, str(folder / "two_topics"))["test"]}
held = {}
for name, rows in tests.items():
    rows = rows.select(range(250))
    held[name] = HeldOut(spec, rows, encode(rows[:], spec, tokenizer, 128))


def accuracy(w: float, task: str, method: str, **more) -> float:
    loralib.combine_adapters(model, ["mood", "topic"], [1 - w, w], "mix", method, head_from=task, **more)
    loralib.set_active(model, "mix")
    found = evaluate(model, held[task], tokenizer, make_accelerator())["accuracy"]
    loralib.delete_adapter(model, "mix")
    return found


# %%
shares = [0.0, 0.25, 0.5, 0.75, 1.0]
curves = {
    (task, method): [accuracy(w, task, method, **more) for w in shares]
    for task in tests
    for method, more in (("cat", {}), ("svd", {"rank": 8}))
}
for (task, method), values in curves.items():
    print(f"{task:5} {method:4} {[round(v, 2) for v in values]}")
assert curves["mood", "cat"][0] > 0.9 and curves["topic", "cat"][-1] > 0.8, "weight 1 is the adapter itself"
assert max(map(min, curves["mood", "cat"], curves["topic", "cat"])) < 0.8, "no weight here keeps both: are the heads their own?"

# %%
figure, panel = plt.subplots(figsize=(6.4, 3.4))
styles = {"mood": COLOURS["lora"], "topic": COLOURS["head"]}
for (task, method), values in curves.items():
    panel.plot(shares, values, "o-" if method == "cat" else "s--", color=styles[task], label=f"{task}, {method}")
panel.set(title="adding two skills: at half weight topic is lost, mood is whole", xlabel="weight of topic", ylabel="accuracy")
panel.set_ylim(0, 1.05)
panel.legend(ncols=2, loc="lower center")
show(figure, "two_skills")

# %% [markdown]
# At half weight *mood* is whole and *topic* is close to guessing; further right they change places. Between 0.5 and 0.75 the
# lines cross, and there both have lost. The two adapters were trained alone and change the same 13 matrices. The sum is exact,
# and still nobody promised that each head can read it. The dashed lines lie on the others: rank 8 is not what was missing.
#
# ## 6. Exchanged while a compiled model runs
#
# `torch.compile` makes code for the shapes and the numbers that it saw. Another rank is another shape; another scale is another
# number. Both compile again, for seconds. The way out: pad the rank with zeros once, and keep the scale in a tensor.
# `prepare_hotswap` does it, and `hotswap_adapter` copies another file's numbers into the same tensors.
#
# **Predict:** rank 2 padded to 8: six more rows of $A$ and six more columns of $B$, all zero. What do they change in $B A$? Four
# exchanges follow: which of them take seconds?

# %%
import time

swap = load_base(spec, seed=0).model.eval()
files, random_start = [], {"modules_to_save": [], "init_lora_weights": False}  # no head; B is random, so each one answers anew
for i, r in enumerate((2, 8, 4)):  # three customers, three ranks, three scales
    config = loralib.LoraConfig(r=r, lora_alpha=3 + i, target_modules=["query", "value"], **random_start)
    loralib.inject(swap, config, f"customer{i}", seed=i)
    files.append(loralib.save_adapter(swap, folder / f"customer{i}", f"customer{i}"))
    loralib.delete_adapter(swap, f"customer{i}")

loralib.load_adapter(swap, files[0], trainable=False)
with torch.no_grad():
    of_rank_2 = swap(**inputs).logits
    loralib.prepare_hotswap(swap, rank=8)
    assert torch.allclose(swap(**inputs).logits, of_rank_2, atol=1e-6), "zeros times anything are zeros: the answers stay"
compiled = torch.compile(swap, backend="eager")  # "eager" shows the recompilations without a C++ compiler
with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
    for file in [*files, files[0]]:
        start = time.perf_counter()
        loralib.hotswap_adapter(swap, file)
        found = compiled(**inputs).logits
        print(f"{file.name}: {time.perf_counter() - start:.2f} s")
        assert torch.allclose(found, swap(**inputs).logits, atol=1e-5), "the compiled model answers as the plain one"

# %% [markdown]
# The zeros change nothing. The first line holds the compilation, the others do not: with `error_on_recompile`, a second one would
# have raised.
#
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | a combination is worse than each adapter | factors were added, not products | section 4: the report's error |
# | all rows of a batch answer alike | one adapter is active for all | section 3: `mixed_batch` |
# | a row answers differently in a batch | padding without a mask | run the row alone, padded alike |
# | every exchange takes seconds | ranks or scales differ, so it compiles again | section 6: `prepare_hotswap(rank=the largest)` |
# | a sum of skills has lost one | each was trained alone | section 5: move $w$, or train on both (lesson 15) |
# | "each have a head" is raised | heads of two tasks do not add up | choose `head_from` |
#
# ## Exercises
#
# Write in [exercises/06_many_adapters.py](exercises/06_many_adapters.py), then `python -m tutorials check 06`.
#
# 1. ★ `storage`: the bytes of N tasks, as whole models and as adapters.
# 2. ★★ `stack`: factors of the exact weighted sum of several adapters.
#    <details><summary>Hint</summary>Section 4 with `torch.cat`; a weight may stand on either factor, not on both.</details>
# 3. ★★ `group_rows`: for each adapter of a batch, the rows that ask for it.
#    <details><summary>Hint</summary>A dictionary of lists; rows of the base (None) are in none of them.</details>
#
# ## Summary
#
# 1. The base is shared: what N tasks cost is one base and N small files, and one batch can mix them.
# 2. Adapters add as products. Factors kept apart are exact; factors added invent cross terms.
# 3. A sum of two updates is exact arithmetic and no promise: measure what each skill keeps.
#
# **Next:** [lesson 07](07_nf4.py), a weight in four bits.
#
# ## On the real thing
#
# ```bash
# python -m training --task sst2 --model roberta-base --target-modules query,value
# python -m training --task cola --model roberta-base --target-modules query,value
# ```
#
# Then load both folders (`runs/sst2-lora/adapter`, `runs/cola-lora/adapter`) into one model as in section 2. We measured
# [what N tasks cost](../training/results/sst2/report.md) on a base of 22 M: at r = 8, 100 tasks are 227 MB instead of 9.1 GB,
# 40 times less.
