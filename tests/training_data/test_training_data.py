"""From task names to batches: labels where they belong, clear errors for data that does not fit."""

import pytest
import tiny_folder
from datasets import Dataset
from transformers import AutoTokenizer

from training.data.batching import batches
from training.data.data import evaluation_split, load_task
from training.data.encoding import encode
from training.data.ignored import IGNORE
from training.data.tasks import TASKS, find_task
from training.evaluation import metrics
from training.evaluation.evaluation import HeldOut, score
from training.models.base_models import SMALL


@pytest.fixture(scope="module")
def encoder():
    return AutoTokenizer.from_pretrained(SMALL["encoder"])


@pytest.fixture(scope="module")
def decoder():
    return AutoTokenizer.from_pretrained(SMALL["decoder"])


def test_prompt_tokens_are_ignored_and_reference_tokens_counted(decoder):
    rows = {"meaning_representation": ["name : anna ; mood : good"], "human_reference": ["anna was there too ."]}
    feature = encode(rows, TASKS["data2text"], decoder, 64).features[0]
    answer = decoder.convert_ids_to_tokens([t for t in feature["labels"] if t != IGNORE])
    assert answer == ["anna", "was", "there", "too", ".", "[EOS]"]
    assert feature["labels"][: -len(answer)] == [IGNORE] * (len(feature["input_ids"]) - len(answer))
    assert feature["input_ids"][-len(answer) :] == feature["labels"][-len(answer) :]


def test_padding_is_ignored_by_every_kind(decoder, encoder):
    for task, tokenizer in (("data2text", decoder), ("tagging", encoder), ("nli", encoder)):
        spec = TASKS[task]
        rows = load_task(spec, train_rows=8)["train"][:]
        features = encode(rows, spec, tokenizer, 96).features
        batch = next(iter(batches(features, tokenizer, 8)))
        pad = batch["attention_mask"] == 0
        assert (batch["input_ids"][pad] == tokenizer.pad_token_id).all()
        if batch["labels"].ndim == 2:
            assert (batch["labels"][pad] == IGNORE).all()


def test_tags_sit_on_first_subtokens_only(encoder):
    rows = {"tokens": [["anna", "is", "in", "da", "nang", "."]], "tags": [[1, 0, 0, 2, 3, 0]]}
    assert encode(rows, TASKS["tagging"], encoder, 64).features[0]["labels"] == [IGNORE, 1, 0, 0, 2, 3, 0, IGNORE]


def test_answers_point_at_their_tokens(encoder):
    rows = load_task(TASKS["qa"], train_rows=50)["train"][:]
    for feature, answer in zip(encode(rows, TASKS["qa"], encoder, 96).features, rows["answers"], strict=True):
        span = feature["input_ids"][feature["start_positions"] : feature["end_positions"] + 1]
        assert encoder.decode(span) == answer["text"][0]


def test_answers_that_are_cut_off_are_never_right(encoder):
    """Else a model that always points at token 0 would score better, the more text is cut. Their rows teach nothing."""
    data = load_task(TASKS["qa"], train_rows=30)["train"]
    encoded = encode(data[:], TASKS["qa"], encoder, 30)
    batch = next(batches(encoded.features, encoder, 30))
    lost = int((batch["start_positions"] == IGNORE).sum())
    assert 5 < lost < 25 and metrics.answer_count("qa", batch) == 30 - lost == len(encoded.answerable().features)
    perfect = [
        (offsets[f["start_positions"]][0], offsets[f["end_positions"]][1]) if f["start_positions"] != IGNORE else (0, 0)
        for f, offsets in zip(encoded.features, encoded.places, strict=True)
    ]
    assert score(HeldOut(TASKS["qa"], data, encoded), perfect)["exact_match"] == pytest.approx((30 - lost) / 30)


def test_an_entity_that_is_cut_in_two_is_not_found_by_its_first_half(encoder):
    rows = {"tokens": [["in", "da", "nang", "anna"]], "tags": [[0, 2, 3, 1]]}
    encoded = encode(rows, TASKS["tagging"], encoder, 4)  # [CLS] in da [SEP]
    assert encoded.places == [[0, 1]]
    assert score(HeldOut(TASKS["tagging"], Dataset.from_dict(rows), encoded), [[0, 2]])["span_f1"] == 0


def test_a_word_without_a_token_is_a_word_without_an_answer():
    rows = {"tokens": [["in", "", "x"]], "tags": [[0, 1, 1]]}
    encoded = encode(rows, TASKS["tagging"], tiny_folder.tokenizer(), 16)
    assert encoded.places == [[0, 2]]
    assert score(HeldOut(TASKS["tagging"], Dataset.from_dict(rows), encoded), [[0, 1]])["span_f1"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("task", "expected"), [("tagging", 2 / 3), ("ud_pos", 3 / 6)])
