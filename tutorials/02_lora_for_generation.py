# %% [markdown]
# # 02 · Generation: fluent text is not necessarily correct
#
# **Needs** lessons [00](00_setup_and_small_world.py) and [01](01_lora_by_hand.py); you know that a
# GPT predicts the next token · **Read and do** 70 minutes · **Runs in** about 40 s on one CPU thread
# · **Memory** 2 GB
#
# You fine-tuned a model that writes text. Its loss fell to 0.6, and its sentences are good
# English. Are they true?
#
# ![The facts go in, and a fluent sentence with a wrong name comes out.](diagrams/02_fluent_is_not_true.svg)
#
# On this page a model gets a list of facts and writes a short story about them. We follow the
# whole way: which tokens are learned, how the loss is counted, how a text is made, and how to
# check what it says.

# %% tags=["fold"]
# set-up: imports, our folders, the base model and the data
import sys
import tempfile
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import torch
import transformers
from matplotlib import pyplot as plt
from torch.nn import functional as F

from training.data.data import load_task
from training.data.tasks import find_task
from training.models.base_models import load_base
from training.reports.records import COLOURS, use_style
from tutorials.answers import true_option
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
use_style()
spec = find_task("data2text")
data = load_task(spec, seed=0)
test = data["test"].select(range(500))
base = load_base(spec, seed=0)
tokenizer = base.tokenizer

# %% [markdown]
# ## 1. Only the answer is learned
#
# A GPT is a **decoder**: it reads from left to right and predicts the next token. Our input is
# one row of tokens. First comes the **prompt** $x$: the facts, and `=>`. Then comes the answer
# $y$.
#
# ![A row of tokens with their labels: -100 for the prompt](diagrams/02_tokens.svg)
#
# The model should learn to *write* the answer. The prompt is only read. So the labels of the
# prompt are -100, which means "no loss here". The answer ends with a special token, the **end
# of text**.


# %%
def encode_by_hand(row) -> dict:
    prompt = tokenizer(row["meaning_representation"] + " =>")["input_ids"]
    answer = tokenizer(" " + row["human_reference"], add_special_tokens=False)["input_ids"]
    answer = [*answer, tokenizer.eos_token_id]  # the end of text is learned as well
    ids = prompt + answer
    labels = [-100] * len(prompt) + answer
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


print("facts:", test[0]["meaning_representation"])
print("text: ", test[0]["human_reference"])

# %% [markdown]
# ??? What share of all tokens has a label other than -100?
# - [ ] about 10 % || The answer is not that short.
# - [x] about half || Only the answer and its end have labels.
# - [ ] all || Then the model would also learn to write the facts.

# %%
encoded = [encode_by_hand(row) for row in test]
labels = [label for example in encoded for label in example["labels"]]
share = sum(label != -100 for label in labels) / len(labels)
print(f"{share:.0%} of the tokens count in the loss")

# %% tags=["fold"]
# check: our encoding against the library's
from training.data.encoding import encode

true_option(share < 0.2, 0.4 < share < 0.7, share > 0.9)
library = encode(test[:], spec, tokenizer, 96)  # at most 96 tokens
assert encoded == library.features, "prompt, answer, end of text: where do yours differ?"

# %% [markdown]
# ## 2. The loss, shifted by one
#
# At each position the model predicts the next token. So we drop the last position of the
# logits, and the first label. The loss is the mean over all tokens $y_1, \dots, y_n$ of the
# answer:
#
# $$L = \frac{1}{n} \sum_{t=1}^{n} -\log p(y_t \mid x, y_1, \dots, y_{t-1}).$$
#
# Its unit is the **nat** (the unit of a natural logarithm).

# %%
from training.data.batching import batches
from training.evaluation.evaluation import model_inputs

batch = next(batches(library.features, tokenizer, 32))
with torch.no_grad():
    logits = base.model(**model_inputs(batch)).logits  # (B, T, V): V tokens in the vocabulary
shifted = logits[:, :-1].flatten(0, 1)  # (B · (T − 1), V)
targets = batch["labels"][:, 1:].flatten()  # (B · (T − 1),)
loss = F.cross_entropy(shifted, targets, ignore_index=-100)
after_prompt = [
    row.tolist().index(False) for row in batch["labels"] == -100
]  # first answer token
rows = torch.arange(len(after_prompt))
first = logits[rows, torch.tensor(after_prompt) - 1].softmax(-1)  # (B, V), right after =>
wanted = batch["labels"][rows, torch.tensor(after_prompt)]
right = (first.argmax(-1) == wanted).float().mean()
choice = tokenizer.decode(first.mean(0).argmax())
print(f"after =>: the first choice is {choice!r}, with probability {first.amax(-1).mean():.2f}")
print(f"it is right in {right:.0%} of the examples")
blind = torch.log(torch.tensor(len(tokenizer))).item()

