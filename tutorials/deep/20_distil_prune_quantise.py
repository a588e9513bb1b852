# %% [markdown]
# # 20 · Deep dive: training repairs what pruning and few bits break
#
# **Needs** [lesson 20](../20_distil_prune_quantise.py) · **Read and do** 60 minutes
# · **Runs in** about 70 s on one CPU thread · **Memory** 2 GB
#
# The core page showed three ways to make a student smaller. Here we ask: how few bits are
# possible, and what does training with rounding change? When is int8 faster? How good is the
# importance of a head as a prediction? Which formats make zeros worth it? And does pruning in
# steps help?

# %% tags=["fold"]
# set-up: imports, our folders, one thread
import copy
import itertools
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import torch
from matplotlib import pyplot as plt
from torch.nn.utils import parametrize

# %% tags=["fold"]
# set-up: our library
from distill.compression.compress import Compressor
from distill.compression.compress_config import CompressConfig
from distill.compression.fake_quant import fake_int8_linear
from distill.compression.int8 import int8_layer, int8_paths, quantize_int8
from distill.compression.int8_product import int_mm_is_exact, quantize_rows
from distill.compression.sites import find_sites
from distill.compression.sparse_size import pack, stored_bytes
from distill.compression.structured import choose, importance, shrink
from distill.losses.loss_specs import read_losses
from distill.losses.losses import soft_targets
from distill.losses.terms import make_terms
from distill.runs.fidelity import answers_of
from distill.runs.trainer import Distiller, DistillSteps
from distill.student.copy_spec import read_copy
from distill.student.cost import answering_seconds, operations, speed_up
from distill.student.student import copy_student
from distill.student.student_files import load_student, save_student
from distill.teacher.rows import load_rows
from distill.teacher.teacher import Teacher
from distill.teacher.teacher_cache import build_cache
from training import train_model
from training.data.batching import Steps, batches
from training.evaluation.evaluation import model_inputs
from training.loop import loop
from training.loop.randomness import seeded
from training.models.trained import load_trained
from training.reports.paired import paired_gap
from tutorials.answers import true_option
from tutorials.show import prepare_page, show, show_table

prepare_page()  # one thread, no progress bars, our plot style
folder, cpu, none = Path(tempfile.mkdtemp()), torch.device("cpu"), torch.nn.ModuleDict()

# %% tags=["fold"]
# set-up: the teacher, test texts, and the teacher's logits for 2,000 texts of each seed
options = {"train_rows": 2000, "steps": 200, "eval_every": 200, "eval_rows": 100}
train_model("topic", method="full", out=str(folder / "teacher"), **options)
trained = load_trained(folder / "teacher" / "adapter")
teacher_model, tokenizer = trained.base.model, trained.base.tokenizer
teacher, reader = Teacher([teacher_model], "classification"), (tokenizer, trained.max_length)
test = load_rows(trained.spec, None, 0, (1, 0), 1000, reader, reader).held_out
labels, SEEDS = torch.tensor(test.rows["label"]), (1, 2, 3)
batch = next(batches(test.encoded.features[:64], tokenizer, 64))
texts, caches = {}, {}
for seed in SEEDS:
    texts[seed] = load_rows(trained.spec, None, seed, (1, 2000), 1, reader, reader).train[1:]
    caches[seed] = build_cache(folder / f"cache{seed}", teacher, texts[seed], tokenizer)


# %% tags=["fold"]
# set-up: training with the library, which can also prune on the way; and scores
def loss_on(seed: int):
    """The distillation loss, summed over a batch, as a function of model and batch."""
    return lambda model, batch: soft_targets(
        model(**model_inputs(batch)).logits, caches[seed].answers(batch), 2.0
    ).sum()


def some_batches(seed: int) -> list:
    return list(batches(texts[seed][:128], tokenizer, 64))


def distill(student, seed: int, steps: int = 120, config: CompressConfig | None = None):
    terms = make_terms(read_losses(["kd:T=2,a=1"]), "classification", none, causal=False)
    settings = loop.LoopSettings(steps, 2e-3, eval_every=steps, save_every=steps)
    compressor = None
    if config:
        compressor = Compressor(student, config, steps, some_batches(seed), loss_on(seed))
    distiller = Distiller(student.requires_grad_(True), none, terms, None, caches[seed])
    with seeded(seed):
        data = Steps(texts[seed], tokenizer, 16, seed)
        loop.run(
            DistillSteps(distiller, data, settings, compressor), lambda: {}, lambda _: None
        )
    if compressor:
        compressor.export()
    return student.eval()


