# %% [markdown]
# # 20 · Compression: structured pruning saves time, quantization saves bytes
#
# **Needs** lessons [07](07_nf4.py) and [17](17_distill_logits.py) · **Read and do** 60 minutes
# · **Runs in** about 40 s on one CPU thread · **Memory** 2 GB
#
# In lesson 17, a student with half of the layers came close to its teacher. How much smaller can
# it get, and does smaller also mean faster?
#
# ![Removing one head: rows of Q, K and V, and columns of O](diagrams/20_remove_head.svg)
#
# This page compares three ways. **Structured pruning** removes whole attention heads or **units**
# (outputs of the first feed-forward layer), so that the matrices become smaller. **Quantization**
# stores parameters, here the weights of linear layers, with fewer bits. **Unstructured pruning**
# sets single parameters to zero. Reports say "4 times smaller" or "80 % sparse". This does not say
# what was saved.
# You build each by hand, and measure three different things: accuracy, bytes in the file, and
# time.

# %% tags=["fold"]
# set-up: imports, our folders, one thread
import copy
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import torch
import transformers
from matplotlib import pyplot as plt

# %% tags=["fold"]
# set-up: our library
from distill.compression.compress_config import CompressConfig
from distill.compression.int8 import int8_paths, quantize_int8
from distill.compression.int8_product import quantize_rows
from distill.compression.sites import find_sites
from distill.compression.structured import importance as library_importance
from distill.compression.structured import shrink
from distill.losses.losses import soft_targets
from distill.student.copy_spec import read_copy
from distill.student.cost import answering_seconds, operations, speed_up
from distill.student.student import copy_student
from distill.student.student_files import load_student, save_student
from distill.teacher.rows import load_rows
from loralib.four_bit.qlora import quantize_model
from training import train_model
from training.data.batching import batches
from training.evaluation.evaluation import model_inputs
from training.models.trained import load_trained
from training.reports.paired import paired_gap
from tutorials.answers import true_option
from tutorials.show import prepare_page, show

prepare_page()  # one thread, no progress bars, our plot style
folder = Path(tempfile.mkdtemp())

# %% tags=["fold"]
# set-up: the teacher of lesson 17, and test texts
options = {"train_rows": 2000, "steps": 200, "eval_every": 200, "eval_rows": 100}
train_model("topic", method="full", out=str(folder / "teacher"), **options)
trained = load_trained(folder / "teacher" / "adapter")
teacher, tokenizer = trained.base.model.eval().requires_grad_(False), trained.base.tokenizer
reader = (tokenizer, trained.max_length)
test = load_rows(trained.spec, None, 0, (1, 0), 500, reader, reader).held_out
test_batches = list(batches(test.encoded.features, tokenizer, 100))
test_labels = torch.tensor(test.rows["label"])


@torch.no_grad()
def accuracy(model) -> float:
    choices = [model(**model_inputs(batch)).logits.argmax(1) for batch in test_batches]
    return float((torch.cat(choices) == test_labels).double().mean())


# %% [markdown]
# ## 1. Where are the bytes?
#
# The student is `copy:1`: the embeddings and the first of the teacher's two layers. Before you
# choose a method, look at where the parameters are. int8 quantization stores the weights of linear
# layers in 1 byte instead of 4. The embeddings usually stay in float32.
#
# ??? Our student has 70,000 parameters, 53,000 of them in linear layers, which go to int8. How much
#   smaller is the whole file?
# - [ ] 4 times || Only if everything were in int8.
# - [x] about 2.3 times || More than a fifth of the parameters stay in float32.
# - [ ] about 1.3 times || Most parameters are in linear layers.


# %%
def linear_part(model) -> float:
    """The fraction of parameters in the weights of linear layers (without the head)."""
    linear = sum(
        model.get_submodule(path).weight.numel() for path in int8_paths(model, None, None)
    )
    return linear / sum(p.numel() for p in model.parameters())


