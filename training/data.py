"""From a task's name to batches: small world, folder of parquet files, or Hub; then one encoding per kind of answer.

Prompt tokens of a generation task get the label -100, so a loss is per reference token (its end-of-text included).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError
from torch.utils.data import DataLoader

from training import world_tasks
from training.metrics import spans
from training.tasks import TASKS, TaskSpec, is_world

Splits = dict[str, Dataset]
IGNORE = -100
EVALUATED = ("validation", "validation_matched", "test")
PROMPT_END = " =>"


@dataclass(frozen=True)
class Encoded:
    """One split, ready for batching. `truncated` rows lost text to `max_length`."""

    features: list[dict]
    truncated: int


def find_task(name: str) -> TaskSpec:
    if name not in TASKS:
        raise ValueError(f"task {name!r} is unknown; there are {', '.join(TASKS)}")
    return TASKS[name]


def load_task(spec: TaskSpec, data_dir: str | None = None, seed: int = 0, train_rows: int | None = None) -> Splits:
    """Train and evaluation splits. Small world: `seed` draws the training set; else `train_rows` cuts a shuffled one."""
    if is_world(spec.name) and data_dir is None:
        return _plain(world_tasks.build(spec.name, seed, train_rows))
    if data_dir is not None:
        files = {p.stem: str(p) for p in sorted(Path(data_dir).glob("*.parquet"))}
        if "train" not in files:
            raise FileNotFoundError(
                f"{data_dir}: expected train.parquet and validation.parquet or test.parquet, found {sorted(files)}"
            )
        try:
            data = load_dataset("parquet", data_files=files)
        except DatasetGenerationError as error:
            raise ValueError(f"{data_dir}: {sorted(files)} do not have the same columns ({error.__cause__})") from error
    else:
        if not spec.hub:
            raise ValueError(f"task {spec.name!r} has no name on the Hub: give --data-dir FOLDER with parquet files")
        data = load_dataset(spec.hub[0], spec.hub[1] if len(spec.hub) > 1 else None)
    data = _plain(data)
    _check_columns(data, spec, data_dir or str(spec.hub))
    if train_rows is not None:
        data["train"] = data["train"].shuffle(seed=seed).select(range(min(train_rows, len(data["train"]))))
    return data


def _plain(data) -> Splits:
    return {str(name): rows for name, rows in data.items()}


def evaluation_split(data: Splits) -> str:
    """The split that a result is reported on: the small world's test set, else validation, else test."""
    if "bayes" in data["train"].column_names or "log_p" in data["train"].column_names:
        return "test"
    return next(name for name in EVALUATED if name in data)


def _check_columns(data: Splits, spec: TaskSpec, where: str) -> None:
    if not any(name in data for name in EVALUATED):
        raise ValueError(f"{where}: only {sorted(data)}; there must be a split to evaluate on, one of {', '.join(EVALUATED)}")
    for split, rows in data.items():
        absent = [c for c in (*spec.inputs, spec.target) if c not in rows.column_names]
        if absent:
            raise ValueError(f"{where} {split}: columns {absent} are missing, found {rows.column_names} (task {spec.name})")
        if len(rows) == 0:
            raise ValueError(f"{where} {split}: no rows")
        for column in (*spec.inputs, spec.target):
            empty = sum(value is None or value != value for value in rows[column])
            if empty:
                raise ValueError(f"{where} {split}: {empty} of {len(rows)} rows have no {column}")
    for split in ("train", evaluation_split(data)):  # the Hub's GLUE test splits have labels of -1 and are not used
        found = set(data[split][spec.target]) if spec.kind == "classification" else set()
        if not found <= set(range(len(spec.labels))):
            expected = f"0 to {len(spec.labels) - 1} ({', '.join(spec.labels)})"
            raise ValueError(f"{where} {split}: labels {sorted(found)[:5]}, expected {expected}")


def encode(rows, spec: TaskSpec, tokenizer, max_length: int) -> Encoded:
    """Turn rows into lists of ids with labels. A word-level tokenizer that meets an unknown word raises."""
    encoder = {"tagging": _encode_tags, "qa": _encode_answers, "generation": _encode_generation}.get(spec.kind, _encode_labels)
    features, truncated = encoder(rows, spec, tokenizer, max_length)
    _refuse_unknown_words(features, tokenizer)
    return Encoded(features, truncated)


