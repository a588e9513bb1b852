"""Prefix and prompt tuning. Oracle: live peft (GPT-2, a Llama with shared key heads), and what mathematics gives."""

import peft
import pytest
import tiny
import torch
from safetensors.torch import load_file
from transformers import GPT2ForSequenceClassification

from adapters.virtual.prefix import PrefixTuningConfig
from adapters.virtual.prompt import PromptTuningConfig
from adapters.virtual.virtual_files import load_virtual_tokens, save_virtual_tokens
from adapters.virtual.virtual_tokens import (
    add_virtual_tokens,
    eject_prefix,
    positions_taken,
    use_virtual_tokens,
    virtual_encoder,
)
from loralib import AdapterFileError

P = 5
LEFT = torch.tensor([[0] * k + [1] * (9 - k) for k in (0, 2, 4)])
MASKS = {"none": None, "left": LEFT, "right": LEFT.flip(1)}
DECODERS = {"gpt2": tiny.gpt2, "llama": tiny.llama}


def make_peft_model(model, kind: str, **options):
    make = {"prefix": peft.PrefixTuningConfig, "prompt": peft.PromptTuningConfig}[kind]
    return peft.get_peft_model(model, make(num_virtual_tokens=P, **options)).eval()


def config(kind: str, **options):
    if kind == "prompt":
        return PromptTuningConfig(num_virtual_tokens=P, prompt_tuning_init="RANDOM", **options)
    return PrefixTuningConfig(num_virtual_tokens=P, init_weights="random", **options)


def ours(model, kind: str, peft_model=None, **options):
    """Our model, with peft's numbers."""
    add_virtual_tokens(model, config(kind, **options), seed=0)
    if peft_model is not None:
        state = peft_model.prompt_encoder["default"].state_dict()
        virtual_encoder(model, "default").load_state_dict(state)
    return model.eval()


def inputs(family: str, mask=LEFT) -> dict:
    more = {"decoder_input_ids": tiny.ids(2)} if family == "t5" else {}
    return {"input_ids": tiny.ids(), "attention_mask": mask} | more


def logits(model, family: str, mask=LEFT) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs(family, mask)).logits


