"""Generated texts: batches equal single prompts, answers end, windows are kept, chat templates mark the answer."""

from types import SimpleNamespace

import pytest
import tiny_folder
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from training.data.batching import batches
from training.data.data import load_task
from training.data.encoding import encode, prompt_ids
from training.data.ignored import IGNORE
from training.data.tasks import TASKS
from training.evaluation import metrics
from training.evaluation.generation import continue_prompts, ends_of_text, generate_samples, generate_texts, references_by_prompt
from training.models.base_models import load_base

SPEC = TASKS["data2text"]


@pytest.fixture(scope="module")
def base():
    return load_base(SPEC)


@pytest.fixture(scope="module")
def prompts(base):
    rows = load_task(SPEC, train_rows=1)["test"]
    return references_by_prompt(rows, SPEC)[:9]


@pytest.mark.parametrize("decoding", ["greedy", "lora_paper"])
def test_a_batch_gives_the_texts_of_its_prompts_alone(decoding, base, prompts):
    ids = [prompt_ids(p, SPEC, base.tokenizer) for p, _ in prompts]
    assert len(set(map(len, ids))) > 2, "the prompts must need padding"
    together = generate_texts(base.model, base.tokenizer, ids, decoding, max_new_tokens=12)
    alone = [generate_texts(base.model, base.tokenizer, [i], decoding, max_new_tokens=12)[0] for i in ids]
    assert together == alone and len(set(alone)) > 1


def test_greedy_is_the_likeliest_next_token_each_time(base, prompts):
    ids = prompt_ids(prompts[0][0], SPEC, base.tokenizer)
    words = list(ids)
    with torch.no_grad():
        for _ in range(8):
            words.append(int(base.model(torch.tensor([words])).logits[0, -1].argmax()))
    [text] = generate_texts(base.model, base.tokenizer, [ids], max_new_tokens=8)
    by_hand = words[len(ids) :]
    by_hand = by_hand[: by_hand.index(base.tokenizer.eos_token_id)] if base.tokenizer.eos_token_id in by_hand else by_hand
    assert text == base.tokenizer.decode(by_hand)


RECOMMENDED = [
    {"repetition_penalty": 1.5},
    {"no_repeat_ngram_size": 1},
    {"encoder_no_repeat_ngram_size": 1},
    {"num_beams": 4, "length_penalty": 3.0},
    {"do_sample": True, "temperature": 5.0, "typical_p": 0.5},
    {"min_length": 60},
    {"max_length": 3},
    {"bad_words_ids": [[5], [6], [7]]},
]


@pytest.mark.parametrize("settings", RECOMMENDED, ids=lambda settings: next(iter(settings)))
def test_a_decoding_ignores_what_the_models_folder_recommends(settings, base, prompts):
    ids = [prompt_ids(p, SPEC, base.tokenizer) for p, _ in prompts[:3]]
    plain = generate_texts(base.model, base.tokenizer, ids, max_new_tokens=12)
    own = base.model.generation_config
    tokens = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    base.model.generation_config = GenerationConfig(**tokens, **settings)
    try:
        assert generate_texts(base.model, base.tokenizer, ids, max_new_tokens=12) == plain
        assert all(getattr(base.model.generation_config, name) == value for name, value in settings.items()), "put back"
    finally:
        base.model.generation_config = own


@torch.no_grad()
def test_a_draw_is_from_the_models_own_distribution(base, prompts):
    """Total variation of 3,000 first tokens: noise alone gives about half of √(words / draws)."""
    ids = prompt_ids(prompts[0][0], SPEC, base.tokenizer)
    wanted = base.model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
    own, draws = base.model.generation_config, 3000
    tokens = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    base.model.generation_config = GenerationConfig(**tokens, min_p=0.4, do_sample=True)
    torch.manual_seed(0)
    plain = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
    try:
        written = continue_prompts(base.model, base.tokenizer, [ids] * draws, 1, draws, **plain)
    finally:
        base.model.generation_config = own
    result = torch.bincount(torch.tensor([row[0] for row in written]), minlength=len(wanted)) / draws
    assert (result - wanted).abs().sum() / 2 < (wanted.sqrt().sum() / draws**0.5)


