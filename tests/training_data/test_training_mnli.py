"""MNLI in its own format: label numbers in GLUE's order, two validation sets, unlabelled test examples, accuracy.

The excerpt is written here; the measured figures of the course come from SICK, which has the same labels.
"""

import json

import pytest
import tiny_folder
from datasets import ClassLabel, Dataset

from training.data.data import evaluation_split, load_task
from training.data.tasks import find_task
from training.evaluation.metrics import label_scores
from training.runs.run import train_model

EXCERPT = [
    ("The museum opens at nine on weekdays.", "On weekdays the museum is open in the evening.", "neutral"),
    ("She sold her car last spring.", "She no longer owns that car.", "entailment"),
    ("Nobody in the office speaks French.", "One of the clerks speaks French.", "contradiction"),
    ("The river froze in January.", "It was cold in January.", "entailment"),
    ("He paid for both tickets.", "He paid for none of the tickets.", "contradiction"),
    ("They moved to a larger flat.", "They moved because of a new child.", "neutral"),
]
GLUE_ORDER = ["entailment", "neutral", "contradiction"]


def examples(names: list[str] = GLUE_ORDER, times: int = 1) -> Dataset:
    rows = [
        {"premise": premise, "hypothesis": hypothesis, "label": names.index(label), "idx": i}
        for i, (premise, hypothesis, label) in enumerate(EXCERPT * times)
    ]
    return Dataset.from_list(rows).cast_column("label", ClassLabel(names=names))


def folder(path, names: list[str] = GLUE_ORDER):
    for split in ("train", "validation_matched", "validation_mismatched"):
        examples(names, 4 if split == "train" else 1).to_parquet(path / f"{split}.parquet")
    unlabelled = examples(names).remove_columns("label").add_column("label", [-1] * len(EXCERPT))
    unlabelled.to_parquet(path / "test_matched.parquet")
    return str(path)


@pytest.mark.parametrize("names", [GLUE_ORDER, GLUE_ORDER[::-1]])
def test_labels_have_glues_order_whatever_the_file_has(names, tmp_path):
    spec = find_task("mnli")
    data = load_task(spec, folder(tmp_path, names))
    assert evaluation_split(data, spec, str(tmp_path)) == "validation_matched"
    assert [spec.labels[label] for label in data["train"]["label"][:6]] == [label for *_, label in EXCERPT]


def test_the_metric_is_accuracy():
    spec = find_task("mnli")
    scores = label_scores([0, 1, 2, 0], [0, 1, 1, 2], spec.metric)
    assert spec.metric == "accuracy" and scores["accuracy"] == 0.5


def test_the_original_distribution_says_which_columns_are_expected(tmp_path):
    """multinli_1.0_train.jsonl has sentence1, sentence2 and gold_label, whose values are words."""
    rows = [{"sentence1": p, "sentence2": h, "gold_label": label} for p, h, label in EXCERPT]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"premise.*hypothesis.*label"):
        load_task(find_task("mnli"), str(tmp_path))


def test_a_run_reports_accuracy_by_label(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    result = train_model(
        "mnli",
        model=tiny_folder.encoder(tmp_path / "model"),
        data_dir=folder(data),
        epochs=0.5,
        batch_size=4,
        out=str(tmp_path / "run"),
    )
    assert result.data["validation_matched"]["examples"] == 6 and result.metric_name == "accuracy"
    assert result.rows[-1]["step"] == 3  # half a pass over 24 examples in batches of 4
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["steps"], config["epochs"]) == (3, None)
    assert "entailment" in (tmp_path / "run" / "report.md").read_text()


def test_steps_and_epochs_are_not_given_together():
    with pytest.raises(ValueError, match="steps=20 and epochs=2: both set the length"):
        train_model("sentiment", steps=20, epochs=2)
    with pytest.raises(ValueError, match="epochs=0: expected more than 0"):
        train_model("sentiment", epochs=0)
