"""Solutions of lesson 00's exercises."""

import math

import torch
from transformers import BertForMaskedLM

from training.models.base_models import SMALL
from training.data.small_world import BAD, GOOD
from training.data.tokenizers import encoder_tokenizer


def rows_needed(accuracy: float, gap: float) -> int:
    return math.ceil(9 * accuracy * (1 - accuracy) / gap**2)  # 3 sqrt(a (1 - a) / n) <= gap, solved for n


def sentiment_rule(text: str) -> int:
    score = 0
    for sentence in text.split(" ."):
        words = sentence.split()
        good, bad = any(w in GOOD for w in words), any(w in BAD for w in words)
        vote = good - bad  # one vote a clause, however many adjectives
        score += -vote if "not" in words else vote
    return int(score > 0)


def ceiling_with_flipped_labels(posteriors: list[float], flip: float) -> float:
    noisy = [p * (1 - flip) + (1 - p) * flip for p in posteriors]
    return sum(max(p, 1 - p) for p in noisy) / len(noisy)


@torch.no_grad()
def zero_shot(texts: list[str]) -> list[int]:
    tokenizer = encoder_tokenizer()
    model = BertForMaskedLM.from_pretrained(SMALL["encoder"]).eval()
    verdicts = ["it was a [MASK] day ."] * len(texts)  # the remark that pretraining has read after many stories
    batch = tokenizer(list(texts), verdicts, padding=True, return_tensors="pt")
    logits = model(**batch).logits[batch["input_ids"] == tokenizer.mask_token_id]
    bad, good = tokenizer.convert_tokens_to_ids(["bad", "good"])
    return (logits[:, good] > logits[:, bad]).int().tolist()
