# %% [markdown]
# # 13 · Deep dive: positions, starts, a network that is thrown away, and costs
#
# **Needs** [lesson 13](../13_prefix_and_prompt.py) · **Read and do** 60 minutes
# · **Runs in** about 70 s on one CPU thread · **Memory** 2 GB
#
# The core page trained a prompt and a prefix. Here you see where a text begins after a prefix,
# how to start, what virtual tokens cost, and a task where a prompt is better than a prefix.

# %% tags=["fold"]
# set-up: imports, our folders, the task of lesson 02
import sys
import tempfile
from pathlib import Path

ROOT = next(p for p in (Path.cwd(), *Path.cwd().parents) if (p / "loralib").is_dir())
sys.path.insert(0, str(ROOT))  # so that Python finds our folders

import torch
import transformers
from matplotlib import pyplot as plt

import loralib
from adapters import (
    PrefixTuningConfig,
    PromptTuningConfig,
    activate,
    attach,
    eject_prefix,
    load,
    save,
)
from adapters.virtual.virtual_tokens import virtual_encoder
from training import train_model
from training.data.batching import Steps, pad
from training.data.data import load_task
from training.data.encoding import encode
from training.data.tasks import find_task
from training.evaluation.evaluation import HeldOut, evaluate, objective_of
from training.loop import loop
from training.loop.processes import make_accelerator
from training.models.base_models import load_base, window
from training.models.methods import apply_method
from training.reports.records import COLOURS, use_style
from tutorials.answers import true_option
from tutorials.show import show

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
use_style()

# %% tags=["fold"]
# set-up: data, a decoder, and a short training run
folder = Path(tempfile.mkdtemp())
spec = find_task("data2text")
tokenizer = load_base(spec, seed=0).tokenizer
data = load_task(spec, seed=0)
train_set, test = encode(data["train"][:], spec, tokenizer, 64), data["test"].select(range(100))
writing = HeldOut(spec, test, encode(test[:], spec, tokenizer, 64))
batch = pad(writing.encoded.features[:3], tokenizer.pad_token_id)  # (B, T) each
ids = batch["input_ids"][:1]


def decoder():
    """The small decoder, always with the same weights."""
    return load_base(spec, seed=0).model.eval()


def learn(
    method, config, rate: float, steps: int, seed: int = 0, train=train_set, test=writing
):
    """The trained model, and its scores on the test examples."""
    base = load_base(test.spec, seed=seed)
    apply_method(method, base, test.spec, config, seed)
    settings = loop.LoopSettings(steps, rate, eval_every=10**6, save_every=10**6)
    batches = Steps(train.features, base.tokenizer, 8, seed)
    loop.train(base.model, batches, objective_of(test.spec.kind), settings)
    return base.model, evaluate(base.model, test, base.tokenizer, make_accelerator())


# %% [markdown]
# ## 1. Where does the text begin?
#
# A prefix can hold the keys and values that the model itself computes from P real words. Then
# the model must behave as if these words were there. One more thing has to be right: after P
# words, a text begins at position P, not at 0.
#
# We make such a prefix from a sentence of 11 words, and compare with the model that reads the
# sentence.
#
# ??? How large is the difference if the text begins at position 0 (in our library:
#   `keep_positions=True`)?
# - [ ] none, only rounding || This is the case if the text begins at position P.
# - [ ] below 1 % || Then prefix and text share the first P positions. The model never saw this.
# - [x] above 5 % || The positions of all words are wrong.

# %%
sentence = "jordan recorded the melody . it was a gentle day ."
before = torch.tensor([tokenizer(sentence)["input_ids"]])
start = {"num_virtual_tokens": 11, "init_weights": "text", "init_text": sentence}
errors = {}
with torch.no_grad():
    expected = decoder()(torch.cat([before, ids], 1)).logits[:, before.shape[1] :]
    for name, stays in (("P", False), ("0", True)):
        model = decoder()
        config = PrefixTuningConfig(**start, keep_positions=stays)
        attach(model, config, tokenizer=tokenizer)
        errors[name] = float((model(ids).logits - expected).norm() / expected.norm())
print(f"text from position P: {errors['P']:.0e} off, from position 0: {errors['0']:.0%} off")

# %% tags=["fold"]
# check
true_option(errors["0"] < 1e-5, 1e-5 < errors["0"] < 0.01, errors["0"] > 0.05)
assert errors["P"] < 1e-5, "a prefix made of a text is that text: has the sentence P words?"