@pytest.mark.parametrize("training", [False, True])
def test_writing_leaves_every_modules_mode_as_it_was(training, base, prompts):
    model = base.model.train(training)
    first = next(iter(model.children())).train(not training)
    before = [module.training for module in model.modules()]
    generate_texts(model, base.tokenizer, [[5, 6]], max_new_tokens=2)
    assert [module.training for module in model.modules()] == before
    assert first.training != model.training
    model.eval()


def test_the_window_is_never_left(base):
    long = [5] * (base.tokenizer.model_max_length - 3)
    [text] = generate_texts(base.model, base.tokenizer, [long], max_new_tokens=50)
    assert len(text.split()) <= 3
    with pytest.raises(ValueError, match="no space for an answer"):
        generate_texts(base.model, base.tokenizer, [long + [5] * 3])
    with pytest.raises(ValueError, match="there are greedy, lora_paper"):
        generate_texts(base.model, base.tokenizer, [[5]], "beams")


def test_references_are_grouped_by_meaning():
    rows = {"meaning_representation": ["a", "b", "a"], "human_reference": ["1", "2", "3"]}
    assert references_by_prompt(rows, TASKS["e2e_nlg"]) == [("a", ["1", "3"]), ("b", ["2"])]


# ---------------------------------------------------------------- prompts and completions

PROMPT = TASKS["prompt"]


def labelled(feature, tokenizer):
    return tokenizer.decode([t for t in feature["labels"] if t != metrics.IGNORE])


def test_only_the_completion_is_learnt():
    tokenizer = tiny_folder.tokenizer()
    rows = {"prompt": ["Name a colour: "], "completion": ["blue"]}
    feature = encode(rows, PROMPT, tokenizer, 64).features[0]
    assert labelled(feature, tokenizer) == "blue</s>"
    assert tokenizer.decode(feature["input_ids"]) == "<s>Name a colour: blue</s>"


@pytest.mark.parametrize("chat_rows", [False, True])
def test_a_chat_template_is_used_when_there_is_one(chat_rows):
    tokenizer = tiny_folder.tokenizer(chat=True)
    prompt, completion = "Name a colour.", "blue"
    if chat_rows:
        prompt = [{"role": "system", "content": "Be short."}, {"role": "user", "content": prompt}]
        completion = [{"role": "assistant", "content": completion}]
    feature = encode({"prompt": [prompt], "completion": [completion]}, PROMPT, tokenizer, 64).features[0]
    before = "<s>system: Be short.</s>" * chat_rows + "<s>user: Name a colour.</s><s>assistant: "
    assert tokenizer.decode(feature["input_ids"]) == before + "blue</s>" and labelled(feature, tokenizer) == "blue</s>"
    assert tokenizer.decode(prompt_ids(prompt, PROMPT, tokenizer)) == before


def test_a_template_that_rewrites_its_prompt_is_refused():
    tokenizer = tiny_folder.tokenizer()
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ValueError, match="writes a prompt differently"):
        encode({"prompt": ["a"], "completion": ["b"]}, PROMPT, tokenizer, 64)
    with pytest.raises(ValueError, match="no chat template"):
        rows = {"prompt": [[{"role": "user", "content": "a"}]], "completion": [[{"role": "assistant", "content": "b"}]]}
        encode(rows, PROMPT, tiny_folder.tokenizer(), 64)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
BRACKETS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST]{{ m['content'] }}[/INST]{% else %}{{ m['content'] }}</answer>"
    "{% endif %}{% endfor %}"
)


def chatting(template: str, *special: str):
    tokenizer = tiny_folder.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "end"),
    [(chatting(CHATML, "<|im_start|>", "<|im_end|>"), "<|im_end|>"), (chatting(BRACKETS, "</answer>"), "</answer>")],
    ids=["chatml", "brackets"],
)
def test_writing_ends_with_the_token_that_the_template_teaches(tokenizer, end):
    """It is not the tokenizer's end of text."""
    ends = ends_of_text(SimpleNamespace(generation_config=None), tokenizer)
    assert sorted(ends) == sorted([tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(end)])
    feature = encode({"prompt": ["Who?"], "completion": ["Anna."]}, PROMPT, tokenizer, 64).features[0]
    assert labelled(feature, tokenizer).strip().startswith("Anna.") and set(feature["labels"]) & set(ends)


