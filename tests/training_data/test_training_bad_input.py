"""The bad-input table: what a person can get wrong, and the words that say so. Nothing is written before the error."""

import json
import shutil

import pytest
from command import run_module
from datasets import Dataset

from training import train_model
from training.commands.evaluate_command import EvaluateSettings, evaluate_trained
from training.models.trained import load_trained
from training.runs.report import find_runs

TEXTS = ["one", "two", "three", "four"]
SST2 = {"sentence": TEXTS, "label": [0, 1, 0, 1]}
STSB = {"sentence1": TEXTS, "sentence2": TEXTS, "label": [0.0, 1.0, 2.5, 5.0]}
TAGS = {"tokens": [["a", "b"]] * 4, "upos": [[0, 1]] * 4}
QA = {"question": ["who ?"] * 4, "context": ["anna was there ."] * 4, "answers": [{"text": ["anna"], "answer_start": [0]}] * 4}
PROMPT = {"prompt": TEXTS, "completion": TEXTS}
TEXT = {"text": TEXTS}
GOOD = {"sst2": SST2, "stsb": STSB, "ud_pos": TAGS, "squad": QA, "prompt": PROMPT, "text": TEXT}


def put(columns, name, row, value):
    """The same columns with one value changed."""
    return {**columns, name: [value if i == row else v for i, v in enumerate(columns[name])]}


def without(columns, name):
    return {k: v for k, v in columns.items() if k != name}


DATA = [
    ("sst2", without(SST2, "sentence"), r"train: columns \['sentence'\] are missing, found \['label'\] \(task sst2\)"),
    ("sst2", without(SST2, "label"), r"columns \['label'\] are missing"),
    ("sst2", {"sentence": [], "label": []}, "has no rows"),
    ("sst2", put(SST2, "sentence", 2, None), "1 of 4 rows have no sentence, the first is row 2"),
    ("sst2", put(SST2, "label", 1, None), "1 of 4 rows have no label, the first is row 1"),
    ("sst2", put(SST2, "label", 3, 2), r"label of row 3 is 2, expected 0 to 1 \(negative, positive\)"),
    ("sst2", put(SST2, "label", 0, -1), "label of row 0 is -1, expected 0 to 1"),
    ("sst2", {**SST2, "label": ["a", "b", "a", "b"]}, r"label of row 0 is str 'a', expected a whole number from 0 to 1"),
    ("sst2", {**SST2, "label": [0.0, 0.5, 1.0, 1.0]}, r"is float 0.0, expected a whole number"),
    ("sst2", {**SST2, "label": [True, False, True, True]}, r"is bool True, expected a whole number"),
    ("sst2", {**SST2, "sentence": [1, 2, 3, 4]}, "sentence of row 0 is int 1, expected a text"),
    ("stsb", {**STSB, "label": ["1", "2", "3", "4"]}, "label of row 0 is str '1', expected a finite number"),
    ("stsb", put(STSB, "label", 1, float("inf")), "label of row 1 is float inf, expected a finite number"),
    ("stsb", put(STSB, "label", 1, float("nan")), "1 of 4 rows have no label"),
    ("ud_pos", {**TAGS, "tokens": ["a b"] * 4}, "tokens of row 0 is str 'a b', expected a list of words"),
    ("ud_pos", put(put(TAGS, "tokens", 1, []), "upos", 1, []), "tokens of row 1 is an empty list"),
    ("ud_pos", put(TAGS, "upos", 2, [0]), "upos of row 2 has 1 tags for 2 words"),
    ("ud_pos", put(TAGS, "upos", 2, [0, 17]), "upos of row 2 has the tag 17, expected 0 to 16"),
    ("ud_pos", {**TAGS, "upos": [["NOUN", "VERB"]] * 4}, "expected a list of whole numbers"),
    ("squad", {**QA, "answers": ["anna"] * 4}, "answers of row 0 is str 'anna', expected {'text'"),
    (
        "squad",
        put(QA, "answers", 1, {"text": ["anna"], "answer_start": [3]}),
        r"says 'anna' stands at character 3 of the context, where",
    ),
    ("squad", put(QA, "answers", 1, {"text": [], "answer_start": []}), "expected lists of as many texts as starts"),
    ("squad", put(QA, "answers", 3, {"text": ["anna"], "answer_start": [0, 1]}), "expected lists of as many texts as starts"),
    ("squad", put(QA, "answers", 1, {"text": ["anna"], "answer_start": [-3]}), "whole numbers from 0"),
    ("squad", {**QA, "answers": [{"text": [5], "answer_start": [0]}] * 4}, "expected texts, and whole numbers"),
    ("squad", {**QA, "answers": [{"text": "anna", "answer_start": 0}] * 4}, "expected lists of as many texts as starts"),
    ("squad", without(QA, "context"), r"columns \['context'\] are missing"),
    ("prompt", put(PROMPT, "completion", 2, ""), "completion of row 2 is empty: nothing to learn"),
    ("prompt", {**PROMPT, "prompt": [1, 2, 3, 4]}, "prompt of row 0 is int 1, expected a text, or a list of messages"),
    ("prompt", {**PROMPT, "completion": [[{"role": "assistant", "content": "x"}]] * 4}, "expected two of a kind"),
    ("prompt", {**PROMPT, "prompt": [[{"text": "x"}]] * 4}, "expected a text, or a list of messages {role, content} with texts"),
    ("text", {"text": [1, 2, 3, 4]}, "text of row 0 is int 1, expected a text"),
    ("text", {"text": ["", " ", "", ""]}, "no train row has an answer"),
    ("text", {"sentence": TEXTS}, r"columns \['text'\] are missing"),
]