new_student = copy_student(teacher, read_copy("copy:1"))
with torch.device("meta"):  # shapes without values
    minilm = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    minilm = transformers.BertForSequenceClassification(minilm)
for name, model in (("our student", new_student), ("MiniLM (22 M)", minilm)):
    part = linear_part(model)
    times = 1 / (1 - 0.75 * part)
    print(f"{name:13}: {part:.0%} in linear layers, int8: {times:.1f} times smaller")

# %% tags=["fold"]
# check
smaller = 1 / (1 - 0.75 * linear_part(new_student))
true_option(smaller > 3.8, 2.2 < smaller < 2.5, 1.2 < smaller < 1.4)
assert linear_part(minilm) < 0.55, "are the word embeddings counted in the total?"

# %% [markdown]
# ## 2. Quantization: integers and one scale per row
#
# For a weight $W$ (N × D: N outputs, D inputs) and $b$ bits, with the largest integer $m = 2^{b-1} - 1$:
#
# $$s_n = \max_d |W_{nd}| / m, \qquad Q = \mathrm{round}(W / s), \qquad W \approx s\,Q.$$
#
# $Q$ holds integers from -m to m; for 8 bits, m is 127. Each row has its own scale $s_n$. If the
# inputs $x$ are quantized in the same way, with one scale for each token, then the large matrix
# multiplication is one of integers (Jacob et al. 2018, section 2.2, with one scale for a whole
# matrix and a zero point, here 0), and the scales are applied afterwards: $y = (Q_x Q_W^\top) \cdot s_x \cdot s_W$.
#
# One value of $W$ may be 20 times larger than every other value: an **outlier**.
#
# ??? 8 bits. Compare one scale for the whole matrix with one scale per row. How does an outlier change
#   the error of the *other* rows?
# - [ ] not at all, in both cases || With one scale for the whole matrix, all rows share the outlier's
#   scale.
# - [x] with one scale for the matrix, about 20 times larger; with one per row, not at all || So each row
#   gets its own scale.
# - [ ] about 20 times larger, in both cases || A row without the outlier keeps its scale.


# %%
def quantize(w: torch.Tensor, bits: int, per_row: bool = True):
    """w: (N, D). Integers (N, D), and scales (N, 1) or one scale."""
    largest = w.abs().amax(-1, keepdim=True) if per_row else w.abs().max()
    scale = largest / (2 ** (bits - 1) - 1)
    return (w / scale).round(), scale


def error(w, bits: int, per_row: bool = True) -> float:
    """The relative error of all rows but the first."""
    q, scale = quantize(w, bits, per_row)
    return float((q * scale - w)[1:].norm() / w[1:].norm())


w = teacher.bert.encoder.layer[0].intermediate.dense.weight.detach()  # (256, 64)
with_outlier = w.clone()
with_outlier[0, 0] = 20 * w.abs().max()
errors = {}
for per_row in (True, False):
    errors[per_row] = [error(x, 8, per_row) for x in (w, with_outlier)]
    name = "one scale per row" if per_row else "one for the matrix"
    print(f"{name:18}: {errors[per_row][0]:.2%}, with an outlier {errors[per_row][1]:.2%}")

# %% tags=["fold"]
# check: and half a step is the largest error
ratios = [with_it / without for without, with_it in errors.values()]
true_option(max(ratios) < 1.1, ratios[0] < 1.01 and ratios[1] > 10, min(ratios) > 10)
q, scale = quantize(w, 8)
assert ((q * scale - w).abs() <= scale / 2 * (1 + 1e-5)).all(), (
    "more than half a step: did you cut off decimals in place of rounding?"
)
assert torch.equal(q.to(torch.int8), quantize_rows(w)[0]), (
    "other integers than the library: is there one scale for each row?"
)

