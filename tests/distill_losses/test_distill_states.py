"""What one pass shows. Oracle: transformers' own attention probabilities, hidden states and losses."""

import pairs
import pytest
import tiny
import torch
from torch import nn
from transformers import GPT2Config, GPT2ForSequenceClassification

from adapters import PrefixTuningConfig, attach
from distill.losses.loss_specs import read_losses
from distill.losses.losses import MASKED
from distill.losses.states import NAME, AttentionInputs, answer_logits, answers_in, forward_with_states
from distill.losses.terms import make_projections, make_terms, soft_sum
from distill.runs.trainer import Distiller
from distill.teacher.teacher import Teacher
from training.evaluation import metrics

LENGTHS = (9, 4, 6)


def batch(lengths=LENGTHS) -> dict:
    ids, width = tiny.ids(batch=len(lengths)), max(lengths)
    mask = torch.tensor([[1] * n + [0] * (width - n) for n in lengths])
    return {"input_ids": ids[:, :width], "attention_mask": mask}


def probabilities(recorded: AttentionInputs, mask: torch.Tensor, causal: bool) -> torch.Tensor:
    allowed = (mask != 0)[:, None, None, :].expand(recorded.scores().shape)
    return recorded.scores().masked_fill(~(allowed.tril() if causal else allowed), -torch.inf).softmax(-1)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt2", "llama"])
def test_scores_and_states_are_those_of_transformers(family):
    """Shared key heads and rotated queries (Llama), fused ones (GPT-2), padding. Two ways to sum 9 numbers, in float64."""
    model, rows = tiny.FAMILIES[family]().double(), batch()
    causal = family in ("gpt2", "llama")
    visited = forward_with_states(model, rows, hidden=True, attention=True)
    model.set_attn_implementation("eager")
    other = model(**rows, output_attentions=True, output_hidden_states=True)
    real = rows["attention_mask"] != 0
    assert len(visited.attentions) == model.config.num_hidden_layers == len(visited.hidden) - 1
    for recorded, expected in zip(visited.attentions, other.attentions, strict=True):
        result = probabilities(recorded, rows["attention_mask"], causal)
        torch.testing.assert_close(result.transpose(1, 2)[real], expected.transpose(1, 2)[real].double(), rtol=0, atol=1e-6)
    for own, teacher in zip(visited.hidden, other.hidden_states, strict=True):
        torch.testing.assert_close(own[real], teacher[real], rtol=0, atol=1e-5 if family == "llama" else 1e-12)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_joined_vectors_are_the_projections_of_the_layer(family):
    model, rows = tiny.FAMILIES[family]().double(), batch()
    visited = forward_with_states(model, rows, hidden=True, attention=True)
    for k, recorded in enumerate(visited.attentions):
        if family == "bert":
            layer = model.bert.encoder.layer[k].attention.self
            expected = [part(visited.hidden[k]) for part in (layer.query, layer.key, layer.value)]
        else:
            block = model.transformer.h[k]
            expected = block.attn.c_attn(block.ln_1(visited.hidden[k])).chunk(3, -1)
        for name, teacher in zip(("query", "key", "value"), expected, strict=True):
            torch.testing.assert_close(recorded.joined(name), teacher)


