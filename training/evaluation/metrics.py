"""Losses as sums beside counts, so that any split into batches gives the same mean; and the metrics of labels and spans."""

import re
import string
from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.ignored import IGNORE


def loss_sum(kind: str, outputs, batch: dict[str, Tensor]) -> Tensor:
    """The summed loss of one batch; divided by `answer_count` it is the mean. Token losses skip the label -100."""
    if kind == "qa":
        padding = batch["attention_mask"] == 0  # no place for an answer, or the loss would depend on a row's neighbours
        starts, ends = (
            F.cross_entropy(
                _wide(logits).masked_fill(padding, -torch.inf), batch[f"{name}_positions"], ignore_index=IGNORE, reduction="sum"
            )
            for name, logits in (("start", outputs.start_logits), ("end", outputs.end_logits))
        )
        return (starts + ends) / 2
    logits, labels = outputs.logits, batch["labels"]
    if kind == "regression":
        wide = _wide(logits.squeeze(-1))
        return F.mse_loss(wide, labels.to(wide), reduction="sum")
    if kind == "multilabel":  # every label is a question of its own; a row's loss is their mean
        wide = _wide(logits)
        return F.binary_cross_entropy_with_logits(wide, labels.to(wide), reduction="none").mean(-1).sum()
    if kind in ("generation", "text"):  # position t predicts token t + 1
        logits = logits[:, -labels.shape[1] :]  # a prompt's virtual tokens have logits too, in front
        logits, labels = logits[:, :-1], labels[:, 1:]
    return F.cross_entropy(_wide(logits.flatten(0, -2)), labels.flatten(), ignore_index=IGNORE, reduction="sum")


def answer_count(kind: str, batch: dict[str, Tensor]) -> int:
    """How many answers a batch asks for: rows, or tokens with a label (the first token of a text is predicted by nothing)."""
    if kind in ("generation", "text"):
        return int((batch["labels"][:, 1:] != IGNORE).sum())
    if kind == "tagging":
        return int((batch["labels"] != IGNORE).sum())
    if kind == "qa":
        return int((batch["start_positions"] != IGNORE).sum())
    return len(batch["input_ids"])


def label_scores(guess: list, truth: list, metric: str) -> dict[str, float]:
    """Scores of one label or number per row, `metric` among them: as GLUE defines them (Wang et al. 2018, table 1).

    A correlation with constant guesses is not defined and counts as 0.
    """
    if metric == "accuracy":
        return {"accuracy": float(np.mean(np.asarray(guess) == np.asarray(truth)))}
    from scipy.stats import pearsonr, spearmanr  # here: a second at the start of every command, and few need them
    from sklearn.metrics import f1_score, matthews_corrcoef

    if metric == "pearson_spearman":
        constant = len(set(guess)) == 1 or len(set(truth)) == 1
        p, s = (0.0 if constant else float(f(guess, truth)[0]) for f in (pearsonr, spearmanr))  # pyright: ignore
        return {"pearson": p, "spearman": s, "pearson_spearman": (p + s) / 2}
    if metric == "micro_f1":
        wanted, predicted = np.asarray(truth, dtype=int), np.asarray(guess)
        whole = float((wanted == predicted).all(-1).mean())
        return {"micro_f1": float(f1_score(wanted, predicted, average="micro", zero_division=0.0)), "whole_rows": whole}  # pyright: ignore
    scores = label_scores(guess, truth, "accuracy")
    if metric == "matthews":
        scores["matthews"] = float(matthews_corrcoef(truth, guess))
    if metric == "f1":
        scores["f1"] = float(f1_score(truth, guess, zero_division=0.0))  # pyright: ignore[reportArgumentType]
    return scores


def tag_accuracy(guesses: list[list[str]], truths: list[list[str]]) -> float:
    """Share of the words whose tag is right."""
    right = sum(g == t for guess, truth in zip(guesses, truths, strict=True) for g, t in zip(guess, truth, strict=True))
    return right / sum(map(len, truths))


def span_f1(guesses: list[list[str]], truths: list[list[str]]) -> float:
    """Micro F1 over whole entities (CoNLL-2003): a span counts when its type and both ends are right. 0.0 without a hit."""
    hits = predicted = wanted = 0
    for guess, truth in zip(guesses, truths, strict=True):
        a, b = spans(guess), spans(truth)
        hits, predicted, wanted = hits + len(a & b), predicted + len(a), wanted + len(b)
    return 2 * hits / (predicted + wanted) if hits else 0.0


def spans(tags: Iterable[str]) -> set[tuple[str, int, int]]:
    """Entities (type, start, end) of a sequence of tags, as in conlleval: an I that continues nothing starts an entity.

    BIO, IOBES and BILOU (an S or U is an entity of one word, an E or L ends one), and IO (a tag without prefix is a type).
    """
    spans, kind, start, before = set(), None, 0, "O"
    for end, tag in enumerate([*tags, "O"]):
        prefix, name = _parts(tag)
        if kind is not None and (prefix not in "IEL" or name != kind or before in "SUEL"):
            spans.add((kind, start, end))
            kind = None
        if prefix != "O" and kind is None:
            kind, start = name, end
        before = prefix
    return spans


def _parts(tag: str) -> tuple[str, str]:
    """(prefix, type); a type without prefix continues an entity of the same type."""
    prefix, dash, name = tag.partition("-")
    if dash and prefix in ("B", "I", "E", "S", "L", "U"):
        return prefix, name
    return ("O", "") if tag == "O" else ("I", tag)


# ---------------------------------------------------------------- answers in text (SQuAD)


def answer_scores(guesses: list[str], truths: list[list[str]]) -> dict[str, float]:
    """Exact match and word F1, each against the best of a question's answers (Rajpurkar et al. 2016, section 5)."""
    pairs = list(zip(guesses, truths, strict=True))
    return {
        "exact_match": float(np.mean([max(_normal(g) == _normal(t) for t in answers) for g, answers in pairs])),
        "f1": float(np.mean([max(_word_f1(g, t) for t in answers) for g, answers in pairs])),
    }


def best_span(start_logits: Tensor, end_logits: Tensor, allowed: Tensor, longest: int = 30) -> tuple[int, int]:
    """The likeliest (first, last) token of an answer: in order, within `allowed` (T,), at most `longest` tokens."""
    scores = start_logits[:, None] + end_logits[None, :]  # (T, T)
    pairs = torch.ones_like(scores, dtype=torch.bool).triu().tril(longest - 1) & allowed[:, None] & allowed[None, :]
    best = int(scores.masked_fill(~pairs, -torch.inf).argmax())
    return best // len(allowed), best % len(allowed)


def _normal(text: str) -> str:
    """Lower case, without punctuation, articles and double spaces: SQuAD's normal form."""
    words = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", words).split())


def _word_f1(guess: str, truth: str) -> float:
    a, b = _normal(guess).split(), _normal(truth).split()
    common = sum((Counter(a) & Counter(b)).values())
    return 2 * common / (len(a) + len(b)) if common else 0.0


def _wide(values: Tensor) -> Tensor:
    """Losses are summed in float32 or wider, whatever autocast did before."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