def test_words_that_are_cut_off_count_as_not_found(task, expected, encoder):
    spec = TASKS[task]
    rows = {"tokens": [["anna", "is", "in", "da", "nang", "."]], spec.target: [[1, 0, 0, 2, 3, 0]]}
    encoded = encode(rows, spec, encoder, 5)  # [CLS] anna is in [SEP]
    perfect = [[label for label in encoded.features[0]["labels"] if label != IGNORE]]
    assert len(perfect[0]) == 3
    assert score(HeldOut(spec, Dataset.from_dict(rows), encoded), perfect)[spec.metric] == pytest.approx(expected)


def test_truncation_is_counted(encoder):
    rows = load_task(TASKS["sentiment"], train_rows=20)["train"][:]
    assert encode(rows, TASKS["sentiment"], encoder, 96).truncated == 0
    cut = encode(rows, TASKS["sentiment"], encoder, 16)
    assert cut.truncated == 20 and all(len(f["input_ids"]) == 16 for f in cut.features)


def test_real_text_never_goes_through_the_word_level_tokenizer(encoder):
    rows = {"sentence": ["a stirring, funny film"], "label": [1]}
    with pytest.raises(ValueError, match="not for real text"):
        encode(rows, TASKS["sst2"], encoder, 64)


def write(folder, train, **splits):
    for name, columns in {"train": train, **splits}.items():
        Dataset.from_dict(columns).to_parquet(folder / f"{name}.parquet")


GOOD = {"sentence": ["a", "b"], "label": [0, 1]}


def test_a_folder_of_parquet(tmp_path):
    write(tmp_path, GOOD, validation=GOOD)
    data = load_task(TASKS["sst2"], str(tmp_path))
    assert len(data["train"]) == 2 and evaluation_split(data, TASKS["sst2"]) == "validation"


@pytest.mark.parametrize(
    ("train", "result"),
    [
        ({"text": ["a"], "label": [0]}, r"\['sentence'\] are missing"),
        ({"sentence": ["a"], "label": [2]}, "expected 0 to 1"),
        ({"sentence": ["a"], "label": [-1]}, "expected 0 to 1"),
        ({"sentence": [None, "a"], "label": [0, 1]}, "1 of 2 rows have no sentence"),
    ],
)
def test_data_that_does_not_fit_raises(tmp_path, train, result):
    write(tmp_path, train, validation=train)
    with pytest.raises(ValueError, match=result):
        load_task(TASKS["sst2"], str(tmp_path))


def test_splits_with_different_columns_raise(tmp_path):
    write(tmp_path, {"text": ["a"], "label": [0]}, validation=GOOD)
    with pytest.raises(ValueError, match=r"train: columns \['sentence'\] are missing"):
        load_task(TASKS["sst2"], str(tmp_path))


def test_a_folder_without_an_evaluation_split_raises(tmp_path):
    write(tmp_path, GOOD)
    with pytest.raises(ValueError, match="to evaluate on"):
        load_task(TASKS["sst2"], str(tmp_path))


def test_a_folder_without_data_and_an_unknown_task_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train\.parquet"):
        load_task(TASKS["sst2"], str(tmp_path))
    with pytest.raises(ValueError, match="unknown; there are topic"):
        find_task("sst3")
    with pytest.raises(ValueError, match="--data-dir"):
        load_task(TASKS["sick"])


@pytest.mark.real
@pytest.mark.parametrize("task", ["sst2", "cola", "mrpc", "rte", "qnli", "qqp", "stsb"])
def test_real_glue_folders_load(task, shared):
    data = load_task(TASKS[task], str(shared / "data" / "glue" / task), train_rows=32)
    assert len(data["train"]) == 32 and evaluation_split(data, TASKS[task]) == "validation"


@pytest.mark.real
def test_real_e2e_and_sick_folders_load(shared):
    assert evaluation_split(load_task(TASKS["e2e_nlg"], str(shared / "data" / "e2e_nlg")), TASKS["e2e_nlg"]) == "test"
    assert evaluation_split(load_task(TASKS["sick"], str(shared / "data" / "sick")), TASKS["sick"]) == "validation"


def test_the_hub_is_asked_by_the_names_people_use(monkeypatch):
    asked = []

    def answer(*names):
        asked.append(names)
        rows = Dataset.from_dict({"sentence": ["a", "b"], "label": [0, 1]})
        return {"train": rows, "validation": rows, "test": Dataset.from_dict({"sentence": ["c"], "label": [-1]})}

    monkeypatch.setattr("training.data.data.load_dataset", answer)
    data = load_task(TASKS["sst2"])  # the Hub's test split has no labels, and is not used
    assert asked == [("nyu-mll/glue", "sst2")] and evaluation_split(data, TASKS["sst2"]) == "validation"
