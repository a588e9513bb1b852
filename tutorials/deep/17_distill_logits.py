# %% [markdown]
# # 17 · Deep dive: a distillation number means nothing without its baseline
#
# **Needs** [lesson 17](../17_distill_logits.py) · **Read and do** 50 minutes
# · **Runs in** about 60 s on one CPU thread · **Memory** 2 GB
#
# The core page trained a student with a plain loop. Here we use the library, and ask four
# questions: Does the temperature matter? Do soft labels help on a second task? What is a fair
# baseline? And which mistakes raise no error?

# %% tags=["fold"]
# set-up: imports, our folders, one thread
import copy
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import torch
from matplotlib import pyplot as plt

# %% tags=["fold"]
# set-up: our library
from distill.losses.loss_specs import read_losses
from distill.losses.terms import LABELLED, make_terms
from distill.runs.fidelity import (
    answers_of,
    calibration_error,
    distance_to_truth,
    fidelity,
    teachers_answers,
)
from distill.runs.trainer import Distiller, DistillSteps
from distill.student.copy_spec import read_copy
from distill.student.cost import answering_seconds, file_bytes, operations, speed_up
from distill.student.student import copy_student
from distill.teacher.rows import load_rows
from distill.teacher.teacher import Teacher
from distill.teacher.teacher_cache import CacheError, build_cache, with_keys
from distill.teacher.truth import posteriors
from training import train_model
from training.data.batching import Steps, batches
from training.loop import loop
from training.loop.randomness import seeded
from training.models.trained import load_trained
from training.reports.paired import paired_gap
from training.reports.records import COLOURS
from tutorials.answers import true_option
from tutorials.show import prepare_page, show

prepare_page()  # one thread, no progress bars, our plot style
folder, cpu = Path(tempfile.mkdtemp()), torch.device("cpu")

# %% tags=["fold"]
# set-up: teachers for two tasks, a student that is trained with a loss of the library, and scores


def trained_teacher(task: str, steps: int):
    out = folder / task
    options = {"train_rows": 2000, "steps": steps, "eval_every": steps, "eval_rows": 100}
    train_model(task, method="full", out=str(out), **options)
    return load_trained(out / "adapter")


def examples_of(spec, seed: int, labelled: int, unlabelled: int, test: int = 1):
    return load_rows(spec, None, seed, (labelled, unlabelled), test, reader, reader)


def trained_student(model, features: list[dict], loss: str, answers, seed: int, steps=100):
    """`answers`: a teacher, or a cache of its logits."""
    none = torch.nn.ModuleDict()  # no learned matrices between the two models (lesson 18)
    student = copy_student(model, read_copy("copy:1")).requires_grad_(True)
    terms = make_terms(read_losses([loss]), "classification", none, causal=False)
    distiller = Distiller(student, none, terms, None, answers)
    settings = loop.LoopSettings(
        steps=steps, learning_rate=2e-3, eval_every=steps, save_every=steps
    )
    with seeded(seed):
        trainer = DistillSteps(distiller, Steps(features, tokenizer, 16, seed), settings)
        loop.run(trainer, lambda: {"eval_loss": 0.0}, lambda row: None)
    return student.eval()


def scores_of(model, held_out, truth, teacher_logits) -> dict[str, float]:
    features = held_out.encoded.features
    z = torch.cat(answers_of(model, features, tokenizer, "classification", cpu))
    labels = torch.tensor(held_out.rows[:]["label"])
    return {
        "accuracy": float((z.argmax(1) == labels).double().mean()),
        "KL from p*": distance_to_truth(z, truth),
        "calibration error": calibration_error(z, labels),
        "agreement": fidelity("classification", [z], [teacher_logits])["agreement"],
    }


# %% tags=["fold"]
# set-up: the topic teacher, its logits, and the test examples
trained = trained_teacher("topic", steps=200)
tokenizer = trained.base.tokenizer
reader = (tokenizer, trained.max_length)
teacher = Teacher([trained.base.model], "classification")
test = examples_of(trained.spec, 0, 1, 0, test=1000).held_out
truth = posteriors("topic", test.rows)  # (N, C), as v_test
v_test = torch.cat(teachers_answers(teacher, test.encoded.features, tokenizer, cpu))
SEEDS = (1, 2, 3)

