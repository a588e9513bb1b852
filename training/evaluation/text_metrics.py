"""How good are generated texts? BLEU, chrF, ROUGE-L and NIST against several references each, from the libraries people cite.

All texts of one meaning are its references, so a right text in other words than the first reference is not punished.
"""

import re
from collections.abc import Sequence

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from training.data.tasks import TaskSpec
from training.evaluation.generation import Sample

NAMES = ("bleu", "chrf", "rouge_l", "nist")


def refuse_texts(spec: TaskSpec, count: int | None) -> None:
    """ValueError where texts are to be scored (0 is none of them, None all) and the task writes none."""
    if count != 0 and spec.kind != "generation":
        raise ValueError(f"score_texts={count}, but {spec.name} is a task of {spec.kind}: it writes no texts to score")


def text_scores(samples: Sequence[Sample]) -> dict[str, float]:
    """{bleu, chrf (0 to 100), rouge_l (0 to 1), nist (0 and up)}; higher is better. ValueError without texts or references.

    BLEU and chrF: sacrebleu's defaults (tokenizer 13a, case kept, exponential smoothing; chrF2). ROUGE-L: F1 of the best
    reference, mean over texts. NIST: n-grams to 5 of sacrebleu's 13a tokens (Doddington 2002).
    """
    if not samples or not all(s.references for s in samples):
        raise ValueError("text metrics need at least one text, and a reference for each")
    texts, references = [s.text for s in samples], [s.references for s in samples]
    most = max(map(len, references))
    # force: E2E's texts come with spaces around punctuation, on both sides, so sacrebleu's warning is no news
    streams = [[r[i] if i < len(r) else None for r in references] for i in range(most)]  # None: fewer references
    return {
        "bleu": BLEU(force=True).corpus_score(texts, streams).score,  # pyright: ignore[reportArgumentType]
        "chrf": CHRF().corpus_score(texts, streams).score,  # pyright: ignore[reportArgumentType]
        "rouge_l": _rouge_l(texts, references),
        "nist": _nist(texts, references),
    }


def _rouge_l(texts: list[str], references: list[list[str]]) -> float:
    from rouge_score.rouge_scorer import RougeScorer  # here, since it brings nltk, which takes a second to import

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    return sum(scorer.score_multi(r, t)["rougeL"].fmeasure for t, r in zip(texts, references, strict=True)) / len(texts)


class _Words:
    """Words in any script; rouge_score's own tokenizer drops every letter but a to z."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())


def _nist(texts: list[str], references: list[list[str]]) -> float:
    """nltk's corpus NIST. It divides by the number of n-grams of each length: texts without any score 0 here."""
    from nltk.translate.nist_score import corpus_nist
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    words = Tokenizer13a()
    tokens = [words(t).split() for t in texts]
    if max(map(len, tokens)) < 5:
        return 0.0
    try:
        return float(corpus_nist([[words(r).split() for r in group] for group in references], tokens))
    except ZeroDivisionError:  # a reference without any word
        return 0.0
