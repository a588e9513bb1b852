# %% [markdown]
# # 03 · Deep dive: a missing head, swapped labels, and eight real tasks
#
# **Needs** [lesson 03](../03_lora_for_classification.py) · **Read and do** 20 minutes
# · **Runs in** about 20 s on one CPU thread · **Memory** 2 GB
#
# The core page of lesson 03 shows a file without a head, and its answers are a matter of chance.
# Here you see how the library reacts to such a file, how swapped labels look, and what the eight
# tasks of GLUE look like with these scores.

# %% tags=["fold"]
# set-up: imports, our folders, one LoRA run on sentiment
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
# ## 1. The library refuses a file without its head
#
# We take the head out of the library's own file.
#
# ??? What does `load_trained` do with the rest?
# - [ ] It loads, and the head is random. || This is what `load_state_dict(strict=False)` does.
#   The answers would be a coin toss.
# - [x] It raises an error that names the missing head. || A head that would stay random must stop
#   the loading.
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
# The head answers with numbers, 0 and 1. Which of them is "good"? The config of the model says it
# (`id2label`). If your data count the other way round, everything is learned perfectly, and every
# answer is wrong.
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
    answers = [complete(**tokenizer(text, return_tensors="pt")).logits.argmax().item() for text in examples["sentence"]]
swapped = sum(1 - a == label for a, label in zip(answers, examples["label"], strict=True))
print(complete.config.id2label)
print(f"one way {correct:.2f}, the other way {swapped / len(answers):.2f}")

# %% tags=["fold"]
# check
other = swapped / len(answers)
true_option(abs(other - correct) < 0.05, abs(other - 0.5) < 0.1, other < 0.1)
assert abs(other + correct - 1) < 1e-6, "with two labels, both readings add up to 1"

# %% [markdown]
# ## 3. Eight real tasks
#
# The tasks of GLUE with a pretrained encoder of 22 M parameters, LoRA with r = 8 on all layers, 200
# steps of 16 examples, one seed. SICK stands in for MNLI. `floor` is the
# score of the most frequent label: it shows what a score is worth.

# %% tags=["fold"]
# table: from the committed report
show_table("training/results/glue/report.md; metric; floor; after")

# %% [markdown]
# GLUE uses MCC for cola, because most of its sentences have one label. Read the table with section 3
# of the core page. On cola, mrpc and rte the model is no better than the most
# frequent label after so few steps, although the F1 of mrpc looks fine. On SST-2, with three seeds
# (the [report](../../training/results/sst2/report.md)):

# %% tags=["fold"]
# table: from the committed report
show_table("training/results/sst2/report.md; test accuracy; share of full's gain")

# %% [markdown]
# ## Summary
#
# 1. Loading must fail if a head would stay random.
# 2. An accuracy near 0 with two labels is a sign of swapped labels.
# 3. Compare every score with that of the most frequent label.
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
