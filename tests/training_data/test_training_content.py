"""Files are read as they are now, and every value of a csv file stands in its column."""

import os

import pandas
import pytest
from datasets import Dataset

from training.data.content import digest, refuse_ragged_rows
from training.data.data import load_task
from training.data.tasks import find_task

SPEC = find_task("sst2")
OLD = 315532800
"""1980-01-01, the time that zip writes"""


def write(folder, kind: str, rows: list[dict]) -> None:
    for split in ("train", "validation"):
        file = folder / f"{split}.{kind}"
        data = Dataset.from_list(rows)
        {"parquet": data.to_parquet, "jsonl": data.to_json, "csv": data.to_csv}[kind](str(file))
        os.utime(file, (OLD, OLD))


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_a_file_that_was_replaced_with_the_same_time_is_read_anew(kind, tmp_path):
    first = [{"sentence": f"old {tmp_path.name} {kind}", "label": 1}, {"sentence": "bad", "label": 0}]
    second = [{"sentence": f"new {tmp_path.name} {kind}", "label": 1}, {"sentence": "bad", "label": 0}]
    for rows in (first, second, first):
        write(tmp_path, kind, rows)
        assert [row["sentence"] for row in load_task(SPEC, str(tmp_path))["train"]] == [row["sentence"] for row in rows]


def test_the_digest_is_of_the_bytes_alone(tmp_path):
    one, other, third = (tmp_path / name for name in "abc")
    one.write_bytes(b"x" * 3_000_000)
    other.write_bytes(b"x" * 3_000_000)
    third.write_bytes(b"x" * 2_999_999 + b"y")
    assert digest(one) == digest(other) != digest(third)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sentence,label\nso, so,1\n", 2),
        ("sentence,label\ngood,1\nso, so,1\n", 3),
        ('sentence,label\n"so, so",1\nbad\n', 3),
        ("label,sentence\n1,yes, it was, truly\n", 2),
        ('sentence,label\n"two\nlines",1\na, b,0\n', 4),
    ],
)
def test_a_comma_without_quotes_is_told_with_its_line(text, line, tmp_path):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"train\.csv, line {line}: .* columns .*stands in quotes"):
        load_task(SPEC, str(tmp_path))


def test_texts_are_texts_and_quotes_keep_commas(tmp_path):
    words = ["None", "NA", "null", "nan", "N/A", "so, so", 'a "quoted" word', "two\nlines"]
    for split in ("train", "validation"):
        pandas.DataFrame({"sentence": words, "label": [0, 1] * 4}).to_csv(tmp_path / f"{split}.csv", index=False)
    refuse_ragged_rows(tmp_path / "train.csv")
    assert load_task(SPEC, str(tmp_path))["train"]["sentence"][:] == words


def test_a_file_with_a_mark_at_its_start_and_blank_lines(tmp_path):
    for split in ("train", "validation"):
        (tmp_path / f"{split}.csv").write_text("\ufeffsentence,label\r\ngood,1\r\n\r\nbad,0\r\n")
    assert load_task(SPEC, str(tmp_path))["train"]["label"][:] == [1, 0]
