"""Virtual tokens in every family of models: training, files, generation."""

import copy

import pytest
import tiny
import torch
from transformers import DynamicCache, GPT2ForSequenceClassification

from adapter_methods.test_adapters_virtual import LEFT, P, config, inputs, logits, ours
from adapters.bottleneck.attachment import activate, attach
from adapters.bottleneck.bottleneck import BottleneckConfig
from adapters.virtual.prefix import PrefixTuningConfig
from adapters.virtual.virtual_files import load_virtual_tokens, save_virtual_tokens
from adapters.virtual.virtual_tokens import (
    add_virtual_tokens,
    positions_taken,
    remove_virtual_tokens,
    use_virtual_tokens,
    virtual_encoder,
    virtual_tokens,
)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("kind", ["prefix", "projection", "prompt"])
def test_every_family_trains_saves_and_comes_back_to_the_bit(family, kind, tmp_path):
    model = tiny.FAMILIES[family]()
    base, before = logits(model, family), {k: v.clone() for k, v in model.state_dict().items()}
    options = {"prefix_projection": True} if kind == "projection" else {}
    start = config("prompt" if kind == "prompt" else "prefix", **options)
    report = add_virtual_tokens(model, start, "a", seed=0)
    assert positions_taken(model) == (0 if "bert" in family else P) and f"{report.parameters:,} parameters" in str(report)
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all("virtual_tokens" in n or ".copies.a." in n for n in learning)
    optimizer, losses = torch.optim.Adam(learning.values(), 0.1), []
    for _ in range(30):
        out = model.train()(**inputs(family)).logits
        target = torch.zeros(out.shape[:-1], dtype=torch.long).flatten()
        losses.append(torch.nn.functional.cross_entropy(out.flatten(0, -2), target))
        optimizer.zero_grad()
        losses[-1].backward()
        assert all(p.grad is not None for p in learning.values())
        optimizer.step()
    assert losses[-1] < 0.96 * losses[0]
    model.eval()
    trained = logits(model, family)
    assert torch.equal(logits(copy.deepcopy(model), family), trained)
    save_virtual_tokens(model, tmp_path, "a")
    fresh = tiny.FAMILIES[family]()
    load_virtual_tokens(fresh, tmp_path, "again", trainable=False)
    assert torch.equal(logits(fresh, family), trained) and not any(p.requires_grad for p in fresh.parameters())
    use_virtual_tokens(model, None)
    assert torch.equal(logits(model, family), base) and positions_taken(model) == 0
    remove_virtual_tokens(model, "a")
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)
    assert "virtual" not in model.config.to_json_string()


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_an_encoder_decoder_writes_with_virtual_tokens(kind):
    model = ours(tiny.t5(), kind)
    words = torch.zeros(3, 1, dtype=torch.long)
    mask = LEFT.flip(1)
    for _ in range(6):
        with torch.no_grad():
            step = model(tiny.ids(), attention_mask=mask, decoder_input_ids=words).logits[:, -1:]
        words = torch.cat([words, step.argmax(-1)], 1)
    options = {"attention_mask": mask, "max_new_tokens": 6, "min_new_tokens": 6, "eos_token_id": None}
    assert torch.equal(model.generate(tiny.ids(), **options), words)
    assert model.generate(tiny.ids(), num_beams=3, **options).shape == (3, 7)


