"""A model's loss and scores on a whole split, shared out over the processes: every row counts once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import Tensor, nn

from training.data.batching import Batch, batches
from training.data.encoding import Encoded
from training.data.ignored import IGNORE
from training.data.tasks import TaskSpec
from training.evaluation import metrics
from training.evaluation.vocabulary import loss_from_hidden
from training.loop import processes
from training.loop.loop import Objective

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class HeldOut:
    """Rows to evaluate on, and their encoding."""

    spec: TaskSpec
    rows: Dataset
    encoded: Encoded
    counts: dict[str, Any] = field(default_factory=dict)
    """what was read, by split (`read_counts.counts_of`)"""


def objective_of(kind: str, penalty: Callable[[nn.Module], Tensor | float] | None = None) -> Objective:
    """The loss of a kind of task, as the loop wants it. `penalty` is added once to the mean loss of a step."""

    def loss_sum(model: nn.Module, batch: Batch) -> Tensor:
        loss = _loss_sum(kind, model, batch)
        return loss if penalty is None else loss + penalty(model) * metrics.answer_count(kind, batch)

    return Objective(loss_sum, lambda batch: metrics.answer_count(kind, batch))


def _loss_sum(kind: str, model: nn.Module, batch: Batch) -> Tensor:
    """A language model with many words needs no logits for its loss."""
    inputs = model_inputs(batch)
    loss = loss_from_hidden(model, inputs, batch["labels"]) if kind in ("generation", "text") else None
    return metrics.loss_sum(kind, model(**inputs), batch) if loss is None else loss


def model_inputs(batch: Batch) -> Batch:
    return {k: v for k, v in batch.items() if k in MODEL_INPUTS}


@contextmanager
def answering(model: nn.Module) -> Iterator[None]:
    """In eval mode and without gradients; each module's own mode comes back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def evaluate(
    model,
    held_out: HeldOut,
    tokenizer,
    accelerator: Accelerator,
    batch_size: int = 64,
    scores: Callable[[HeldOut, list], dict[str, float]] | None = None,
) -> dict[str, float]:
    """{eval_loss, and the scores of the task, its metric among them}. Language modelling has the loss alone.

    scores: a function of your own in the place of `score`, from the guesses of all rows to numbers.
    The model answers in eval mode; its own mode comes back. ValueError when no row has an answer left.
    """
    kind, features = held_out.spec.kind, held_out.encoded.features
    summed = count = 0.0
    guesses: list[Any] = []
    places = processes.share(held_out.encoded.places, accelerator)
    with answering(model):
        for batch in batches(processes.share(features, accelerator), tokenizer, batch_size):
            here = {k: v.to(accelerator.device) for k, v in batch.items()}
            count += metrics.answer_count(kind, batch)
            with accelerator.autocast():
                if held_out.spec.is_language_modelling:
                    summed += float(_loss_sum(kind, model, here))
                    continue
                out = model(**model_inputs(here))
            summed += float(metrics.loss_sum(kind, out, here))
            guesses += _guesses(kind, out, batch, places[len(guesses) :])
    summed, count = processes.total((summed, count), accelerator)
    if not count:
        raise ValueError(
            f"no answer of the evaluation examples is left after cutting texts (task {held_out.spec.name}): raise max_length"
        )
    return {"eval_loss": summed / count} | (scores or score)(held_out, processes.gather(guesses, accelerator))


def _guesses(kind: str, out, batch: Batch, places: list) -> list:
    """What the model answers, row by row: a label, a number, the tags of the words, or (first, last) character."""
    if kind == "qa":
        rows = zip(out.start_logits.float().cpu(), out.end_logits.float().cpu(), places, strict=False)
        return [_characters(start, end, spans) for start, end, spans in rows]
    if kind == "regression":
        return out.logits.float().squeeze(-1).tolist()
    if kind == "multilabel":
        return (out.logits > 0).long().tolist()
    labels = out.logits.argmax(-1).cpu()
    if kind == "classification":
        return labels.tolist()
    return [row[truth != IGNORE].tolist() for row, truth in zip(labels, batch["labels"], strict=True)]


def _characters(start_logits: Tensor, end_logits: Tensor, offsets: list) -> tuple[int, int]:
    allowed = torch.tensor([span is not None for span in offsets])
    if not allowed.any():
        return 0, 0
    first, last = metrics.best_span(start_logits[: len(offsets)], end_logits[: len(offsets)], allowed)
    return offsets[first][0], offsets[last][1]


def score(held_out: HeldOut, guesses: list) -> dict[str, float]:
    """The scores of all guesses, in the order of the rows."""
    spec, rows, features = held_out.spec, held_out.rows, held_out.encoded.features
    if spec.is_language_modelling:
        return {}
    if spec.kind == "qa":
        texts = [context[a:b] for context, (a, b) in zip(rows["context"], guesses, strict=True)]
        return metrics.answer_scores(texts, [answers["text"] for answers in rows[spec.target]])
    if spec.kind != "tagging":
        return metrics.label_scores(guesses, [f["labels"] for f in features], spec.metric)
    truths = [[spec.labels[t] for t in tags] for tags in rows[spec.target]]
    tagss = [_by_word(spec, *row) for row in zip(guesses, held_out.encoded.places, map(len, truths), strict=True)]
    metric = metrics.span_f1 if spec.metric == "span_f1" else metrics.tag_accuracy
    return {spec.metric: metric(tagss, truths)}


def _by_word(spec: TaskSpec, guess: list[int], words: list[int], count: int) -> list[str]:
    """A tag for each of the row's words. Those that the model never saw get O, which is no entity and no part of speech."""
    tags = ["O"] * count
    for word, label in zip(words, guess, strict=True):
        tags[word] = spec.labels[label]
    return tags
