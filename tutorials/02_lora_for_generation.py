# %% [markdown]
# # 02 · A low loss writes fluent text; only reading the text shows whether it is true
#
# | | |
# |:--|:--|
# | **Needs** | lessons [00](00_setup_and_small_world.py) and [01](01_lora_by_hand.py); what a GPT does: predict the next token |
# | **Read and do** | 60 minutes |
# | **Runs in** | about 55 s on one CPU thread |
# | **Memory** | 2 GB |
#
# A classifier is scored by its answers. A text generator is trained on a **loss**, but people want its **texts**. This lesson
# goes the whole way: which tokens are learnt, how the loss is counted, how far down it can go, how a text is made from it, and
# how texts are scored. The task is **data to text**: a list of facts comes in, a short story that says just these facts
# comes out.
#
# | symbol | code | meaning |
# |:--|:--|:--|
# | B, T, V | `# (B, T, V)` | in shapes: batch, tokens, words of the vocabulary |
# | $x$, $y_1 \dots y_n$ | prompt, answer | the facts, and the tokens of a reference with its end of text |
# | $H$ | `ceiling(...)` | entropy per token: the floor of the loss (the library says *ceiling* for any best possible score) |
# | nat | | the unit of a loss with the natural logarithm: 1 nat for a token of probability 1/e |
# | SER | `slot_errors` | slot error rate: wrong and missing facts per fact |
#
# Differences from the papers: LoRA (Hu et al. 2021) was tested on E2E with GPT-2 medium, a model 3,000 times larger than ours.
# We use the small world, where the best possible loss is known, and at the end E2E itself with a real, very small model.

# %%
import math
import random
import sys
import tempfile
from pathlib import Path

ROOT = Path.cwd() if Path("loralib").is_dir() else Path.cwd().parent
sys.path.insert(0, str(ROOT))  # so that our folders are found, from the project's root and from tutorials/

import torch
import transformers
from matplotlib import pyplot as plt
from torch.nn import functional as F

from training.reports.records import COLOURS, use_style
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
use_style()

# %% [markdown]
# ## 1. The loss has a floor, and we can compute it
#
# Look at one row: facts, and a text that a small grammar wrote for them. The same facts can be said in several ways
# ("in oslo anna ..." or "anna ... in oslo"). Which way was chosen, nobody can know. So no model can reach a loss of zero.
#
# **Predict:** the grammar chose between "NAME VERB the NOUN in PLACE" (probability 0.6) and "in PLACE NAME VERB the NOUN" (0.4).
# A perfect model says so too. What loss (in nats) does it pay for this one choice, on average: 0, about 0.67, or 1?

# %%
from training.data.data import load_task
from training.data.tasks import find_task
from training.data.world_tasks import ceiling

spec = find_task("data2text")
data = load_task(spec, seed=0)
test = data["test"].select(range(500))
row = test[0]
print("facts:", row["meaning_representation"])
print("text: ", row["human_reference"])

share = torch.tensor([0.6, 0.4])
one_choice = -(share * share.log()).sum().item()
print(f"\nthe price of that one choice: {one_choice:.2f} nats")
assert abs(one_choice - 0.67) < 0.01, "entropy is the mean of -log p under p itself"

# %% [markdown]
# The grammar knows the probability of each of its texts: the product of all its choices. The mean of $-\log p$ over the test set,
# per token, is the **floor** $H$. All other tokens are certain, so they cost nothing.
#
# **Predict:** a text has about 15 tokens and at most five choices (one adjective among eight is one). Is the floor per token
# nearer to 0.02, 0.2 or 2 nats?

# %%
tokens = [len(text.split()) + 1 for text in test["human_reference"]]  # + 1: the end of text is predicted as well
floor = -sum(test["log_p"]) / sum(tokens)
print(f"{sum(tokens) / len(tokens):.1f} tokens per text, floor {floor:.3f} nats per token")
assert abs(floor - ceiling("data2text", test)) < 1e-9, "the library's floor is the same sum over the same tokens"
assert 0.1 < floor < 0.4, "count the end of text as a token, and divide by all tokens, not by the texts"