# %% [markdown]
# ## 2. The start
#
# Three starts are usual for a prompt: `RANDOM` (normal values, the default of peft),
# `SAMPLE_VOCAB` (the embeddings of random words, our default) and `TEXT` (those of a text that
# you choose).
#
# ??? Adam moves each value by at most about the learning rate per step, and our schedule goes down
#   to 0. How far does a prompt move in 40 steps of 5e-5, compared with its own size?
# - [x] about 1 % || About 20 full steps of 5e-5 are 0.001. An embedding has values of about 0.17.
# - [ ] about 10 % || 20 · 5e-5 is 0.001.
# - [ ] about 100 % || This happens between 3e-3 and 0.03.

# %%
rates = (5e-5, 3e-3, 0.03, 0.3, 3)
starts = {
    "RANDOM": {"prompt_tuning_init": "RANDOM"},
    "SAMPLE_VOCAB": {},
    "TEXT": {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": sentence},
}
curves, moved = {name: [] for name in starts}, []
for name, options in starts.items():
    for rate in rates:
        config = PromptTuningConfig(num_virtual_tokens=8, **options)
        model, scores = learn("prompt", config, rate, steps=40)
        curves[name].append(scores["eval_loss"])
        if name == "SAMPLE_VOCAB":
            other = decoder()
            attach(other, PromptTuningConfig(num_virtual_tokens=8), seed=0)
            end, begin = (
                virtual_encoder(m, "default").embedding.weight for m in (model, other)
            )
            moved.append(float(((end - begin).norm() / begin.norm()).detach()))
print("learning rate", *(f"{rate:7.0e}" for rate in rates))
print("moved by     ", *(f"{way:7.0%}" for way in moved))

# %% tags=["fold"]
# plot: loss by learning rate and start
figure, panel = plt.subplots(figsize=(7, 3))
for (name, losses), style in zip(curves.items(), (":", "-", "--"), strict=True):
    panel.semilogx(rates, losses, style, marker="o", color=COLOURS["prompt"], label=name)
panel.set(title="at 0.03, a start from words is far better than random values", ylim=(0, None))
panel.set(xlabel="learning rate (log scale)", ylabel="test loss after 40 steps")
panel.legend()
show(figure, "13_starts")

# %% tags=["fold"]
# check
true_option(moved[0] < 0.02, 0.05 < moved[0] < 0.2, moved[0] > 0.5)
assert curves["RANDOM"][2] > curves["SAMPLE_VOCAB"][2] + 0.5, (
    "at 0.03, words are a better start"
)
assert curves["RANDOM"][0] < curves["SAMPLE_VOCAB"][0], (
    "RANDOM has the lower loss before training"
)

# %% [markdown]
# (One seed.) At the left end the lines show the losses of the starts themselves, and `RANDOM` is
# the lowest. At 0.03 it is the worst. So a low first loss is no sign of a good start.
#
# peft's own table (`method_comparison` on MetaMathQA, Llama 3.2 3B, one seed; their
# measurement, not ours) has the accuracy 0.057 for prompt tuning with the defaults, 0.234 with
# a learning rate of 1e-3, and 0.343 with the same learning rate and `SAMPLE_VOCAB`. For prefix
# tuning it has 0.186, and 0.416 with 5e-3 and a start from a text. LoRA has 0.47 to 0.51.
#
# ## 3. An encoder keeps its positions
#
# In an encoder all tokens see each other, so nothing is "before" the text. Does the text still
# have to begin at position P? peft moves it. The task is tagging: find the names of people and
# places. Its score is the **span F1**: a name counts only if it is found completely.
#
# ??? A prefix of 10 tokens, 50 steps, three seeds. Which is better?
# - [x] positions from 0, with every seed || In its pretraining, every text began at position 0.
#   (This is a guess at the reason. We have not tested it.)
# - [ ] positions from P, with every seed || Section 1 used a decoder, and a prefix made of real words.
# - [ ] no clear difference || The differences are larger than those between seeds.

# %%
tagging = find_task("tagging")
examples = load_task(tagging, seed=0)
some, words = examples["test"].select(range(200)), load_base(tagging, seed=0).tokenizer
sets = {"train": encode(examples["train"][:], tagging, words, 64)}
sets["test"] = HeldOut(tagging, some, encode(some[:], tagging, words, 64))
f1 = {}
for name, stays in (("0", True), ("P", False)):
    config = PrefixTuningConfig(num_virtual_tokens=10, keep_positions=stays)
    runs = [learn("prefix", config, 0.1, 50, seed, **sets)[1] for seed in (0, 1, 2)]
    f1[name] = [scores["span_f1"] for scores in runs]
    print(f"positions from {name}: span F1", *(f"{value:.3f}" for value in f1[name]))

# %% tags=["fold"]
# check
better = [a > b for a, b in zip(f1["0"], f1["P"], strict=True)]
true_option(all(better), not any(better), any(better) and not all(better))

# %% [markdown]
# ## 4. A network that is thrown away
#
# So far each value of a prefix was a parameter. Li & Liang found long prefixes hard to train
# like this. They computed them with a small network: P trained vectors → Linear → tanh → Linear
# → keys and values. After training, its result is written into a table (`eject_prefix`), and
# the network is removed.
#
# ??? The learning rate is 0.03, which is too small for the plain table (core page, section 4). Does
#   the prefix with the network learn better?
# - [x] yes, with every seed || All weights of the network move the output, so it moves further than
#   the learning rate.
# - [ ] no: it has the same learning rate || The values of the prefix are not the parameters now.
# - [ ] It depends on the seed. || The gap is much larger than the spread.

# %%
losses = {}
for name, rate, projection in (
    ("network, 0.03", 0.03, True),
    ("table, 0.03", 0.03, False),
    ("table, 0.3", 0.3, False),
):
    config = PrefixTuningConfig(num_virtual_tokens=8, prefix_projection=projection)
    runs = [learn("prefix", config, rate, 80, seed) for seed in (0, 1, 2)]
    losses[name] = [scores["eval_loss"] for _, scores in runs]
    with_network = runs[0][0] if projection else with_network
    print(f"{name:13}: loss", *(f"{value:.2f}" for value in losses[name]))

# %% tags=["fold"]
# check: after `eject_prefix` the logits are the same, bit for bit
network, table = losses["network, 0.03"], losses["table, 0.03"]
is_better = [a < b for a, b in zip(network, table, strict=True)]
true_option(all(is_better), not any(is_better), any(is_better) and not all(is_better))
with torch.no_grad():
    trained = with_network(**batch).logits
    count = loralib.count_parameters(with_network).trainable
    eject_prefix(with_network)
    assert torch.equal(trained, with_network(**batch).logits), "the table holds another result"
assert loralib.count_parameters(with_network).trainable < count / 10, (
    "is the network still there?"
)

# %% [markdown]
# With its own learning rate, 0.3, the plain table comes close. So probably most of what the
# network gives is a larger step. The network is large: on RoBERTa-base, a prefix of 30 tokens
# has 552,960 parameters, and its network 9,872,384.

# %% tags=["fold"]
# check: the counts, on the device `meta`, where tensors have no content
with torch.device("meta"):
    shape = transformers.RobertaConfig(vocab_size=50265, type_vocab_size=1)
    roberta = transformers.RobertaForSequenceClassification(shape)
options = {"num_virtual_tokens": 30, "init_weights": "random", "modules_to_save": []}
large = PrefixTuningConfig(**options, prefix_projection=True, encoder_hidden_size=512)
assert attach(roberta, PrefixTuningConfig(**options), "a").parameters == 552_960, "2 n P d"
assert attach(roberta, large, "b").parameters == 9_872_384, "the network has another size"

# %% [markdown]
# ## 5. What virtual tokens cost
#
# ??? A text of 32 tokens and 16 virtual tokens. How many more operations does a forward pass need
#   with a prompt, and with a prefix?
# - [ ] both about 5 % || A prompt makes the text 50 % longer, in every layer.
# - [x] prompt more than 50 %, prefix below 10 % || A prefix only adds keys, no tokens.
# - [ ] both about 50 % || A prefix adds no queries, so all linear layers see 32 tokens.

# %%
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

configs = {"base": None, "prompt": PromptTuningConfig(num_virtual_tokens=16)}
configs["prefix"] = PrefixTuningConfig(num_virtual_tokens=16)
operations = {}
for name, config in configs.items():
    model = decoder()
    if config is not None:
        attach(model, config, seed=0)
    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        model(torch.ones(1, 32, dtype=torch.long))
    operations[name] = counter.get_total_flops()
    factor, space = operations[name] / operations["base"], window(model, tokenizer)
    print(f"{name:6} {factor:.2f} times the operations; space for {space} tokens of text")

# %% tags=["fold"]
# check: and with shared key heads, as in Llama, a prefix is smaller
prompt_factor, prefix_factor = (
    operations[n] / operations["base"] for n in ("prompt", "prefix")
)
true_option(
    max(prompt_factor, prefix_factor) < 1.1,
    prompt_factor > 1.5 and prefix_factor < 1.1,
    min(prompt_factor, prefix_factor) > 1.4,
)
size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 145}
counts = {}
for heads in (4, 1):
    config = transformers.LlamaConfig(**size, num_attention_heads=4, num_key_value_heads=heads)
    llama = transformers.LlamaForCausalLM(config)
    counts[heads] = attach(llama, PrefixTuningConfig(num_virtual_tokens=16), seed=0).parameters