# %% [markdown]
# ## 3. Structured pruning: which head can we remove?
#
# Multiply the output of each head $h$ by a **gate** $g_h = 1$. How much would the loss change if
# the gate were 0? To first order, it changes by $-\partial L / \partial g_h$. The average size of
# this slope is the **importance** of a head (Michel et al. 2019, section 4.1, with ξ for g):
#
# $$I_h = \text{mean over texts of } \left| \frac{\partial L}{\partial g_h} \right| \text{ at } g = 1.$$
#
# $L$ is the distillation loss with T = 2 (lesson 17), so no label is needed. (Michel et al. use the
# loss of the task, and normalize the scores within a layer.) The 256 units of the feed-forward
# part get gates in the same way.

# %% tags=["fold"]
# set-up: 2,000 unlabelled texts for each seed, the teacher's logits, and students
SEEDS, texts = (1, 2, 3), {}
for seed in SEEDS:
    texts[seed] = load_rows(trained.spec, None, seed, (1, 2000), 1, reader, reader).train[1:]


def distillation_loss(model, batch):
    """(B,) for a batch of B texts, with T = 2."""
    with torch.no_grad():
        v = teacher(**model_inputs(batch)).logits
    return soft_targets(model(**model_inputs(batch)).logits, v, 2.0)


# %% tags=["fold"]
# set-up: a training run, and the first students
def distill(student, seed: int, steps: int, part: int = 0):
    optimizer = torch.optim.AdamW(student.requires_grad_(True).parameters(), lr=2e-3)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.1, steps)
    g = torch.Generator().manual_seed(seed + 10 * part)
    for _ in range(steps):
        chosen = torch.randint(2000, (16,), generator=g).tolist()
        batch = next(batches([texts[seed][i] for i in chosen], tokenizer, 16))
        optimizer.zero_grad()
        distillation_loss(student.train(), batch).mean().backward()
        optimizer.step()
        decay.step()
    return student.eval()


students = {}
for seed in SEEDS:
    student = copy_student(teacher, read_copy("copy:1"))
    students["one layer", seed] = distill(student, seed, 120)

# %% [markdown]
# To remove head $h$, we remove its 16 rows (and biases) of the query, key and value matrices, and
# the 16 columns of the matrix that reads its output.
#
# ??? We remove two of the four heads. Which part of the student's operations (multiplications and
#   additions) is gone?
# - [ ] a half || Attention is only a part of a layer.
# - [x] about a fifth || The rest is in the other two heads and in the feed-forward part.
# - [ ] nothing || The matrices become smaller, so there is less to multiply.


# %%
def importance(student, layer, groups: int, texts) -> torch.Tensor:
    """layer: reads the outputs of `groups` heads or units. Returns (groups,)."""
    total = torch.zeros(groups)
    for batch in batches(texts, tokenizer, 64):
        gates = torch.ones(len(batch["labels"]), groups, requires_grad=True)  # (B, groups)

        def multiply(module, inputs, gates=gates):
            size = inputs[0].shape[-1] // groups  # the input is (B, tokens, groups · size)
            return (inputs[0] * gates.repeat_interleave(size, 1)[:, None],)

        hook = layer.register_forward_pre_hook(multiply)
        loss = distillation_loss(student, batch).sum()
        hook.remove()
        total += torch.autograd.grad(loss, gates)[0].abs().sum(0)
    return total / len(texts)


def remove(before, after, keep, size: int) -> None:
    """Rows of the layers before, and columns of the layer after."""
    places = torch.cat([torch.arange(size * k, size * (k + 1)) for k in keep])
    for layer in before:
        layer.weight.data = layer.weight.data[places]  # (N, D) -> (kept, D)
        layer.bias.data = layer.bias.data[places]  # (N,) -> (kept,)
    after.weight.data = after.weight.data[:, places]  # (D, N) -> (D, kept)


# %%
def prune(student, seed: int, heads: int, units: int):
    """Keeps the most important ones."""
    student = copy.deepcopy(student)
    layer = student.bert.encoder.layer[0]
    attention, reads_heads = layer.attention.self, layer.attention.output.dense
    up, down = layer.intermediate.dense, layer.output.dense
    scores = importance(student, reads_heads, 4, texts[seed][:128])
    best = scores.topk(heads).indices.sort().values.tolist()
    remove((attention.query, attention.key, attention.value), reads_heads, best, 16)
    attention.num_attention_heads, attention.all_head_size = heads, 16 * heads
    scores = importance(student, down, 256, texts[seed][:128])
    remove((up,), down, scores.topk(units).indices.sort().values.tolist(), 1)
    return student


