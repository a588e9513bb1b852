"""Parameter counts of real architectures (PT30), and the refutation of two counts that the source material prints."""

import itertools

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, RobertaConfig, RobertaForSequenceClassification

import loralib as lora

GPT2_SIZES = {
    "small": GPT2Config(),
    "medium": GPT2Config(n_layer=24, n_embd=1024, n_head=16),
    "large": GPT2Config(n_layer=36, n_embd=1280, n_head=20),
}


def gpt2(size="small"):
    with torch.device("meta"):
        return GPT2LMHeadModel(GPT2_SIZES[size])


def roberta(labels=2, **config):
    config = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, **config}
    with torch.device("meta"):
        return RobertaForSequenceClassification(RobertaConfig(num_labels=labels, **config))


LARGE = {"num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}
Q_V = {"c_attn": [True, False, True]}


def counted(model, **config):
    lora.inject(model, lora.LoraConfig(**config))
    return lora.count_parameters(model)


@pytest.mark.parametrize(("r", "count"), [(1, 36_864), (4, 147_456), (8, 294_912), (16, 589_824), (32, 1_179_648)])
def test_gpt2_small_c_attn(r, count):
    n = counted(gpt2(), r=r, target_modules=["c_attn"])
    assert (n.base, n.adapter, n.other) == (124_439_808, count, 0)


def test_gpt2_small_all_linear():
    n = counted(gpt2(), r=8)
    assert n.adapter == 1_179_648 and round(100 * n.share, 2) == 0.94


@pytest.mark.parametrize(("size", "r", "count"), [("small", 8, 294_912), ("medium", 4, 393_216), ("large", 4, 737_280)])
def test_gpt2_q_and_v(size, r, count):
    """The paper prints 0.35 M and 0.77 M for medium and large; its released code has these numbers."""
    assert counted(gpt2(size), r=r, target_modules=["c_attn"], enable_lora=Q_V).adapter == count


@pytest.mark.parametrize(
    ("labels", "base", "total"), [(1, 124_646_401, 886_273), (2, 124_647_170, 887_042), (3, 124_647_939, 887_811)]
)
def test_roberta_base_q_v(labels, base, total):
    n = counted(roberta(labels), r=8, target_modules=["query", "value"])
    assert (n.base, n.adapter, n.trainable) == (base, 294_912, total)


def test_roberta_base_r16_and_large():
    assert counted(roberta(), r=16, target_modules=["query", "value"]).trainable == 1_181_954
    n = counted(roberta(**LARGE), r=8, target_modules=["query", "value"])
    assert (n.adapter, n.trainable) == (786_432, 1_838_082)


def test_deberta_xxl_by_formula():
    assert 48 * 2 * 16 * (1536 + 1536) == 4_718_592


def test_print_trainable_parameters_tells_adapter_and_head_apart(capsys):
    model = roberta()
    lora.inject(model, lora.LoraConfig(r=8, target_modules=["query", "value"]))
    lora.print_trainable_parameters(model)
    assert "887,042 (LoRA 294,912 + heads 592,130)" in capsys.readouterr().out


# ---------------------------------------------------------------- the two invented counts


def possible_counts(shapes: dict[str, int], extras: list[int]) -> set[int]:
    """All LoRA counts on 12 equal layers: any set of projections (d_in + d_out each), 1-12 layers, r to 256, plus extras."""
    sums = {sum(c) for n in range(len(shapes) + 1) for c in itertools.combinations(shapes.values(), n)}
    cores = {layers * r * s for layers in range(13) for r in range(1, 257) for s in sums}
    return {core + extra for core in cores for extra in extras}


def test_1_060_480_is_no_lora_on_gpt2():
    claim = 1_060_480
    shapes = {"q,k,v": 768 + 2304, "q": 1536, "q,v parts": 3072, "c_proj": 1536, "c_fc": 768 + 3072, "mlp.c_proj": 3072 + 768}
    assert claim % 12 != 0 and claim % 768 != 0
    assert claim not in possible_counts(shapes, [0])
    # what it was copied from, wrongly: a toy of two blocks and a rank-16 update on a word head
    assert 2 * 16 * 2 * (768 + 3072) + 16 * (768 + 50_257) == 1_062_160


def test_1_470_464_is_no_lora_on_roberta():
    claim = 1_470_464
    shapes = {"q": 1536, "k": 1536, "v": 1536, "o": 1536, "up": 768 + 3072, "down": 3072 + 768}
    head = 768 * 768 + 768
    heads = [0, *(head + 768 * n + n for n in (1, 2, 3))]
    assert claim % 12 != 0
    assert claim not in possible_counts(shapes, heads)
    assert 12 * 16 * 2 * (768 + 3072) == 1_474_560  # the toy's true count


def test_marking_a_plain_model_trains_nothing_which_is_why_it_raises():
    model = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="does not add any"):
        lora.mark_only_lora_as_trainable(model)