assert counts[1] * 4 == counts[4], (
    "a prefix has the heads of the keys, not those of the queries"
)

# %% [markdown]
# If 4 query heads share one key head (grouped-query attention, as in Llama), the prefix is 4
# times smaller.
#
# ## 6. A task where the prompt is better
#
# On the core page, the prefix was better than the prompt at writing. Question answering uses an
# encoder. There, the virtual tokens of a prompt can read the text. Both methods have 1,280
# parameters: a prompt of 20 tokens, a prefix of 5. The learning rate is 0.1, with 300 steps.
#
# ??? Which one is better?
# - [x] the prompt, with every seed || Its tokens read the text and pass on what they read. Whether
#   this is the reason, we have not tested.
# - [ ] the prefix, with every seed || That was so for writing.
# - [ ] It depends on the seed. || With these seeds it does not.

# %%
scores = {"prompt": [], "prefix": []}
for method, tokens in (("prompt", 20), ("prefix", 5)):
    options = {"method": method, "num_virtual_tokens": tokens, "learning_rate": 0.1}
    options |= {
        "steps": 300,
        "eval_every": 10**6,
        "eval_rows": 300,
        "trackers": "",
        "threads": 1,
    }
    for seed in (0, 1, 2):
        run = train_model("qa", seed=seed, out=str(folder / f"{method}{seed}"), **options)
        scores[method].append(run.metric)
    print(f"{method}: exact match", *(f"{value:.2f}" for value in scores[method]))