one_layer = students["one layer", 1]
two_heads = prune(one_layer, 1, heads=2, units=256)
gone = 1 - operations(two_heads, test_batches[0]) / operations(one_layer, test_batches[0])
print(f"two heads removed: {gone:.0%} of the operations are gone")

# %% tags=["fold"]
# check: the library's importance
true_option(0.4 < gone < 0.6, 0.12 < gone < 0.3, gone < 0.01)
sites, first_texts = find_sites(one_layer, "heads"), texts[1][:128]
by_library = library_importance(
    one_layer,
    sites,
    list(batches(first_texts, tokenizer, 64)),
    lambda model, batch: distillation_loss(model, batch).sum(),
)[sites[0].path]
reads_heads = one_layer.bert.encoder.layer[0].attention.output.dense
by_hand = importance(one_layer, reads_heads, 4, first_texts)
assert torch.allclose(by_hand.double(), by_library, rtol=1e-3), (
    "did you take the absolute value for each text, before the mean?"
)

# %% tags=["fold"]
# check: a removed head equals a gate of 0; and the library's pruning
closed = copy.deepcopy(one_layer)
for head in by_hand.topk(2, largest=False).indices.tolist():
    columns = slice(16 * head, 16 * head + 16)
    closed.bert.encoder.layer[0].attention.output.dense.weight.data[:, columns] = 0
with torch.no_grad():
    z = [model(**model_inputs(test_batches[0])).logits for model in (closed, two_heads)]
assert torch.allclose(*z, atol=1e-4), (
    "did you cut O's columns for the same heads as the rows of Q, K and V?"
)
shrunk = copy.deepcopy(one_layer)
shrink(shrunk, {sites[0].path: by_hand.topk(2).indices.sort().values.tolist()})
with torch.no_grad():
    z = [model(**model_inputs(test_batches[0])).logits for model in (shrunk, two_heads)]
assert torch.equal(*z), "other heads than the library keeps: did you sort them?"

# %% [markdown]
# After pruning, the student must learn to work without the removed parts. So we train for 60
# steps, prune, and train for 60 more (the learning rate starts again).
#
# ## 4. All on one chart
#
# We compare, with three seeds and 120 steps each:
#
# | student | what we do |
# |:--|:--|
# | one layer | distillation only |
# | pruned | half of the heads and units are removed after 60 steps |
# | int8; NF4 | two students: "one layer", quantized after the training (NF4: lesson 07) |
# | pruned, int8 | "pruned", quantized to int8 after the training |
#
# The students of seed 1 are saved and loaded again, so bytes and time are those of real files. Speed
# is measured with a batch of 100 texts on one thread.
#
# ??? Which of these three students answers fastest?
# - [ ] int8 || It must quantize its inputs first, and our matrices are small.
# - [x] pruned || It has half of the operations, in plain float32.
# - [ ] NF4 || It must decode its weights before each matrix multiplication.

# %%
for seed in SEEDS:
    half = distill(copy_student(teacher, read_copy("copy:1")), seed, 60)
    students["pruned", seed] = distill(prune(half, seed, heads=2, units=128), seed, 60, part=1)
    for name, source, export in (
        ("int8", "one layer", quantize_int8),
        ("NF4", "one layer", quantize_model),
        ("pruned, int8", "pruned", quantize_int8),
    ):
        students[name, seed] = copy.deepcopy(students[source, seed]).requires_grad_(False)
        export(students[name, seed])