@pytest.mark.parametrize("options", [{}, {"prefix_projection": True}])
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "t5"])
def test_gradient_checkpointing_gives_the_same_gradients(family, options):
    """peft refuses it for prefixes (#2191). The network runs once a pass, not once a row."""
    results = []
    for checkpointing in (False, True):
        model = ours(tiny.FAMILIES[family](), "prefix", **options).train()
        calls = []
        if options:
            virtual_encoder(model, "default").transform.register_forward_hook(
                lambda m, a, out, calls=calls: calls.append(out.shape)
            )
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**inputs(family)).logits.square().mean().backward()
        assert calls == [(P, virtual_encoder(model, "default").layout.width)] * len(options)
        results.append([p.grad for p in virtual_encoder(model, "default").parameters()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_several_live_side_by_side_and_their_heads_switch():
    model = tiny.bert()
    add_virtual_tokens(model, config("prefix"), "a", seed=0)
    add_virtual_tokens(model, config("prompt"), "b", seed=1)
    with torch.no_grad():
        model.classifier.copies["b"].weight.add_(1)
    outs = {}
    for name in ("a", "b", None, "a"):
        use_virtual_tokens(model, name)
        out = logits(model, "bert")
        assert name not in outs or torch.equal(outs[name], out)
        outs[name] = out
    assert not torch.equal(outs["a"], outs["b"]) and torch.equal(outs[None], logits(tiny.bert(), "bert"))
    assert [type(c).__name__ for c in virtual_tokens(model).values()] == ["PrefixTuningConfig", "PromptTuningConfig"]
    for take in (
        lambda: attach(model, BottleneckConfig(reduction_factor=4), "a"),
        lambda: add_virtual_tokens(model, config("prompt"), "a"),
    ):
        with pytest.raises(ValueError, match="exists already"):
            take()


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
@pytest.mark.parametrize("first", ["prefix", "prompt"])
def test_the_start_of_a_second_prefix_does_not_hear_the_first(family, first):
    start = PrefixTuningConfig(num_virtual_tokens=P)
    clean, model = tiny.FAMILIES[family](), tiny.FAMILIES[family]()
    add_virtual_tokens(clean, start, "b", seed=3)
    add_virtual_tokens(model, config(first), "a", seed=0)
    before = logits(model, family)
    with pytest.raises(ValueError, match="tokenizer"):
        add_virtual_tokens(model, PrefixTuningConfig(num_virtual_tokens=P, init_weights="text", init_text="a b"), "c")
    assert torch.equal(logits(model, family), before)  # what acted acts again
    add_virtual_tokens(model, start, "b", seed=3)
    for one, other in zip(virtual_encoder(model, "b").parameters(), virtual_encoder(clean, "b").parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(logits(model, family), logits(clean, family))


def test_an_empty_cache_is_a_first_call_and_a_full_one_is_not():
    shape = tiny.gpt2().config
    shape.num_labels, shape.pad_token_id = 3, 0
    model = ours(GPT2ForSequenceClassification(shape).eval(), "prompt")
    ids = tiny.ids().clamp(min=1)
    with torch.no_grad():
        alone = model(ids).logits
        cache = DynamicCache(config=shape)
        torch.testing.assert_close(model(ids, past_key_values=cache).logits, alone)
        assert cache.get_seq_length() == P + 9
        writer = ours(tiny.gpt2(), "prompt")
        whole = writer(ids).logits
        cache = DynamicCache(config=shape)
        first = writer(ids[:, :5], past_key_values=cache).logits
        rest = writer(ids[:, 5:], past_key_values=cache).logits
    torch.testing.assert_close(torch.cat([first, rest], 1), whole, atol=1e-5, rtol=1e-5)


def test_heads_of_other_kinds_of_adapters_stay_as_they_are():
    model = tiny.bert()
    attach(model, BottleneckConfig(reduction_factor=4), "b", seed=0)
    add_virtual_tokens(model, config("prefix"), "p", seed=1)
    for act, expected in (
        (lambda: activate(model, "b"), "b"),
        (lambda: use_virtual_tokens(model, None), "b"),
        (lambda: activate(model, None), None),
        (lambda: use_virtual_tokens(model, "p"), "p"),
        (lambda: activate(model, None), "p"),
        (lambda: use_virtual_tokens(model, None), None),
    ):
        act()
        assert model.classifier.active == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_pt27_a_half_precision_base_keeps_its_dtype_and_learns_in_float32(dtype, kind):
    model = ours(tiny.llama(dtype=dtype), kind)
    out = model(tiny.ids()).logits
    assert out.dtype == dtype and out.isfinite().all()
    out.float().square().mean().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


def test_a_prefix_without_a_head_does_not_run_with_the_head_of_another():
    model = tiny.bert()
    add_virtual_tokens(model, config("prefix"), "a", seed=0)
    add_virtual_tokens(model, config("prefix", modules_to_save=[]), "b", seed=1)
    active = []
    for name in ("a", "b", "a", None):
        use_virtual_tokens(model, name)
        active.append(model.classifier.active)
        logits(model, "bert")
    assert active == ["a", None, "a", None]