# %% [markdown]
# ??? A blind guess among the 145 tokens of the vocabulary has a loss of ln 145, about 5. The
#   last cell showed how sure the base model is after `=>`, and how often it is right. Is its
#   loss lower or higher?
# - [ ] lower || Pretraining helps with stories. But it never saw such a prompt.
# - [x] higher || It is *sure* of the wrong thing, and that costs more than a blind guess.
# - [ ] equal || It is not blind. It has a strong opinion, and the opinion is wrong here.

# %%
print(f"base model: {loss.item():.2f}, blind guess: {blind:.2f} (nats per token)")

# %% tags=["fold"]
# check: the library's loss is the same sum over the same tokens
from training.evaluation import metrics

true_option(loss < blind - 0.1, loss > blind + 0.1, abs(loss - blind) < 0.1)


class Output:
    """What the library's loss reads from a model."""


Output.logits = logits
total = metrics.loss_sum("generation", Output, batch)
count = metrics.answer_count("generation", batch)
assert torch.isclose(total / count, loss), "shift by one: logits[:-1] against labels[1:]"

# %% [markdown]
# ## 3. The lowest possible loss
#
# The same facts can be written in several ways: "in oslo anna ..." or "anna ... in oslo".
# Nobody can know which way the author chose. So, on average, no model can reach a loss of zero.
# In the small world the author is a grammar that knows the probability $p$ of each text. The
# best model would know the same probabilities. Its loss is the mean of $-\log p$ per token: the
# lowest possible loss, the **floor**.
#
# ??? A text has about 15 tokens and at most five free choices with two to eight options. Where
#   is the floor?
# - [ ] near 0.02 nats per token || Five choices with two to eight options cost more than that.
# - [x] near 0.2 nats per token || A few nats for the choices, divided by 15 tokens. All other
#   tokens are certain.
# - [ ] near 2 nats per token || Then nearly every token would be a choice among eight (ln 8 is
#   about 2.1).

# %%
tokens = sum(len(text.split()) + 1 for text in test["human_reference"])  # + 1: end of text
floor = -sum(test["log_p"]) / tokens
print(f"floor: {floor:.3f} nats per token")

# %% tags=["fold"]
# check
from training.data.world_tasks import ceiling

true_option(floor < 0.05, 0.1 < floor < 0.4, floor > 1)
assert abs(floor - ceiling("data2text", test)) < 1e-9, "the library's floor is the same sum"

# %% [markdown]
# ## 4. Train: the head, LoRA, all weights
#
# Three runs with the same model, data and seed. The first trains the **head** alone: the last
# layer, with one score for each token of the vocabulary. The second trains LoRA with r = 8 on
# all linear layers of the body. (The head is pretrained, so LoRA leaves it frozen.) The third
# is full fine-tuning. Each uses the default learning rate of its method: 1e-2, 5e-3 and 1e-3.
#
# ??? The base has never seen a list of facts. What do you expect?
# - [ ] All three reach the floor. || The floor needs a model that uses every fact correctly.
# - [x] Full fine-tuning comes nearest, then LoRA, then the head. || Probably because the task
#   is new to the base. Full fine-tuning can change everything.
# - [ ] LoRA and full fine-tuning are equal, as in lesson 01. || In lesson 01 the base knew the
#   kind of text. Here the prompt is new, so the distance is probably larger.

# %%
from training import train_model

runs = Path(tempfile.mkdtemp())
settings = {"steps": 300, "eval_every": 50, "eval_rows": 500, "samples": 0, "trackers": ""}
results = {}
for method in ("head", "lora", "full"):
    results[method] = train_model(
        "data2text", method=method, out=str(runs / method), **settings
    )
    result = results[method]
    print(f"{method:<5} {result.trainable:>8,} trained   test loss {result.metric:.2f}")

# %% tags=["fold"]
# plot: the losses and the floor
figure, panel = plt.subplots()
for method, result in results.items():
    rows = [row for row in result.rows if "eval_loss" in row and row["step"]]
    steps, losses = [row["step"] for row in rows], [row["eval_loss"] for row in rows]
    panel.plot(steps, losses, color=COLOURS[method], marker=".", label=method)
