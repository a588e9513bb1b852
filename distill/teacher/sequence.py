"""Distilling writers: texts that the teacher wrote as targets, and texts that the student wrote as questions to the teacher.

targets   sequence-level distillation (Kim & Rush 2016, section 3.2): for each prompt the teacher's most likely text, by beam
          search, takes the place of what people wrote. The student needs no logits, so its tokenizer may be another.
on-policy GKD (Agarwal et al. 2024, section 3): in a share of the steps the student continues the prompts itself, by sampling, and
          the teacher's distributions at *these* tokens are the targets. Nothing is learnt through the sampling itself.
"""

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from datasets import Dataset

from distill.losses.terms import LABELLED
from loralib.files.save_and_load import write_atomic
from training.data.batching import Batch, Steps, pad
from training.data.ignored import IGNORE
from training.data.tasks import TaskSpec
from training.evaluation.generation import checked_prompts, continue_prompts, ends_of_text, references_by_prompt
from training.models.base_models import Base

FILE = "targets.jsonl"


def teacher_rows(
    train: Dataset, spec: TaskSpec, base: Base, beams: int, max_new_tokens: int, keep: Path, teacher: int
) -> Dataset:
    """A row for each distinct prompt, with the text that the teacher wrote; texts without an end are left out.

    They are kept in the folder `keep` and read again when teacher, prompts and beams are the same. ValueError when the teacher
    finishes no text.
    """
    prompts = [prompt for prompt, _ in references_by_prompt(train, spec)]
    about = {"teacher": teacher, "beams": beams, "max_new_tokens": max_new_tokens, "prompts": len(prompts)}
    about["checksum"] = zlib.crc32(json.dumps(prompts).encode())
    texts = _read(keep / FILE, about)
    if texts is None:
        ids = checked_prompts(prompts, spec, base.model, base.tokenizer)
        written = continue_prompts(base.model, base.tokenizer, ids, max_new_tokens, num_beams=beams, do_sample=False)
        ends = ends_of_text(base.model, base.tokenizer)
        ended = [bool(ids) and ids[-1] in ends for ids in written]
        decode = lambda ids: base.tokenizer.decode(ids, skip_special_tokens=True).strip()  # noqa: E731
        texts = [decode(ids) if end else "" for ids, end in zip(written, ended, strict=True)]
        keep.mkdir(parents=True, exist_ok=True)
        lines = (about | {"texts": _sum(texts)}, *texts)
        write_atomic(keep / FILE, "".join(json.dumps(line) + "\n" for line in lines).encode())
    pairs = [(prompt, text) for prompt, text in zip(prompts, texts, strict=True) if text]
    if not pairs:
        raise ValueError(
            f"the teacher finished none of {len(prompts)} texts within {max_new_tokens} tokens: raise max_new_tokens"
        )
    columns = zip(*pairs, strict=True)
    return Dataset.from_dict(dict(zip((spec.inputs[0], spec.target), map(list, columns), strict=True)))


class OnPolicy:
    """Steps of which a share has the student's own continuations of its prompts. What is drawn depends on seed and step alone.

    The state in a checkpoint is that of the steps beneath: the sampling itself uses torch's generator, which a checkpoint holds.
    """

    def __init__(self, steps: Steps, student: Base, share: float, max_new_tokens: int, seed: int):
        self.steps, self.student, self.share, self.max_new_tokens, self.seed = steps, student, share, max_new_tokens, seed

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        number, window = self.steps.taken, next(self.steps)
        own = np.random.default_rng([self.seed, 1, number]).random() < self.share
        return [self._own(batch) for batch in window] if own else window

    def _own(self, batch: Batch) -> Batch:
        """The batch's prompts with the student's answers. Their labels say where the teacher is asked; they are not learnt."""
        ids, labels, mask = (batch[name].tolist() for name in ("input_ids", "labels", "attention_mask"))
        starts = [
            next((i for i, label in enumerate(row) if label != IGNORE), sum(m)) for row, m in zip(labels, mask, strict=True)
        ]
        prompts = [row[:start] for row, start in zip(ids, starts, strict=True)]
        plain = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}  # whatever the model's folder recommends
        model, tokenizer = self.student.model, self.student.tokenizer
        answers = continue_prompts(model, tokenizer, prompts, self.max_new_tokens, len(prompts), **plain)
        rows = []
        for prompt, answer in zip(prompts, answers, strict=True):
            both = [*prompt, *answer]
            row = {"input_ids": both, "attention_mask": [1] * len(both), "labels": [IGNORE] * len(prompt) + answer}
            rows.append(row | {LABELLED: 0})
        return pad(rows, tokenizer.pad_token_id)

    def state_dict(self) -> dict:
        return self.steps.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.steps.load_state_dict(state)


def _read(path: Path, about: dict) -> list[str] | None:
    """The kept texts, if they are of these prompts and this teacher, and as they were written; else they are written again."""
    if not path.exists():
        return None
    try:
        first, *texts = (json.loads(line) for line in path.read_text().splitlines())
    except ValueError:
        return None
    known = ({"texts": _sum(texts)}, {})  # older files have no sum
    return texts if len(texts) == about["prompts"] and any(first == json.loads(json.dumps(about | s)) for s in known) else None


def _sum(texts: list[str]) -> int:
    return zlib.crc32(json.dumps(texts).encode())
