# %% [markdown]
# # 13 · Prefix and prompt tuning need large learning rates
#
# **Needs** lessons [01](01_lora_by_hand.py) and [02](02_lora_for_generation.py); attention with
# queries, keys and values · **Read and do** 60 minutes
# · **Runs in** about 35 s on one CPU thread · **Memory** 2 GB
#
# You can change what a chat model does by writing a good prompt, without changing a weight. Can
# we *train* the prompt?
#
# ![A prompt: trained vectors before the text. A prefix: trained keys and values in each layer](diagrams/13_two_methods.svg)
#
# Yes: we put a few vectors before the text and train only these. They are called **virtual
# tokens**, because they belong to no word. With usual settings this often seems not to learn. On
# this page you write both methods, find out why, and compare them with LoRA.

# %% tags=["fold"]
# set-up: imports, our folders, the task of lesson 02
import math
import sys
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import torch
import transformers
from matplotlib import pyplot as plt
from torch.nn import functional as F

import loralib
from adapters import PrefixTuningConfig, PromptTuningConfig, attach
from adapters.virtual.attention import prefix_attention
from adapters.virtual.virtual_tokens import virtual_encoder
from training.data.batching import Steps, pad
from training.data.data import load_task
from training.data.encoding import encode
from training.data.tasks import find_task
from training.evaluation.evaluation import HeldOut, evaluate, objective_of
from training.loop import loop
from training.loop.processes import make_accelerator
from training.models.base_models import load_base
from training.models.methods import apply_method
from training.reports.records import COLOURS, use_style
from tutorials.answers import true_option
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
use_style()
spec = find_task("data2text")
tokenizer = load_base(spec, seed=0).tokenizer
data = load_task(spec, seed=0)
train_set, test = encode(data["train"][:], spec, tokenizer, 64), data["test"].select(range(100))
held_out = HeldOut(spec, test, encode(test[:], spec, tokenizer, 64))

# %% tags=["fold"]
# set-up: the small decoder, and a batch of three texts
batch = pad(held_out.encoded.features[:3], tokenizer.pad_token_id)  # (B, T) each


def decoder():
    """A decoder with 2 layers, width 64 and 4 heads of 16. Its weights are always the same."""
    return load_base(spec, seed=0).model.eval()


# %% [markdown]
# ## 1. Prompt tuning: vectors before the text
#
# A model first looks up a vector for each token (its embedding). **Prompt tuning** (Lester et
# al. 2021, [arXiv 2104.08691](https://arxiv.org/abs/2104.08691)) puts P vectors before them and
# trains only these. The model reads a text that is P tokens longer. So the attention mask gets P
# ones, and the labels get P times −100, which the loss ignores (lesson 02).
#
# ??? Width 64, P = 4 virtual tokens, a vocabulary of 145 words. How many parameters are trained?
# - [ ] 4 || Each virtual token is a vector of 64 values.
# - [x] 256 || 4 · 64.
# - [ ] 580 || Virtual tokens are never predicted, so they need no place in the
#   vocabulary.

# %%
P, model = 4, decoder()
prompt = torch.randn(P, 64, generator=torch.Generator().manual_seed(0))  # this is trained
words = model.get_input_embeddings()(batch["input_ids"])  # (B, T, d)
longer = torch.cat([prompt.expand(len(words), -1, -1), words], 1)  # (B, P + T, d)
mask = F.pad(batch["attention_mask"], (P, 0), value=1)
labels = F.pad(batch["labels"], (P, 0), value=-100)
by_hand = model(inputs_embeds=longer, attention_mask=mask, labels=labels)
print(
    f"{prompt.numel()} parameters; T = {words.shape[1]}, logits {tuple(by_hand.logits.shape)}"
)