# %% tags=["fold"]
# set-up: save, load again, and measure
scores, sizes, loaded = {"teacher": [accuracy(teacher)] * 3}, {}, {"teacher": teacher}
CONFIGS = {"int8": {"bits": "int8"}, "NF4": {"bits": "nf4"}, "one layer": {}}
CONFIGS |= {"pruned": {"heads": 0.5, "units": 0.5}}
CONFIGS |= {"pruned, int8": {"heads": 0.5, "units": 0.5, "bits": "int8"}}
for (name, seed), student in students.items():
    scores.setdefault(name, []).append(accuracy(student))
    if seed == 1:
        base, config = replace(trained.base, model=student), CompressConfig(**CONFIGS[name])
        path = folder / name
        sizes[name] = save_student(path, "full", base, trained.spec, trained.max_length, config)
        loaded[name] = load_student(path).base.model
        assert accuracy(loaded[name]) == scores[name][0], f"{name}: the file is another model"
files = (folder / "teacher" / "adapter").glob("*.safetensors")
sizes["teacher"] = sum(file.stat().st_size for file in files)
times = answering_seconds(loaded, test_batches[0], rounds=12)
speeds = {name: speed_up(times, name, to="teacher")[1] for name in loaded}

# %%
for name in loaded:
    print(f"{name:13} accuracy {statistics.mean(scores[name]):.3f}")

# %%
print(f"{'':13} kB in the file   speed, relative to the teacher")
for name in loaded:
    print(f"{name:13} {sizes[name] / 1000:10.0f} {speeds[name]:20.1f}")

# %% tags=["fold"]
# plot: accuracy against bytes and against speed, with labels at the points
figure, panels = plt.subplots(1, 2, figsize=(8.4, 3.4), sharey=True)
BELOW = ("one layer", "int8", "pruned, int8")  # labels below the dots
for name, values in scores.items():
    colour = "black" if name == "teacher" else "tab:orange" if "pru" in name else "tab:blue"
    for panel, x in zip(panels, (sizes[name] / 1000, speeds[name]), strict=True):
        panel.plot([x] * 3, values, ".", color=colour, markersize=5)
        panel.plot(x, statistics.mean(values), "s", color=colour, markersize=8)
        shift = (0, -16) if name in BELOW else (0, 9)
        place = (x, min(values) if name in BELOW else max(values))
        panel.annotate(name, place, shift, textcoords="offset points", ha="center", fontsize=9)
panels[0].set(title="quantization and pruning save bytes", ylabel="accuracy (dots: seeds)")
panels[0].set(xlabel="kB in the file", xlim=(0, 560))
panels[1].set(title="pruning in float32 is the fastest", xlabel="speed (teacher: 1)")
panels[1].margins(x=0.2)
panels[0].margins(y=0.25)
for name, colour in (("with all heads and units", "tab:blue"), ("pruned", "tab:orange")):
    panels[0].plot([], [], "s", color=colour, label=name)
panels[0].legend(loc="lower right")
show(figure, "20_chart")

# %% tags=["fold"]
# check
fastest = max(speeds, key=speeds.get)
true_option(fastest == "int8", fastest == "pruned", fastest == "NF4")
work = [operations(model, test_batches[0]) for model in (loaded["pruned"], one_layer)]
assert work[0] < 0.55 * work[1], "half should be gone: did you prune the heads and the units?"
assert speeds["pruned"] > 1.2 * speeds["int8"], (
    "int8 should be slower here: was another program running?"
)
assert 2.1 < sizes["one layer"] / sizes["int8"] < 2.4, (
    "section 1 predicted 2.3: are the scales stored as float32?"
)
for name in ("pruned", "int8", "NF4"):
    gap, wobble = paired_gap(scores[name], scores["one layer"])
    print(f"{name} against one layer: {gap:+.4f} ± {wobble:.4f} (one standard error)")
    assert abs(gap) < 0.05, "no student should lose much: did it train after the pruning?"

