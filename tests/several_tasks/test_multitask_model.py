"""Heads and the multitask model. Oracle: each task alone, torch's own losses, and what must not matter (padding, other rows)."""

import multi
import pytest
import tiny
import tiny_folder
import torch
from torch.nn import functional as F

from multitask.model.multitask_model import MultitaskModel
from multitask.model.task_heads import (
    ClassificationHead,
    MultiLabelHead,
    RegressionHead,
    TaskHeads,
    TokenClassificationHead,
    pool,
)
from training.data.encoding import encode
from training.data.tasks import TaskSpec, find_task

FAMILIES = ("bert", "roberta", "distilbert", "gpt2", "llama", "t5")
ENCODERS = ("bert", "roberta", "distilbert", "t5")


def padded(ids: torch.Tensor, left: int = 0, right: int = 0):
    """The same texts with padding: ids, mask."""
    mask = F.pad(torch.ones_like(ids), (left, right))
    return F.pad(ids, (left, right)), mask


# ---------------------------------------------------------------- pooling and heads


def test_pooling_against_its_words():
    states = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]])
    torch.testing.assert_close(pool(states, mask, "mean"), torch.stack([states[0, 1:3].mean(0), states[1].mean(0)]))
    assert torch.equal(pool(states, mask, "last"), torch.stack([states[0, 2], states[1, 3]]))
    assert torch.equal(pool(states, mask, "first"), torch.stack([states[0, 1], states[1, 0]]))
    with pytest.raises(ValueError, match="mean, last, first"):
        pool(states, mask, "max")


