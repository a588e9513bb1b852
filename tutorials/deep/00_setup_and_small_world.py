# %% [markdown]
# # 00 · Deep dive: package names, leaks, tokens and masked words
#
# **Needs** [lesson 00](../00_setup_and_small_world.py) · **Read and do** 20 minutes
# · **Runs in** about 15 s on one CPU thread · **Memory** 2 GB
#
# This page contains what the core page of lesson 00 had no space for. You do not need it to
# continue with lesson 01.

# %% tags=["fold"]
# set-up: imports, our folders, one thread
import importlib.metadata
import math
import platform
import sys
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import torch
import transformers
from matplotlib import pyplot as plt

from training.data.small_world import BAD, GOOD
from training.data.world_tasks import build, ceiling
from training.reports.records import COLOURS, use_style
from tutorials.answers import true_option
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
use_style()
tests = {task: build(task)["test"] for task in ("topic", "sentiment")}
print(f"Python {platform.python_version()}, torch {torch.__version__}")
print(f"transformers {transformers.__version__}")
print(f"device: {'cuda' if torch.cuda.is_available() else 'cpu'}")

# %% [markdown]
# ## 1. Three folders share their names with packages on PyPI
#
# `kernels`, `adapters` and `loralib` are folders of this project. There are also packages with
# these names on PyPI. If you install one of them, Python may import it instead of our code. So
# we check for it.
#
# ??? `import kernels` is our folder of GPU code. transformers imports it too, as soon as it
#   finds it. Does this import fail on a computer without a GPU?
# - [ ] Yes. || Then transformers would fail too, because it imports any package of that name.
# - [x] No. || Our `kernels/__init__.py` contains a description in words, and no code. You
#   import the GPU code by its module's name.

# %%
import adapters
import kernels
import loralib


