# %% [markdown]
# # 03 · Deep dive: a missing head, swapped labels, honest scores, and eight real tasks
#
# **Needs** [lesson 03](../03_lora_for_classification.py) · **Read and do** 20 minutes
# · **Runs in** about 20 s on one CPU thread · **Memory** 2 GB
#
# The core page of lesson 03 shows a file without a head, and its answers are a matter of
# chance. Here you see how the library reacts to such a file, how swapped labels look, why
# accuracy is not enough, and what the eight tasks of GLUE look like with other scores.

# %% tags=["fold"]
# set-up: imports, our folders, one LoRA run on sentiment
import math
import sys
import tempfile
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import torch
import transformers
from safetensors.torch import load_file, save_file

import loralib
from training import train_model
from training.data.data import load_task
from training.data.encoding import encode
from training.data.tasks import find_task
from training.evaluation.evaluation import HeldOut, evaluate
from training.loop.processes import make_accelerator
from training.models.base_models import load_base
from training.models.trained import load_trained
from tutorials.answers import true_option
from tutorials.show import show_table

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
folder = Path(tempfile.mkdtemp())
spec = find_task("sentiment")
tokenizer = load_base(spec, seed=0).tokenizer
examples = load_task(spec, seed=0)["test"].select(range(300))
held_out = HeldOut(spec, examples, encode(examples[:], spec, tokenizer, 128))
quick = {"steps": 150, "eval_every": 150, "eval_rows": 300, "trackers": ""}
trained = train_model("sentiment", method="lora", out=str(folder / "run"), **quick)

# %% [markdown]
# ## 1. A file without its head
#
# We take the head out of the library's own file.
#
# ??? What does `load_trained` do with the rest?
# - [ ] It loads, and the head is random. || This is what `load_state_dict(strict=False)` does.
#   One coin toss would decide about all answers.
# - [x] It raises an error that names the missing head. || A head that would stay random must
#   stop the loading.
# - [ ] It trains a new head. || Loading does not train.

# %%
half = loralib.save_adapter(trained.model, folder / "half")
tensors = load_file(half / "adapter_model.safetensors")
only_lora = {name: tensor for name, tensor in tensors.items() if "lora" in name}
save_file(only_lora, half / "adapter_model.safetensors", {"format": "pt"})
try:
    load_trained(half, task="sentiment", model="encoder")
    message = ""
except ValueError as error:
    message = str(error).partition(": ")[2]  # without the folder's name
print(message)

# %% tags=["fold"]
# check
true_option(not message, "classifier" in message, False)

# %% [markdown]
# ## 2. A label and its number belong together
#
# The head answers with numbers, 0 and 1. Which of them is "good"? The config of the model says
# it (`id2label`). If somebody reads the numbers the other way round, every answer gets the
# wrong name.
#
# ??? A model for two labels has an accuracy of 0.98. Somebody reads its labels the wrong way
#   round. What accuracy do they measure?
# - [ ] 0.98 || Every answer is now the other one.
# - [ ] 0.50 || The answers are not random. They are reversed.
# - [x] 0.02 || With two labels, both readings add up to 1.

# %%
complete = load_trained(trained.folder / "adapter").base.model.eval()
correct = evaluate(complete, held_out, tokenizer, make_accelerator())["accuracy"]
with torch.no_grad():
    answers = [
        complete(**tokenizer(text, return_tensors="pt")).logits.argmax().item()
        for text in examples["sentence"]
    ]
swapped = sum(1 - a == label for a, label in zip(answers, examples["label"], strict=True))
print(complete.config.id2label)
print(f"one way {correct:.2f}, the other way {swapped / len(answers):.2f}")

# %% tags=["fold"]
# check
other = swapped / len(answers)
true_option(abs(other - correct) < 0.05, abs(other - 0.5) < 0.1, other < 0.1)
assert abs(other + correct - 1) < 1e-6, "with two labels, both readings add up to 1"