@pytest.mark.parametrize("family", FAMILIES)
def test_defect_6_padding_says_nothing_to_any_head(family):
    model, ids = multi.model(family), tiny.ids(3, 2, 7)
    for task, spec in multi.TASKS.items():
        plain = model(ids, task_name=task)
        ids2, mask = padded(ids, right=4)
        more = model(ids2, mask, task_name=task)
        if spec.kind == "qa":
            torch.testing.assert_close(more["start_logits"][:, :7], plain["start_logits"], atol=1e-5, rtol=1e-5)
            assert more["end_logits"][:, 7:].max() < -1e30  # no answer lies in padding
        else:
            got = more["logits"][:, :7] if spec.kind == "tagging" else more["logits"]
            torch.testing.assert_close(got, plain["logits"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_defect_5_a_decoder_is_read_at_its_last_real_token(family):
    """Where tokens see only those before them, the first token knows nothing: another last word must change the answer."""
    model, ids = multi.model(family), tiny.ids(4, 2, 6)
    assert model.made_with["pooling"] == ("mean" if family in ENCODERS else "last")
    other = ids.clone()
    other[:, -1] = (ids[:, -1] + 1) % 40
    padded_ids, mask = padded(ids, right=3)
    padded_other, _ = padded(other, right=3)
    one, two = (model(i, mask, task_name="topic")["logits"] for i in (padded_ids, padded_other))
    assert (one - two).abs().min() > 1e-4
    if family not in ENCODERS:
        blind = multi.model(family, pooling="first")
        assert torch.equal(blind(ids, task_name="topic")["logits"], blind(other, task_name="topic")["logits"])


def test_defect_7_names_that_module_dict_refuses_work():
    with pytest.raises(KeyError):
        torch.nn.ModuleDict({"glue.stsb": torch.nn.Linear(1, 1)})
    spec = multi.TASKS["topic"]
    names = ("glue.sst2", "type", "keys", "training", "a b", "x/y")
    heads = TaskHeads(8, dict.fromkeys(names, spec))
    assert len({id(heads[name]) for name in names}) == len(names)
    twin = TaskHeads(8, dict.fromkeys(names, spec))
    twin.load_state_dict(heads.state_dict())
    with pytest.raises(KeyError, match=r"no task 'sst2'; there are glue\.sst2"):
        heads["sst2"]


def test_defect_8_any_backbone_and_only_the_inputs_it_knows():
    ids, types = tiny.ids(2, 2, 5), torch.tensor([[0, 0, 0, 1, 1]] * 2)
    bert, distil = multi.model("bert"), multi.model("distilbert")
    assert not torch.equal(bert(ids, token_type_ids=types, task_name="topic")["logits"], bert(ids, task_name="topic")["logits"])
    assert torch.equal(distil(ids, token_type_ids=types, task_name="topic")["logits"], distil(ids, task_name="topic")["logits"])
    hooked = []
    bert.backbone.register_forward_hook(lambda m, inputs, kwargs, out: hooked.append((kwargs, out)), with_kwargs=True)
    bert(ids, task_name="topic")
    [(kwargs, out)] = hooked
    assert "output_hidden_states" not in kwargs and out.hidden_states is None  # no layer's states are kept for nothing


def test_defect_9_a_wrong_or_missing_task_raises():
    model, ids = multi.model(), tiny.ids()
    with pytest.raises(TypeError, match="task_name"):
        model(ids)
    with pytest.raises(KeyError, match="no task 'sst2'"):
        model(ids, task_name="sst2")
    batch = multi.manager().get_mixed_batch()
    with pytest.raises(ValueError, match="does not say which task"):
        model.forward_mixed({k: v for k, v in batch.items() if k != "task_ids"})
    with pytest.raises(ValueError, match="expected 0 to 4"):
        model.forward_mixed(batch | {"task_ids": batch["task_ids"] + 1})
    with pytest.raises(TypeError, match="'label'"):
        model(ids, task_name="topic", label=torch.zeros(3))
    model(ids, task_name="qa")
    with pytest.raises(TypeError):  # no task is remembered from the call before
        model(ids)


def test_the_head_of_another_task_can_be_shared_if_the_labels_are_the_same():
    specs = {"nli": find_task("nli"), "sick": find_task("sick"), "topic": find_task("topic")}
    model = multi.model(tasks=specs, shared_heads={"sick": "nli"})
    assert model.heads["sick"] is model.heads["nli"] and model.heads["topic"] is not model.heads["nli"]
    shared = model.shared_parameters()
    assert any("task:nli" in n for n in shared) and not any("task:topic" in n for n in shared)
    assert torch.equal(model(tiny.ids(), task_name="sick")["logits"], model(tiny.ids(), task_name="nli")["logits"])
    circle = {"nli": "sick", "sick": "nli"}
    for wrong, words in (({"topic": "nli"}, "cannot share"), ({"sick": "mnli"}, "none of its own"), (circle, "none of its own")):
        with pytest.raises(ValueError, match=words):
            multi.model(tasks=specs, shared_heads=wrong)


def test_kinds_without_a_head_are_refused():
    with pytest.raises(ValueError, match="generation"):
        TaskHeads(8, {"d": find_task("data2text")})
    with pytest.raises(ValueError, match="at least one task"):
        MultitaskModel(multi.backbone(), {})


# ---------------------------------------------------------------- losses


def test_defect_10_a_flat_batch_of_questions_trains():
    model, ids = multi.model(), tiny.ids()
    loss = model(ids, task_name="qa", start_positions=torch.tensor([1, 2, 3]), end_positions=torch.tensor([2, 2, 5])).loss
    loss.backward()
    assert model.heads["qa"].qa_outputs.weight.grad.abs().sum() > 0


def test_defect_11_an_answer_that_was_cut_off_adds_nothing():
    model, ids = multi.model(), tiny.ids()
    start, end = torch.tensor([1, -100, 3]), torch.tensor([2, -100, 5])
    both = model(ids, task_name="qa", start_positions=start, end_positions=end).loss
    remaining = torch.tensor([0, 2])
    only = model(ids[remaining], task_name="qa", start_positions=start[remaining], end_positions=end[remaining]).loss
    torch.testing.assert_close(both, only)
    none = model(ids, task_name="qa", start_positions=torch.full((3,), -100), end_positions=torch.full((3,), -100)).loss
    assert float(none) == 0.0


def test_defects_12_and_13_tags_against_torch_and_a_batch_without_any():
    model, ids = multi.model(), tiny.ids()
    labels = torch.randint(0, 3, (3, 9), generator=torch.Generator().manual_seed(1))
    labels[:, 4:] = -100
    answer = model(ids, task_name="type", labels=labels)
    wanted = F.cross_entropy(answer["logits"].flatten(0, 1), labels.flatten(), ignore_index=-100)
    torch.testing.assert_close(answer.loss, wanted)
    empty = model(ids, task_name="type", labels=torch.full((3, 9), -100)).loss
    assert float(empty) == 0.0 and torch.isnan(F.cross_entropy(answer["logits"].flatten(0, 1), torch.full((27,), -100)))


def test_defect_13_only_the_first_piece_of_a_word_has_a_label():
    tok = tiny_folder.tokenizer()  # byte pairs: words come in pieces
    spec = TaskSpec("t", "tagging", ("tokens",), "tags", ("O", "B-PER"))
    [feature] = encode({"tokens": [["unbelievable", "stories"]], "tags": [[1, 0]]}, spec, tok, 64).features
    assert [label for label in feature["labels"] if label != -100] == [1, 0] and len(feature["labels"]) > 2


def test_defect_14_every_kind_trains_and_its_loss_is_torchs():
    model, ids = multi.model(), tiny.ids()
    numbers, flags = torch.tensor([0.5, 3.0, 4.5]), torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 1]])
    answer = model(ids, task_name="glue.stsb", labels=numbers)
    torch.testing.assert_close(answer.loss, F.mse_loss(answer["logits"][:, 0], numbers))
    answer = model(ids, task_name="keys", labels=flags)
    torch.testing.assert_close(answer.loss, F.binary_cross_entropy_with_logits(answer["logits"], flags))
    [batch] = next(multi.manager())
    losses = [float(answer_loss(model, task, answer, rows)) for task, (answer, rows) in model.forward_mixed(batch).items()]
    assert len(losses) == 5 and all(loss > 0 for loss in losses)


def answer_loss(model, task, answer, rows):
    return model._mean_loss(task, answer, rows)


@pytest.mark.parametrize("head", [ClassificationHead, MultiLabelHead, TokenClassificationHead])
def test_heads_drop_a_tenth_unless_told_otherwise(head):
    assert head(8, 3).dropout.p == RegressionHead(8).dropout.p == 0.1