def write(folder, columns, kind="parquet"):
    folder.mkdir(exist_ok=True)
    for split, content in {"train": columns, "validation": columns}.items():
        data = Dataset.from_dict(content)
        getattr(data, {"parquet": "to_parquet", "jsonl": "to_json"}[kind])(str(folder / f"{split}.{kind}"))
    return folder


def assert_refused(result, out, task, **settings):
    """The run raises with these words, and its folder was never made."""
    with pytest.raises((ValueError, FileNotFoundError), match=result):
        train_model(task, out=str(out), **{"steps": 2, "trackers": "", **settings})
    assert not out.exists()


@pytest.mark.parametrize(("task", "columns", "result"), DATA, ids=[f"{i}-{row[0]}" for i, row in enumerate(DATA)])
@pytest.mark.fault
def test_data_that_does_not_fit(task, columns, result, models, tmp_path):
    model = models["decoder" if task in ("prompt", "text") else "encoder"]
    assert_refused(result, tmp_path / "run", task, model=model, data_dir=str(write(tmp_path / "data", columns)))


@pytest.mark.parametrize("task", GOOD)
def test_the_table_changes_one_thing_at_a_time(task, models, tmp_path):
    """The columns that the table spoils are fine as they are."""
    model = models["decoder" if task in ("prompt", "text") else "encoder"]
    kind = "jsonl" if task == "prompt" else "parquet"
    data = str(write(tmp_path / "data", GOOD[task], kind))
    assert train_model(task, model=model, data_dir=data, steps=2, samples=0, out=str(tmp_path / "run")).steps == 2


FILES = [
    ({}, FileNotFoundError, r"expected train\.parquet and validation\.parquet.*found \[\]"),
    (None, FileNotFoundError, "no such folder"),
    ({"train.parquet": b""}, ValueError, r"train\.parquet: the file is empty"),
    ({"train.jsonl": b"", "test.jsonl": b"{}"}, ValueError, r"test\.jsonl: cannot be read, or has no rows"),
    ({"train.parquet": b"no parquet at all", "test.parquet": b"x" * 99}, ValueError, "cannot be read"),
    ({"train.jsonl": b'{"sentence": "a", "label"', "test.jsonl": b"{}"}, ValueError, "cannot be read"),
    ({"train.csv": b"sentence,label\na,0\n", "train.jsonl": b"{}"}, ValueError, "keep one file for each split"),
    ({"train.csv": b"sentence,label\na,0\n"}, ValueError, "there must be a split to evaluate on"),
    ({"train.csv": b"sentence,label\na,0\n", "test.csv": b"text,label\na,0\n"}, ValueError, r"test: columns \['sentence'\]"),
    ({"train.csv": b"sentence,label\na,0\n", "train.txt": b"a"}, ValueError, "keep one file for each split"),
    ({"train.txt": b"a\n", "test.txt": b"b\n"}, ValueError, r"columns \['sentence', 'label'\] are missing, found \['text'\]"),
    ({"data.parquet": b"x"}, FileNotFoundError, r"found \['data\.parquet'\]"),
]