# %% [markdown]
# ## 2. Only the answer is learnt
#
# A GPT, a **decoder**, reads one row of tokens: the prompt (the facts and `=>`), then the answer. It must learn to *write* the
# answer and only to *read* the prompt. So the **labels** are the tokens themselves, and -100 ("do not count") on the prompt.
#
# **Predict:** what share of all tokens carries a label: about a tenth, about half, or nearly all?

# %%
from training.models.base_models import load_base
from training.data.encoding import encode

base = load_base(spec, seed=0)
tokenizer = base.tokenizer


def encode_by_hand(row) -> dict:
    prompt = tokenizer(row["meaning_representation"] + " =>")["input_ids"]
    answer = [*tokenizer(" " + row["human_reference"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    ids = prompt + answer
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * len(prompt) + answer}


hand = [encode_by_hand(row) for row in test]
library = encode(test[:], spec, tokenizer, 96)  # rows of at most 96 tokens
scored = sum(label != -100 for f in hand for label in f["labels"]) / sum(len(f["labels"]) for f in hand)
print(f"{scored:.0%} of the tokens are learnt; {library.truncated} rows were too long")
assert hand == library.features, "prompt, answer, end of text, in this order: where do yours differ?"
assert 0.4 < scored < 0.7, "labels belong on the answer and its end, and nowhere else"

# %% [markdown]
# ## 3. The loss, by hand: shifted by one, and divided once
#
# At position $t$ a GPT predicts token $t + 1$. So the logits lose their last position and the labels their first one:
#
# $$L = \frac{\sum_{t} -\log p(y_{t+1} \mid x, y_{\le t})}{\text{number of labelled tokens}}.$$
#
# **Predict:** two batches have 10 and 30 labelled tokens, and mean losses of 4 and 2. What is the loss of all 40 tokens:
# 3, or less?

# %%
from training.evaluation import metrics
from training.data.batching import batches
from training.evaluation.evaluation import model_inputs

batch = next(batches(library.features, tokenizer, 32))
with torch.no_grad():
    logits = base.model(**model_inputs(batch)).logits  # (B, T, V)
by_hand = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100, reduction="sum")


class Output:
    """What the library's loss reads from a model."""


Output.logits = logits
assert torch.equal(by_hand, metrics.loss_sum("generation", Output, batch)), "shift by one: logits[:-1] against labels[1:]"
count = metrics.answer_count("generation", batch)
blind = math.log(len(tokenizer))
print(f"before training: {by_hand / count:.2f} nats per token; a blind guess among {len(tokenizer)} words costs {blind:.2f}")
mean_of_means, mean = (4 + 2) / 2, (10 * 4 + 30 * 2) / 40
print(f"mean of the two means {mean_of_means}, mean over all tokens {mean}")
assert mean < mean_of_means, "short batches must not count as much as long ones"

# %% [markdown]
# Worse than blind: the base has never seen such a list of facts, and it is *sure* of something else (its usual stories).
#
# The mean of means is a real bug: with gradient accumulation, the trainer of transformers averaged the means of the parts
# until October 2024 ([their report](https://huggingface.co/blog/gradient_accumulation)). Ours sums all parts, and divides once
# by the number of labelled tokens in the whole step, over all processes too.
#
# ## 4. Three ways to learn it
#
# The same base, data and order of batches: the **head** alone (here the last layer, which scores every word), LoRA on all
# linear layers, and all weights, each at its default learning rate. This is one seed, for time.
#
# **Predict:** which of them comes nearest to the floor? Will any of them reach it?

# %%
from training import train_model

STEPS = 400
runs = Path(tempfile.mkdtemp())
results = {}
for method in ("head", "lora", "full"):
    results[method] = train_model(
        "data2text", method=method, steps=STEPS, eval_every=50, eval_rows=500, samples=0, trackers="", out=str(runs / method)
    )
    result = results[method]
    print(f"{method:<5} {result.trainable:>8,} trainable   test loss {result.start_metric:.2f} → {result.metric:.2f}")
lora, full, head = (results[m] for m in ("lora", "full", "head"))
assert full.metric < lora.metric < head.metric, "more weights, lower loss here: did each run use its own learning rate?"
assert all(r.metric > floor for r in results.values()), "below the floor? Then test texts were trained on"

# %%
figure, panel = plt.subplots()
for method, result in results.items():
    curve = [(r["step"], r["eval_loss"]) for r in result.rows if "eval_loss" in r and r["step"]]
    panel.plot(*zip(*curve, strict=True), color=COLOURS[method], marker=".", label=method)
panel.axhline(floor, color=COLOURS["ceiling"], linestyle="--", label="floor (computed)")
panel.set(title="all weights come nearest to the floor, nobody reaches it", ylim=(0, None))
panel.set(xlabel="step", ylabel="test loss, nats per token")
panel.legend()
show(figure, "02_losses")

# %% [markdown]
# On this task LoRA stays behind full fine-tuning. The base has 116 thousand weights, LoRA trains 16 thousand, and the task is new
# to it: it has never seen a list of facts. (With three seeds and 600 steps: LoRA 0.551 ± 0.003, full 0.342 ± 0.008, in the
# README.) Lesson 04 measures when LoRA is enough and when it is not.
#
# ## 5. From the loss to a text
#
# **Greedy decoding** takes the likeliest next token, adds it to the text, and asks again, until the end of text is the likeliest.
#
# **Predict:** what decides the length of a text: a setting, or the model?


# %%
from training.data.encoding import prompt_ids
from training.evaluation.generation import generate_texts


@torch.no_grad()
def greedy_by_hand(model, prompt: list[int], most: int) -> list[int]:
    ids = list(prompt)
    while len(ids) < len(prompt) + most:
        best = model(torch.tensor([ids])).logits[0, -1].argmax().item()
        if best == tokenizer.eos_token_id:
            break
        ids.append(best)
    return ids[len(prompt) :]


prompts = [prompt_ids(row["meaning_representation"], spec, tokenizer) for row in test.select(range(8))]
alone = [tokenizer.decode(greedy_by_hand(lora.model, prompt, 40)) for prompt in prompts]
together = generate_texts(lora.model, tokenizer, prompts, "greedy", max_new_tokens=40)
print("facts:", test[0]["meaning_representation"])
print("LoRA: ", alone[0])
assert alone == together, "the library pads a batch on the left and masks the padding: texts must not change by it"

# %% [markdown]
# The model decides: it has learnt the end of text like any other token (`most` only limits a text that does not end).
# (**Beam search** keeps the best few texts instead of one. You write it in exercise 4.)
#
# ### Break it on purpose: no end of text
#
# A common mistake is to forget the end-of-text token in the labels. The loss does not complain.
#
# **Predict:** train the same LoRA with labels that lack only that last token. How long are its texts, when 60 tokens are allowed?

# %%
import loralib
from training.loop import loop
from training.data.batching import Steps
from training.evaluation.evaluation import objective_of


def train_lora(features: list[dict], steps: int):
    """A fresh base with LoRA, trained on these features; returns the model."""
    model = load_base(spec, seed=0).model
    loralib.inject(model, loralib.LoraConfig(r=8, lora_alpha=16), seed=0)
    settings = loop.LoopSettings(steps=steps, learning_rate=5e-3, eval_every=steps)
    loop.train(model, Steps(features, tokenizer, 16, seed=0), objective_of("generation"), settings)
    return model


whole = encode(data["train"][:], spec, tokenizer, 96).features
endless = [{k: v[:-1] for k, v in f.items()} for f in whole]
lengths = {}
for name, features in (("with its end", whole), ("without", endless)):
    texts = generate_texts(train_lora(features, 150), tokenizer, prompts, max_new_tokens=60)
    lengths[name] = sum(len(t.split()) for t in texts) / len(texts)
    cut = sum(len(t.split()) == 60 for t in texts)
    print(f"{name:<12} {lengths[name]:4.1f} words on average, {cut} of 8 stopped by the limit. {texts[0][:80]}")
assert lengths["with its end"] < 30 < lengths["without"], "without the end in its labels, a text should run on: was it cut off?"

# %% [markdown]
# Without its end, a text has said everything after 12 words and runs on for 30 more. It does stop before the limit, but only
# because the base learnt in pretraining where a *story* ends. Nothing has told it where an *answer* ends.
#
# ## 6. Is the text true?
#
# In the small world each word says one thing, so we can read the facts back from a text. The **slot error rate** (SER; Wen et al.
# 2015, section 4.1) counts facts that are missing and facts that were added, per fact that was given. A wrong name counts twice:
# the right one is missing, and a false one was added.
#
# **Predict:** LoRA's loss is about 0.35 above the floor, and its texts are fluent. In what share of its texts is
# *everything* true: nine of ten, half, or fewer than one in five?

# %%
from training.evaluation.generation import generate_samples, references_by_prompt
from training.data.world_tasks import slot_errors

meanings = references_by_prompt(test, spec)[:200]
samples = {m: generate_samples(r.model.cpu(), tokenizer, meanings, spec, max_new_tokens=40) for m, r in results.items()}
samples["untouched"] = generate_samples(base.model, tokenizer, meanings, spec, max_new_tokens=40)


def slot_error_rate(texts) -> tuple[float, float]:
    """(slot error rate, share of texts without any error)"""
    errors = [slot_errors(s.prompt, s.text) for s in texts]
    return sum(e for e, _ in errors) / sum(n for _, n in errors), sum(e == 0 for e, _ in errors) / len(errors)


rates = {m: slot_error_rate(texts) for m, texts in samples.items()}
for method, (rate, right) in sorted(rates.items(), key=lambda item: -item[1][0]):
    print(f"{method:<10} slot error rate {rate:.2f}   everything true in {right:4.0%} of the texts")
assert rates["full"][0] < rates["lora"][0] < rates["head"][0], "a lower loss should say fewer false things"
assert rates["lora"][1] < 0.3, "0.35 nats above the floor is a lot: some fact is wrong in most texts"

# %%
wrong = next(s for s in samples["lora"] if slot_errors(s.prompt, s.text)[0])
print(f"facts:     {wrong.prompt}\nLoRA:      {wrong.text}\nreference: {wrong.reference}")

# %% [markdown]
# (A rate above 1 is possible: false facts count too.) The sentence is perfect, and what it says is not. The *form* of a text
# is most of its tokens. The facts are few tokens, and each must be looked up in the prompt. Look at the loss again with this
# in mind.
#
# **Predict:** we split LoRA's loss: tokens that carry a fact (names, verbs, places ...) against all others. Which part is higher?

# %%
facts = {w for row in test for part in row["meaning_representation"].split(" ; ") for w in part.split(" : ")[1].split()}
fact_ids = torch.tensor(sorted(tokenizer.convert_tokens_to_ids(sorted(facts))))


@torch.no_grad()
def split_loss(model) -> tuple[float, float]:
    """Mean loss on tokens that carry a fact, and on the others."""
    sums = torch.zeros(2, 2)
    for batch in batches(library.features, tokenizer, 64):
        logits, labels = model(**model_inputs(batch)).logits[:, :-1], batch["labels"][:, 1:]  # (B, T, V), (B, T)
        losses = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=-100, reduction="none")  # (B, T)
        for i, part in enumerate((torch.isin(labels, fact_ids), ~torch.isin(labels, fact_ids) & (labels != -100))):
            sums[i] += torch.stack([losses[part].sum(), part.sum()])
    return tuple((sums[:, 0] / sums[:, 1]).tolist())