# %% tags=["fold"]
# check: against the library
true_option(prompt.numel() == 4, prompt.numel() == 256, prompt.numel() == 580)
config = PromptTuningConfig(num_virtual_tokens=P, prompt_tuning_init="RANDOM")
report = attach(model, config)
virtual_encoder(model, "default").embedding.weight.data.copy_(prompt)
library = model(**batch)
assert report.parameters == P * 64, "only the P vectors are trained"
assert torch.allclose(library.logits, by_hand.logits, atol=1e-5), "the vectors come first"
assert torch.allclose(library.loss, by_hand.loss), "is −100 before the labels?"

# %% [markdown]
# ## 2. Prefix tuning: keys and values in each layer
#
# A virtual token can only reach the text through attention: as a key and a value in each layer.
# **Prefix tuning** (Li & Liang 2021, [arXiv 2101.00190](https://arxiv.org/abs/2101.00190),
# section 4) trains these keys and values directly, for each layer its own:
#
# $$\text{attention}\big(Q,\; [K_P; K],\; [V_P; V]\big).$$
#
# $Q$, $K$ and $V$ are computed from the text as before. $K_P$ and $V_P$ (P keys and P
# values; the paper writes $P_\theta$ for both) are trained, and [ ; ] puts one before the
# other. No query is added, so the text does not become longer.
#
# ![A matrix with a row for each word; all words read the virtual tokens](diagrams/13_mask.svg)
#
# ??? The decoder has 2 layers with 4 heads of 16. How many parameters do 4 virtual tokens have
#   as a prefix?
# - [ ] 256, as a prompt || A prompt has one vector per token. A prefix has keys and values in
#   each layer.
# - [ ] 512 || That is one layer, or only the keys of both.
# - [x] 1,024 || 2 layers · 2 (key and value) · 4 tokens · 4 heads · 16.


# %%
def attention_with_prefix(q, k, v, prefix_k, prefix_v):
    """q, k and v are (B, H, T, d_head), the prefix is (H, P, d_head)."""
    k = torch.cat([prefix_k.expand(len(q), -1, -1, -1), k], 2)  # (B, H, P + T, d_head)
    v = torch.cat([prefix_v.expand(len(q), -1, -1, -1), v], 2)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, T, P + T)
    later = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)  # the causal mask
    later = F.pad(later, (prefix_k.shape[1], 0))  # the prefix is never hidden
    return scores.masked_fill(later, -math.inf).softmax(-1) @ v


model = decoder()
report = attach(model, PrefixTuningConfig(num_virtual_tokens=P), seed=0)
table = virtual_encoder(model, "default").keys_and_values()  # (2 · layers, H, P, d_head)
print(f"{report.parameters:,} parameters; logits {tuple(model(**batch).logits.shape)}")

# %% tags=["fold"]
# check: the first layer against the library
true_option(report.parameters == 256, report.parameters == 512, report.parameters == 1024)


def first_layer(model, ids, start: int):
    """Queries, keys and values of the first attention; positions begin at `start`."""
    gpt = model.transformer
    x = gpt.wte(ids) + gpt.wpe(torch.arange(start, start + ids.shape[1]))
    parts = gpt.h[0].attn.c_attn(gpt.h[0].ln_1(x)).split(64, -1)
    return [part.unflatten(-1, (4, 16)).transpose(1, 2) for part in parts]


with torch.no_grad():
    q, k, v = first_layer(model, batch["input_ids"][:1], start=P)
    expected = prefix_attention(model.transformer.h[0].attn, q, k, v, None)[0].transpose(1, 2)
    output = attention_with_prefix(q, k, v, table[0], table[1])
assert torch.allclose(output, expected, atol=1e-5), "only the text has a causal mask"
assert model(**batch).logits.shape[1] == batch["input_ids"].shape[1], "no token is added"

