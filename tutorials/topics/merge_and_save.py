# %% [markdown]
# # Merge and save: a small file, or a model without adapter
#
# **Needs** [lesson 01](../01_lora_by_hand.py) · **Read and do** 20 minutes
# · **Runs in** about 20 s on one CPU thread · **Memory** 2 GB
#
# Training is finished. What do you give to the people who will use the model?
#
# ![Two ways to give a model away: a base and an adapter file, or one merged weight](../diagrams/01_merge.svg)
#
# There are two ways. You can save the adapter alone: a small file, next to a base model that
# everybody has already. Or you can **merge**: add the update to the weights, and give away one
# ordinary model.

# %% tags=["fold"]
# set-up: imports, our folders
import copy
import sys
import tempfile
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import torch
import transformers

import loralib
from training import train_model
from training.data.batching import batches
from training.data.data import load_task
from training.data.encoding import encode
from training.data.tasks import find_task
from training.models.base_models import load_base
from tutorials.answers import true_option

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
folder = Path(tempfile.mkdtemp())

# %% tags=["fold"]
# set-up: a LoRA run and a full run on question answering, and 16 test examples
quick = {"steps": 60, "eval_every": 60, "eval_rows": 100, "trackers": ""}
lora = train_model("qa", method="lora", r=8, out=str(folder / "lora"), **quick)
full = train_model("qa", method="full", out=str(folder / "full"), **quick)
spec = find_task("qa")
tokenizer = load_base(spec, "encoder", seed=0).tokenizer
features = encode(load_task(spec, seed=0)["test"][:16], spec, tokenizer, 96).features
probe = next(batches(features, tokenizer, 16))
model = lora.model.cpu().eval()  # a GPU may have trained it

# %% [markdown]
# ## 1. Merge and unmerge
#
# $W_0 + s B A$ is a matrix of the same shape as $W_0$. After merging, the forward pass has no
# extra step. `loralib.merge` does this in place, and `loralib.unmerge` reverses it.
#
# `probe` is a batch of 16 questions, and `start_logits`, of shape (16, T), are the scores for
# "the answer starts here".
#
# ??? After `merge`, are the outputs of the model the same as before?
# - [ ] Yes, in every bit. || x (W₀ + s B A)ᵀ is computed in another order than x W₀ᵀ + s (x Aᵀ)
#   Bᵀ, and each step rounds.
# - [x] Nearly: only rounding differs. || In exact arithmetic both are equal. float32 stores
#   about 7 digits.
# - [ ] No, they are different. || The merged weight contains the same update.

# %%
weights = {name: p.detach().clone() for name, p in model.named_parameters()}
with torch.no_grad():
    adapted = model(**probe).start_logits
    loralib.merge(model)
    merged = model(**probe).start_logits
loralib.unmerge(model)
difference = ((merged - adapted).abs().max() / adapted.abs().max()).item()
restored = all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
print("outputs equal in every bit:", torch.equal(merged, adapted))
print(f"relative difference: {difference:.0e}")
print("weights equal in every bit after unmerge:", restored)

# %% tags=["fold"]
# check
same = torch.equal(merged, adapted)
true_option(same, not same and difference < 1e-4, difference >= 1e-4)
assert restored, "unmerge must restore the exact weights"
assert difference < 1e-4, "merging must not change answers: was it merged twice?"

# %% [markdown]
# The sum is rounded, so subtracting $s B A$ again would not give exactly $W_0$. That is why the
# library keeps a copy of the old weight until you call `unmerge`. This costs memory. If you
# will not unmerge, `merge_and_unload` returns an ordinary model without LoRA layers:

# %%
ordinary = loralib.merge_and_unload(copy.deepcopy(model))
ordinary.save_pretrained(folder / "ordinary")  # as any model of transformers
with torch.no_grad():
    without_lora = ordinary(**probe).start_logits
names = [name for name, _ in ordinary.named_parameters() if "lora" in name]
print("LoRA parameters in the ordinary model:", len(names))

