"""Text from a trained decoder: batches of prompts, padded on the left, each continued until its end of text."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from training.data.chat import end_of_turn
from training.data.encoding import prompt_ids, refuse_unknown_words
from training.data.tasks import TaskSpec
from training.evaluation.evaluation import answering
from training.models.base_models import window

DECODING: dict[str, dict[str, Any]] = {
    "greedy": {"num_beams": 1},
    # what the authors of LoRA decoded E2E with (their repository's README; Hu et al. 2021, appendix D.3)
    "lora_paper": {"num_beams": 10, "length_penalty": 0.8, "no_repeat_ngram_size": 4},
}


TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")


@dataclass(frozen=True)
class Sample:
    """A prompt, what the model made of it, and what people wrote."""

    prompt: Any
    text: str
    references: list[str]

    @property
    def reference(self) -> str:
        return self.references[0]


def references_by_prompt(rows, spec: TaskSpec) -> list[tuple[Any, list[str]]]:
    """Each distinct prompt once, in order, with all its references: a meaning may have been written about many times."""
    references: dict[str, tuple[Any, list[str]]] = {}
    for prompt, reference in zip(rows[spec.inputs[0]], rows[spec.target], strict=True):
        text = reference if isinstance(reference, str) else " ".join(m["content"] for m in reference)
        references.setdefault(str(prompt), (prompt, []))[1].append(text)
    return list(references.values())


def generate_samples(
    model, tokenizer, prompts: list[tuple[Any, list[str]]], spec: TaskSpec, decoding: str = "greedy", **options: Any
) -> list[Sample]:
    """Continue prompts and put the results beside their references. `options` as in `generate_texts`."""
    ids = checked_prompts([p for p, _ in prompts], spec, model, tokenizer)
    texts = generate_texts(model, tokenizer, ids, decoding, **options)
    return [Sample(prompt, text, references) for (prompt, references), text in zip(prompts, texts, strict=True)]


def checked_prompts(prompts: list, spec: TaskSpec, model, tokenizer) -> list[list[int]]:
    """The prompts as ids. ValueError for one that is empty, leaves no space for an answer, or has unknown words."""
    ids = [prompt_ids(p, spec, tokenizer) for p in prompts]
    refuse_unknown_words(ids, tokenizer)
    _refuse_prompts_that_do_not_fit(ids, window(model, tokenizer))
    return ids


def _refuse_prompts_that_do_not_fit(prompts: list[list[int]], most: int) -> None:
    for i, ids in enumerate(prompts):
        if not ids:
            raise ValueError(f"prompt {i} has no token: there is nothing to continue")
        if len(ids) >= most:
            raise ValueError(f"prompt {i} has {len(ids)} tokens and the model's window is {most}: no space for an answer")


def generate_texts(
    model, tokenizer, prompts: list[list[int]], decoding: str = "greedy", max_new_tokens: int = 128, batch_size: int = 32
) -> list[str]:
    """The continuations, without their prompts, in the given order.

    ValueError for an unknown decoding, or for a prompt that leaves no space in the model's window.
    """
    if decoding not in DECODING:
        raise ValueError(f"decoding {decoding!r} is unknown; there are {', '.join(DECODING)}")
    written = continue_prompts(model, tokenizer, prompts, max_new_tokens, batch_size, do_sample=False, **DECODING[decoding])
    return [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in written]


def continue_prompts(
    model, tokenizer, prompts: list[list[int]], max_new_tokens: int, batch_size: int = 32, **how: Any
) -> list[list[int]]:
    """The ids that the model adds to each prompt, up to and with its end of text where it came; `how` as for transformers'
    generate. Prompts of similar length go together; the result is in the given order, and the model's mode stays.

    ValueError for a prompt that leaves no space in the model's window.
    """
    most = window(model, tokenizer)
    _refuse_prompts_that_do_not_fit(prompts, most)
    written: list[list[int]] = [[]] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    with answering(model):
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            space = min(max_new_tokens, most - len(prompts[part[-1]]))
            for i, ids in zip(part, _continue(model, tokenizer, [prompts[i] for i in part], space, how), strict=True):
                written[i] = ids
    return written


def ends_of_text(model, tokenizer) -> list[int]:
    """The tokenizer's end of text, the end of a turn in its chat template, and the ends in the model's generation settings."""
    named = getattr(model.generation_config, "eos_token_id", None)
    more = named if isinstance(named, list) else [named]
    return sorted({i for i in (tokenizer.eos_token_id, end_of_turn(tokenizer), *more) if i is not None})


@contextmanager
def _without_recommendations(model) -> Iterator[None]:
    """Without what the model's folder recommends (penalties, sampling, beams): a decoding is what its name says.

    The ids of special tokens stay: they belong to the model.
    """
    before = model.generation_config
    model.generation_config = GenerationConfig(**{name: getattr(before, name, None) for name in TOKEN_IDS})
    try:
        yield
    finally:
        model.generation_config = before


def _continue(model, tokenizer, prompts: list[list[int]], max_new_tokens: int, how: dict[str, Any]) -> list[list[int]]:
    width, device = max(map(len, prompts)), next(model.parameters()).device
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    ends = ends_of_text(model, tokenizer)
    stop = {"max_new_tokens": max_new_tokens, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": ends}
    with _without_recommendations(model):
        rows = model.generate(ids, attention_mask=mask, **stop, **how)[:, width:].tolist()
    lengths = (next((i + 1 for i, token in enumerate(row) if token in ends), len(row)) for row in rows)
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]
