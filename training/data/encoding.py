"""From rows to token ids with labels: one encoding per kind of answer. What does not fit in `max_length` is cut and counted.

Prompt tokens get the label -100, so a loss is per answer token (its end-of-text included).
"""

import json
from dataclasses import dataclass, field
from typing import Any

from training.data.chat import answer_of_chat, chat_ids, messages_of, refuse_endless_template
from training.data.ignored import IGNORE
from training.data.tasks import TaskSpec


@dataclass(frozen=True)
class Encoded:
    """One split, ready for batching."""

    features: list[dict]
    """one dictionary per row (plain text: per block): what goes into a batch"""
    truncated: int
    """rows that lost text to `max_length`"""
    places: list[list[Any]] = field(default_factory=list)
    """questions: for each token the characters of the context that it stands for, None outside the context;
    tagging: for each labelled token the number of its word"""

    def answerable(self) -> "Encoded":
        """Without the rows whose whole answer was cut off: there is nothing to learn from them."""
        with_answer = [f for f in self.features if has_answer(f)]
        return Encoded(with_answer, self.truncated)


def encode(rows: dict[str, list], spec: TaskSpec, tokenizer, max_length: int) -> Encoded:
    """Turn rows into lists of ids with labels. A word-level tokenizer that meets an unknown word raises."""
    if spec.kind in ("tagging", "qa") and not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} cannot say which word a token is from: {spec.kind} needs a fast tokenizer")
    encoded = ENCODERS[spec.kind](rows, spec, tokenizer, max_length)
    refuse_unknown_words([f["input_ids"] for f in encoded.features], tokenizer)
    empty = [i for i, f in enumerate(encoded.features) if not f["input_ids"]]
    if empty:
        raise ValueError(f"{len(empty)} rows have no token at all, the first is row {empty[0]}: are their texts empty?")
    return encoded


def prompt_ids(prompt: str | list[dict], spec: TaskSpec, tokenizer) -> list[int]:
    """A prompt as the model was trained to see it: by the chat template when the tokenizer has one, else as text."""
    if not isinstance(prompt, str) or (tokenizer.chat_template and spec.kind != "text"):
        return chat_ids(tokenizer, messages_of(prompt, "user"), add_generation_prompt=True)
    return without_end(tokenizer(prompt + spec.prompt_end)["input_ids"], tokenizer)


def without_end(ids: list[int], tokenizer) -> list[int]:
    """Without the end of text that some tokenizers put after every text: a prompt goes on."""
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def has_answer(feature: dict) -> bool:
    """Whether a label of the row, or its answer in the context, was not cut off."""
    if "start_positions" in feature:
        return feature["start_positions"] != IGNORE
    labels = feature["labels"]
    return not isinstance(labels, list) or any(label != IGNORE for label in labels)


def _texts(rows, spec: TaskSpec) -> list[list[str]]:
    return [list(rows[column]) for column in spec.inputs]


def _encode_labels(rows, spec: TaskSpec, tokenizer, max_length: int) -> Encoded:
    columns = _texts(rows, spec)
    as_text = {"split_special_tokens": True} if tokenizer.is_fast else {}  # "</s>" in a scraped text ends nothing
    encoded = tokenizer(*columns, truncation=True, max_length=max_length, **as_text)
    whole = tokenizer(*columns, verbose=False, **as_text)["input_ids"]
    read = {"regression": float, "multilabel": lambda labels: [float(y) for y in labels]}.get(spec.kind, int)
    wanted = [read(y) for y in rows[spec.target]]
    features = [{**_row(encoded, i), "labels": label} for i, label in enumerate(wanted)]
    return Encoded(features, sum(len(ids) > max_length for ids in whole))


def _encode_tags(rows, spec: TaskSpec, tokenizer, max_length: int) -> Encoded:
    """The first token of each word carries its tag. A word that was cut off, or that the tokenizer makes nothing of, has none."""
    words = [list(row) for row in rows[spec.inputs[0]]]
    if _is_byte_level(tokenizer):
        words = [_spaced(row) for row in words]
    encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)
    features, truncated, places = [], 0, []
    for i, tags in enumerate(rows[spec.target]):
        words = encoded.word_ids(i)
        first = [w is not None and w != before for before, w in zip([None, *words], words, strict=False)]
        labels = [tags[w] if new else IGNORE for w, new in zip(words, first, strict=True)]
        word_count = max((w for w in words if w is not None), default=-1) + 1
        truncated += word_count < len(tags)
        features.append({**_row(encoded, i), "labels": labels})
        places.append([w for w, new in zip(words, first, strict=True) if new])
    return Encoded(features, truncated, places)


