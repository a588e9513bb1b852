"""From a task's name to its splits: the small world, a folder of files, or the Hub. The same columns everywhere."""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, config, load_dataset

from training.data import world_tasks
from training.data.content import digest, refuse_ragged_rows
from training.data.data_checks import EVALUATED, check_splits
from training.data.labels import in_task_order
from training.data.tasks import TaskSpec, is_world

Splits = dict[str, Dataset]
READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".txt": "text"}


def load_task(spec: TaskSpec, data_dir: str | None = None, seed: int = 0, train_rows: int | None = None) -> Splits:
    """Train and evaluation splits. Small world: `seed` draws the training set; else `train_rows` cuts a shuffled one.

    Raises ValueError or FileNotFoundError naming file, column and row for whatever does not fit the task.
    """
    if is_world(spec.name) and data_dir is None:
        return _plain(world_tasks.build(spec.name, seed, train_rows))
    if data_dir is not None:
        data, where = _from_folder(Path(data_dir)), data_dir
    elif spec.hub:
        data, where = load_dataset(spec.hub[0], spec.hub[1] if len(spec.hub) > 1 else None), str(spec.hub)
    else:
        raise ValueError(f"task {spec.name!r} has no name on the Hub: give --data-dir FOLDER with its files")
    data = {name: in_task_order(rows, spec, f"{where} {name}") for name, rows in _plain(data).items()}
    check_splits(data, spec, where)
    if train_rows is not None:
        data["train"] = first_rows(data["train"].shuffle(seed=seed), train_rows)
    return data


def evaluation_split(data: Splits, spec: TaskSpec, data_dir: str | None = None) -> str:
    """The split that a result is reported on: the small world's test set, else validation, else test."""
    if is_world(spec.name) and data_dir is None:
        return "test"
    return next(name for name in EVALUATED if name in data)


def first_rows(rows: Dataset, count: int | None) -> Dataset:
    """The first `count` rows, or all where there are fewer; None is all."""
    return rows.select(range(min(count or len(rows), len(rows))))


def some_rows(rows: Dataset, count: int | None, spec: TaskSpec, data_dir: str | None) -> Dataset:
    """`count` rows to evaluate on, or all: the first ones of the small world, which is in a random order; of a file, which may be
    sorted by its labels, the same random ones every time, in their order."""
    if count is None or count >= len(rows) or (is_world(spec.name) and data_dir is None):
        return first_rows(rows, count)
    return rows.select(sorted(np.random.default_rng(0).permutation(len(rows))[:count]))


def _from_folder(folder: Path):
    """Every `SPLIT.parquet`, `.jsonl`, `.json`, `.csv` or `.txt` of a folder."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected one with train.parquet (or .jsonl, .json, .csv, .txt)")
    paths = sorted(p for p in folder.iterdir() if p.suffix in READERS and not p.name.startswith("."))
    files = {p.stem: str(p) for p in paths}
    if "train" not in files:
        file_names = sorted(p.name for p in folder.iterdir())[:8]
        raise FileNotFoundError(
            f"{folder}: expected train.parquet and validation.parquet or test.parquet (or .jsonl, .json, .csv, .txt), "
            f"found {file_names}"
        )
    if len(files) < len(paths):
        raise ValueError(f"{folder}: {[p.name for p in paths]}: keep one file for each split")
    return {path.stem: _read(path) for path in paths}


def _read(path: Path) -> Dataset:
    """One file; each is read by itself, so that a split which is not used may hold what it likes."""
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    options: dict[str, Any] = {}
    if path.suffix == ".csv":
        refuse_ragged_rows(path)
        options = {"keep_default_na": False}  # "None", "NA" and "null" are texts
    cache = Path(config.HF_DATASETS_CACHE, "by-content", digest(path))
    try:
        return load_dataset(READERS[path.suffix], data_files={"rows": str(path)}, cache_dir=str(cache), **options)["rows"]
    except Exception as error:  # pyarrow has errors of every kind for a damaged file
        reason = (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: cannot be read, or has no rows ({reason})") from error


def _plain(data) -> Splits:
    return {str(name): rows for name, rows in data.items()}