# %% [markdown]
# <div class="widget" data-widget="prefix">
#
# ![Who reads whom with a prefix](diagrams/widget_prefix.svg)
#
# *In the book (`python -m tutorials book`) you can change the tokens and the model here.*
#
# </div>
#
# ## 3. Break it on purpose: start with zeros
#
# LoRA starts with $B = 0$, and the model does not change. Can a prefix start with zeros in the
# same way?
#
# ??? We add 20 virtual tokens whose keys and values are all zero. What happens to the output of
#   the attention (its norm at each position)?
# - [ ] nothing || A zero key does not hide a token. Its score is 0, and softmax makes e⁰ = 1 of
#   it.
# - [x] It becomes smaller. || The zeros take a part of each softmax, and their values are zero.
# - [ ] It becomes zero. || The words keep the rest of the attention.

# %%
zeros = torch.zeros(4, 20, 16)
with torch.no_grad():
    q, k, v = first_layer(decoder(), batch["input_ids"][:1], start=0)
    without = attention_with_prefix(q, k, v, zeros[:, :0], zeros[:, :0])
    with_zeros = attention_with_prefix(q, k, v, zeros, zeros)
remaining = (with_zeros.norm(dim=-1) / without.norm(dim=-1)).mean((0, 1))  # (T,)
print(f"size of the output: first token {remaining[0]:.0%}, last token {remaining[-1]:.0%}")

# %% tags=["fold"]
# plot: how much of the output remains at each position
figure, panel = plt.subplots(figsize=(6.4, 2.4))
panel.plot(range(1, len(remaining) + 1), remaining, "o-", color=COLOURS["prefix"], markersize=4)
panel.axhline(1, color=COLOURS["untouched"], linestyle="--")
panel.annotate("without a prefix", (1, 1.03))
panel.set(title="20 zeros take most of the attention of the first tokens", ylim=(0, 1.2))
panel.set(xlabel="position in the text", ylabel="size of the output")
show(figure, "13_zeros")

# %% tags=["fold"]
# check: the formula P / (P + sum of the exponentials of the scores)
true_option(remaining.min() > 0.99, 0.01 < remaining.max() < 0.99, remaining.max() < 0.01)
scores = q @ k.transpose(-1, -2) / 4
scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
share = 20 / (20 + scores.exp().sum(-1, keepdim=True))  # (B, H, T, 1)
assert torch.allclose(with_zeros, (1 - share) * without, atol=1e-5), "e⁰ is 1, not 0"

# %% [markdown]
# So zeros are not neutral. Our library starts a prompt from the embeddings of real words, and a
# prefix from the keys and values that the model computes from real words.
#
# ## 4. Which learning rate?
#
# Each method gets 512 parameters and 40 steps: a prompt of 8 tokens, a prefix of 2, LoRA with
# r = 1. We try learning rates from 5e-5 to 3, with one seed.
#
# ??? Which method needs the smallest learning rate?
# - [x] LoRA || It is best at 0.03. It multiplies two matrices, so small steps of both have a larger
#   effect. The values of a virtual token must move themselves.
# - [ ] the prompt || Its losses at 0.03 and 0.3 are nearly equal.
# - [ ] the prefix || It is best at 0.3, and has hardly begun to learn at 0.03.

# %% tags=["fold"]
# set-up: a config with a given number of parameters, and a short training run
PER_TOKEN = {"prompt": (PromptTuningConfig, 64), "prefix": (PrefixTuningConfig, 256)}