parts = {m: split_loss(results[m].model) for m in ("lora", "full")}
for method, (fact, other) in parts.items():
    print(f"{method}: {fact:.2f} on tokens that carry a fact, {other:.2f} on the others")
assert parts["lora"][0] > 2 * parts["lora"][1], "the facts should be the hard part: are fact_ids the words after each colon?"

# %% [markdown]
# The facts stand in the prompt, so nearly all of their loss could go away. The others hold the choices that nobody can know
# (which adjective, which order), so a part of *their* loss is the floor. One mean loss hides this difference.
#
# ## 7. BLEU rewards form, and even a perfect writer does not get 100
#
# **BLEU** (Papineni et al. 2002) counts runs of one to four words that a text shares with a reference. It needs no judge, and it
# cannot tell an important word from another.
#
# **Predict:** let the grammar itself write a *second* text for the same facts: perfectly true, perfectly fluent. What
# BLEU does it get against the first text: 100, about 60, or 20? And if we give eight references for each meaning?

# %%
from training.evaluation.generation import Sample
from training.evaluation.text_metrics import text_scores
from training.data.world_tasks import realise


def grammar_texts(meaning: str, count: int, seed: int) -> list[str]:
    """Texts that the world's grammar writes for these facts."""
    slots = dict.fromkeys(("name", "place", "action", "friend", "mood")) | dict(p.split(" : ") for p in meaning.split(" ; "))
    rng = random.Random(f"{meaning} {seed}")
    return [realise(slots, rng)[0] for _ in range(count)]