def _is_byte_level(tokenizer) -> bool:
    """Whether the tokenizer is one of GPT-2's kind (RoBERTa, Llama 3, Qwen): the space before a word is in its first token."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())["pre_tokenizer"]
    return '"ByteLevel"' in json.dumps(state)


def _spaced(words: list[str]) -> list[str]:
    """The words of a sentence, each with the space that stands before it in the text."""
    return [word if i == 0 or not word else f" {word}" for i, word in enumerate(words)]


def _encode_answers(rows, spec: TaskSpec, tokenizer, max_length: int) -> Encoded:
    """Question and context in the task's order; only the context is cut.

    An answer that was cut off gets the label -100: nothing to learn from, and wrong whatever the model says.
    """
    part_of_context = spec.inputs.index("context")
    _refuse_long_questions(rows["question"], tokenizer, max_length)
    only = ("only_first", "only_second")[part_of_context]
    encoded = tokenizer(*_texts(rows, spec), truncation=only, max_length=max_length, return_offsets_mapping=True)
    features, truncated, all_offsets = [], 0, []
    for i, (answer, context) in enumerate(zip(rows[spec.target], rows["context"], strict=True)):
        parts = zip(encoded["offset_mapping"][i], encoded.sequence_ids(i), strict=True)
        offsets = [(a, b) if part == part_of_context else None for (a, b), part in parts]
        begin, end = answer["answer_start"][0], answer["answer_start"][0] + len(answer["text"][0])
        inside = [j for j, span in enumerate(offsets) if span and span[0] < end and span[1] > begin]
        last = max((span[1] for span in offsets if span), default=0)
        truncated += last < len(context.rstrip())
        whole = bool(inside) and last >= end
        start, stop = (inside[0], inside[-1]) if whole else (IGNORE, IGNORE)
        features.append({**_row(encoded, i), "start_positions": start, "end_positions": stop})
        all_offsets.append(offsets)
    return Encoded(features, truncated, all_offsets)


def _refuse_long_questions(questions: list[str], tokenizer, max_length: int) -> None:
    around = tokenizer.num_special_tokens_to_add(pair=True)
    for i, ids in enumerate(tokenizer(list(questions), add_special_tokens=False, verbose=False)["input_ids"]):
        if len(ids) + around >= max_length:
            raise ValueError(
                f"the question of row {i} has {len(ids)} tokens and leaves no space for the context within {max_length}: "
                "raise max_length, or leave the row out"
            )


def _encode_generation(rows, spec: TaskSpec, tokenizer, max_length: int) -> Encoded:
    features, truncated = [], 0
    for prompt, completion in zip(rows[spec.inputs[0]], rows[spec.target], strict=True):
        if tokenizer.chat_template or not isinstance(prompt, str):
            before = prompt_ids(prompt, spec, tokenizer)
            answer, learnt = answer_of_chat(tokenizer, messages_of(prompt, "user"), messages_of(completion, "assistant"), before)
            ids, labels = [*before, *answer], [IGNORE] * len(before) + learnt
        else:
            ids, labels = _joined(prompt + spec.prompt_end, " " * bool(spec.prompt_end) + completion, tokenizer)
        truncated += len(ids) > max_length
        ids, labels = ids[:max_length], labels[:max_length]
        features.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    if tokenizer.chat_template:
        refuse_endless_template(tokenizer)
    return Encoded(features, truncated)


def _joined(prompt: str, completion: str, tokenizer) -> tuple[list[int], list[int]]:
    """(ids, labels) of the text as a whole and its end. A token with a character of the completion belongs to the answer.

    Two pieces that are tokenised apart would give other tokens: SentencePiece puts a space before each text.
    """
    if not tokenizer.is_fast:  # no characters of tokens: the answer begins where the ids stop being those of the prompt alone
        alone, ids = (without_end(tokenizer(text)["input_ids"], tokenizer) for text in (prompt, prompt + completion))
        start = next((i for i, (a, b) in enumerate(zip(alone, ids, strict=False)) if a != b), min(len(alone), len(ids)))
    else:
        whole = tokenizer(prompt + completion, return_offsets_mapping=True)
        ids = without_end(whole["input_ids"], tokenizer)
        ends = [end for _, end in whole["offset_mapping"][: len(ids)]]
        start = next((i for i, end in enumerate(ends) if end > len(prompt)), len(ids))
    return [*ids, tokenizer.eos_token_id], [IGNORE] * start + ids[start:] + [tokenizer.eos_token_id]


def _encode_text(rows, spec: TaskSpec, tokenizer, max_length: int) -> Encoded:
    """All texts in one stream, an end of text after each, cut into blocks of `max_length`: nothing is lost."""
    texts = [text for text in rows[spec.target] if text.strip()]
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    stream = [token for text in ids for token in (*text, tokenizer.eos_token_id)]
    blocks = [stream[i : i + max_length] for i in range(0, len(stream), max_length)]
    blocks = [b for b in blocks if len(b) > 1]  # the first token of a block is predicted by nothing
    return Encoded([{"input_ids": b, "attention_mask": [1] * len(b), "labels": list(b)} for b in blocks], 0)


ENCODERS = {
    "classification": _encode_labels,
    "regression": _encode_labels,
    "multilabel": _encode_labels,
    "tagging": _encode_tags,
    "qa": _encode_answers,
    "generation": _encode_generation,
    "text": _encode_text,
}


def _row(encoded, i: int) -> dict:
    return {k: encoded[k][i] for k in ("input_ids", "token_type_ids", "attention_mask") if k in encoded}


def refuse_unknown_words(rows: list[list[int]], tokenizer) -> None:
    """ValueError where a word-level tokenizer met a word that it does not know."""
    core = getattr(tokenizer, "backend_tokenizer", None)  # a tokenizer written in Python has none
    if core is None or core.model.__class__.__name__ != "WordLevel":
        return
    unknown = sum(ids.count(tokenizer.unk_token_id) for ids in rows)
    if unknown:
        raise ValueError(
            f"{unknown} words are not in the small world's vocabulary: its word-level tokenizer is not for real text. "
            "Choose a model with a tokenizer of its own (--model FOLDER or a Hub name)"
        )