def logits(model, count: int = 1000) -> torch.Tensor:
    features = test.encoded.features[:count]
    return torch.cat(answers_of(model, features, tokenizer, "classification", cpu))


def accuracy(model) -> float:
    return float((logits(model).argmax(1) == labels).double().mean())


plain = {
    seed: distill(copy_student(teacher_model, read_copy("copy:1")), seed) for seed in SEEDS
}
scores = {"one layer": [accuracy(plain[seed]) for seed in SEEDS]}

# %% [markdown]
# ## 1. Fewer bits, and training with rounding
#
# The gradient of `round` is 0 almost everywhere, so nothing can be trained through it. The
# **straight-through gradient** (Bengio et al. 2013) uses the gradient of the identity in its place.
# With it, a student can be trained *with* the rounding in its forward pass (**fake quantization**):
# the weights stay in float32, and the layer computes with their rounded values.
#
# ??? We round the weights of "one layer" after the training. With how many bits does the accuracy first
#   fall by more than 0.1?
# - [ ] 4 || The levels are still close enough for this task.
# - [ ] 3 || With seven levels, it loses only about 0.03.
# - [x] 2 || Each weight is then -1, 0 or 1 times the scale of its row.


# %%
def straight_through(w: torch.Tensor, bits: int) -> torch.Tensor:
    """Forward: rounded values. Backward: the identity, since `detach` hides the difference."""
    scale = w.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    return w + ((w / scale).round() * scale - w).detach()


class Rounded(torch.nn.Module):
    def __init__(self, bits: int):
        super().__init__()
        self.bits = bits

    def forward(self, w):
        return straight_through(w, self.bits)


# %%
def in_bits(student, bits: int):
    student = copy.deepcopy(student)
    for path in int8_paths(student, None, None):
        layer = student.get_submodule(path)
        parametrize.register_parametrization(layer, "weight", Rounded(bits))
    return student


for bits in (4, 3, 2):
    scores[f"{bits} bits"] = [accuracy(in_bits(plain[seed], bits)) for seed in SEEDS]
trained_2_bits = [distill(in_bits(plain[seed], 2), seed, steps=40) for seed in SEEDS]
scores["2 bits, trained"] = [accuracy(student) for student in trained_2_bits]
for name, values in scores.items():
    print(f"{name:16}", *(f"{value:.3f}" for value in values))

# %% tags=["fold"]
# check: and the library's gradient and int8 layer are these
mean = {name: statistics.mean(values) for name, values in scores.items()}
falls = [mean["one layer"] - mean[f"{bits} bits"] > 0.1 for bits in (4, 3, 2)]
true_option(falls[0], falls[1] and not falls[0], falls == [False, False, True])
assert mean["2 bits, trained"] > mean["2 bits"] + 0.1, "does the gradient pass the rounding?"
layer = plain[1].bert.encoder.layer[0].attention.self.query
w, pull = layer.weight.detach(), torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    states = plain[1].bert(**model_inputs(batch), output_hidden_states=True).hidden_states
x = states[0].flatten(0, 1)[:50]  # (tokens, 64)
gradients = []
for product in (
    fake_int8_linear,
    lambda a, b: straight_through(a, 8) @ straight_through(b, 8).T,
):
    a, b = x.clone().requires_grad_(True), w.clone().requires_grad_(True)
    gradients.append(torch.autograd.grad((product(a, b) * pull).sum(), (a, b)))
for one, other in zip(*gradients, strict=True):
    assert torch.allclose(one, other, atol=1e-4), (
        "another gradient: is the difference detached, and not the weight?"
    )
exported = int8_layer(layer)(x)
assert torch.equal(fake_int8_linear(x, w, layer.bias), exported), (
    "the exported layer rounds in another way: one scale for each row?"
)

# %% [markdown]
# No error is raised with 2 bits: the student gives answers, and more than 40 % of them are wrong on average. After
# 40 steps with the rounding in the forward pass, it is close to "one layer" again. (It had 40 more
# steps. The library stores int8 and NF4, so this student has no file.)
#
# ## 2. How good is the importance of a head?
#
# The importance is a slope at the gate's value 1. We compare it with what really happens when a
# head is removed.
#
# ??? Head by head: is the increase of the loss, after a head was removed, close to its importance?
# - [ ] yes, within 20 % || A slope at 1 does not know how the loss continues on the way to 0.
# - [x] no: the largest increase is more than 1.5 times the largest importance || The slope is too small
#   for important heads.
# - [ ] no: the increase is always smaller || It is larger for the important heads.