# %% [markdown]
# ## 1. Does the temperature matter?
#
# We train the student on 2,000 unlabelled texts with T = 2 and T = 8 (100 steps, a learning rate
# of 2e-3 and 1,000 test texts, so the numbers differ from the core page). In the library this
# loss is called `kd:T=2,a=1`, where `a` is the teacher's part. Besides accuracy we measure:
#
# - the **calibration error** (Guo et al. 2017, equation 3): if a model is 80 % sure, it should be right
#   in 80 % of such cases. The texts are sorted into 15 groups by their largest probability. The
# error is the mean over the texts of |confidence - accuracy| of their group.
# - KL from p*: the mean of $\mathrm{KL}(p^* \Vert q)$.
# - the *agreement*: for how many texts student and teacher choose the same class.
#
# ??? By how much does the mean accuracy differ between T = 2 and T = 8?
# - [x] by less than 0.02 || The teacher is the same, and both targets have the same order of classes.
# - [ ] by 0.02 to 0.05 || The difference that we measured is smaller.
# - [ ] by more than 0.05 || Only the number of texts changes the accuracy so much (core page).

# %%
LOSSES = {"T = 2": "kd:T=2,a=1", "T = 8": "kd:T=8,a=1"}
students, scores, caches, examples = {}, {}, {}, {}
for seed in SEEDS:
    examples[seed] = examples_of(trained.spec, seed, 50, 2000).train
    caches[seed] = build_cache(folder / f"topic{seed}", teacher, examples[seed], tokenizer)
    for name, loss in LOSSES.items():
        texts = examples[seed][50:]
        student = trained_student(trained.base.model, texts, loss, caches[seed], seed)
        students[name, seed] = student
        scores[name, seed] = scores_of(student, test, truth, v_test)


def mean_of(name: str, score: str) -> float:
    return statistics.mean(scores[name, seed][score] for seed in SEEDS)


for name in LOSSES:
    print(name, *(f"{score} {mean_of(name, score):.3f} " for score in scores[name, 1]))

# %% tags=["fold"]
# check
gap = abs(mean_of("T = 2", "accuracy") - mean_of("T = 8", "accuracy"))
true_option(gap < 0.02, 0.02 <= gap <= 0.05, gap > 0.05)
assert min(s["agreement"] for s in scores.values()) > 0.85, (
    "did the student get the logits of its own texts?"
)


def calibration_by_hand(probabilities, labels, groups: int = 15) -> float:
    """probabilities: (N, C), labels: (N,)."""
    confidence, choice = probabilities.max(-1)
    group, error = (confidence * groups).ceil().clamp(1, groups), 0.0
    for k in group.unique():
        inside = group == k
        right = (choice == labels)[inside].double().mean()
        error += float(inside.double().mean() * (right - confidence[inside].mean()).abs())
    return error


test_labels = torch.tensor(test.rows[:]["label"])
by_hand = calibration_by_hand(v_test.double().softmax(-1), test_labels)
assert abs(by_hand - calibration_error(v_test, test_labels)) < 1e-9, "15 groups, by their size"

# %% [markdown]
# So here T changes the accuracy by less than 0.02. (Compare the other three numbers, too.)
#
# ## 2. A second task: sentiment
#
# A story of *sentiment* has five clauses, and each shows the mood of the story in 92 % of the
# cases. Nearly all stories have a clear majority, so $p^*$ is near 0 or 1. We train the student
# on 1,000 unlabelled texts with the teacher's most likely class (pseudo-labels), and with soft
# labels.
#
# ??? By how much is the mean accuracy with soft labels higher than with pseudo-labels?
# - [ ] by more than 0.05 || The teacher's probabilities are near 0 and 1, too.
# - [ ] by 0.02 to 0.05 || Soft labels contain almost nothing that the class does not.
# - [x] by less than 0.02 || Here the class says almost everything.


# %%
def certain(p) -> float:
    """For how many texts the largest probability is above 0.99. p: (N, C)."""
    return float((p.max(1).values > 0.99).double().mean())


moods = trained_teacher("sentiment", steps=150)
mood_teacher = Teacher([moods.base.model], "classification")
mood_test = examples_of(moods.spec, 0, 1, 0, test=1000).held_out
mood_truth = posteriors("sentiment", mood_test.rows)
mood_v = torch.cat(teachers_answers(mood_teacher, mood_test.encoded.features, tokenizer, cpu))
sources = {
    "topic": (truth, v_test.softmax(-1)),
    "sentiment": (mood_truth, mood_v.softmax(-1)),
}
print("texts with a probability above 0.99:")
for task, (p_star, p) in sources.items():
    print(f"{task:9} p* {certain(p_star):.0%}, teacher {certain(p):.0%}")