# %% [markdown]
# ## 3. Which score is honest?
#
# Suppose 70 of 100 sentences have the label 1, and a model always answers 1. Its accuracy is
# 0.70, and it knows nothing. The **Matthews correlation** (MCC; Matthews 1975) looks at all
# four cases: true and false positives (TP, FP), true and false negatives (TN, FN). 1 is
# perfect, and 0 is as good as guessing. **F1** looks at the label 1 only: how many of its cases
# were found, and how many alarms were false.
#
# $$\text{MCC} = \frac{TP \cdot TN - FP \cdot FN}{\sqrt{(TP+FP)(TP+FN)(TN+FP)(TN+FN)}}, \qquad
# F_1 = \frac{2\, TP}{2\, TP + FP + FN}.$$


# %%
def matthews(guess: list[int], truth: list[int]) -> float:
    pairs = list(zip(guess, truth, strict=True))
    tp, tn, fp, fn = (pairs.count(pair) for pair in ((1, 1), (0, 0), (1, 0), (0, 1)))
    below = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return (tp * tn - fp * fn) / below if below else 0.0  # 0/0 counts as 0


# %% [markdown]
# ??? A model always answers 1. What are its MCC and its F1?
# - [ ] MCC 0.7, F1 0.7 || Both look at the kinds of errors, not only at their number.
# - [x] MCC 0, F1 above 0.8 || MCC notices that the model cannot separate the labels. F1 ignores
#   the true negatives.
# - [ ] MCC 0, F1 0 || F1 counts the 70 sentences that it got right.

# %%
from training.evaluation.metrics import label_scores

truth = [1] * 70 + [0] * 30
guesses = {"always 1": [1] * 100, "a real model": [1] * 60 + [0] * 35 + [1] * 5}
for name, guess in guesses.items():
    accuracy, f1 = label_scores(guess, truth, "f1").values()
    print(f"{name:<13} accuracy {accuracy:.2f}  F1 {f1:.2f}  MCC {matthews(guess, truth):.2f}")

# %% tags=["fold"]
# check
lazy = guesses["always 1"]
mcc, f1 = matthews(lazy, truth), label_scores(lazy, truth, "f1")["f1"]
true_option(abs(mcc - 0.7) < 0.1, mcc == 0 and f1 > 0.8, mcc == 0 and f1 == 0)
for guess in guesses.values():
    expected = label_scores(guess, truth, "matthews")["matthews"]
    assert math.isclose(matthews(guess, truth), expected), "which pairs are false positives?"
assert matthews([0] * 10, [0] * 5 + [1] * 5) == 0, "one kind of answer: MCC is 0"

# %% [markdown]
# So look at more than the accuracy, and print what the most frequent label alone would get.
#
# ## 4. Eight real tasks
#
# The tasks of GLUE with a pretrained encoder of 22 M parameters, LoRA with r = 8 on all layers,
# 200 steps of 16 examples, one seed. SICK stands in for MNLI. `floor` is the score of always
# giving the most frequent training label. (For F1 it is 0 if that label is 0, and for stsb it
# counts as 0.)

# %% tags=["fold"]
# table: from the committed report
show_table("training/results/glue/report.md; metric; floor; after")

# %% [markdown]
# GLUE uses MCC for cola, because 70 % of its sentences have the same label. Read the table with
# section 3 in mind. On cola, mrpc and rte the model is hardly better than the most frequent
# label (one seed, one learning rate), although the F1 of mrpc looks fine. On SST-2, with three
# seeds (the [report](../../training/results/sst2/report.md)):

# %% tags=["fold"]
# table: from the committed report
show_table("training/results/sst2/report.md; test accuracy; share of full's gain")

# %% [markdown]
# ## Summary
#
# 1. Loading must fail if a head would stay random.
# 2. An accuracy near 0 with two labels is a sign of swapped labels, or of a missing head.
# 3. Compare every score with that of the most frequent label. MCC does this in one number; F1
#    does not.
#
# **Next:** [lesson 04](../04_lora_against_full.py).
#
# ## On the real thing
#
# It needs a network, and a GPU helps. We did not run it with this model:
#
# ```bash
# python -m training benchmark --tasks all --model roberta-base
# ```