@pytest.mark.parametrize(("files", "error", "result"), FILES, ids=range(len(FILES)))
@pytest.mark.fault
def test_files_that_do_not_fit(files, error, result, models, tmp_path):
    data = tmp_path / "data"
    if files is not None:
        data.mkdir()
        for name, content in files.items():
            (data / name).write_bytes(content)
    with pytest.raises(error, match=result):
        train_model("sst2", model=models["encoder"], data_dir=str(data), steps=2, out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


SETTINGS = [
    ({"task": "sst3"}, "task 'sst3' is unknown; there are topic, "),
    ({"task": "sick"}, "task 'sick' needs a model: give model="),
    ({"task": "sick", "model": "encoder"}, "has no name on the Hub: give --data-dir"),
    ({"target_modules": "qury"}, "nearest"),
    ({"target_modules": ""}, "matches none|no module|empty"),
    ({"r": 0}, "rank"),
    ({"lora_alpha": 0.0}, "lora_alpha=0.0: expected more than 0"),
    ({"lora_dropout": 1.0}, "lora_dropout=1.0: expected 0 or more and less than 1"),
    ({"steps": 0}, "steps=0: expected at least 1"),
    ({"batch_size": 0}, "batch_size=0"),
    ({"accumulation": -1}, "accumulation=-1"),
    ({"learning_rate": 0.0}, "learning_rate=0.0: expected more than 0"),
    ({"learning_rate": float("nan")}, "learning_rate=nan"),
    ({"max_grad_norm": -1.0}, "max_grad_norm=-1.0"),
    ({"warmup_share": 1.5}, "warmup_share=1.5"),
    ({"weight_decay": -0.1}, "weight_decay=-0.1: expected at least 0"),
    ({"max_length": 1}, "max_length=1"),
    ({"patience": 0}, "patience=0"),
    ({"save_every": 0}, "save_every=0"),
    ({"train_rows": 0}, "train_rows=0"),
    ({"score_texts": -1}, "score_texts=-1"),
    ({"seed": -1}, "seed=-1"),
    ({"seed": 2**40}, "expected less than"),
    ({"learning_rate": float("inf")}, "more than 0, and finite"),
    ({"score_texts": 5}, "score_texts=5, but tagging is a task of tagging: it writes no texts"),
    ({"trackers": "tensorbord"}, "tracker 'tensorbord' is unknown; there are tensorboard, wandb, mlflow"),
    ({"trackers": "wandb"}, "tracker 'wandb' is not installed: pip install wandb"),
    ({"model": "no/such/folder"}, "model 'no/such/folder' cannot be loaded"),
    ({"task": "data2text", "model": "encoder"}, "is an encoder: its words see the words after them"),
    (
        {"task": "qa", "max_length": 4},
        "question of row 0 has 4 tokens and leaves no space|question of row 0 has 3 tokens and leaves no space",
    ),
    ({"task": "data2text", "max_length": 8}, "no train row has an answer within 8 tokens"),
]


@pytest.mark.parametrize(("changes", "result"), SETTINGS, ids=["-".join(map(str, c.values())) for c, _ in SETTINGS])
def test_settings_that_make_no_sense(changes, result, tmp_path):
    assert_refused(result, tmp_path / "run", **{"task": "tagging", **changes})


MODELS = [
    ("no tokenizer", "sst2", "cannot be loaded"),
    ("no weights", "sst2", "cannot be loaded for classification"),
    ("cut weights", "sst2", "cannot be loaded for classification"),
    ("empty", "sst2", "cannot be loaded"),
]


@pytest.mark.parametrize(("name", "task", "result"), MODELS)
@pytest.mark.fault
def test_models_that_cannot_be_used(name, task, result, models, tmp_path):
    data = write(tmp_path / "data", GOOD[task])
    assert_refused(result, tmp_path / "run", task, model=models[name], data_dir=str(data))


def test_a_tokenizer_without_an_end_cannot_train_to_generate(models, tmp_path):
    shutil.copytree(models["decoder"], tmp_path / "model")
    settings = tmp_path / "model" / "tokenizer_config.json"
    settings.write_text(json.dumps({k: v for k, v in json.loads(settings.read_text()).items() if k != "eos_token"}))
    data = write(tmp_path / "data", PROMPT)
    assert_refused("has no end-of-text token", tmp_path / "run", "prompt", model=str(tmp_path / "model"), data_dir=str(data))


@pytest.mark.fault
def test_a_mistake_in_the_middle_keeps_what_was_done(tmp_path):
    """A learning rate that makes the loss infinite: the error names the step, and the rows before it are on disk."""
    with pytest.raises(FloatingPointError, match=r"is (nan|inf) at step \d+: lower the learning rate"):
        train_model("topic", method="full", learning_rate=1e30, steps=50, eval_rows=20, warmup_share=0.0, out=str(tmp_path))
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert rows[0]["step"] == 0 and len(rows) >= 2


TRAINED = [
    ("runs/no-such-run", "is no folder; expected one that a run wrote"),
    ("{empty}", r"neither training\.json nor adapter_config\.json; found"),
]


@pytest.mark.parametrize(("where", "result"), TRAINED)
def test_what_is_no_trained_model(where, result, models):
    with pytest.raises(ValueError, match=result):
        load_trained(where.format(empty=models["empty"]))


def test_a_trained_model_of_another_kind_of_task(tmp_path):
    train_model("topic", steps=1, eval_rows=10, out=str(tmp_path), trackers="")
    with pytest.raises(ValueError, match=r"was trained for topic \(classification\), not for tagging"):
        load_trained(tmp_path / "adapter", task="tagging")
    with pytest.raises(ValueError, match="unknown; there are"):
        load_trained(tmp_path / "adapter", task="nonsense")
    with pytest.raises(ValueError, match=r"score_texts=3, but topic is a task of classification"):
        evaluate_trained(EvaluateSettings(str(tmp_path / "adapter"), score_texts=3))


def test_folders_without_runs(tmp_path):
    with pytest.raises(ValueError, match="no run here"):
        find_runs([tmp_path])
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"config\.json: not a readable JSON file"):
        find_runs([tmp_path])
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text("no json\n")
    with pytest.raises(ValueError, match="not readable as JSON lines"):
        find_runs([tmp_path])


COMMANDS = [
    (["trian", "--task", "topic"], "no command 'trian'; there are generate, evaluate"),
    (["--task", "sst3"], "error: task 'sst3' is unknown"),
    (["--steps", "many"], "many"),
    (["--method", "adapter"], "adapter"),
    (["generate", "--adapter", "nowhere"], "'nowhere' is no folder"),
    (["evaluate", "--adapter", "nowhere"], "'nowhere' is no folder"),
    (["report", "nowhere"], "nowhere: no run here"),
]


@pytest.mark.parametrize(("words", "result"), COMMANDS, ids=[" ".join(w) for w, _ in COMMANDS])
def test_commands_answer_in_one_line(words, result):
    done = run_module("training", *words)
    assert done.returncode != 0 and result in done.stderr + done.stdout and "Traceback" not in done.stderr


def test_the_table_is_long_enough():
    assert sum(map(len, (DATA, FILES, SETTINGS, MODELS, TRAINED, COMMANDS))) >= 40