# %%
mood_scores = {"pseudo-labels": [], "soft labels": []}
for seed in SEEDS:
    texts = [text | {LABELLED: 1} for text in examples_of(moods.spec, seed, 1, 1000).train[1:]]
    cache = build_cache(folder / f"moods{seed}", mood_teacher, texts, tokenizer)
    choices = torch.cat(teachers_answers(cache, texts, tokenizer, cpu)).argmax(1).tolist()
    chosen = [text | {"labels": choice} for text, choice in zip(texts, choices, strict=True)]
    runs = {
        "pseudo-labels": (chosen, "hard", None),
        "soft labels": (texts, "kd:T=2,a=1", cache),
    }
    for name, (features, loss, answers) in runs.items():
        student = trained_student(moods.base.model, features, loss, answers, seed)
        mood_scores[name].append(scores_of(student, mood_test, mood_truth, mood_v)["accuracy"])
for name, values in mood_scores.items():
    print(f"{name:13}", *(f"{value:.3f}" for value in values))

# %% tags=["fold"]
# check
gap, _ = paired_gap(mood_scores["soft labels"], mood_scores["pseudo-labels"])
true_option(gap > 0.05, 0.02 <= gap <= 0.05, gap < 0.02)
assert certain(mood_v.softmax(-1)) > 2 * certain(v_test.softmax(-1)), (
    "is the teacher of sentiment overtrained, or are the two tasks exchanged?"
)

# %% [markdown]
# So look at the teacher's probabilities before you distill: this needs no labels. If the teacher
# is certain for nearly all texts, its soft labels are nearly its choices. (On *topic*, where it
# is less certain than p*, the gain in accuracy over pseudo-labels is small, too: core page,
# section 4. So certainty is not the only reason.)
#
# ## 3. "97 % of the quality, 60 % of the size, 60 % faster"
#
# These are the numbers of **DistilBERT** (Sanh et al. 2019): 6 of BERT-base's 12 layers (66 of
# 110 million parameters), a mean score of 77.0 against 79.5 on GLUE (nine tasks for understanding
# English), and 60 % faster on a CPU. It was distilled during pretraining. The numbers are often
# quoted as if they were a law of distillation.
#
# ??? Our student, trained on 2,000 *true* labels without the teacher's predictions: how much of the
#   teacher's accuracy does it reach?
# - [ ] less than 60 % || Even guessing reaches 28 % here.
# - [ ] 60 to 85 % || This is closer to a student with 50 labels.
# - [x] more than 85 % || So "97 % of the quality" says little without this baseline.

# %%
for name, count in (("50 labels", 50), ("2,000 labels", 2000)):
    for seed in SEEDS:
        texts = examples[seed][:50] if count == 50 else examples[seed][50:]
        texts = [text | {LABELLED: 1} for text in texts]
        student = trained_student(trained.base.model, texts, "hard", None, seed)
        scores[name, seed] = scores_of(student, test, truth, v_test)
best = scores_of(trained.base.model, test, truth, v_test)["accuracy"]
for name in ("T = 2", "2,000 labels", "50 labels"):
    print(f"{name:12} {mean_of(name, 'accuracy') / best:.0%} of the teacher's accuracy")

# %% tags=["fold"]
# plot: each seed as a marker
figure, panel = plt.subplots(figsize=(6.6, 2.6))
shown = {"50 labels": "random", "2,000 labels": "random"}
shown |= {"T = 2": "distilled", "T = 8": "distilled"}
for place, (name, colour) in enumerate(shown.items()):
    for seed, marker in zip(SEEDS, "os^", strict=True):
        height = place + 0.2 * (seed - 2)
        value = scores[name, seed]["accuracy"]
        panel.plot(value, height, marker, color=COLOURS[colour], markersize=7)
panel.axvline(best, color=COLOURS["full"], linewidth=1, label="teacher")
panel.axvline(0.25, color="black", linestyle=":", label="guessing")
names = ("50 labels", "2,000 labels", "soft labels, T = 2", "soft labels, T = 8")
panel.set_yticks(range(4), names)
panel.set(title="2,000 labels without the teacher come close, too", xlim=(0.2, 0.95))
panel.set_xlabel("accuracy (markers: seeds)")
panel.legend(loc="upper center")
show(figure, "17_baselines")

# %% tags=["fold"]
# check; and the cost of both models
fraction = mean_of("2,000 labels", "accuracy") / best
true_option(fraction < 0.6, 0.6 <= fraction <= 0.85, fraction > 0.85)
pair = {"teacher": trained.base.model, "student": students["T = 2", 1]}
batch = next(batches(test.encoded.features[:64], tokenizer, 64))
seconds, cost = answering_seconds(pair, batch), {}
for name, model in pair.items():
    model.save_pretrained(folder / name)
    count = sum(p.numel() for p in model.parameters())
    cost[name] = (count, file_bytes(folder / name), operations(model, batch))