# %%
importances, increases, pairs = {}, {}, {}
for seed in SEEDS:
    sites = find_sites(plain[seed], "heads")
    of_heads = importance(plain[seed], sites, some_batches(seed), loss_on(seed))[sites[0].path]
    importances[seed] = of_heads.tolist()

    @torch.no_grad()
    def loss_without(*heads: int, seed=seed) -> float:
        student = copy.deepcopy(plain[seed])
        weight = student.bert.encoder.layer[0].attention.output.dense.weight
        for head in heads:
            weight.data[:, 16 * head : 16 * head + 16] = 0  # a gate of 0
        return sum(float(loss_on(seed)(student, b)) for b in some_batches(seed)) / 128

    before = loss_without()
    increases[seed] = [loss_without(head) - before for head in range(4)]
    pairs[seed] = {p: loss_without(*p) - before for p in itertools.combinations(range(4), 2)}
    for name, values in (("importance", importances[seed]), ("increase", increases[seed])):
        print(f"seed {seed}: {name:10}", *(f"{value:.3f}" for value in values))

# %% tags=["fold"]
# plot: importance against the increase of the loss
figure, panel = plt.subplots(figsize=(6, 3.4))
for seed, marker in zip(SEEDS, "os^", strict=True):
    panel.plot(
        importances[seed], increases[seed], marker, color="tab:blue", label=f"seed {seed}"
    )
longest = max(map(max, importances.values()))
panel.plot([0, longest], [0, longest], "--", color="black", label="equal")
panel.set(title="the importance finds the least important head")
panel.set(xlabel="importance (slope at g = 1)", ylabel="increase of the loss without the head")
panel.legend()
show(figure, "20_importance")

# %% tags=["fold"]
# check
largest = [max(increases[seed]) / max(importances[seed]) for seed in SEEDS]
true_option(all(0.8 < ratio < 1.2 for ratio in largest), min(largest) > 1.5, max(largest) < 0.8)
for seed in SEEDS:
    least = importances[seed].index(min(importances[seed]))
    assert least == increases[seed].index(min(increases[seed])), (
        "the head with the smallest slope: is the absolute value taken for each text?"
    )
    chosen = sorted(range(4), key=lambda h, seed=seed: importances[seed][h])[:2]
    best = min(pairs[seed], key=pairs[seed].get)
    print(f"seed {seed}: pair by importance {tuple(sorted(chosen))}, best pair {best}")

# %% [markdown]
# The importance finds the least important head with each seed. For pairs it is only a rough guide:
# the slope of a head can be small although its removal costs much (seed 2). So libraries prune in
# several rounds, with new importances and further training between them.
#
# ## 3. Speed and error of int8
#
# Quantizing the D inputs of a token takes about D operations, and its matrix multiplication D · N.
# So wide layers gain more. The processor must have instructions for int8; otherwise the library
# multiplies in float32.
#
# ??? How large is the relative error of an int8 layer, with widths of 64 to 1,024?
# - [x] below 2 % for all widths || The number of levels decides. The error grows slowly, with the largest of more inputs.
# - [ ] it grows with the width, to above 2 % || The errors of the terms partly cancel out in a sum.
# - [ ] above 2 % for all widths || 255 levels are finer than this.


# %%
def times_faster(one, other) -> float:
    """The time of `other` over that of `one`: the median of 15 rounds, in turn."""
    seconds = ([], [])
    for _, (times, run) in itertools.product(
        range(15), zip(seconds, (one, other), strict=True)
    ):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(b / a for a, b in zip(*seconds, strict=True))


print("int8 instructions that torch uses correctly:", int_mm_is_exact())
relative = {}
torch.manual_seed(0)
for width in (64, 256, 1024):
    dense = torch.nn.Linear(width, 4 * width).requires_grad_(False)
    narrow, x = int8_layer(dense), torch.randn(256, width)
    ratio = times_faster(lambda n=narrow, x=x: n(x), lambda d=dense, x=x: d(x))
    relative[width] = float((narrow(x) - dense(x)).norm() / dense(x).norm())
    print(
        f"{width:4} to {4 * width:4}: speed {ratio:.2f} of float32, error {relative[width]:.2%}"
    )

# %% tags=["fold"]
# check: the library's integers are those of the core page
largest = max(relative.values())
true_option(largest < 0.02, relative[64] < 0.02 < relative[1024], min(relative.values()) > 0.02)
q, scale = quantize_rows(w)
by_hand = (w / (w.abs().amax(-1, keepdim=True) / 127)).round()
assert torch.equal(q.float(), by_hand), (
    "other integers: did you round, with one scale for each row?"
)