@pytest.mark.fault
def test_a_template_that_teaches_no_end_is_refused():
    for template in (CHATML.replace("<|im_end|>", ""), BRACKETS.replace("</answer>", "")):
        with pytest.raises(ValueError, match="would not learn to stop"):
            tokenizer = chatting(template, "<|im_start|>")
            encode({"prompt": ["Who?"], "completion": ["Anna."]}, PROMPT, tokenizer, 64)


def test_of_a_conversation_only_the_assistants_tokens_are_learnt():
    tokenizer = chatting(CHATML, "<|im_start|>", "<|im_end|>")
    turns = [
        {"role": "assistant", "content": "Anna."},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "In Oslo."},
    ]
    rows = {"prompt": [[{"role": "user", "content": "Who?"}]], "completion": [turns]}
    feature = encode(rows, PROMPT, tokenizer, 256).features[0]
    assert labelled(feature, tokenizer) == "Anna.<|im_end|>\nIn Oslo.<|im_end|>\n"
    assert "user\nWhere?<|im_end|>" in tokenizer.decode(feature["input_ids"])
    assert all(label in (IGNORE, token) for label, token in zip(feature["labels"], feature["input_ids"], strict=True))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([{"role": "user", "content": "Where?"}], "starts with a message of the assistant"),
        ([{"role": "assistant", "content": "A."}, {"role": "human", "content": "B?"}], "'human'"),
        ([{"role": "assistant", "content": "  "}], "has no text"),
        ([{"role": "assistant", "content": "A."}, {"role": "assistant", "content": ""}], "has no text"),
    ],
)
def test_turns_that_cannot_be_learnt_are_refused(turns, message):
    rows = {"prompt": [[{"role": "user", "content": "Who?"}]], "completion": [turns]}
    with pytest.raises(ValueError, match=message):
        encode(rows, PROMPT, chatting(CHATML, "<|im_start|>", "<|im_end|>"), 256)


def byte_level(pre_tokenizer) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<pad>"], show_progress=False)
    core.train_from_iterator(["the good film was good, the film of anna"] * 50, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>")


@pytest.mark.parametrize(
    "pre_tokenizer",
    [
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r" ?\p{L}+| ?[^\s\p{L}]+|\s+"), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
    ],
    ids=["as GPT-2", "as RoBERTa with a space", "as Llama 3 and Qwen"],
)
def test_a_list_of_words_is_read_as_its_text(pre_tokenizer):
    tokenizer = byte_level(pre_tokenizer)
    words = ["the", "good", "film", "was", "good"]
    spec = TASKS["tagging"]
    feature = encode({spec.inputs[0]: [words], spec.target: [[0, 1, 2, 3, 4]]}, spec, tokenizer, 64).features[0]
    assert feature["input_ids"] == tokenizer(" ".join(words))["input_ids"]
    assert [label for label in feature["labels"] if label != IGNORE] == [0, 1, 2, 3, 4]


def test_plain_text_is_cut_into_blocks_and_nothing_is_lost():
    tokenizer = tiny_folder.tokenizer()
    texts = ["One line.", "", "  ", "Another, longer line of text."]
    encoded = encode({"text": texts}, TASKS["text"], tokenizer, 10)
    whole = [t for f in encoded.features for t in f["input_ids"]]
    assert tokenizer.decode(whole) == "One line.</s>Another, longer line of text.</s>" and encoded.truncated == 0
    assert max(len(f["input_ids"]) for f in encoded.features) == 10
    batch = next(batches(encoded.features, tokenizer, 99))
    assert metrics.answer_count("text", batch) == len(whole) - len(encoded.features)


def test_completions_that_were_cut_off_are_counted_and_left_out():
    tokenizer = tiny_folder.tokenizer()
    rows = {"prompt": ["x" * 30, "x", "x" * 12], "completion": ["y"] * 3}
    encoded = encode(rows, PROMPT, tokenizer, 14)
    assert encoded.truncated == 2 and len(encoded.answerable().features) == 2


def test_samples_carry_their_prompts(base, prompts):
    samples = generate_samples(base.model, base.tokenizer, prompts[:2], SPEC, max_new_tokens=3)
    assert [(s.prompt, s.references) for s in samples] == [tuple(p) for p in prompts[:2]]
    assert samples[0].reference == prompts[0][1][0]
