"""On which side are rows padded? A row's answer must not depend on the rows beside it, and that is looked at before training.

Most models may be padded on the right. XLNet's classifier reads the last place, so its rows are padded on the left. A model that
mixes in what stands at padded places (FNet) has no right side, and is refused.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from training.data.batching import Batch, pad
from training.evaluation.evaluation import MODEL_INPUTS, answering, model_inputs

TOLERANCE = 1e-3
"""of the largest answer; float32 sums in another order differ by about 1e-6 of it. In half precision it is 8 roundings."""


def choose_padding_side(model: Any, tokenizer: Any, features: list[dict], name: str) -> None:
    """Sets `tokenizer.padding_side` to the side on which answers to `features` do not depend on other rows.

    Two passes of the model over the shortest and the longest row. ValueError where both sides fail.
    """
    alone, pair = _shortest_and_longest(features)
    if len(alone["input_ids"]) == len(pair[1]["input_ids"]):
        return  # nothing would be padded
    by_row = not isinstance(alone.get("labels"), list) and "start_positions" not in alone
    sides = [tokenizer.padding_side, *({"left", "right"} - {tokenizer.padding_side})] if by_row else ["right"]
    for side in sides:
        answers = lambda batch: _answers(_first_pass(model, batch, name))  # noqa: E731
        if _independent(answers, alone, pair, tokenizer.pad_token_id, side, model, by_row):
            if by_row:
                tokenizer.padding_side = side
            return
    raise ValueError(neighbours_matter(model, name))


def check_states(backbone: Any, pad_id: int, features: list[dict], name: str) -> None:
    """The same for a backbone without a head, padded on the right. ValueError where its states depend on other rows."""
    alone, pair = _shortest_and_longest(features)
    states = lambda batch: [backbone(**model_inputs(batch)).last_hidden_state]  # noqa: E731
    if len(alone["input_ids"]) < len(pair[1]["input_ids"]) and not _independent(states, alone, pair, pad_id, "right", backbone):
        raise ValueError(neighbours_matter(backbone, name))


def neighbours_matter(model: Any, name: str) -> str:
    return (
        f"model {name!r} ({type(model).__name__}): its answer to a text changes with the other texts of the batch, on "
        "whichever side they are padded: it does not look at the attention mask. Its scores would depend on the batch size"
    )


def _shortest_and_longest(features: list[dict]) -> tuple[dict, list[dict]]:
    ordered = sorted(features, key=lambda feature: len(feature["input_ids"]))
    return ordered[0], [ordered[0], ordered[-1]]


def _independent(
    answers: Callable[[Batch], Iterable[Tensor]],
    alone: dict,
    pair: list[dict],
    pad_id: int,
    side: str,
    model: Any,
    by_row: bool = False,
) -> bool:
    """Whether the first answer is the same alone and beside a longer row. by_row: one answer a row, else one a token."""
    device, length = next(model.parameters()).device, len(alone["input_ids"])
    results = []
    with answering(model):
        for rows in ([alone], pair):
            batch = pad([{k: row[k] for k in MODEL_INPUTS if k in row} for row in rows], pad_id, left=side == "left")
            width = batch["input_ids"].shape[1]
            here = slice(width - length, None) if side == "left" else slice(length)
            outputs = answers({k: v.to(device) for k, v in batch.items()})
            results.append([t[0] if by_row else t[0][-width:][here] for t in outputs])  # a prompt's own places come first
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    tolerance = max(TOLERANCE, 8 * torch.finfo(dtype).eps)
    close = lambda a, b: bool((a - b).abs().max() <= tolerance * (b.abs().max() + 1e-6))  # noqa: E731
    return all(close(a.float(), b.float()) for a, b in zip(*results, strict=True))


def _first_pass(model: Any, batch: Batch, name: str) -> Any:
    try:
        return model(**model_inputs(batch))
    except AssertionError as error:  # Longformer wants RoBERTa's separators around a question
        raise ValueError(f"model {name!r} ({type(model).__name__}) does not take these rows: {error}") from error


def _answers(out: Any) -> list[Tensor]:
    return [out.start_logits, out.end_logits] if hasattr(out, "start_logits") else [out.logits]