def version_on_pypi(name: str) -> str | None:
    """The version of an installed package of that name; None if there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


for module in (kernels, adapters, loralib):
    name = module.__name__
    version = version_on_pypi(name)
    assert version is None, (
        f"a package {name} {version} is installed: run  pip uninstall {name}"
    )
    ours = ROOT.resolve() in Path(module.__file__).resolve().parents
    assert ours, f"{name} comes from {module.__file__}: start Python in the project's root"
    print(f"{name:<9} is our folder")
assert sys.version_info >= (3, 11), "Python is too old: the course needs 3.11 or newer"

# %% tags=["fold"]
# check
lines = Path(kernels.__file__).read_text().splitlines()
imports = [line for line in lines if line.startswith(("import ", "from "))]
true_option(imports, not imports)

# %% [markdown]
# ## 2. Break it on purpose: a score that is too good
#
# A ceiling also finds bugs. Here is a common one: all test stories are in the training set. Our
# "model" learns its training set by heart.
#
# ??? It answers each story that it knows, and gives label 0 to all others. With the leak, what
#   is its accuracy on the test set?
# - [ ] at the ceiling || It knows the label of each single story. That is more than any honest
#   reader can know.
# - [x] 1.0 || It has seen every test story with its label.
# - [ ] about 0.25 || That is its accuracy without the leak: it knows none of the test stories.

# %%
topic = tests["topic"]
honest = build("topic")["train"]
memories = {
    "without the leak": dict(zip(honest["sentence"], honest["label"], strict=True)),
    "with the leak": dict(zip(topic["sentence"], topic["label"], strict=True)),
}


def too_good(score: float, task: str) -> bool:
    """Above the ceiling by more than chance explains."""
    best = ceiling(task, tests[task])
    return score > best + 3 * math.sqrt(best * (1 - best) / len(tests[task]))


results = {}
for name, memory in memories.items():
    pairs = list(zip(topic["sentence"], topic["label"], strict=True))
    results[name] = sum(memory.get(text, 0) == label for text, label in pairs) / len(pairs)
    verdict = too_good(results[name], "topic")
    print(f"{name:<17} {results[name]:.3f}   too good to be true: {verdict}")

# %% tags=["fold"]
# check
leaked = results["with the leak"]
true_option(abs(leaked - ceiling("topic", topic)) < 0.01, leaked == 1, leaked < 0.3)
assert too_good(leaked, "topic"), "a leaked test set must be noticed"
assert not too_good(results["without the leak"], "topic"), "an honest model was called a leak"

# %% [markdown]
# On real data you do not know the ceiling. There, search for test texts in the training set.
#
# ## 3. Words become numbers
#
# Our tokenizer gives each word one id. It adds one `[CLS]` at the start, and a `[SEP]` after
# each text. For a pair of texts, `token_type_ids` says to which text a token belongs.
#
# ??? A text of 4 tokens and a text of 5 tokens make a pair. How many tokens does the pair have?
# - [ ] 9 || The special tokens count too.
# - [ ] 11 || There is one `[SEP]` after each of the two texts.
# - [x] 12 || 4 + 5, one `[CLS]` and two `[SEP]`.

# %%
from training.data.tokenizers import encoder_tokenizer

tokenizer = encoder_tokenizer()
pair = tokenizer("the soup was .", "it was about food .")
tokens = tokenizer.convert_ids_to_tokens(pair["input_ids"])
print("tokens:", tokens)
print("types: ", pair["token_type_ids"])

# %% tags=["fold"]
# check
true_option(len(tokens) == 9, len(tokens) == 11, len(tokens) == 12)
assert sum(pair["token_type_ids"]) == 5 + 1, "type 1: the second text and the [SEP] after it"

# %% [markdown]
# The tokenizer knows only the words of the small world. Any other word becomes `[UNK]`
# ("unknown"), and a model learns nothing from it.
#
# ??? What happens if you encode "the movie was great" for the task `sentiment`?
# - [ ] It becomes four known tokens. || `movie` does not occur in the small world.
# - [ ] It becomes `[UNK]`, without a message. || This is what the tokenizer alone does. The
#   library checks it.
# - [x] A ValueError about the vocabulary. || An unknown word must stop the run, because it
#   shows that the data do not fit.

# %%
from training.data.encoding import encode
from training.data.tasks import find_task

sentence = "the movie was great"
print("tokens:", tokenizer.tokenize(sentence), "->", tokenizer(sentence)["input_ids"])
try:
    encode({"sentence": [sentence], "label": [1]}, find_task("sentiment"), tokenizer, 96)
    message = ""
except ValueError as error:
    message = str(error)
print("ValueError:", message.partition(":")[0])

# %% tags=["fold"]
# check
unknown = tokenizer.unk_token_id in tokenizer(sentence)["input_ids"]
true_option(not unknown, unknown and not message, "vocabulary" in message)

# %% [markdown]
# ## 4. How sure is the pretrained model?
#
# The core page counts how often the guess has the right polarity. But how sure is the model?
# For each story we take the share of good adjectives in the guess: p(a good one) / p(any one).
# Near 1 it is sure that the hidden word is good, near 0 it is sure that it is bad.
#
# ??? In the histogram of the pretrained model, where are most stories?
# - [ ] in the middle || That is how random weights look: they have no opinion.
# - [x] near 0 and near 1 || It is sure, and mostly right.

# %%
from transformers import AutoConfig, BertForMaskedLM

from training.models.base_models import SMALL

models = {"pretrained": BertForMaskedLM.from_pretrained(SMALL["encoder"]).eval()}
torch.manual_seed(0)
models["random weights"] = BertForMaskedLM(AutoConfig.from_pretrained(SMALL["encoder"])).eval()
hidden = []
for text in tests["sentiment"]["sentence"][:400]:
    words = text.split()
    place = next(i for i, word in enumerate(words) if word in GOOD + BAD)
    hidden.append((" ".join([*words[:place], "[MASK]", *words[place + 1 :]]), words[place]))


@torch.no_grad()
def share_of_good(model) -> torch.Tensor:
    """For each story: p(a good adjective) / p(any adjective), shape (B,)."""
    batch = tokenizer([text for text, _ in hidden], padding=True, return_tensors="pt")
    logits = model(**batch).logits  # (B, T, vocabulary)
    p = logits[batch["input_ids"] == tokenizer.mask_token_id].softmax(-1)  # (B, vocabulary)
    good, bad = (
        p[:, tokenizer.convert_tokens_to_ids(list(kind))].sum(1) for kind in (GOOD, BAD)
    )
    return good / (good + bad)


# %% tags=["fold"]
# plot: the guesses of both models
is_good = torch.tensor([word in GOOD for _, word in hidden])
shares = {name: share_of_good(model) for name, model in models.items()}
figure, panels = plt.subplots(1, 2, sharey=True)
titles = {"random weights": "random weights: no opinion", "pretrained": "pretrained: sure"}
for panel, (name, title) in zip(panels, titles.items(), strict=True):
    for kind, colour in ((False, COLOURS["broken"]), (True, COLOURS["lora"])):
        label = f"the hidden word is {'good' if kind else 'bad'}"
        values = shares[name][is_good == kind].numpy()
        panel.hist(values, bins=20, range=(0, 1), color=colour, alpha=0.65, label=label)
    panel.set(title=title, xlabel="share of 'good' in the guess")
panels[0].set(ylabel="stories")
panels[1].legend(loc="upper center")
show(figure, "00_masked_words")

# %% tags=["fold"]
# check
sure = ((shares["pretrained"] < 0.2) | (shares["pretrained"] > 0.8)).float().mean().item()
middle = ((shares["pretrained"] - 0.5).abs() < 0.2).float().mean().item()
true_option(middle > 0.5, sure > 0.5)

# %% [markdown]
# ## Summary
#
# 1. Look at the messages about package names before you search for a bug in your own code.
# 2. A score far above the ceiling is a leak.
# 3. An unknown word must stop a run. A silent `[UNK]` hides that the data do not fit the model.
#
# **Next:** [lesson 01](../01_lora_by_hand.py).