# %% [markdown]
# - Structured pruning saves bytes *and* time. It needs no special format and no special kernel. Its mean
#   accuracy is clearly lower (the check above has the difference and its standard error).
# - int8 and NF4 save bytes, need no training, and show no clear loss here. They are not faster than "one
#   layer" in float32. On wide layers, int8 can be faster, if the processor has int8 instructions
#   ([deep dive](deep/20_distil_prune_quantise.py)).
#
# ## 5. Break it on purpose: 80 % zeros
#
# Unstructured pruning sets the parameters with the smallest absolute values to zero. **Sparsity**
# is the fraction of parameters that are zero. Somebody reports: "our student is 80 % sparse, so it is 5 times
# smaller."
#
# ??? The linear layers of "one layer" get 80 % zeros, and we save it. How large is the file?
# - [ ] a fifth || A zero in float32 takes four bytes, like any other value.
# - [ ] a half || No format here knows about zeros.
# - [x] as large as before || And the number of operations is the same, too.

# %%
sparse = copy.deepcopy(one_layer)
for path in int8_paths(sparse, None, None):
    weight = sparse.get_submodule(path).weight.data
    weight[weight.abs() < weight.abs().quantile(0.8)] = 0
sparse.save_pretrained(folder / "sparse")
one_layer.save_pretrained(folder / "dense")
size = {n: (folder / n / "model.safetensors").stat().st_size for n in ("dense", "sparse")}
work = [operations(model, test_batches[0]) for model in (one_layer, sparse)]
print(f"file: {size['sparse'] / size['dense']:.2f}, operations: {work[1] / work[0]:.2f}")
print(f"accuracy: {accuracy(one_layer):.3f} before, {accuracy(sparse):.3f} after")

# %% tags=["fold"]
# check
part = size["sparse"] / size["dense"]
true_option(part < 0.3, 0.3 <= part < 0.7, part > 0.99)
assert work[0] == work[1] and accuracy(sparse) < accuracy(one_layer), (
    "the same operations, and less accuracy: were the zeros written?"
)

# %% [markdown]
# Zeros save bytes only in a format that knows about them, and time only with a kernel that skips
# them. (With further training, most of the accuracy comes back in our run: see the deep dive.)
#
# ## The same in PyTorch

# %% tags=["fold"]
# the same in PyTorch: zeros by absolute value, and integers with one scale per row
from torch.nn.utils import prune as torch_prune

layer = copy.deepcopy(one_layer.bert.encoder.layer[0].intermediate.dense)
torch_prune.l1_unstructured(layer, "weight", amount=0.8)
ours = sparse.bert.encoder.layer[0].intermediate.dense.weight
assert (ours != layer.weight).sum() <= 1, "the same zeros; at the border a quantile may differ"
q, scale = quantize(w, 8)
zero_points = torch.zeros(256, dtype=torch.int32)
fake_quantized = torch.fake_quantize_per_channel_affine(
    w, scale[:, 0], zero_points, 0, -127, 127
)
assert ((fake_quantized - q * scale).abs() / scale).max() < 1.01, (
    "only ties may differ, by one step"
)
assert (fake_quantized != q * scale).double().mean() < 0.01, "and they are rare"
print("torch.nn.utils.prune gives our zeros, and torch our rounded weights")

# %% [markdown]
# `torch.nn.utils.prune` keeps the full matrix and a mask (after `prune.remove`, the full matrix with
# zeros), so it saves neither bytes nor time. `torch.fake_quantize_per_channel_affine` returns
# $s\,Q$ in float32.
#
# ## Find the bug
#
# ```python
# largest = w.abs().amax(-1, keepdim=True)
# scale = largest / 127
# q = (w / scale).to(torch.int8)
# ```
#
# The error is about twice as large as it should be.
#
# ??? What is wrong?
# - [ ] The scale must be `largest / 128`. || Then the largest value would become 128, too large for int8.
# - [ ] `amax` must be over the other dimension. || Then the scales would belong to columns.
# - [x] `round()` is missing. || `to(torch.int8)` cuts off the decimals.

# %% tags=["fold"]
# check
scale = w.abs().amax(-1, keepdim=True) / 127
wrong = float(((w / scale).to(torch.int8) * scale - w).norm())
right = float(((w / scale).round() * scale - w).norm())
true_option(False, False, 1.8 < wrong / right < 2.2)