perfect = [Sample(m, grammar_texts(m, 1, 1)[0], refs) for m, refs in meanings]
one = text_scores(perfect)["bleu"]
eight = text_scores([Sample(s.prompt, s.text, grammar_texts(s.prompt, 8, 2)) for s in perfect])["bleu"]
print(
    f"a perfect writer (no slot error: {slot_error_rate(perfect)[0] == 0}): "
    f"BLEU {one:.0f} against one reference, {eight:.0f} against eight"
)
assert slot_error_rate(perfect)[0] == 0 and one < 90 < eight + 10 and eight > one + 10, "other words are not wrong words"

# %%
bleu = {"perfect": one} | {m: text_scores(samples[m])["bleu"] for m in ("full", "lora", "head", "untouched")}
true = {"perfect": 1.0} | {m: rates[m][1] for m in rates}
for name, score in bleu.items():
    print(f"{name:<10} BLEU {score:5.1f}   everything true in {true[name]:4.0%} of the texts")
assert bleu["lora"] > 0.5 * bleu["perfect"] and true["lora"] < 0.3, "the point of this lesson: BLEU and truth do not go together"

# %%
figure, panels = plt.subplots(1, 2)
colours = [COLOURS[{"perfect": "ceiling", "untouched": "random"}.get(n, n)] for n in bleu]
for panel, values, title in (
    (panels[0], [bleu[n] / bleu["perfect"] for n in bleu], "LoRA's form is most of the way ..."),
    (panels[1], [true[n] for n in bleu], "... but few of its texts are true"),
):
    panel.bar_label(panel.bar(list(bleu), values, color=colours, width=0.6), fmt="{:.0%}", padding=2)
    panel.set(title=title, ylim=(0, 1.15))
    panel.tick_params(axis="x", rotation=25)