# %% [markdown]
# The speed depends on the processor that rendered this page; the error does not. (With `False`,
# `torch._int_mm` may return wrong values on this processor. The library tries it once and then uses
# another way.)
#
# ## 4. Formats and kernels for zeros
#
# - a **bitmap** has one bit for each position, and then the values that are not zero;
# - an *index* (CSR) stores each value with its column: 8 bytes for each value that is not zero (columns of
#   4 bytes, without the row pointers).
#
# ??? float32: from which sparsity on is the bitmap smaller than the plain matrix, and from which the
#   index?
# - [ ] both from 50 % on || The bitmap needs only 1 bit for a position.
# - [x] about 3 % and 50 % || A bit is 1/32 of a value, and an index is as large as a value.
# - [ ] about 50 % and 75 % || The bitmap needs much less.

# %%
intermediate = plain[1].bert.encoder.layer[0].intermediate.dense.weight.detach()
tokens = torch.randn(64, 4096, generator=torch.Generator().manual_seed(0))
storage = {}
for share in (0.0, 0.04, 0.5, 0.8, 0.95):
    sparse = intermediate.clone()
    order = sparse.abs().flatten().argsort()
    sparse.view(-1)[order[: round(share * sparse.numel())]] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that CSR is in beta
        csr = sparse.to_sparse_csr()
    faster = times_faster(lambda c=csr: c @ tokens, lambda s=sparse: s @ tokens)
    bitmap, index = (
        len(pack(sparse)) / sparse.nbytes,
        8 * int((sparse != 0).sum()) / sparse.nbytes,
    )
    storage[share] = (bitmap, index)
    print(f"{share:4.0%} zeros: bitmap {bitmap:.2f}, index {index:.2f}, CSR speed {faster:.2f}")

# %% tags=["fold"]
# plot: storage by sparsity
figure, panel = plt.subplots(figsize=(6, 3))
sparsity = [k / 100 for k in range(101)]
panel.plot(sparsity, [1 / 32 + 1 - s for s in sparsity], color="tab:blue", label="bitmap")
panel.plot(sparsity, [2 * (1 - s) for s in sparsity], color="tab:orange", label="index")
for share, sizes_at in storage.items():
    panel.plot([share] * 2, sizes_at, "o", color="black", markersize=4)
panel.axhline(1, color="black", linestyle=":", linewidth=1)
panel.text(0.99, 1.05, "plain matrix", ha="right")
panel.set(title="a bitmap pays from 3 % zeros on, an index from 50 %", xlabel="sparsity")
panel.set(ylabel="bytes over the plain matrix", ylim=(0, 2.05))
panel.legend(title="lines: formulas, dots: this matrix")
show(figure, "20_storage")

# %% tags=["fold"]
# check
early, half = storage[0.04], storage[0.5]
true_option(early[0] >= 1, early[0] < 1 < early[1] and half[1] <= 1, half[0] >= 1)
assert torch.allclose(csr @ tokens, sparse @ tokens, atol=1e-3), (
    "another result: were the zeros written before the conversion?"
)

# %% [markdown]
# (Sizes and speeds are relative to the plain matrix.) CSR has to jump between columns, so it needs
# many zeros before it can be faster than a plain kernel (here it never was).
#
# ## 5. All students, trained for their form
#
# Now the library makes the students smaller *while* they are trained: 80 % zeros (**magnitude pruning**), half of the
# heads and units in four rounds, and a very small student (one head, 8 units) trained with int8 in
# its forward pass. 120 steps each. The rule of the course: a paired difference is clear if its mean
# is larger than two standard errors. (± below is one standard error.)
#
# ??? 80 % zeros, now with training after each step of pruning: what is the accuracy?
# - [ ] near 0.5, as on the core page || There, nobody trained after the pruning.
# - [x] within 0.03 of "one layer" || The remaining parameters adapt.
# - [ ] 0.03 to 0.1 below "one layer" || The training repairs nearly everything here.

# %%
CONFIGS = {
    "80 % zeros": CompressConfig(zeros=0.8),
    "half, in rounds": CompressConfig(heads=0.5, units=0.5),
    "tiny, int8": CompressConfig(heads=0.25, units=1 / 32, bits="int8"),
}
students = {("one layer", seed): (plain[seed], CompressConfig()) for seed in SEEDS}
for name, seed in itertools.product(CONFIGS, SEEDS):
    student = copy_student(teacher_model, read_copy("copy:1"))
    students[name, seed] = distill(student, seed, config=CONFIGS[name]), CONFIGS[name]
    scores.setdefault(name, []).append(accuracy(students[name, seed][0]))

