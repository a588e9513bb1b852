"""A teacher's answers on disk: asked once, used in every epoch and by every student.

answers.safetensors   logits of all answers, row after row, in half precision; or the k largest of each and what the others weigh
cache.json            what they belong to: teacher, rows, kind of task

Each row is found by a key made of its own tokens, so the order of the rows does not matter, and a row that the teacher never saw
raises. Only the k largest: of an answer's other classes the cache knows the mass together, and spreads it evenly.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor
from torch.nn import functional as F

from distill.losses.losses import MASKED
from distill.losses.states import answers_in
from distill.teacher.teacher import PREFIX, Teacher
from loralib.files.read_adapter import read_json
from loralib.files.save_and_load import write_together
from training.data.batching import Batch, batches
from training.data.ignored import IGNORE

FILE, CARD = "answers.safetensors", "cache.json"
KEY = "example"
FORMAT = 2
WITHOUT_TOP = ("qa", "multilabel", "regression")


class CacheError(ValueError):
    """A cache that cannot be read, or was made for another teacher, other rows or another task; the message says which."""


def with_keys(features: list[dict]) -> list[dict]:
    """The rows, each with its key: the same tokens and the same places of answers have the same key."""
    return [feature | {KEY: row_key(feature)} for feature in features]


def row_key(feature: dict) -> int:
    """63 bits of a hash of what the teacher reads, and of where it has to answer."""
    labels = feature.get("labels")
    places = [label != IGNORE for label in labels] if isinstance(labels, list) else None
    whose = PREFIX if f"{PREFIX}input_ids" in feature else ""
    read = [feature.get(whose + name) for name in ("input_ids", "token_type_ids")]
    content = json.dumps([read, places]).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1


class TeacherCache:
    """Answers by key, with the interface of a teacher for logits."""

    def __init__(self, folder: Path, card: dict, tensors: dict[str, Tensor]):
        self.folder, self.card, self.tensors = folder, card, tensors
        starts = tensors["starts"].tolist()
        self.rows = {key: (a, b) for key, a, b in zip(tensors["keys"].tolist(), starts, starts[1:], strict=False)}

    def answers(self, batch: Batch, first: Any = None) -> Tensor:
        """The teacher's logits (N, C) of the batch's answers. CacheError for a row that is not in the cache."""
        keys, counts = batch[KEY].tolist(), answers_in(self.card["kind"], batch)
        missing = [key for key in keys if key not in self.rows]
        if missing:
            raise CacheError(
                f"{self.folder}: {len(missing)} of {len(keys)} rows are not in the cache. It was made for other rows or another "
                "tokenizer: make it again, in a new folder"
            )
        places = [self.rows[key] for key in keys]
        wrong = [key for key, (a, b), n in zip(keys, places, counts, strict=True) if b - a != n]
        if wrong:
            raise CacheError(f"{self.folder}: {len(wrong)} rows have other numbers of answers in the cache than in the batch")
        index = torch.cat([torch.arange(a, b) for a, b in places])
        width = batch["attention_mask"].shape[1] if self.card["kind"] == "qa" else self.card["classes"]
        return self._logits(index, width).to(batch["attention_mask"].device)

    def _logits(self, index: Tensor, width: int) -> Tensor:
        stored = self.tensors["logits"][index].float()
        if "indices" not in self.tensors:
            stored = _widened(stored, width, None)[:, :width]
            return stored.masked_fill(stored == -torch.inf, MASKED)
        others = torch.tensor(float(width - stored.shape[1]))
        logits = (self.tensors["rest"][index].float() - others.log())[:, None].repeat(1, width)
        return logits.scatter(1, self.tensors["indices"][index].long(), stored)


def build_cache(
    folder: Path, teacher: Teacher, features: list[dict], tokenizer: Any, top: int | None = None, batch_size: int = 64
) -> TeacherCache:
    """Ask the teacher about every row once, and write its answers. The folder appears complete or not at all."""
    features = list({row[KEY]: row for row in features}.values())
    parts, counts, width = [], [], 0
    for batch in batches(features, tokenizer, batch_size):
        logits = teacher.answers(batch).float().cpu()
        if top is not None and (teacher.kind in WITHOUT_TOP or not 0 < top < logits.shape[1]):
            raise ValueError(
                f"top={top} of {logits.shape[1]} classes ({teacher.kind}): expected fewer, and a task with one choice among the "
                "same classes for every row"
            )
        parts.append(_stored(logits, top))
        counts, width = counts + answers_in(teacher.kind, batch), max(width, logits.shape[1])
    keys = torch.tensor([row[KEY] for row in features])
    tensors = {name: torch.cat([_widened(part[name], width, top) for part in parts]) for name in parts[0]}
    tensors |= {"keys": keys, "starts": torch.tensor([0, *counts]).cumsum(0)}
    content = save(tensors)
    card = {
        "format": FORMAT,
        "content": _digest(content),
        "kind": teacher.kind,
        "teacher": teacher.checksum(),
        "rows": len(features),
        "row_keys": checksum_of(keys.tolist()),
        "classes": width,
        "top": top,
    }
    card["card"] = _card_digest(card)
    folder.mkdir(parents=True, exist_ok=True)
    write_together({folder / FILE: content, folder / CARD: (json.dumps(card, indent=2) + "\n").encode()})
    return TeacherCache(folder, card, tensors)


def open_cache(folder: Path, teacher: Teacher, features: list[dict], top: int | None = None) -> TeacherCache:
    """A cache that was made before. CacheError where it is damaged, or was made by another teacher, for other rows or tasks."""
    try:
        card, content = read_json(folder / CARD), (folder / FILE).read_bytes()
        tensors = load(content)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CacheError(f"{folder}: no readable {CARD} and {FILE} ({error})") from error
    now = {
        "format": FORMAT,
        "kind": teacher.kind,
        "teacher": teacher.checksum(),
        "row_keys": checksum_of({row[KEY] for row in features}),
        "top": top,
    }
    wrong = [f"{name} was {card.get(name)} and is {value}" for name, value in now.items() if card.get(name) != value]
    if wrong:
        raise CacheError(
            f"{folder}: this cache belongs to something else ({', '.join(wrong)}): take another folder, or delete it"
        )
    if _digest(content) != card.get("content") or card.get("card", _card_digest(card)) != _card_digest(card):
        raise CacheError(f"{folder}: {FILE} and {CARD} do not belong together, or one was changed: delete both, or take another")
    return TeacherCache(folder, card, tensors)


def checksum_of(keys: Iterable[int]) -> str:
    """Of a set of rows, whatever their order."""
    return hashlib.blake2b(json.dumps(sorted(keys)).encode(), digest_size=8).hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _card_digest(card: dict) -> str:
    """Of all that the card says; cards of older versions have none."""
    return _digest(json.dumps({name: value for name, value in card.items() if name != "card"}, sort_keys=True).encode())


def _stored(logits: Tensor, top: int | None) -> dict[str, Tensor]:
    if top is None:
        return {"logits": logits.half()}
    log_p = logits.log_softmax(-1)
    values, indices = log_p.topk(top, -1)
    rest = torch.log1p(-values.exp().sum(-1).clamp(max=1 - 1e-7))
    return {"logits": values.half(), "indices": indices.int(), "rest": rest.half()}


def _widened(values: Tensor, width: int, top: int | None) -> Tensor:
    """Questions have as many classes as the batch has tokens: those that a row lacks are masked (as half precision can)."""
    missing = width - values.shape[-1]
    return values if top is not None or missing <= 0 else F.pad(values, (0, missing), value=-torch.inf)