def batches(features: list[dict], tokenizer, batch_size: int, seed: int | None) -> DataLoader:
    """A loader of padded batches; `seed` shuffles (a new order each epoch), None keeps the order."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    if tokenizer.pad_token_id is None:
        raise ValueError(
            "the tokenizer has no pad token: set tokenizer.pad_token, as load_base does, and tell the model's config"
        )
    return DataLoader(
        features,  # pyright: ignore[reportArgumentType]
        batch_size,
        shuffle=seed is not None,
        generator=generator,
        collate_fn=lambda rows: _pad(rows, tokenizer.pad_token_id),
    )


def forever(loader: DataLoader) -> Iterator[dict[str, torch.Tensor]]:
    while True:
        yield from loader


def _pad(rows: list[dict], pad_id: int) -> dict[str, torch.Tensor]:
    batch = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        if isinstance(values[0], list):
            fill = {"input_ids": pad_id, "labels": IGNORE}.get(name, 0)
            width = max(map(len, values))
            values = [v + [fill] * (width - len(v)) for v in values]
        batch[name] = torch.tensor(values)
    return batch


# ---------------------------------------------------------------- one encoding per kind


def _texts(rows, spec: TaskSpec) -> list[list[str]]:
    return [list(rows[column]) for column in spec.inputs]


def _encode_labels(rows, spec, tokenizer, max_length):
    columns = _texts(rows, spec)
    encoded = tokenizer(*columns, truncation=True, max_length=max_length)
    whole = tokenizer(*columns, verbose=False)["input_ids"]
    wanted = [float(y) if spec.kind == "regression" else int(y) for y in rows[spec.target]]
    features = [{**_row(encoded, i), "labels": label} for i, label in enumerate(wanted)]
    return features, sum(len(ids) > max_length for ids in whole)


def _encode_tags(rows, spec, tokenizer, max_length):
    encoded = tokenizer(list(rows[spec.inputs[0]]), is_split_into_words=True, truncation=True, max_length=max_length)
    features, truncated = [], 0
    for i, tags in enumerate(rows[spec.target]):
        words = encoded.word_ids(i)
        first = [w is not None and w != before for before, w in zip([None, *words], words, strict=False)]
        labels = [tags[w] if new else IGNORE for w, new in zip(words, first, strict=True)]
        kept = max((w for w in words if w is not None), default=-1) + 1
        truncated += kept < len(tags)
        all_spans, seen = (spans([spec.labels[t] for t in part]) for part in (tags, tags[:kept]))
        features.append({**_row(encoded, i), "labels": labels, "lost_spans": len(all_spans - seen)})
    return features, truncated


def _encode_answers(rows, spec, tokenizer, max_length):
    """Context first, question second, as the small world's remarks follow their passage.

    An answer that was cut off gets the label -100: nothing to learn from, and wrong whatever the model says.
    """
    encoded = tokenizer(*_texts(rows, spec), truncation="only_first", max_length=max_length, return_offsets_mapping=True)
    features, truncated = [], 0
    for i, answer in enumerate(rows[spec.target]):
        begin, end = answer["answer_start"][0], answer["answer_start"][0] + len(answer["text"][0])
        inside = [
            j
            for j, ((a, b), part) in enumerate(zip(encoded["offset_mapping"][i], encoded.sequence_ids(i), strict=True))
            if part == 0 and a < end and b > begin
        ]
        truncated += not inside
        start, stop = (inside[0], inside[-1]) if inside else (IGNORE, IGNORE)
        features.append({**_row(encoded, i), "start_positions": start, "end_positions": stop})
    return features, truncated


def _encode_generation(rows, spec, tokenizer, max_length):
    prompts = tokenizer([text + PROMPT_END for text in rows[spec.inputs[0]]])["input_ids"]
    answers = tokenizer([" " + text for text in rows[spec.target]], add_special_tokens=False)["input_ids"]
    features, truncated = [], 0
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = [*prompt, *answer, tokenizer.eos_token_id]
        labels = [IGNORE] * len(prompt) + [*answer, tokenizer.eos_token_id]
        truncated += len(ids) > max_length
        features.append(
            {"input_ids": ids[:max_length], "attention_mask": [1] * len(ids[:max_length]), "labels": labels[:max_length]}
        )
    return features, truncated


def _row(encoded, i: int) -> dict:
    return {k: encoded[k][i] for k in ("input_ids", "token_type_ids", "attention_mask") if k in encoded}


def _refuse_unknown_words(features: list[dict], tokenizer) -> None:
    if tokenizer.backend_tokenizer.model.__class__.__name__ != "WordLevel":
        return
    unknown = sum(f["input_ids"].count(tokenizer.unk_token_id) for f in features)
    if unknown:
        raise ValueError(
            f"{unknown} words are not in the small world's vocabulary: its word-level tokenizer is not for real text. "
            "Choose a model with a tokenizer of its own (--model FOLDER or a Hub name)"
        )