# %%
sizes, loaded = {}, {"teacher": teacher_model}
for name in ("one layer", *CONFIGS):
    student, config = students[name, 1]
    base = replace(trained.base, model=student)
    path = folder / name
    sizes[name] = save_student(path, "full", base, trained.spec, trained.max_length, config)
    loaded[name] = load_student(path).base.model
    assert torch.equal(logits(loaded[name], 128), logits(student, 128)), "another model"
times = answering_seconds(loaded, batch, rounds=10)
for name in ("one layer", *CONFIGS):
    gap, error = paired_gap(scores[name], scores["one layer"])
    verdict = "" if name == "one layer" else "clear" if abs(gap) > 2 * error else "not clear"
    print(f"{name:16} {statistics.mean(scores[name]):.3f}  {gap:+.3f} ± {error:.3f} {verdict}")

# %%
print(f"{'':16} kB in the file  speed, relative to the teacher")
for name in ("one layer", *CONFIGS):
    speed = speed_up(times, name, to="teacher")[1]
    print(f"{name:16} {sizes[name] / 1000:14.0f} {speed:16.1f}")
bitmap = stored_bytes(loaded["80 % zeros"]).bitmap / 1000
print(f"80 % zeros as a bitmap: {bitmap:.0f} kB")

# %% tags=["fold"]
# check
mean = {name: statistics.mean(values) for name, values in scores.items()}
gap = mean["one layer"] - mean["80 % zeros"]
true_option(mean["80 % zeros"] < 0.65, gap < 0.03, 0.03 <= gap <= 0.1)
assert sizes["80 % zeros"] == sizes["one layer"], (
    "zeros need bytes, too: was the file compressed?"
)
assert operations(loaded["80 % zeros"], batch) == operations(loaded["one layer"], batch), (
    "zeros are multiplied, too: was the layer cut?"
)
assert mean["tiny, int8"] < mean["one layer"] - 0.01, (
    "it should lose accuracy: were heads and units removed?"
)
assert min(sizes, key=sizes.get) == "tiny, int8", "is the student saved after the pruning?"

# %% [markdown]
# The committed report on chains of such steps has a lower learning rate, 200 steps and 200 labels
# (three seeds; ± is the standard deviation there. A student can be above "best possible" by chance):

# %%
show_table("distill/results/chain/report.md; accuracy")

# %% [markdown]
# There, 80 % zeros cost more accuracy than removing half of the heads and units. Here the means are
# the other way round, not clearly. So "pruning costs 4 points" says as much about the training
# *after* the pruning as about the pruning.
#
# ## 6. Break it on purpose: prune at the end
#
# The same half of the heads and units, but removed at once, after the last step.
#
# ??? How does the accuracy compare with pruning in rounds, with the same number of steps?
# - [ ] higher || The remaining parameters never learned to work without the removed ones.
# - [ ] equal, within 0.01 || The difference is clear.
# - [x] lower by more than 0.01 || After pruning, a model needs training.

# %%
scores["half, at the end"] = []
for seed in SEEDS:
    student = copy.deepcopy(plain[seed])
    for kind in ("heads", "ffn"):
        sites = find_sites(student, kind)
        scores_by_site = importance(student, sites, some_batches(seed), loss_on(seed))
        shrink(
            student, choose(scores_by_site, keep=sum(map(len, scores_by_site.values())) // 2)
        )
    scores["half, at the end"].append(accuracy(student))
for name in ("half, in rounds", "half, at the end"):
    print(f"{name:16}", *(f"{value:.3f}" for value in scores[name]))

# %% tags=["fold"]
# check; and int8 after the training
gap, _ = paired_gap(scores["half, at the end"], scores["half, in rounds"])
true_option(gap > 0.01, abs(gap) <= 0.01, gap < -0.01)
after = copy.deepcopy(plain[1]).requires_grad_(False)
quantize_int8(after)
assert abs(accuracy(after) - scores["one layer"][0]) < 0.02, (
    "int8 should lose little: one scale for each row?"
)

# %% [markdown]
# ## Summary
#
# 1. With training in the rounded form, even 2 bits come close to float32 here.
# 2. The importance is a slope: it finds the least important head, and can misjudge pairs.
# 3. "Pruning costs 4 points" says as much about the training after the pruning as about the pruning.
#
# **Next:** [lesson 21](../21_everything_on_one_chart.py).