# %% [markdown]
# ## Quiz
#
# ??? Which of the three makes a model faster without a special kernel?
# - [ ] zeros || A plain kernel multiplies zeros, too.
# - [x] removing heads and units || The matrices are smaller.
# - [ ] int8 || It needs instructions and kernels for int8.
#
# ??? Why does an int8 file shrink by less than 4 times?
# - [ ] The scales need as much space as the weights. || One scale per row is little.
# - [ ] int8 needs 2 bytes. || It needs 1.
# - [x] Embeddings and the head stay in float32. || In small models they are a large part.
#
# ??? What does one scale per row protect against?
# - [x] an outlier in another row || Only its own row gets a large scale.
# - [ ] an outlier in the same row || The row shares the scale with it.
# - [ ] overflow in the multiplication || Sums in int32 prevent overflow.
#
# ??? Why is the importance computed with the distillation loss?
# - [ ] It is faster. || It costs the same.
# - [x] It needs no labels. || The teacher's logits are the targets.
# - [ ] Other losses have no gradient. || They have gradients, too.
#
# ??? "Our model is 4 times smaller." What do you ask first?
# - [ ] which optimizer was used || This does not change the size.
# - [ ] how many layers it has || This does not say what was saved.
# - [x] how accurate and how fast it is, and whether "4 times" means bytes || These are three measurements.
#
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | "80 % sparse", and the file is as large as before | the format stores zeros | section 5: bytes |
# | int8 is slower than float32 | narrow layers, or no int8 instructions | deep dive, section 3 |
# | the int8 file is only 2 times smaller | embeddings are in float32 | section 1 |
# | one matrix has a large error in int8 | one scale for the matrix, and an outlier | section 2 |
# | pruning costs much accuracy | no training after it | section 3: train after it, too |
#
# ## Exercises
#
# Write in [exercises/20_distil_prune_quantise.py](exercises/20_distil_prune_quantise.py),
# then run `python -m tutorials check 20`.
#
# 1. ★ `to_int8`: integers and scales of a matrix. A row of zeros must not become NaN.
#    <details><summary>Hint</summary>Give such a row any scale but 0, with `torch.where`.</details>
# 2. ★ `smallest_storage`: plain, bitmap or index, for so many zeros and so many bits (deep dive, section 4).
#    <details><summary>Hint</summary>A dict of the three sizes, and `min` with a key.</details>
# 3. ★★ `head_scores`: the importance of heads from their outputs and the gradient there, without gates.
#    <details><summary>Hint</summary>By the chain rule, ∂L/∂g is a sum of x · ∂L/∂x.</details>
# 4. ★★ `straight_through`: rounding whose gradient is that of the identity, with a fixed range (deep dive,
#    section 1).
#    <details><summary>Hint</summary>`clamp` has the right gradient. Hide only the rounding with
#    `detach`.</details>
#
# **Change and measure:** keep one head and 32 units. What does it cost, and what does it save?
#
# ## Summary
#
# 1. Accuracy, bytes and time are three questions. Measure each with the saved file.
# 2. Removing heads and units saves bytes and time; quantization saves bytes.
# 3. Zeros save nothing without a format and a kernel for them.
#
# **Next:** [lesson 21](21_everything_on_one_chart.py), all methods side by side.
#
# More: [deep dive](deep/20_distil_prune_quantise.py) · [how to compare two
# runs](topics/compare_two_runs.py) · [glossary](GLOSSARY.md)
#
# ## On the real thing
#
# These commands need a network, and a GPU helps. We did not run them:
#
# ```bash
# python -m training --task sst2 --model bert-base-uncased --method full --out runs/teacher
# python -m distill --teacher runs/teacher/adapter --student copy:1,3,5,7,9,11 \
#     --losses kd:T=2,a=0.9 --keep-heads 0.5 --keep-units 0.5 --bits int8 --train-rows 1000 \
#     --transfer-rows 30000 --cache runs/answers --steps 6000 --out runs/small
# ```