low, middle, high = speed_up(seconds, "student", to="teacher")
parameters, size, work = (cost["student"][i] / cost["teacher"][i] for i in range(3))
print(f"the student: {parameters:.0%} of the parameters, {work:.0%} of the operations")
print(f"the teacher's time is {middle:.2f} times the student's ({low:.2f} to {high:.2f})")
assert 0.55 < parameters < 0.62 and abs(size - parameters) < 0.02, (
    "were the embeddings copied, and one layer left out?"
)
assert work < 0.55, "embeddings cost no matrix multiplication"

# %% [markdown]
# So ask for each such number: what does the same student reach *without* the teacher's
# predictions, with the labels that you would have? (The student has 58 % of the parameters and 50
# % of the operations: embeddings take memory, but no matrix multiplication.) If you have 2,000
# labels, the teacher brings less. If you have 50 labels and 2,000 unlabelled texts, it brings
# much. (All our students start with weights of the teacher. That our number is near 97 %, too, is
# chance.)
#
# ## 4. Break it on purpose: a teacher in training mode
#
# Somebody forgets `teacher.eval()`. The teacher's dropout stays on. (`batch` holds 64 test
# texts.)
#
# ??? Dropout of 0.1. The teacher sees the same text twice. What is the mean total variation distance
#   between its two predictions?
# - [ ] 0 || This is so in evaluation mode.
# - [x] more than 0.01 || The soft labels contain noise. No error is raised.
# - [ ] less than 0.0001 || Dropout sets one hidden value in ten to 0, and scales the rest.

# %%
noisy = copy.deepcopy(trained.base.model).train()
for module in noisy.modules():
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.1  # the usual value; our small model was pretrained with 0
torch.manual_seed(0)
with torch.no_grad():
    p = [noisy(batch["input_ids"], batch["attention_mask"]).logits.softmax(-1) for _ in "ab"]
q = [Teacher([noisy], "classification").answers(batch).softmax(-1) for _ in "ab"]
distance = {
    name: float((first - second).abs().sum(1).mean() / 2)
    for name, (first, second) in (("training mode", p), ("our Teacher", q))
}
print({name: round(value, 3) for name, value in distance.items()})

# %% tags=["fold"]
# check
moved = distance["training mode"]
true_option(moved == 0, moved > 0.01, 0 < moved < 0.0001)
assert distance["our Teacher"] == 0, "`Teacher` must put its models into evaluation mode"

# %% [markdown]
# ## 5. Break it on purpose: stored logits in another order
#
# The teacher's logits are stored once, in the order of the texts. Then training shuffles the
# texts and reads the stored logits by position.
#
# ??? For how many texts do the logits, read by position, have the same most likely class as the
#   teacher's logits for that text?
# - [ ] for nearly all || The logits belong to other texts.
# - [x] for 20 to 40 % || With four classes, about one in four agrees by chance.
# - [ ] for none || Some agree by chance.

# %%
stored = torch.cat(teachers_answers(teacher, examples[3], tokenizer, cpu))
numbered = [text | {"number": k} for k, text in enumerate(examples[3])]
by_position, by_key = [], []
stream = Steps(numbered, tokenizer, 16, seed=0)
for step, (shuffled,) in zip(range(100), stream, strict=False):
    expected = stored[shuffled["number"]].argmax(1)
    positions = (torch.arange(len(expected)) + 16 * step) % len(stored)
    by_position += (stored[positions].argmax(1) == expected).tolist()
    by_key += (caches[3].answers(shuffled).argmax(1) == expected).tolist()
print(f"by position: {statistics.mean(map(float, by_position)):.0%}")
print(f"by a key of the text: {statistics.mean(map(float, by_key)):.0%}")

# %% tags=["fold"]
# check: our cache finds logits by the text, and refuses a text that it does not know
agreement = statistics.mean(map(float, by_position))
true_option(agreement > 0.9, 0.2 < agreement < 0.4, agreement == 0)
assert statistics.mean(map(float, by_key)) > 0.99, (
    "other logits for the same text: is its key made from all of its tokens?"
)
try:
    caches[3].answers(next(batches(with_keys(test.encoded.features[:16]), tokenizer, 16)))
    raise AssertionError("the teacher never saw these texts")
except CacheError as refusal:
    print("refused:", str(refusal).removeprefix(f"{caches[3].folder}: "))

# %% [markdown]
# Such targets do not depend on the text. Our cache finds the logits by a key that is made from
# the tokens of the text.
#
# ## Summary
#
# 1. A number such as "97 %" needs its baseline: the same student without the teacher's predictions.
# 2. Look at the teacher's probabilities first: if it is certain, soft labels are nearly its choices.
# 3. Find stored logits by a key of the text, and keep the teacher in evaluation mode.
#
# **Next:** [lesson 18](../18_distill_features.py).
