"""Adapted modules that are never called are found, refused early where the source shows it, and else at the first forward.

Every family is one that no list in the code names.
"""

import copy
import io

import pytest
import tiny
import torch
import transformers as T
from torch import nn
from torch.nn import functional as F

import loralib as lora
from loralib.base_model.never_called import NeverCalledError


class ReadsWeight(nn.Module):
    """A parent that goes past forward, in a way that its source shows."""

    def __init__(self):
        super().__init__()
        self.q, self.out = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        return self.out(F.linear(x, self.q.weight, self.q.bias))


class Unused(ReadsWeight):
    """A child that no forward uses."""

    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(6, 6)


class Sometimes(ReadsWeight):
    """A child that is called only when it is asked for, as an image tower is."""

    def forward(self, x, image=False):
        return self.out(self.q(x)) if image else self.out(x)


def config(*targets: str, **more) -> lora.LoraConfig:
    return lora.LoraConfig(r=2, target_modules=[*targets], **more)


def test_a_parent_that_reads_the_weight_is_refused_before_anything_changes():
    model = nn.Sequential(ReadsWeight())
    with pytest.raises(ValueError, match=r"0\.q lies in ReadsWeight, which reads its weight past forward"):
        lora.inject(model, config("q", "out"))
    report = lora.inject(model, lora.LoraConfig(r=2))  # all-linear leaves it out
    assert [row[0] for row in report.rows] == ["0.out"]


def test_the_first_forward_names_what_was_never_called():
    model = nn.Sequential(Unused())
    lora.inject(model, config("spare", "out"))
    x = torch.randn(2, 6)
    for _ in range(2):  # and not only the first time
        with pytest.raises(NeverCalledError, match=r"Unused ran without calling spare.*exclude_modules=\['spare'\]"):
            model(x)
    lora.delete_adapter(model, "default")
    lora.inject(model, config("out"))
    model(x).sum().backward()


def test_a_call_that_only_did_not_happen_yet_is_waited_for():
    model = nn.Sequential(Sometimes())
    lora.inject(model, config("q", "out"))
    x = torch.randn(2, 6)
    model(x)
    assert model[0]._forward_hooks, "q is still waited for"
    model[0](x, image=True)
    assert not model[0]._forward_hooks and model[0].q.called


def test_the_hooks_go_after_the_first_forward_and_come_back_with_a_further_adapter():
    model = tiny.roberta()
    lora.inject(model, config("query", "value"))
    assert sum(len(m._forward_hooks) for m in model.modules()) == 3  # two attentions, and the model itself for its head
    model(tiny.ids())
    assert sum(len(m._forward_hooks) for m in model.modules()) == 0
    lora.add_adapter(model, config("query", modules_to_save=[]), "second")
    assert sum(len(m._forward_hooks) for m in model.modules()) == 2
    model(tiny.ids())
    assert sum(len(m._forward_hooks) for m in model.modules()) == 0


def test_a_copied_and_a_pickled_model_check_themselves():
    model = nn.Sequential(Unused())
    lora.inject(model, config("spare"))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        with pytest.raises(NeverCalledError, match="spare"):
            other(torch.randn(2, 6))
    assert not model[0].spare.called


def marian():
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 40,
        "d_model": 24,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
    }
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "pad_token_id": 0, "decoder_start_token_id": 0}
    return T.MarianMTModel(T.MarianConfig(**sizes, **heads, max_position_embeddings=32)).eval()


def mt5():
    torch.manual_seed(0)
    sizes = {"num_layers": 1, "d_model": 24, "d_ff": 40, "d_kv": 6, "num_heads": 4, "vocab_size": 40}
    return T.MT5ForConditionalGeneration(T.MT5Config(**sizes, decoder_start_token_id=0)).eval()


@pytest.mark.parametrize("make", [marian, mt5])
@pytest.mark.parametrize("how", ["target", "saved whole", "file"])
def test_the_shared_words_of_an_encoder_decoder_are_not_adapted_without_effect(make, how, tmp_path):
    model = make()
    given = {"modules_to_save": ["shared"], "targets": ["fc1", "wo"]} if how == "saved whole" else {"targets": ["shared"]}
    targets = [t for t in given.pop("targets") if any(n.endswith(t) for n, _ in model.named_modules())]
    lora.inject(model, lora.LoraConfig(r=2, target_modules=targets, **given))
    if how == "file":  # before inference, too
        folder, model = lora.save_adapter(model, tmp_path), make()
        lora.load_adapter(model, folder, trainable=False)
    with pytest.raises(NeverCalledError, match=r"without calling shared.*encoder\.embed_tokens"):
        model(input_ids=tiny.ids(), decoder_input_ids=tiny.ids(2))


def test_relative_embeddings_and_gates_of_speech_models_are_refused():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    deberta = {"vocab_size": 40, "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}
    model = T.DebertaV2Model(T.DebertaV2Config(**sizes, **deberta))
    with pytest.raises(ValueError, match="rel_embeddings lies in DebertaV2Encoder"):
        lora.inject(model, config("rel_embeddings", modules_to_save=[]))


# ---------------------------------------------------------------- new heads


def vit(kind):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    if kind == "siglip2":
        vision = sizes | {"patch_size": 4, "num_patches": 16}
        return T.Siglip2ForImageClassification(T.Siglip2Config(vision_config=vision, num_labels=3)).eval()
    return T.MT5ForQuestionAnswering(T.MT5Config(num_layers=1, d_model=24, d_ff=40, d_kv=6, num_heads=4, vocab_size=40))


@pytest.mark.parametrize(("kind", "head"), [("siglip2", "classifier"), ("mt5", "qa_outputs")])
def test_a_head_is_found_where_the_prefix_of_the_base_names_nothing(kind, head):
    report = lora.inject(vit(kind), lora.LoraConfig(r=2))
    assert report.heads == (head,)


def masked(kind):
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return getattr(T, f"{kind}ForMaskedLM")(getattr(T, f"{kind}Config")(**sizes))


@pytest.mark.parametrize("kind", ["Electra", "MPNet", "Camembert"])
def test_pretrained_heads_of_masked_language_models_are_not_new(kind):
    assert lora.inject(masked(kind), lora.LoraConfig(r=2)).heads == ()


class NoHeadForSequenceClassification(nn.Module):
    base_model_prefix = "encoder"

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 4)


def test_a_class_that_promises_labels_and_has_no_head_is_refused():
    with pytest.raises(ValueError, match="no head was found in NoHeadForSequenceClassification"):
        lora.inject(NoHeadForSequenceClassification(), config("encoder"))
    assert lora.inject(NoHeadForSequenceClassification(), config("encoder", modules_to_save=[])).heads == ()
