"""Adapted modules without a gradient are named once, after a few passes; and outputs may be changed in place."""

import copy
import io
import warnings

import pytest
import tiny
import torch
import transformers as T
from torch import nn

import loralib as lora
from loralib.base_model.no_gradient import PASSES, STATE, NoGradientWarning

SMALL = {"vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def warned(model: nn.Module, run, passes: int = PASSES + 1) -> tuple[str, ...]:
    """The paths that a warning names in so many steps."""
    with warnings.catch_warnings(record=True) as text:
        warnings.simplefilter("always")
        for _ in range(passes):
            run(model).backward()
            model.zero_grad()
    result = [warning.message.paths for warning in text if isinstance(warning.message, NoGradientWarning)]
    assert len(result) <= 1
    return result[0] if result else ()


class Chooses(nn.Module):
    """A layer whose output only chooses, as an indexer does, beside one that never runs."""

    def __init__(self):
        super().__init__()
        self.choose, self.value, self.spare = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x, spare: bool = False):
        y = self.value(x).gather(1, self.choose(x).topk(3).indices)
        return y + self.spare(x)[:, :3] if spare else y


def chooser() -> Chooses:
    torch.manual_seed(0)
    model = Chooses()
    lora.inject(model, lora.LoraConfig(r=2, target_modules=["choose", "value", "spare"], init_lora_weights=False))
    return model


def test_what_only_chooses_and_what_never_runs_is_named_once():
    model, x = chooser(), torch.randn(4, 6)
    assert warned(model, lambda m: m(x).square().sum()) == ("choose", "spare")
    assert STATE not in model.__dict__ and warned(model, lambda m: m(x).square().sum(), 20) == ()


def test_a_module_that_runs_now_and_then_is_waited_for():
    model, x, turns = chooser(), torch.randn(4, 6), iter(range(100))
    assert warned(model, lambda m: m(x, spare=next(turns) == PASSES - 1).square().sum()) == ("choose",)


@pytest.mark.parametrize(
    ("model", "idle"),
    [
        (T.XLMRobertaForTokenClassification(T.XLMRobertaConfig(**SMALL)), ""),
        (
            T.FNetForTokenClassification(T.FNetConfig(vocab_size=48, hidden_size=32, intermediate_size=48, num_hidden_layers=2)),
            "pooler",
        ),
        (
            T.PegasusForCausalLM(
                T.PegasusConfig(vocab_size=48, d_model=32, decoder_layers=2, decoder_ffn_dim=48, decoder_attention_heads=4)
            ),
            "encoder_attn",
        ),
    ],
    ids=["all run", "a pooler that no head uses", "cross-attention alone"],
)
def test_real_classes(model, idle):
    model = copy.deepcopy(model).eval()
    lora.inject(model, lora.LoraConfig(r=2))
    paths = warned(model, lambda m: m(input_ids=tiny.ids()).logits.square().sum())
    assert bool(paths) == bool(idle) and all(idle in path for path in paths)


def test_inference_and_frozen_adapters_are_never_warned_about(tmp_path):
    model = tiny.bert()
    lora.inject(model, lora.LoraConfig(r=2))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error", NoGradientWarning)
        for _ in range(PASSES + 2):
            model(tiny.ids())
    folder = lora.save_adapter(model, tmp_path)
    other = tiny.bert()
    lora.load_adapter(other, folder, trainable=False)
    assert STATE not in other.__dict__


def test_copies_and_pickles_wait_by_themselves():
    model, x = chooser(), torch.randn(4, 6)
    other = copy.deepcopy(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    third = torch.load(file, weights_only=False)
    for each in (other, third):
        torch.testing.assert_close(each(x), model(x))
        each(x).square().sum().backward()
    assert warned(model, lambda m: m(x).square().sum()) == ("choose", "spare")


class InPlace(nn.Module):
    """What Longformer, LED and RoCBert do with the output of a projection."""

    def __init__(self):
        super().__init__()
        self.q, self.out = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        q = self.q(x)
        q /= 2.0
        return self.out(q)


@pytest.mark.parametrize(
    ("settings", "four_bit"),
    [
        ({}, False),
        ({}, True),
        ({"use_dora": True}, False),
        ({"lora_dropout": 0.3}, False),
        ({"lora_dropout": 0.3}, True),
        ({"init_lora_weights": "pissa"}, False),
    ],
)
def test_an_output_may_be_changed_in_place(settings, four_bit):
    torch.manual_seed(0)
    model = InPlace()
    if four_bit:
        lora.quantize_model(model)
    lora.inject(model, lora.LoraConfig(**({"r": 2, "target_modules": ["q", "out"], "init_lora_weights": False} | settings)))
    x = torch.randn(2, 3, 6)
    model(x).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    if not settings and not four_bit:
        slopes = [p.grad.clone() for p in model.parameters() if p.requires_grad]
        model.zero_grad()
        model.out(model.q(x) / 2.0).square().sum().backward()
        for slope, p in zip(slopes, (p for p in model.parameters() if p.requires_grad), strict=True):
            torch.testing.assert_close(slope, p.grad)


@pytest.mark.parametrize("model_class", [T.LongformerForSequenceClassification, T.RoCBertForSequenceClassification])
def test_models_that_do_so_train(model_class):
    more = {"attention_window": 4} if "Longformer" in model_class.__name__ else {}
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**SMALL, **more, pad_token_id=0)).eval()
    lora.inject(model, lora.LoraConfig(r=2, task_type="SEQ_CLS", init_lora_weights=False))
    paths = warned(model, lambda m: m(input_ids=tiny.ids()).logits.square().sum())
    # Longformer's head reads one token, whose attention is global: the last layer's local attention changes nothing
    assert all(path.startswith("longformer.encoder.layer.1.attention.self.") for path in paths)