panel.axhline(floor, color=COLOURS["ceiling"], linestyle="--", label="floor (computed)")
panel.set(title="full fine-tuning comes nearest to the floor", ylim=(0, 2.1))
panel.set(xlabel="step", ylabel="test loss, nats per token")
panel.legend(loc="upper right", ncols=2)
show(figure, "02_losses")

# %% tags=["fold"]
# check
head, lora, full = (results[method].metric for method in ("head", "lora", "full"))
true_option(
    max(head, lora, full) < 1.05 * floor,
    floor < full < lora - 0.05 < head - 0.1,
    abs(lora - full) < 0.05,
)
assert full < lora < head, "is the order wrong because a base was not frozen?"

# %% [markdown]
# [Lesson 04](04_lora_against_full.py) looks at this difference, with more learning rates and
# ranks.
#
# ## 5. From the loss to a text
#
# **Greedy decoding** takes the most likely next token, appends it, and repeats this until the
# end of text is the most likely token.


# %%
@torch.no_grad()
def greedy_by_hand(model, prompt: list[int], limit: int) -> list[int]:
    ids = list(prompt)
    while len(ids) < len(prompt) + limit:
        logits = model(torch.tensor([ids])).logits  # (1, T, V)
        best = logits[0, -1].argmax().item()  # the last position: (V,) -> one token
        if best == tokenizer.eos_token_id:
            break
        ids.append(best)
    return ids[len(prompt) :]


from training.data.encoding import prompt_ids

prompts = [prompt_ids(m, spec, tokenizer) for m in test["meaning_representation"][:8]]
model = results["lora"].model.cpu()
text = tokenizer.decode(greedy_by_hand(model, prompts[0], 40))

# %% [markdown]
# ??? The facts are: tom, in ha long, ate dinner, friend omar, mood bad. What does LoRA's model
#   write?
# - [ ] a fluent text with all facts || Its loss is still far above the floor.
# - [x] a fluent text with a wrong fact || It has learned the form of such texts. Not all facts
#   are copied.
# - [ ] words without grammar || The form is learned better than the facts ([deep
#   dive](deep/02_lora_for_generation.py), section 3).

# %%
print("LoRA:", text)

# %% tags=["fold"]
# check: this text, and one by one against a batch
from training.evaluation.generation import generate_texts

alone = [tokenizer.decode(greedy_by_hand(model, prompt, 40)) for prompt in prompts]
together = generate_texts(model, tokenizer, prompts, "greedy", max_new_tokens=40)
from training.data.world_tasks import slot_errors

mistakes = slot_errors(test[0]["meaning_representation"], text)[0]
true_option(mistakes == 0, mistakes > 0, " was there" not in text)
assert alone == together, "a batch is padded on the left, and the padding is masked"

# %% [markdown]
# **Break it on purpose.** A common mistake is to leave the end of text out of the training
# examples. The loss does not show it. Let us train LoRA with and without the end-of-text token,
# for 100 steps each, and write eight texts.
#
# ??? A reference has about 14 words, and we allow 60. A model has never learned where an
#   *answer* ends. (In pretraining it learned that a story ends.) What does it do?
# - [ ] It stops after about 14 words. || It has learned to write an answer, but not where one
#   ends.
# - [x] It writes on after the answer. || No label has shown it where an answer ends, so it adds
#   more.
# - [ ] It writes nothing. || It learned to write the answer. Only the end is missing.

# %%
import loralib
from training.data.batching import Steps
from training.evaluation.evaluation import objective_of
from training.loop import loop


def texts_after_training(features: list[dict]) -> list[str]:
    """Eight texts of a LoRA model that was trained on these examples."""
    model = load_base(spec, seed=0).model
    loralib.inject(model, loralib.LoraConfig(r=8, lora_alpha=16), seed=0)
    options = loop.LoopSettings(steps=100, learning_rate=5e-3, eval_every=100)
    steps = Steps(features, tokenizer, 16, seed=0)
    loop.train(model, steps, objective_of("generation"), options)
    return generate_texts(model, tokenizer, prompts, max_new_tokens=60)


# %%
whole = encode(data["train"][:], spec, tokenizer, 96).features
endless = [{name: values[:-1] for name, values in f.items()} for f in whole]
lengths = {}
for name, features in (("with its end", whole), ("without", endless)):
    texts = texts_after_training(features)
    lengths[name] = sum(len(text.split()) for text in texts) / len(texts)
    print(f"{name:<13} {lengths[name]:.0f} words per text; the first: {texts[0][:60]}")