# %% tags=["fold"]
# check
assert not names and torch.equal(without_lora, merged), (
    "the ordinary model should be the merged one"
)

# %% [markdown]
# Some programs merge by hand, with a loop over all modules that have an attribute `lora_a`. Our
# layers call it `lora_A`, as peft and Microsoft do. Such a loop finds no module and merges
# nothing, without an error. `loralib.merge` raises an error if there is nothing to merge.
#
# ## 2. Save the adapter
#
# The file format is that of peft: settings in JSON, matrices in safetensors.
#
# ??? How large is the adapter's file, compared with the file of a fully fine-tuned model?
# - [ ] about the same || The base weights are not in it.
# - [x] between 10 % and 33 % || LoRA with r = 8 has 16 % as many parameters as this tiny base.
#   For a model with billions of parameters it is well below 1 %.
# - [ ] below 10 % || For a large model this is true. Here the hidden size is 64, and r = 8 is
#   not small next to 64.

# %%
saved = loralib.save_adapter(model, folder / "my_adapter")
size = (saved / "adapter_model.safetensors").stat().st_size
for file in sorted(saved.iterdir()):
    print(f"{file.name:<28} {file.stat().st_size:>7,} bytes")
print(f"{'all weights (full run)':<28} {full.file_bytes:>7,} bytes")

# %% tags=["fold"]
# check
ratio = size / full.file_bytes
true_option(ratio > 0.8, 0.1 < ratio < 0.34, ratio < 0.1)

# %% [markdown]
# ## 3. Load it
#
# We load the file into a fresh model: the same base, with another random head. (An adapter
# needs exactly the base that it was trained on.)
#
# ??? Are the answers of the loaded model equal to those of the trained model?
# - [x] Yes, in every bit. || The file contains the head as well, so the random head is
#   replaced.
# - [ ] No: the head is random. || The file has the trained head, and it replaces the random
#   one.
# - [ ] No: the base is different. || The base is the same pretrained model.

# %%
fresh = load_base(spec, "encoder", seed=123)  # the same base with another random head
loralib.load_adapter(fresh.model, saved, trainable=False)
with torch.no_grad():
    loaded = fresh.model.eval()(**probe).start_logits
print("equal in every bit:", torch.equal(loaded, adapted))

# %% tags=["fold"]
# check
equal = torch.equal(loaded, adapted)
true_option(equal, not equal, False)
assert equal, "the loaded adapter answers differently: was the trained head saved with it?"

# %% [markdown]
# ## The same in peft
#
# `PeftModel.from_pretrained(base, folder)` reads the same file, and `merge_and_unload` merges.
# We found one difference: peft 0.21 has a wrapper class for question answering, and its
# `forward` drops `token_type_ids` (0 for the question, 1 for the story). Then the model gets
# less information about which token belongs to the question. So the cell below calls
# `base_model`, which gets all inputs.

# %% tags=["fold"]
# the same in peft: our file, loaded by peft
import logging

logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # it looks for a GPU
from peft import PeftModel

peft_model = PeftModel.from_pretrained(load_base(spec, "encoder", seed=7).model, saved).eval()
with torch.no_grad():
    # the wrapper itself, peft_model(**probe), drops token_type_ids in peft 0.21: see the text above
    answers = peft_model.base_model(**probe).start_logits
    merged_by_peft = peft_model.merge_and_unload()(**probe).start_logits
assert torch.allclose(answers, adapted, atol=1e-5), "peft reads another adapter"
assert torch.allclose(merged_by_peft, adapted, atol=1e-4), "peft merges differently"
print("peft loads our file and gives the same answers")

# %% [markdown]
# ## Summary
#
# 1. `merge_and_unload` gives an ordinary model, as fast and as large as its base. After
#    `merge`, the old weights are kept, and `unmerge` restores them exactly.
# 2. An adapter's file has its matrices **and** the trained head, which `modules_to_save` names.
# 3. The file is small because the base is not in it. For a large model it is tiny.
#
# **Next:** [lesson 02](../02_lora_for_generation.py).