# %% tags=["fold"]
# check
wins = [a > b for a, b in zip(scores["prompt"], scores["prefix"], strict=True)]
true_option(all(wins), not any(wins), any(wins) and not all(wins))

# %% [markdown]
# With seed 0 the gap is only 0.01. So the prefix is not always better than the prompt. These
# runs do not show more.
#
# ## 7. In a batch, and in a file
#
# For generation, shorter texts are padded on the left. The virtual tokens stand before the
# padding, which is masked. So an example must get the same text in a batch as alone. A file
# must give the same model again.
#
# ??? We save a prompt or a prefix and load it into a fresh base. How equal are the logits?
# - [ ] up to six digits || The table is stored in float32, without loss.
# - [x] bit for bit || The same values and the same computation.
# - [ ] not at all, because the base is another copy || The base has the same weights.

# %%
from training.evaluation.generation import generate_texts

makers = {"prompt": PromptTuningConfig(num_virtual_tokens=8)}
makers["prefix"] = PrefixTuningConfig(num_virtual_tokens=8)
same = {}
for method, config in makers.items():
    model, _ = learn(method, config, rate=0.3, steps=40)
    again = decoder()
    load(again, save(model, folder / f"saved-{method}"))
    with torch.no_grad():
        same[method] = torch.equal(again(**batch).logits, model(**batch).logits)
    size = (folder / f"saved-{method}/adapter_model.safetensors").stat().st_size
    print(f"{method}: {size:,} bytes, the same logits: {same[method]}")

# %% tags=["fold"]
# check: also without the virtual tokens, and in a batch
true_option(False, all(same.values()), not any(same.values()))
with torch.no_grad():
    activate(again, None)
    assert torch.equal(again(**batch).logits, decoder()(**batch).logits), (
        "is it the base again?"
    )
facts = [row + spec.prompt_end for row in test[:16]["meaning_representation"]]
prompts = [tokenizer(text)["input_ids"] for text in facts]
together, alone = (
    generate_texts(model, tokenizer, prompts, max_new_tokens=20, batch_size=b) for b in (16, 1)
)
assert together == alone, "padding on the left must change nothing: how are positions counted?"

# %% [markdown]
# ## Summary
#
# 1. After a prefix, a text begins at position P in a decoder. Our encoder is better from 0.
# 2. At a learning rate of 0.03, a start from words was far better than random values (one seed).
# 3. The network of Li & Liang learns at a smaller learning rate, and is removed after training.
# 4. A prompt costs as many operations as a longer text, a prefix few. In a decoder both use up
#    positions.
#
# **Next:** [lesson 14](../14_adapter_fusion.py).
#
# ## On the real thing
#
# The last command needs no network: it is a prompt of section 6.
#
# ```bash
# python -m training --task sst2 --model roberta-base --method prompt --num-virtual-tokens 20 --learning-rate 0.03
# python -m training --task qa --method prompt --num-virtual-tokens 20 --learning-rate 0.1 --steps 300 --eval-rows 300
# ```