# %% tags=["fold"]
# check
ends = lengths["without"]
true_option(ends < 18, ends > 24, ends < 1)
assert lengths["with its end"] < 16, "with the end in its labels, a text should stop"

# %% [markdown]
# (The texts with an end are short: after 100 steps, the model still leaves facts out.)
#
# ## 6. Is the text true?
#
# In the small world every fact has its own words, so a program can find the facts in a text.
# The **slot error rate** (Wen et al. 2015, section 4.1: ERR = (p + q) / N) counts missing facts
# p and added facts q (here p is a count), and divides by the number N of given facts. A wrong
# name counts twice: the right one is missing, and a false one was added. An action has two
# facts, the verb and its object. Any bad adjective shows a bad mood. (The rate does not notice
# if Tom and Omar swap roles.)
#
# ??? LoRA's loss is about 0.37 nats per token above the floor: 5.5 nats for a text of 15
#   tokens. Suppose that most of this is on the facts. In what share of its texts is
#   *everything* true?
# - [ ] nine of ten || For sampled texts this could cost as little as 0.1 nats (−ln 0.9). 5.5 is
#   far more.
# - [ ] about half || For sampled texts this could cost as little as 0.7 nats (−ln 0.5). 5.5 is
#   far more.
# - [x] fewer than one in five || $e^{-5.5}$ is below 1 %. Greedy texts do better than sampled
#   ones, but not that much.

# %%
from training.evaluation.generation import generate_samples, references_by_prompt

meanings = references_by_prompt(test, spec)[:150]
true = {}
for method, result in results.items():
    model = result.model.cpu()
    texts = generate_samples(model, tokenizer, meanings, spec, max_new_tokens=40)
    errors = [slot_errors(s.prompt, s.text) for s in texts]  # (wrong, given) of each text
    rate = sum(wrong for wrong, _ in errors) / sum(given for _, given in errors)
    true[method] = sum(wrong == 0 for wrong, _ in errors) / len(errors)
    print(f"{method:<5} slot error rate {rate:.2f}   everything true in {true[method]:.0%}")
    if method == "lora":
        wrong = [s for s in texts[1:] if slot_errors(s.prompt, s.text)[0]][:2]

# %% tags=["fold"]
# plot: loss and truth of the three models
figure, panels = plt.subplots(1, 2, figsize=(7, 2.8))
colours = [COLOURS[method] for method in results]
panels[0].bar(list(results), [r.metric for r in results.values()], color=colours, width=0.6)
bars = panels[1].bar(list(results), list(true.values()), color=colours, width=0.6)
panels[1].bar_label(bars, fmt="{:.0%}", padding=2)
panels[0].set(
    title="a lower loss helps ...", xlabel="method", ylabel="test loss, nats per token"
)
panels[1].set(title="... but few texts are true", xlabel="method", ylim=(0, 1))
panels[1].set(ylabel="share of true texts")
show(figure, "02_truth")

# %%
for sample in wrong:
    print(
        f"facts:     {sample.prompt}\nLoRA:      {sample.text}\nreference: {sample.reference}\n"
    )

# %% tags=["fold"]
# check
true_option(true["lora"] > 0.8, 0.4 < true["lora"] < 0.6, true["lora"] < 0.2)
assert true["full"] > true["lora"] >= true["head"], "a lower loss should say fewer wrong things"

# %% [markdown]
# The sentences are good English, and they are false. The loss is measured on the tokens of the
# reference text. It does not show which facts the *generated* text gets wrong. Always read the
# texts, or count the facts.
#
# ## The same in transformers
#
# `model.generate` writes the text, and the model shifts the labels by itself. Both agree with
# ours:

# %% tags=["fold"]
# the same in transformers: loss and greedy text
model = base.model.eval()
with torch.no_grad():
    library_loss = model(**batch).loss
assert torch.isclose(library_loss, loss, rtol=1e-5), (
    "transformers shifts the labels inside the model"
)
ids = torch.tensor([prompts[0]])
written = model.generate(
    ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=0
)
by_hand = greedy_by_hand(model, prompts[0], 20)
assert written[0, ids.shape[1] :].tolist() == by_hand, "is the mask set, and sampling off?"
print("the same loss and the same text")

# %% [markdown]
# ## Find the bug
#
# The loss of this code falls quickly to almost zero. The texts are nonsense.
#
# ```python
# logits = model(input_ids).logits          # (B, T, V)
# loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
# ```
#
# ??? What is wrong?
# - [x] The labels are not shifted. || The model learns to copy the token that it has just read.
#   That is easy, and useless for writing.
# - [ ] `flatten` mixes up the examples. || Both tensors are flattened in the same order.
# - [ ] The softmax is missing. || `cross_entropy` contains it.

