"""Losses as sums beside counts, so that any split into batches gives the same mean; and the metric of each kind of task."""

from collections.abc import Iterable

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef
from torch import Tensor
from torch.nn import functional as F

from training.tasks import TaskSpec


def loss_sum(kind: str, outputs, batch: dict[str, Tensor]) -> Tensor:
    """The summed loss of one batch; divided by `answer_count` it is the mean. Token losses skip the label -100."""
    if kind == "qa":
        starts = F.cross_entropy(_wide(outputs.start_logits), batch["start_positions"], reduction="sum")
        ends = F.cross_entropy(_wide(outputs.end_logits), batch["end_positions"], reduction="sum")
        return (starts + ends) / 2
    logits, labels = outputs.logits, batch["labels"]
    if kind == "regression":
        return F.mse_loss(_wide(logits.squeeze(-1)), _wide(labels), reduction="sum")
    if kind == "generation":  # position t predicts token t + 1
        logits, labels = logits[:, :-1], labels[:, 1:]
    return F.cross_entropy(_wide(logits.flatten(0, -2)), labels.flatten(), ignore_index=-100, reduction="sum")


def answer_count(kind: str, batch: dict[str, Tensor]) -> int:
    """How many answers a batch asks for: rows, or tokens with a label (the first token of a text is predicted by nothing)."""
    if kind == "generation":
        return int((batch["labels"][:, 1:] != -100).sum())
    if kind == "tagging":
        return int((batch["labels"] != -100).sum())
    if kind == "qa":
        return int((batch["start_positions"] != -100).sum())
    return len(batch["input_ids"])


def score(spec: TaskSpec, outputs: list, batches: list[dict[str, Tensor]]) -> float:
    """The task's metric over all batches. `outputs` are the model's, in the order of `batches`."""
    if spec.kind == "qa":
        return exact_match(outputs, batches)
    if spec.kind == "tagging":
        rows = [(row, b["labels"][i]) for o, b in zip(outputs, batches, strict=True) for i, row in enumerate(o.logits.argmax(-1))]
        pairs = [(_tags(p, y, spec.labels), _tags(y, y, spec.labels)) for p, y in rows]
        return span_f1([p for p, _ in pairs], [y for _, y in pairs], lost=int(sum(b["lost_spans"].sum() for b in batches)))
    truth = torch.cat([b["labels"] for b in batches]).numpy()
    if spec.kind == "regression":
        guess = torch.cat([o.logits.squeeze(-1) for o in outputs]).float().numpy()
        correlations = [float(f(guess, truth)[0]) for f in (pearsonr, spearmanr)]  # pyright: ignore[reportArgumentType]
        return sum(correlations) / 2
    guess = torch.cat([o.logits.argmax(-1) for o in outputs]).numpy()
    if spec.metric == "matthews":
        return float(matthews_corrcoef(truth, guess))
    if spec.metric == "f1":
        return float(f1_score(truth, guess))
    return float(np.mean(truth == guess))


def exact_match(outputs: list, batches: list[dict[str, Tensor]]) -> float:
    """Share of the answers whose first and last token are both right. An answer that was cut off (-100) is never right."""
    right = [
        (o.start_logits.argmax(-1) == b["start_positions"]) & (o.end_logits.argmax(-1) == b["end_positions"])
        for o, b in zip(outputs, batches, strict=True)
    ]
    return torch.cat(right).float().mean().item()


def span_f1(guesses: list[list[str]], truths: list[list[str]], lost: int = 0) -> float:
    """Micro F1 over whole entities (CoNLL-2003): a span counts when its type and both ends are right. 0.0 without a hit.

    `lost` spans stood in text that was cut off: they were to be found and were not.
    """
    hits = found = 0
    wanted = lost
    for guess, truth in zip(guesses, truths, strict=True):
        a, b = spans(guess), spans(truth)
        hits, found, wanted = hits + len(a & b), found + len(a), wanted + len(b)
    return 2 * hits / (found + wanted) if hits else 0.0


def spans(tags: Iterable[str]) -> set[tuple[str, int, int]]:
    """Entities (type, start, end) of a BIO sequence. An I that continues nothing starts an entity, as in conlleval."""
    found, kind, start, end = set(), None, 0, 0
    for end, tag in enumerate([*tags, "O"]):
        prefix, _, name = tag.partition("-")
        if kind is not None and (prefix != "I" or name != kind):
            found.add((kind, start, end))
            kind = None
        if prefix in ("B", "I") and kind is None:
            kind, start = name, end
    return found


def _wide(values: Tensor) -> Tensor:
    """Losses are summed in float32 or wider, whatever autocast did before."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _tags(ids: Tensor, truth: Tensor, labels: tuple[str, ...]) -> list[str]:
    return [labels[i] for i in ids[truth != -100].tolist()]