def config_of(method: str, parameters: int):
    if method == "lora":
        r = parameters // 512
        return loralib.LoraConfig(target_modules=["c_attn"], r=r, lora_alpha=2 * r)
    make, each = PER_TOKEN[method]
    return make(num_virtual_tokens=parameters // each)


def test_loss(method: str, parameters: int, rate: float, steps: int, seed: int = 0) -> float:
    base = load_base(spec, seed=seed)
    apply_method(method, base, spec, config_of(method, parameters), seed)
    settings = loop.LoopSettings(steps, rate, eval_every=10**6, save_every=10**6)
    batches = Steps(train_set.features, tokenizer, 8, seed)
    loop.train(base.model, batches, objective_of(spec.kind), settings)
    return evaluate(base.model, held_out, tokenizer, make_accelerator())["eval_loss"]


# %%
rates = (5e-5, 3e-3, 0.03, 0.3, 3)
curves = {}
for method in ("prompt", "prefix", "lora"):
    curves[method] = [test_loss(method, 512, rate, steps=40) for rate in rates]
    best = rates[curves[method].index(min(curves[method]))]
    print(f"{method:6} is best with {best}: loss {min(curves[method]):.2f}")

# %% tags=["fold"]
# plot: loss by learning rate
figure, panel = plt.subplots(figsize=(7, 3.2))
for (method, losses), style in zip(curves.items(), ("o-", "s--", "^-"), strict=True):
    panel.semilogx(rates, losses, style, color=COLOURS[method], label=method)
panel.axvline(5e-5, color=COLOURS["untouched"], linestyle="--")
panel.annotate("default of\nTrainingArguments", (6e-5, 0.6))
panel.set(
    title="with 5e-5 nothing learns; LoRA needs the smallest learning rate", ylim=(0, None)
)
panel.set(xlabel="learning rate (log scale)", ylabel="test loss, nats per token")
panel.legend()
show(figure, "13_rates")

# %% tags=["fold"]
# check
best = {method: losses.index(min(losses)) for method, losses in curves.items()}
true_option(
    best["lora"] < min(best["prompt"], best["prefix"]),
    best["prompt"] < min(best["prefix"], best["lora"]),
    best["prefix"] < min(best["prompt"], best["lora"]),
)
assert all(0 < place < len(rates) - 1 for place in best.values()), "widen the grid"
default = transformers.TrainingArguments.__dataclass_fields__["learning_rate"].default
assert default == rates[0], "the default of transformers is another one now"
assert all(losses[0] > 6 for losses in curves.values()), "with 5e-5 nothing should learn here"

# %% [markdown]
# 5e-5 is the default learning rate of the `TrainingArguments` of transformers. With it, none of
# the three learns in 40 steps. (One seed: for the prompt, 0.03 and 0.3 are too close to
# choose.) So if prompt tuning "does not learn", first try larger learning rates. The start
# matters too: a prompt of random values is behind here at 0.03 ([deep
# dive](deep/13_prefix_and_prompt.py), section 2).
#
# ## 5. More parameters: length or depth
#
# A prompt can only become longer. A prefix acts in each layer. We compare 512 with 2,048
# parameters: a prompt of 8 or 32 tokens, a prefix of 2 or 8, LoRA with r = 1 or 4. There are
# three seeds and 80 steps. We take the best learning rates of section 4, and do not tune them
# again.
#
# ??? Which methods become better with four times the parameters?
# - [ ] all three || A longer prompt does not help here.
# - [ ] only LoRA || The prefix gains too, a little less than LoRA.
# - [x] the prefix and LoRA || A possible reason: they act in the layers, a prompt only at the input.

# %%
losses = {}
for method, place in best.items():
    for parameters in (512, 2048):
        run = [test_loss(method, parameters, rates[place], 80, seed) for seed in (0, 1, 2)]
        losses[method, parameters] = run
    small, large = (sum(losses[method, count]) / 3 for count in (512, 2048))
    print(f"{method:6} mean loss {small:.2f} with 512, {large:.2f} with 2,048 parameters")

# %% tags=["fold"]
# plot: each seed as a dot
figure, panel = plt.subplots(figsize=(6.4, 3.2))
for i, method in enumerate(best):
    for j, (parameters, marker) in enumerate(((512, "o"), (2048, "s"))):
        values, x_place = losses[method, parameters], i + 0.3 * j - 0.15
        panel.plot([x_place] * 3, values, marker, color=COLOURS[method], alpha=0.7)
        mean = [sum(values) / 3] * 2
        panel.plot([x_place - 0.1, x_place + 0.1], mean, color=COLOURS["full"])
for marker, name in (("o", "512 parameters"), ("s", "2,048 parameters")):
    panel.plot([], [], marker, color="grey", label=name)
panel.set_xticks(range(3), list(best))
panel.set(title="a longer prompt does not help here", ylim=(0, None), xlabel="method")
panel.set(ylabel="test loss (line: mean of 3 seeds)")
panel.legend(loc="lower left")
show(figure, "13_length_or_depth")

# %% tags=["fold"]
# check
gains = {m: sum(losses[m, 512]) / 3 - sum(losses[m, 2048]) / 3 for m in best}
improved = {method for method, gain in gains.items() if gain > 0.2}
true_option(len(improved) == 3, improved == {"lora"}, improved == {"prefix", "lora"})
assert max(losses["prefix", 2048]) < min(losses["prompt", 2048]), "3 of 3 seeds"

# %% [markdown]
# This is not a law. On question answering with the small encoder, the prompt is ahead of the
# prefix ([report](../training/results/gap/report.md)). There, the virtual tokens of a prompt can
# read the text, because an encoder has no causal mask. Whether this is the reason, we have not
# tested.
#
# Virtual tokens cannot be merged. They are read again with each text. In a decoder, a text
# begins at position P, so the longest text becomes P tokens shorter.
#
# ## The same in peft
#
# peft has both methods under the same names. With the same values, its logits are ours:

# %% tags=["fold"]
# the same in peft: a prompt and a prefix with our values
import logging

logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # it looks for a GPU
import peft

settings = {"task_type": "CAUSAL_LM", "num_virtual_tokens": P}
for ours, of_peft in (
    (PromptTuningConfig(num_virtual_tokens=P), peft.PromptTuningConfig(**settings)),
    (PrefixTuningConfig(num_virtual_tokens=P), peft.PrefixTuningConfig(**settings)),
):
    model, peft_model = decoder(), peft.get_peft_model(decoder(), of_peft).eval()
    attach(model, ours, seed=0)
    weights = virtual_encoder(model, "default").state_dict()
    peft_model.prompt_encoder["default"].load_state_dict(weights)
    with torch.no_grad():
        logits, peft_logits = model(**batch).logits, peft_model(**batch).logits
    added = logits.shape[1] - batch["input_ids"].shape[1]  # P, or 0 for a prefix
    real = F.pad(batch["attention_mask"], (added, 0), value=1).bool()
    assert torch.allclose(logits[real], peft_logits[real], atol=1e-4), "peft's logits differ"
print("peft's prompt and prefix give the same logits as ours")

# %% [markdown]
# ## Find the bug
#
# A reader trains a prompt of 8 tokens. The loss falls, but the generated texts begin in the
# middle of a sentence.
#
# ```python
# longer = torch.cat([prompt.expand(B, -1, -1), words], 1)
# mask = F.pad(attention_mask, (8, 0), value=1)
# labels = F.pad(labels, (0, 8), value=-100)
# loss = model(inputs_embeds=longer, attention_mask=mask, labels=labels).loss
# ```
#
# ??? What is wrong?
# - [ ] The mask should have zeros for the virtual tokens. || Then the text could not read them.
# - [x] The −100 are behind the labels, not before them. || So each position is trained to predict
#   a word that comes 8 places later than the right one.
# - [ ] The prompt needs labels of its own. || Virtual tokens are never predicted.

# %% tags=["fold"]
# check: at the position of the first label, the bug asks for another word
right, wrong = (
    F.pad(batch["labels"], (8, 0), value=-100),
    F.pad(batch["labels"], (0, 8), value=-100),
)
first = (right[0] != -100).nonzero()[0].item()
true_option(False, wrong[0, first - 8] == right[0, first] != wrong[0, first], False)

# %% [markdown]
# ## Quiz
#
# ??? Which weights does prompt tuning train?
# - [x] only the vectors of the virtual tokens || Everything else is frozen. (A classifier also
#   has a new head.)
# - [ ] the embeddings of all words || These are frozen.
# - [ ] the weights of the first layer || They are frozen.
#
# ??? A prefix of 10 tokens, a text of 30. How many logits does a decoder return for the text?
# - [x] 30 || A prefix adds no query.
# - [ ] 40 || That would be a prompt of 10 tokens.
# - [ ] 10 || The virtual tokens have no logits at all.
#
# ??? What does a prefix of zeros do?
# - [ ] nothing || Each zero key still gets e⁰ = 1 in the softmax.
# - [x] It takes attention from the text. || Its values are zero, so this attention adds nothing.
# - [ ] It hides the text. || The text keeps a part.
#
# ??? Prompt tuning does not learn with a learning rate of 5e-5. What do you try first?
# - [ ] more virtual tokens || They do not move either.
# - [ ] more epochs || With steps of this size, you would need thousands of times more.
# - [x] a learning rate that is 100 to 10,000 times larger || See the plot of section 4.
#
# ??? Can a prefix be merged into the weights, as LoRA can?
# - [ ] Yes || It is no update of a weight.
# - [x] No || Its keys and values must be read with each text.
# - [ ] Only in an encoder || The kind of model does not matter.

# %% [markdown]
# ## What could go wrong
#
# | symptom | likely cause | check |
# |:--|:--|:--|
# | the loss hardly falls | the learning rate suits full fine-tuning | section 4 |
# | worse than the base before the first step | a start with random values or zeros | section 3; deep dive, section 2 |
# | good in one library, worse in another | positions start at 0 in one, at P in the other | deep dive, sections 1 and 3 |
# | a longer prompt is no better | it acts only at the input | section 5 |
# | long texts fail or are cut | in a decoder, the virtual tokens use P positions | deep dive, section 5 |
#
# ## Exercises
#
# Write in [exercises/13_prefix_and_prompt.py](exercises/13_prefix_and_prompt.py), then run
# `python -m tutorials check 13`.
#
# 1. ★ `prompt_as_large`: how many virtual tokens a prompt needs to have as many parameters as a
#    prefix.
#    <details><summary>Hint</summary>Section 2 counts the parameters of a prefix. A prompt has d
#    for each token.</details>
# 2. ★★ `share_of_prefix`: how much of its attention each token of a text spends on the prefix.
#    <details><summary>Hint</summary>The scores of section 2 without the causal mask, then
#    softmax.</details>
# 3. ★★ `shared_prefix_attention`: section 2 for an encoder whose query heads share key heads.
#    <details><summary>Hint</summary>`repeat_interleave` along the heads: queries 0 and 1 use key
#    head 0.</details>
#
# **Change and measure:** in section 4, train for 160 steps. Do the best learning rates become
# smaller? Why could that be?
#
# ## Summary
#
# 1. A prompt is P vectors before the text. A prefix is P keys and values in each layer.
# 2. With 5e-5 neither learns. The prefix was best at a 10 times larger learning rate than LoRA.
# 3. A zero start is not neutral. Here, a longer prompt did not help, a longer prefix did.
#
# **Next:** [lesson 14](14_adapter_fusion.py), AdapterFusion.
#
# More: [deep dive](deep/13_prefix_and_prompt.py) · [glossary](GLOSSARY.md)
#
# ## On the real thing
#
# These commands need a network, and a GPU helps. We did not run them. Without `--learning-rate`,
# each takes a default for its method and the size of the model.
#
# ```bash
# python -m training --task e2e_nlg --model gpt2 --method prefix --num-virtual-tokens 20 --prefix-projection
# python -m training --task e2e_nlg --model gpt2 --method prompt --num-virtual-tokens 50 --learning-rate 0.03
# python -m training --task sst2 --model roberta-base --method prefix --num-virtual-tokens 10
# ```