# %% tags=["fold"]
# check: logits that only copy the token that was just read
ids, labels = batch["input_ids"], batch["labels"]
copying = 100.0 * F.one_hot(ids, len(tokenizer))  # (B, T, V)
buggy = F.cross_entropy(copying.flatten(0, 1), labels.flatten(), ignore_index=-100)
correct = F.cross_entropy(
    copying[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
)
true_option(buggy < 0.01 < 10 < correct, False, False)

# %% [markdown]
# ## Quiz
#
# ??? Why do the tokens of the prompt have the label -100?
# - [ ] The model must not read them. || It reads them. They only have no loss.
# - [x] The model should not learn to write them. || A user gives the facts, and the model
#   writes the answer.
# - [ ] To save memory. || The logits of the prompt are computed all the same.
#
# ??? A test loss is far below the floor. What is likely?
# - [ ] The model is very good. || On average, nobody can be better than the floor on new texts.
# - [x] There is a bug, such as test texts in the training set. || The floor holds for texts
#   that the model has not seen, and for labels that are shifted.
# - [ ] The floor changes with the model. || It depends on the grammar only.
#
# ??? Two batches have 10 and 30 tokens with a label. Their mean losses are 4 and 2. What is the
#   loss of all 40 tokens?
# - [ ] 3 || That is the mean of the two means. It counts short texts too much.
# - [x] 2.5 || (10 · 4 + 30 · 2) / 40.
# - [ ] 6 || The losses are not added.
#
# ??? What decides how long a generated text is?
# - [ ] only `max_new_tokens` || It is a limit. A good text ends before it.
# - [x] the model, when the end of text is the most likely token || It learned this from the
#   labels.
# - [ ] the length of the prompt || The prompt does not set the length.
#
# ??? Which measurement finds a wrong name in a fluent text?
# - [ ] the loss || It is computed on the reference text, not on the generated one.
# - [ ] the length || The length is right.
# - [x] the slot error rate || It compares each fact.

# %% tags=["fold"]
# check of the third answer
assert (10 * 4 + 30 * 2) / 40 == 2.5, "count tokens, not batches"

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | texts never end | the end of text has no label | section 1: print the labels of one example |
# | the loss is almost zero, but the texts are bad | the labels are not shifted | section 2 |
# | the loss is clearly below the floor | test texts are in the training set, or no shift | compare the two sets |
# | a batch gives other texts than single prompts | padded on the right, or without a mask | section 5, check |
#
# ## Exercises
#
# Write in [exercises/02_lora_for_generation.py](exercises/02_lora_for_generation.py), then run
# `python -m tutorials check 02`.
#
# 1. ★ `scored_share`: the share of an example's tokens that have a label.
#    <details><summary>Hint</summary>The answer and its end of text have labels.</details>
# 2. ★★ `joint_mean`: the loss of a whole step from the mean losses and token counts of its
#    parts.
#    <details><summary>Hint</summary>First go back from means to sums.</details>
# 3. ★★ `floor_of`: the floor per token from the probabilities of a grammar's choices.
#    <details><summary>Hint</summary>The entropy of a choice is the mean of −log p.</details>
# 4. ★★★ `beam_search`: keep the best few texts at each step instead of one. Is the most likely
#    text also the most correct one? Try it with LoRA's model from section 4.
#    <details><summary>Hint</summary>Keep a list of (score, new tokens). In each round replace each
#    unfinished text by its <code>width</code> best continuations, then sort the list and cut it to
#    <code>width</code>.</details>
#
# **Change and measure:** train LoRA with r = 32 in section 4. How much of the distance to full
# fine-tuning does it close, in loss and in true texts?
#
# ## Summary
#
# 1. Only the answer and its end have labels, and the labels are shifted by one.
# 2. The small world has a lowest possible loss. A loss clearly below it is a bug.
# 3. A fluent text can be false. Count the facts, or read the texts.
#
# **Next:** [lesson 03](03_lora_for_classification.py), LoRA for classification.
#
# More: [deep dive](deep/02_lora_for_generation.py) (BLEU, real restaurant texts, where the loss
# is) · [glossary](GLOSSARY.md)
#
# ## On the real thing
#
# The first command runs here. The second one needs a network, and a GPU helps:
#
# ```bash
# python -m training --task data2text --method lora --score-texts 200
# python -m training --task e2e_nlg --model gpt2-medium --r 4 --lora-alpha 32 --target-modules c_attn
# ```