# ---------------------------------------------------------------- against peft


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(("kind", "options"), [("prefix", {}), ("prefix", {"prefix_projection": True}), ("prompt", {})])
def test_pt19_and_pt21_logits_and_gradients_are_pefts(family, mask, kind, options):
    options = options | ({"encoder_hidden_size": 7} if options else {})
    peft_model = make_peft_model(DECODERS[family](), kind, task_type="CAUSAL_LM", **options)
    model = ours(DECODERS[family](), kind, peft_model, **options)
    batch = {"input_ids": tiny.ids(), "attention_mask": MASKS[mask], "labels": tiny.ids(3)}
    a, b = model(**batch), peft_model(**batch)
    assert a.logits.shape == (3, 9 + (P if kind == "prompt" else 0), 40)
    real = torch.ones(3, 9, dtype=torch.long) if MASKS[mask] is None else MASKS[mask]
    real = torch.nn.functional.pad(real, (a.logits.shape[1] - 9, 0), value=1).bool()
    torch.testing.assert_close(a.logits[real], b.logits[real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(a.loss, b.loss, atol=1e-5, rtol=1e-5)
    a.loss.backward()
    b.loss.backward()
    for name, p in peft_model.prompt_encoder["default"].named_parameters():
        q = virtual_encoder(model, "default").get_parameter(name)
        torch.testing.assert_close(q.grad, p.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_prefix_on_an_encoder_is_pefts_where_positions_move(family, tmp_path):
    peft_model = make_peft_model(tiny.FAMILIES[family](), "prefix", task_type="SEQ_CLS")
    model = ours(tiny.FAMILIES[family](), "prefix", peft_model, keep_positions=False)
    torch.testing.assert_close(logits(model, family), peft_model(**inputs(family)).logits, atol=1e-5, rtol=1e-5)

    peft_model.save_pretrained(tmp_path)
    again = tiny.FAMILIES[family]()
    load_virtual_tokens(again, tmp_path, trainable=False)
    torch.testing.assert_close(logits(again, family), peft_model(**inputs(family)).logits, atol=1e-5, rtol=1e-5)
    keep = ours(tiny.FAMILIES[family](), "prefix", peft_model)
    assert (logits(keep, family) - logits(model, family)).abs().max() > 1e-4
    save_virtual_tokens(keep, tmp_path / "keep")
    again = tiny.FAMILIES[family]()
    load_virtual_tokens(again, tmp_path / "keep", trainable=False)
    assert torch.equal(logits(again, family), logits(keep, family))


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_an_encoders_text_keeps_its_positions(family):
    """What the table of positions is asked for: 0, 1, ... for the virtual tokens, and again for the text (RoBERTa: from 2)."""
    from_ = 2 if family == "roberta" else 0
    for kind in ("prefix", "prompt"):
        model, asked = ours(tiny.FAMILIES[family](), kind), []
        table = next(m for n, m in model.named_modules() if n.endswith("position_embeddings"))
        table.register_forward_pre_hook(lambda m, args, asked=asked: asked.append(args[0]))
        logits(model, family, None)
        text = list(range(from_, from_ + 9))
        assert asked[0][0].tolist() == (list(range(from_, from_ + P)) if kind == "prompt" else []) + text
        assert positions_taken(model) == 0


def test_a_prompt_that_peft_made_for_an_encoder_is_refused(tmp_path):
    make_peft_model(tiny.bert(), "prompt", task_type="SEQ_CLS").save_pretrained(tmp_path)
    with pytest.raises(AdapterFileError, match="read the first virtual token"):
        load_virtual_tokens(tiny.bert(), tmp_path, trainable=False)


def test_pt18_each_attention_gets_keys_and_values_of_its_own_heads():
    model = ours(tiny.llama(), "prefix")
    encoder = virtual_encoder(model, "default")
    table = encoder.keys_and_values()
    assert table.shape == (2 * 3, 2, P, 6)  # 3 attentions, 2 key heads for 4 query heads
    flat = encoder.embedding.weight.expand(3, -1, -1)  # peft's words for its order, with B = 3
    pairs = flat.view(3, P, 6, 2, 6).permute(2, 0, 3, 1, 4).split(2)
    for i, (key, value) in enumerate(pairs):
        assert torch.equal(table[2 * i], key[0]) and torch.equal(table[2 * i + 1], value[0])


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_peft_reads_our_folder_and_we_read_pefts(family, kind, tmp_path):
    model = ours(DECODERS[family](), kind, task_type="CAUSAL_LM")
    save_virtual_tokens(model, tmp_path / "ours")
    peft_model = peft.PeftModel.from_pretrained(DECODERS[family](), tmp_path / "ours").eval()
    torch.testing.assert_close(logits(model, family), peft_model(**inputs(family)).logits, atol=1e-5, rtol=1e-5)
    peft_model = make_peft_model(DECODERS[family](), kind, task_type="CAUSAL_LM")
    peft_model.save_pretrained(tmp_path / "peft")
    model = DECODERS[family]()
    assert str(load_virtual_tokens(model, tmp_path / "peft", trainable=False)) == "1/1 tensors loaded"
    torch.testing.assert_close(logits(model, family), peft_model(**inputs(family)).logits, atol=1e-5, rtol=1e-5)


def test_pt20_a_projection_is_ejected_and_saved_flat_as_in_peft(tmp_path):
    model = ours(tiny.llama(), "prefix", prefix_projection=True, encoder_hidden_size=7, task_type="CAUSAL_LM")
    before = logits(model, "llama")
    save_virtual_tokens(model, tmp_path / "before")
    table = load_file(tmp_path / "before" / "adapter_model.safetensors")
    assert {k: tuple(v.shape) for k, v in table.items()} == {"prompt_embeddings": (P, 2 * 3 * 12)}
    eject_prefix(model)
    assert torch.equal(logits(model, "llama"), before)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [
        "model.virtual_tokens.encoders.default.embedding.weight"
    ]
    peft_model = peft.PeftModel.from_pretrained(tiny.llama(), tmp_path / "before").eval()
    torch.testing.assert_close(before, peft_model(**inputs("llama")).logits, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="nothing to eject"):
        eject_prefix(model)


# ---------------------------------------------------------------- what mathematics gives


@pytest.mark.parametrize("family", DECODERS)
def test_a_prefix_made_of_a_text_is_that_text(family):
    """Keys and values of a text, and positions that start after it: the model cannot tell the prefix from the text."""
    model, text = DECODERS[family](), [3, 1, 4, 1, 5]
    with torch.no_grad():
        whole = model(torch.cat([torch.tensor([text] * 3), tiny.ids()], 1)).logits[:, P:]
    options = {"init_weights": "text", "init_text": "five words"}
    tokenizer = lambda text: {"input_ids": [3, 1, 4, 1, 5]}  # noqa: E731
    add_virtual_tokens(model, PrefixTuningConfig(num_virtual_tokens=P, **options), tokenizer=tokenizer)
    torch.testing.assert_close(logits(model, family, None), whole, atol=1e-5, rtol=1e-5)
    prompt = DECODERS[family]()
    start = PromptTuningConfig(num_virtual_tokens=P, prompt_tuning_init="TEXT", prompt_tuning_init_text="five words")
    add_virtual_tokens(prompt, start, tokenizer=tokenizer)
    torch.testing.assert_close(logits(prompt, family, None)[:, P:], whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_generation_is_one_word_after_another(family, kind):
    """With a cache, without it, padded on the left and with beams; a static cache too, where it can be had."""
    model = DECODERS[family]()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.mul_(10 if p.dim() == 2 and "wpe" not in name else 1)  # a model with opinions: it does not repeat one word
    model = ours(model, kind)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    words = tiny.ids()
    for _ in range(8):
        with torch.no_grad():
            words = torch.cat([words, model(words).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(model.generate(tiny.ids(), **options), words)
    pad = torch.zeros(3, 3, dtype=torch.long)
    padded, mask = torch.cat([pad, tiny.ids()], 1), torch.cat([pad, torch.ones_like(tiny.ids())], 1)
    for cache in ({}, {"use_cache": False}, *([{"cache_implementation": "static"}] * (kind == "prefix"))):
        assert torch.equal(model.generate(padded, attention_mask=mask, **options, **cache)[:, 3:], words), cache
    beams = options | {"num_beams": 3}
    plain = model.generate(tiny.ids(), **beams)
    assert torch.equal(model.generate(padded, attention_mask=mask, **beams)[:, 3:], plain)
    use_virtual_tokens(model, None)
    assert not torch.equal(model.generate(tiny.ids(), **options), words), "the virtual tokens change nothing"


def test_defect_7_13_a_zero_prefix_is_not_the_base():
    """peft calls it a no-op: a zero key still takes its share of the softmax."""
    model, peft_model = tiny.gpt2(), make_peft_model(tiny.gpt2(), "prefix", task_type="CAUSAL_LM", init_weights="zero")
    base = logits(model, "gpt2")
    add_virtual_tokens(model, PrefixTuningConfig(num_virtual_tokens=P, init_weights="zero"))
    off = (logits(model, "gpt2") - base).norm() / base.norm()
    assert 0.01 < off < 1
    torch.testing.assert_close(logits(model, "gpt2"), peft_model(**inputs("gpt2")).logits, atol=1e-5, rtol=1e-5)


def test_pefts_prompt_reads_the_wrong_token_of_a_padded_row_and_ours_does_not():
    """A classifier on a decoder finds a row's last token by its ids; peft gives it none, so it takes the padding."""

    def make():
        shape = tiny.gpt2().config
        shape.num_labels, shape.pad_token_id = 3, 0
        torch.manual_seed(0)
        return GPT2ForSequenceClassification(shape).eval()

    peft_model = make_peft_model(make(), "prompt", task_type="SEQ_CLS")
    model = ours(make(), "prompt", peft_model)
    model.score.copies["default"].load_state_dict(peft_model.base_model.score.modules_to_save["default"].state_dict())
    ids, mask = tiny.ids().clamp(min=1), LEFT.flip(1)
    ids = ids * mask
    with torch.no_grad():
        alone = torch.cat([model(row[None, :n]).logits for row, n in zip(ids, mask.sum(1), strict=True)])
        torch.testing.assert_close(model(ids, attention_mask=mask).logits, alone, atol=1e-5, rtol=1e-5)
        wrong = peft_model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(wrong[0], alone[0], atol=1e-5, rtol=1e-5)
    assert (wrong[1:] - alone[1:]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_padding_says_nothing(family, kind):
    """A row alone gives what it gives in a padded batch: on the right for encoders, on the left with positions for decoders."""
    model = ours(tiny.FAMILIES[family](), kind)
    writes = family in DECODERS
    mask = LEFT if writes else LEFT.flip(1)
    positions = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if writes else {}
    with torch.no_grad():
        batch = model(**inputs(family, mask), **positions).logits
        for row in range(3):
            own = {k: v[row : row + 1] for k, v in inputs(family, mask).items()}
            own |= {k: own[k][:, mask[row].bool()] for k in ("input_ids", "attention_mask")}
            alone = model(**own).logits[0]
            there = batch[row][-len(alone) + (P if kind == "prompt" else 0) :] if writes else batch[row]
            torch.testing.assert_close(there, alone[-len(there) :], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_prompt_is_cut_off_an_answer_that_is_a_tuple_too(family):
    model = ours(tiny.FAMILIES[family](), "prompt").base_model
    named, answer = model(tiny.ids()), model(tiny.ids(), return_dict=False)
    assert isinstance(answer, tuple) and answer[0].shape == (3, 9, 24) and len(answer) == len(named)
    torch.testing.assert_close(answer[0], named.last_hidden_state)
    if family == "bert":
        torch.testing.assert_close(answer[1], named.pooler_output)
