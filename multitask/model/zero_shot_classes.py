"""A new labelled task without one labelled example, through the head of an NLI task (Yin et al. 2019, section 4).

text, "it is about sport ."  ─▶  p(entailment)      the label whose sentence follows most surely is the answer
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from multitask.model.multitask_model import MultitaskModel
from training.data.batching import batches
from training.data.encoding import refuse_unknown_words
from training.evaluation.evaluation import answering
from training.models.base_models import window

ENTAILMENT = "entailment"


@torch.no_grad()
def zero_shot(
    model: MultitaskModel,
    tokenizer: Any,
    texts: Sequence[str],
    hypotheses: Sequence[str],
    nli_task: str = "nli",
    max_length: int = 128,
    batch_size: int = 64,
) -> Tensor:
    """Log-probabilities (texts, hypotheses) that each hypothesis follows; argmax is the label.

    KeyError for an unknown task, ValueError for one without the label `entailment`.
    """
    model.number(nli_task)
    max_length = min(max_length, window(model.backbone, tokenizer))
    labels = model.tasks[nli_task].labels
    if ENTAILMENT not in labels:
        raise ValueError(f"task {nli_task!r} has the labels {labels}: zero-shot needs one named {ENTAILMENT}")
    place = labels.index(ENTAILMENT)
    premises = [text for text in texts for _ in hypotheses]
    encoded = tokenizer(premises, list(hypotheses) * len(texts), truncation="only_first", max_length=max_length)
    refuse_unknown_words(encoded["input_ids"], tokenizer)
    rows = [{name: encoded[name][i] for name in encoded} for i in range(len(texts) * len(hypotheses))]
    device, predictions = next(model.parameters()).device, []
    with answering(model):
        for batch in batches(rows, tokenizer, batch_size):
            logits = model(**{k: v.to(device) for k, v in batch.items()}, task_name=nli_task)["logits"]
            predictions.append(logits.float().log_softmax(-1)[:, place].cpu())
    return torch.cat(predictions).view(len(texts), len(hypotheses))