def test_each_query_meets_the_key_that_its_group_shares():
    model = tiny.llama().double()
    [recorded, *_] = forward_with_states(model, batch(), attention=True).attentions
    assert recorded.query.shape[1] == 4 and recorded.key.shape[1] == recorded.value.shape[1] == 2
    for h in range(4):
        by_hand = recorded.query[:, h] @ recorded.key[:, h // 2].mT / recorded.query.shape[-1] ** 0.5
        torch.testing.assert_close(recorded.scores()[:, h], by_hand)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_model_keeps_its_own_attention_and_its_answers(implementation):
    for make in (tiny.bert, tiny.gpt2, tiny.llama):
        model, rows = make(), batch()
        model.set_attn_implementation(implementation)
        before = model(**rows).logits
        visited = forward_with_states(model, rows, hidden=True, attention=True)
        assert model.config._attn_implementation == implementation != NAME
        torch.testing.assert_close(visited.out.logits, before, rtol=0, atol=1e-5)
        assert torch.equal(model(**rows).logits, before)
        assert forward_with_states(model, rows).attentions == () and forward_with_states(model, rows).hidden == ()


def test_the_model_keeps_its_own_attention_after_an_error():
    model = tiny.bert()
    with pytest.raises(IndexError):
        forward_with_states(model, {"input_ids": torch.tensor([[10**6]]), "attention_mask": torch.ones(1, 1)}, attention=True)
    assert model.config._attn_implementation == "sdpa"
    assert forward_with_states(model, batch()).attentions == (), "nothing is recorded any more"


def test_gradients_pass_through_what_was_heard():
    model = tiny.bert()
    recorded = forward_with_states(model, batch(), attention=True).attentions
    recorded[1].scores().sum().backward()
    assert model.bert.encoder.layer[0].output.dense.weight.grad.abs().sum() > 0
    assert model.bert.encoder.layer[1].attention.self.value.weight.grad is None, "scores of a layer need no values of it"


def test_a_model_with_attention_of_its_own_is_refused_for_attention_alone():
    class Deaf(torch.nn.Module):
        config = tiny.bert().config

        def set_attn_implementation(self, name):
            pass

        def forward(self, **inputs):
            return inputs

    with pytest.raises(ValueError, match="Deaf: its attentions do not go through"):
        forward_with_states(Deaf(), batch(), attention=True)
    assert "input_ids" in forward_with_states(Deaf(), batch()).out


def test_a_prefix_is_not_taken_away_silently():
    model = tiny.gpt2()
    attach(model, PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"), seed=0)
    before = model(**batch()).logits
    with pytest.raises(ValueError, match="reads its prefix in its attention"):
        forward_with_states(model, batch(), attention=True)
    assert torch.equal(forward_with_states(model, batch(), hidden=True).out.logits, before)


# ---------------------------------------------------------------- the answers of a batch


@pytest.mark.parametrize("kind", pairs.KINDS)
def test_answers_are_what_the_hard_loss_looks_at(kind):
    """One row of logits for each answer, row by row, and the loss of the loop from them alone."""
    model, rows = pairs.model(kind), pairs.features(kind)
    [one] = pairs.window(rows, 16)
    out = model(**{n: one[n] for n in ("input_ids", "attention_mask")})
    logits, counts = answer_logits(kind, out, one), answers_in(kind, one)
    assert len(logits) == sum(counts) and len(counts) == 16
    expected = metrics.loss_sum(kind, out, one)
    labels = one.get("labels")
    if kind == "qa":
        labels = torch.stack([one["start_positions"], one["end_positions"]], 1).flatten()
        result = torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / 2
    elif kind == "regression":
        result = (logits[:, 0] - labels).square().sum()
    elif kind == "multilabel":
        result = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.double(), reduction="none").mean(-1).sum()
    else:
        labels = labels[:, 1:] if kind == "generation" else labels
        result = torch.nn.functional.cross_entropy(logits, labels[labels != -100], reduction="sum")
    torch.testing.assert_close(result, expected)
    alone = [answer_logits(kind, model(**{n: b[n] for n in ("input_ids", "attention_mask")}), b) for b in pairs.window(rows, 1)]
    assert [len(a) for a in alone] == counts, "each row's answers stand together"
    for a, b in zip(alone, logits.split(counts), strict=True):
        torch.testing.assert_close(a, b[:, : a.shape[1]])


def test_places_at_padding_are_no_answer_to_a_question_also_in_half_precision():
    [one] = pairs.window(pairs.features("qa"), 16)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        model = pairs.model("qa", dtype=dtype)
        logits = answer_logits("qa", model(one["input_ids"], one["attention_mask"]), one)
        padding = (one["attention_mask"] == 0).repeat_interleave(2, 0)
        assert (logits[padding] == MASKED).all() and logits[~padding].abs().max() < 1e3
        assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_virtual_tokens_in_front_of_a_text_are_no_answers():
    [one] = pairs.window(pairs.features("generation"), 16)
    out = pairs.model("generation")(one["input_ids"], attention_mask=one["attention_mask"])
    expected = answer_logits("generation", out, one)
    out.logits = torch.cat([torch.full_like(out.logits[:, :5], 7.0), out.logits], 1)
    assert torch.equal(answer_logits("generation", out, one), expected)


def test_a_decoder_that_classifies_answers_once_for_a_row():
    config = GPT2Config(**tiny.gpt2().config.to_diff_dict() | {"pad_token_id": 0, "num_labels": 3})
    model, rows = GPT2ForSequenceClassification(config).eval(), batch()
    rows = rows | {"input_ids": rows["input_ids"].clamp(min=1) * rows["attention_mask"], "labels": torch.tensor([0, 1, 2])}
    visited = forward_with_states(model, rows, attention=True)
    assert answer_logits("classification", visited.out, rows).shape == (3, 3)


def test_a_projection_that_would_not_learn_is_refused():
    student, teacher = pairs.model("tagging", 1, hidden_size=12), Teacher([pairs.model("tagging", 9)], "tagging")
    words = read_losses(["hidden:1->2"])
    projections = make_projections(words, 12, teacher.models[0].config.hidden_size, seed=0)
    terms = make_terms(words, "tagging", projections, causal=False)
    assert Distiller(student, projections, terms, teacher, None, hidden=True).projections is projections
    for others in (nn.ModuleDict(), make_projections(words, 12, teacher.models[0].config.hidden_size, seed=0)):
        with pytest.raises(ValueError, match=r"projections lack \['hidden 1 to 2'\]"):
            Distiller(student, others, terms, teacher, None, hidden=True)


def test_a_distiller_that_never_asked_has_no_seconds_of_the_teacher():
    student, teacher = pairs.model("classification", 1), pairs.model("classification", 2)
    assert pairs.distiller("kd:T=2,a=1", "classification", student, teacher).teacher_seconds == 0


def test_regression_has_no_temperature():
    z, v = (torch.tensor([[1.0], [2.0]]) for _ in range(2))
    assert float(soft_sum("regression", "mse", z, v + 3, 4.0)) == 18.0
