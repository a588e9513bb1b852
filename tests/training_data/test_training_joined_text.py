"""A prompt and its completion are tokenised as one text, and the answer begins at its first character."""

import pytest
from family_models import tokenizer_of
from hypothesis import given
from hypothesis import strategies as st

from training.data.encoding import encode, prompt_ids
from training.data.ignored import IGNORE
from training.data.tasks import find_task

PROMPT, E2E, SST2 = (find_task(name) for name in ("prompt", "e2e_nlg", "sst2"))
TOKENIZERS = {kind: tokenizer_of(kind, "right", ends=False) for kind in ("bytes", "pieces")}
ENDING = {kind: tokenizer_of(kind, "right", ends=True) for kind in ("bytes", "pieces")}
TEXT = st.text("ab dé\n!", min_size=1, max_size=9)


@given(TEXT, TEXT, st.sampled_from(["bytes", "pieces"]), st.booleans())
def test_the_ids_are_those_of_the_whole_text(prompt, completion, kind, ending):
    """Also where the tokenizer ends every text by itself: then its end is there once."""
    tokenizer = (ENDING if ending else TOKENIZERS)[kind]
    feature = encode({"prompt": [prompt], "completion": [completion]}, PROMPT, tokenizer, 500).features[0]
    whole = tokenizer(prompt + completion)["input_ids"]
    assert feature["input_ids"] == (whole if ending else [*whole, tokenizer.eos_token_id])
    learnt = [i for i, label in enumerate(feature["labels"]) if label != IGNORE]
    assert learnt == list(range(learnt[0], len(whole) + (not ending))), "one stretch, to the end"
    offsets = tokenizer(prompt + completion, return_offsets_mapping=True)["offset_mapping"]
    for place, (_, end) in enumerate(offsets[: len(whole) - ending]):
        assert (place in learnt) == (end > len(prompt) or place > learnt[0]), (place, offsets)


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_no_end_of_text_stands_before_the_answer(kind):
    tokenizer = ENDING[kind]
    assert tokenizer.eos_token_id not in prompt_ids("who is it", PROMPT, tokenizer)
    feature = encode({E2E.inputs[0]: ["name[it]"], E2E.target: ["it is good"]}, E2E, tokenizer, 99).features[0]
    assert feature["input_ids"].count(tokenizer.eos_token_id) == 1 and feature["input_ids"][-1] == tokenizer.eos_token_id
    start = prompt_ids("name[it]", E2E, tokenizer)
    assert feature["input_ids"][: len(start)] == start


def test_a_special_token_inside_a_text_is_text():
    tokenizer = ENDING["bytes"]
    rows = {"sentence": ["a bad </s> film", "a <s>good</s> one"], "label": [0, 1]}
    for feature in encode(rows, SST2, tokenizer, 99).features:
        assert feature["input_ids"].count(tokenizer.eos_token_id) == 1
        assert feature["input_ids"].count(tokenizer.bos_token_id) == 1
