# %% [markdown]
# # 06 · Deep dive: trained cross terms, back to rank r, and exchange in a compiled model
#
# **Needs** [lesson 06](../06_many_adapters.py) · **Read and do** 30 minutes
# · **Runs in** about 35 s on one CPU thread · **Memory** 2 GB
#
# The core page added two adapters and found that one skill is lost. Here you measure the cross
# terms of *trained* adapters, press the sum back to rank 8, and exchange adapters while a
# compiled model runs.

# %% tags=["fold"]
# set-up: imports, our folders, two trained adapters in one model
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
from training import train_model
from training.data.data import load_task
from training.data.encoding import encode
from training.data.tasks import find_task
from training.evaluation.evaluation import HeldOut, evaluate
from training.loop.processes import make_accelerator
from training.models.base_models import load_base
from training.reports.records import COLOURS, use_style
from tutorials.answers import true_option
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
datasets.disable_progress_bars()
use_style()


# %% tags=["fold"]
# the two tasks and their adapters, as on the core page
folder = Path(tempfile.mkdtemp())
spec = find_task("sentiment")
topics = folder / "two_topics"
topics.mkdir()
for split, rows in load_task(find_task("topic"), seed=0).items():
    labels = [label // 2 for label in rows["label"]]  # music 0, sport 1, food 2, science 3
    pairs = zip(rows["sentence"], labels, strict=True)
    lines = [json.dumps({"sentence": s, "label": label}) for s, label in pairs]
    (topics / f"{split}.jsonl").write_text("\n".join(lines))
options = {"method": "lora", "steps": 250, "eval_every": 10**6, "trackers": "", "threads": 1}
runs = {
    "mood": train_model("sentiment", out=str(folder / "mood"), **options),
    "topic": train_model(
        "sentiment", data_dir=str(topics), out=str(folder / "topic"), **options
    ),
}
base = load_base(spec, seed=0)
model, tokenizer = base.model.eval(), base.tokenizer
inputs = tokenizer(
    load_task(spec, seed=0)["test"]["sentence"][:8], return_tensors="pt", padding=True
)
for name, run in runs.items():
    loralib.load_adapter(model, run.folder / "adapter", name, trainable=False)

# %% [markdown]
# ## 1. The cross terms of trained adapters
#
# In the core page, two random adapters had cross terms of 100 %. Trained adapters are not
# random. `combine_adapters` reports how far its result is from the exact weighted sum.
#
# ??? How large is the error of `linear` (added factors) for two trained adapters, compared with
#   random ones?
# - [ ] zero: training separates the adapters || They were trained alone and know nothing of
#   each other.
# - [x] smaller than 100 %, but far from zero || The cross terms of trained adapters are real,
#   too.
# - [ ] larger than 200 % || Here the cross terms are smaller than the sum that we want.

# %%
reports = {}
for method in ("linear", "cat"):
    reports[method] = loralib.combine_adapters(
        model, list(runs), [0.5, 0.5], f"both-{method}", method, head_from="mood"
    )
    print(f"{method:6} error {reports[method].error:.1e}")

# %% tags=["fold"]
# check
error = reports["linear"].error
true_option(error < 0.01, 0.05 < error < 1, error > 2)
assert reports["cat"].error < 1e-5, "factors kept apart are exact"

# %% [markdown]
# peft's `linear` does the same as ours: the square root of each weight stands on both factors,
# so the cross terms stay. There are also methods that combine whole updates: TIES (Yadav et al.
# 2023) and DARE (Yu et al. 2024). `combine_adapters` has them as `method="ties"` and
# `"dare_linear"`.
#
# ## 2. Back to rank 8
#
# The sum has rank 16. `svd` presses it back to rank 8: by the singular value decomposition, no
# matrix of rank 8 is nearer.
#
# ??? In the core page no weight kept both skills. Is `svd` with rank 8 clearly worse than the
#   exact sum?
# - [ ] Yes: half of the rank is lost. || The smaller singular values carry little.
# - [x] No: the curves are nearly the same. || So the rank was not what was missing. (At w = 0
#   and w = 1 the sum has rank 8 anyway.)
# - [ ] It is better, because it removes noise. || Nothing says that the small part is noise.

# %%
held = {}
for task, test in {
    "mood": load_task(spec, seed=0),
    "topic": load_task(spec, str(topics)),
}.items():
    rows = test["test"].select(range(250))
    held[task] = HeldOut(spec, rows, encode(rows[:], spec, tokenizer, 128))


def accuracy(w: float, task: str, method: str, **more) -> float:
    loralib.combine_adapters(
        model, ["mood", "topic"], [1 - w, w], "mix", method, head_from=task, **more
    )
    loralib.set_active(model, "mix")
    score = evaluate(model, held[task], tokenizer, make_accelerator())["accuracy"]
    loralib.delete_adapter(model, "mix")
    return score


# %%
weights = [0.0, 0.25, 0.5, 0.75, 1.0]
curves = {
    (task, method): [accuracy(w, task, method, **more) for w in weights]
    for task in held
    for method, more in (("cat", {}), ("svd", {"rank": 8}))
}
for (task, method), values in curves.items():
    print(f"{task:5} {method:4}", *(f"{value:.2f}" for value in values))

# %% tags=["fold"]
# plot: exact sums and sums of rank 8
figure, panel = plt.subplots(figsize=(6.4, 3.4))
styles = {"mood": COLOURS["lora"], "topic": COLOURS["random"]}
for (task, method), values in curves.items():
    panel.plot(
        weights,
        values,
        "o-" if method == "cat" else "s--",
        color=styles[task],
        label=f"{task}, {method}",
    )
panel.set(
    title="rank 8 (dashed) follows the exact sum", xlabel="weight w of topic", ylabel="accuracy"
)
panel.set_ylim(0, 1.05)
panel.legend(ncols=2, loc="lower center")
show(figure, "06_rank_8")

# %% tags=["fold"]
# check
gaps = [
    b - a
    for task in held
    for a, b in zip(curves[task, "svd"], curves[task, "cat"], strict=True)
]
true_option(max(gaps) > 0.1, max(map(abs, gaps)) < 0.06, min(gaps) < -0.06)

# %% [markdown]
# ## 3. Exchange adapters while a compiled model runs
#
# `torch.compile` makes code for the shapes and the constants that it has seen. Another rank is
# another shape, and another scale is another constant. Then it compiles again. (Our backend
# only counts the graphs and runs them. A real one takes seconds.) `prepare_hotswap` avoids
# this: it pads the rank with zeros once, and it keeps the scale in a tensor. `hotswap_adapter`
# then copies the numbers of another file into the same tensors.
#
# ??? Rank 2 is padded to 8: six more rows of A and six more columns of B, all zero. How does B
#   A change?
# - [x] not at all || Each new term is zero times zero.
# - [ ] It gets rank 8. || The new rows are zero, so the rank stays 2.
# - [ ] Its entries become four times smaller. || The scale is a tensor of its own, and it
#   stays.

# %%
swap = load_base(spec, seed=0).model.eval()
files, random_start = [], {"modules_to_save": [], "init_lora_weights": False}  # B is random too
for i, r in enumerate((2, 8, 4)):  # three customers: three ranks and three scales
    config = loralib.LoraConfig(
        r=r, lora_alpha=3 + i, target_modules=["query", "value"], **random_start
    )
    loralib.inject(swap, config, f"customer{i}", seed=i)
    files.append(loralib.save_adapter(swap, folder / f"customer{i}", f"customer{i}"))
    loralib.delete_adapter(swap, f"customer{i}")

loralib.load_adapter(swap, files[0], trainable=False)
with torch.no_grad():
    with_rank_2 = swap(**inputs).logits
    loralib.prepare_hotswap(swap, rank=8)
    change = (swap(**inputs).logits - with_rank_2).abs().max().item()
print(f"largest change of the outputs after padding: {change:.0e}")

# %% tags=["fold"]
# check
true_option(change < 1e-5, False, change > 1e-2)

# %% [markdown]
# ??? Now four exchanges in a compiled model: ranks 2, 8, 4 and 2 again. Which of them contain a
#   compilation?
# - [ ] all of them || Then the ranks would still be different shapes.
# - [ ] those with a new rank || After padding, all ranks have one shape.
# - [x] the first one only || It contains the compilation.

# %%
graphs = []


def counting_backend(graph, example_inputs):
    graphs.append(graph)  # called once for each graph that is compiled
    return graph.forward


compiled = torch.compile(swap, backend=counting_backend)
compilations = []
with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
    for file in [*files, files[0]]:
        before = len(graphs)
        loralib.hotswap_adapter(swap, file)
        logits = compiled(**inputs).logits
        compilations.append(len(graphs) - before)
        assert torch.allclose(logits, swap(**inputs).logits, atol=1e-5), (
            "the compiled model answers as the plain one"
        )
        print(f"{file.name}: {compilations[-1]} graphs compiled")

# %% tags=["fold"]
# check: with `error_on_recompile` a second compilation would have raised an error
first, later = compilations[0] > 0, [count > 0 for count in compilations[1:]]
true_option(
    first and all(later), first and later == [True, True, False], first and not any(later)
)

# %% [markdown]
# ## Summary
#
# 1. Trained adapters have cross terms, too. `combine_adapters` reports the error of each way.
# 2. Pressing the sum back to rank 8 costs almost nothing here. So the rank is not the reason
#    for the lost skill.
# 3. With padded ranks, a compiled model exchanges adapters without a new compilation.
#
# **Next:** [lesson 07](../07_nf4.py).
#
# ## On the real thing
#
# ```bash
# python -m kernels.bench grouped     # a batch with many adapters: our kernels against a loop
# ```