panels[0].set(ylabel="BLEU / BLEU of a perfect writer")
panels[1].set(ylabel="share of texts with every fact right")
show(figure, "02_bleu_and_truth")

# %% [markdown]
# LoRA has most of a perfect writer's BLEU, and next to none of its truth.
#
# Always give several references, and always count facts when you can. On real text there is no such count for free; then read at
# least 20 outputs yourself before you believe a BLEU score.
#
# ## E2E: the same on real text
#
# E2E is a real data set of restaurant facts and human texts (Novikova et al. 2017), the one on which the LoRA paper reports BLEU.
# We train **stories260K**, a real pretrained Llama with 260 thousand weights, 1,000 steps of 16 examples. Loss and texts are
# measured on the same 1,000 test examples: one greedy text for each meaning among them, against all of its references there.
#
# | method | loss per reference token | BLEU | chrF | ROUGE-L | trained parameters |
# |:--|--:|--:|--:|--:|--:|
# | untouched | 4.765 | 0.1 | 18.9 | 0.102 | 0 |
# | LoRA r=8, all attention projections | 1.647 ± 0.032 | 14.1 ± 1.9 | 41.2 ± 1.9 | 0.321 ± 0.025 | 17,920 |
# | full fine-tuning | 1.215 ± 0.002 | 25.2 ± 0.5 | 43.3 ± 0.6 | 0.412 ± 0.003 | 260,032 |
#
# chrF and ROUGE-L compare a text with its references as BLEU does: by runs of letters, and by the longest common sequence of
# words. Mean ± standard deviation over 3 seeds; the [report](../training/results/e2e-1000/report.md) has the commands.
#
# Full fine-tuning of the same base gets almost twice LoRA's BLEU: the base can hold more than this LoRA put into it. Half of the
# restaurant names in the test set never occur in the training set, and a model of this size does not copy new names. The paper
# reports 70.4 BLEU with GPT-2 medium (its table 3); we had no machine to measure that.
#
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | texts never end | the end of text is not among the labels | section 5: decode the labels of one row |
# | the loss is very low, the texts are bad | the prompt is learnt too, or labels are not shifted | sections 2 and 3, by hand |
# | the loss is below the floor | test texts in the training set | `set(train) & set(test)` on the prompts |
# | batches give other texts than single prompts | padded on the right, or without a mask | section 5: compare one by one |
# | accumulation changes the loss | mean of means | section 3: sum, then divide once |
# | BLEU is low for good texts | one reference, or another tokenizer | section 7; print sacrebleu's signature |
#
# ## Exercises
#
# Write in [exercises/02_lora_for_generation.py](exercises/02_lora_for_generation.py), then `python -m tutorials check 02`.
#
# 1. ★ `scored_share`: the share of a row's tokens that carry a label, from the lengths of prompt and answer.
# 2. ★★ `joint_mean`: the loss of a whole step from the mean losses and token counts of its parts.
# 3. ★★ `floor_of`: the floor per token from the probabilities of a grammar's choices.
#    <details><summary>Hint</summary>The entropies of independent choices add up; then divide by the expected length.</details>
# 4. ★★★ `beam_search`: keep the best few texts at each step instead of one. Is the likeliest text also the truest? Try it with
#    LoRA's model from section 4 (open the lesson as a notebook and paste your function), and count slot errors.
#    <details><summary>Hint</summary>Keep a list of (score, new tokens). In each round replace every unfinished text by its
#    <code>width</code> best continuations, then sort the list and cut it to <code>width</code>.</details>
#
# ## Summary
#
# 1. Only the answer and its end are learnt; the loss is summed over all their tokens and divided once.
# 2. The entropy of the data is a floor under the loss. What lies above it can be the facts, which are few tokens among many.
# 3. BLEU measures form against the references you have. A perfect writer gets less than 100, a fluent liar gets a lot.
#
# **Next:** [lesson 03](03_lora_for_classification.py), LoRA for classification.
#
# ## On the real thing
#
# The first command runs here, on the small world. The others use GPT-2 from the Hub, and the decoding of the LoRA authors' code
# (10 beams, length penalty 0.8, no 4-gram twice). They need a network, and a GPU helps; we did not run them:
#
# ```bash
# python -m training --task data2text --method lora --score-texts 200
# python -m training --task e2e_nlg --model gpt2-medium --r 4 --lora-alpha 32 --target-modules c_attn --score-texts None
# python -m training evaluate --adapter runs/e2e_nlg-lora/adapter --score-texts None --decoding lora_paper
# ```
