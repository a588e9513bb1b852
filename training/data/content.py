"""Files by their content: a cache that is keyed by path and time of change would give the rows of an older file.

Archives with fixed times (zip, container layers, reproducible builds) give a new file the time of the old one.
"""

import csv
import hashlib
from pathlib import Path


def digest(path: Path) -> str:
    """A hash of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def refuse_ragged_rows(path: Path) -> None:
    """ValueError for a row of a csv file with more or fewer values than its header: a comma inside a text that has no quotes."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            ragged = _first_ragged_row(csv.reader(file))
    except (UnicodeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read as csv in UTF-8 ({error})") from error
    finally:
        csv.field_size_limit(before)
    if ragged:
        line, count, header = ragged
        raise ValueError(
            f"{path}, line {line}: {count} values, and the header names {len(header)} columns ({', '.join(header)}). "
            'A text with a comma stands in quotes: "so, so",1'
        )


def _first_ragged_row(rows) -> tuple[int, int, list[str]] | None:
    header = next(rows, [])
    return next(((rows.line_num, len(row), header) for row in rows if row and len(row) != len(header)), None)
