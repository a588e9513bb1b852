"""A row's answer does not depend on the rows beside it: the side of the padding is found, or the model is refused."""

import families
import pytest
import torch
from family_models import FAMILIES, tokenizer_of

from multitask.model.task_embeddings import TaskEmbeddings
from training.data.batching import batches, pad, pads_left
from training.data.tasks import find_task
from training.evaluation.padding import check_states, choose_padding_side
from training.models.base_models import Source, load_backbone, load_base

SPEC = find_task("sst2")
ROWS = [{"input_ids": [2, 9, 3], "attention_mask": [1] * 3, "labels": 1}]
ROWS += [{"input_ids": [2, *range(10, 30), 3], "attention_mask": [1] * 22, "labels": 0}]


def folder_of(name: str, tmp_path, side: str = "right") -> str:
    from dataclasses import replace

    return families.save_family(replace(FAMILIES[name], side=side), tmp_path / f"{name}-{side}")


@pytest.mark.parametrize(
    ("name", "given", "result"),
    [("XLNet", "right", "left"), ("XLNet", "left", "left"), ("GPT-2", "left", "right"), ("Llama", "left", "left")],
)
def test_the_side_is_found(name, given, result, tmp_path):
    """XLNet reads the last place; GPT-2 counts positions from the first one; with rotations either side will do."""
    base = load_base(SPEC, folder_of(name, tmp_path, given))
    choose_padding_side(base.model, base.tokenizer, ROWS, name)
    assert base.tokenizer.padding_side == result
    with torch.no_grad():
        [alone] = (base.model.eval()(**_inputs(b)).logits[0] for b in batches(ROWS[:1], base.tokenizer, 2))
        [beside] = (base.model(**_inputs(b)).logits[0] for b in batches(ROWS, base.tokenizer, 2))
    torch.testing.assert_close(alone, beside, rtol=0, atol=1e-5)


def _inputs(batch):
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.fault
def test_a_model_that_mixes_in_the_padding_is_refused(tmp_path):
    folder = folder_of("FNet", tmp_path)
    base = load_base(SPEC, folder)
    with pytest.raises(ValueError, match=r"FNetForSequenceClassification.*changes with the other texts of the batch"):
        choose_padding_side(base.model, base.tokenizer, ROWS, folder)
    backbone, tokenizer = load_backbone(Source(folder))
    with pytest.raises(ValueError, match="FNetModel"):
        check_states(backbone, tokenizer.pad_token_id, ROWS, folder)


def test_answers_for_tokens_are_padded_on_the_right_whatever_the_tokenizer_says():
    tokenizer = tokenizer_of("pieces", "left", ends=False)
    tokens = {"input_ids": [1, 2], "labels": [1, 2]}
    assert pads_left(tokenizer, ROWS[0]) and not pads_left(tokenizer, tokens)
    assert not pads_left(tokenizer, {"input_ids": [1], "start_positions": 0})
    assert pad([{"input_ids": [1]}, {"input_ids": [2, 3]}], 7, left=True)["input_ids"].tolist() == [[7, 1], [2, 3]]


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["input", "layer_norm"])
def test_task_embeddings_refuse_a_model_with_time_first(kind, tmp_path):
    backbone, _ = load_backbone(Source(folder_of("XLNet", tmp_path)))
    with pytest.raises(ValueError, match=r"XLNetModel: its states do not have the rows of a batch in their first dimension"):
        TaskEmbeddings(backbone, 2, kind)
    fine, _ = load_backbone(Source(folder_of("MPNet", tmp_path)))
    TaskEmbeddings(fine, 2, kind)


def test_rows_of_several_kinds_are_looked_at_together(tmp_path):
    """A multitask run has tags beside labels and spans: only what the model reads counts."""
    backbone, tokenizer = load_backbone(Source(folder_of("BERT", tmp_path)))
    tags = {"input_ids": [2, 3], "attention_mask": [1, 1], "labels": [0, 1]}
    span = {"input_ids": [2, 5, 6, 3], "attention_mask": [1] * 4, "start_positions": 1, "end_positions": 2}
    check_states(backbone, tokenizer.pad_token_id, [tags, ROWS[0], ROWS[1], span], "BERT")
