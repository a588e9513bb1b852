"""The bad-input table: what a person can get wrong, and the words that say so. Nothing is written before the error."""

import json
import shutil
from pathlib import Path

import pytest
import tiny_folder
from command import run_module
from datasets import Dataset

from training import train_model
from training.report import find_runs
from training.trained import load_trained

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


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    made = {"encoder": tiny_folder.encoder(folder / "encoder"), "decoder": tiny_folder.decoder(folder / "decoder")}
    shutil.copytree(made["encoder"], folder / "no tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "no tokenizer" / name).unlink()
    shutil.copytree(made["encoder"], folder / "no weights")
    (folder / "no weights" / "model.safetensors").unlink()
    shutil.copytree(made["encoder"], folder / "cut weights")
    weights = folder / "cut weights" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (folder / "empty").mkdir()
    return made | {name: str(folder / name) for name in ("no tokenizer", "no weights", "cut weights", "empty")}


def write(folder, columns, kind="parquet"):
    folder.mkdir(exist_ok=True)
    for split, content in {"train": columns, "validation": columns}.items():
        data = Dataset.from_dict(content)
        getattr(data, {"parquet": "to_parquet", "jsonl": "to_json"}[kind])(str(folder / f"{split}.{kind}"))
    return folder


def assert_refused(found, out, task, **settings):
    """The run raises with these words, and its folder was never made."""
    with pytest.raises((ValueError, FileNotFoundError), match=found):
        train_model(task, out=str(out), **{"steps": 2, "trackers": "", **settings})
    assert not out.exists()


@pytest.mark.parametrize(("task", "columns", "found"), DATA, ids=[f"{i}-{row[0]}" for i, row in enumerate(DATA)])
@pytest.mark.fault
def test_data_that_does_not_fit(task, columns, found, models, tmp_path):
    model = models["decoder" if task in ("prompt", "text") else "encoder"]
    assert_refused(found, tmp_path / "run", task, model=model, data_dir=str(write(tmp_path / "data", columns)))


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


@pytest.mark.parametrize(("files", "error", "found"), FILES, ids=range(len(FILES)))
@pytest.mark.fault
def test_files_that_do_not_fit(files, error, found, models, tmp_path):
    data = tmp_path / "data"
    if files is not None:
        data.mkdir()
        for name, content in files.items():
            (data / name).write_bytes(content)
    with pytest.raises(error, match=found):
        train_model("sst2", model=models["encoder"], data_dir=str(data), steps=2, out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


SETTINGS = [
    ({"task": "sst3"}, "task 'sst3' is unknown; there are topic, "),
    ({"task": "sick"}, "has no name on the Hub: give --data-dir"),
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
        "question of row 0 has 4 tokens and leaves no room|question of row 0 has 3 tokens and leaves no room",
    ),
    ({"task": "data2text", "max_length": 8}, "no train row has an answer within 8 tokens"),
]


@pytest.mark.parametrize(("changes", "found"), SETTINGS, ids=["-".join(map(str, c.values())) for c, _ in SETTINGS])
def test_settings_that_make_no_sense(changes, found, tmp_path):
    assert_refused(found, tmp_path / "run", **{"task": "tagging", **changes})


MODELS = [
    ("no tokenizer", "sst2", "cannot be loaded"),
    ("no weights", "sst2", "cannot be loaded for classification"),
    ("cut weights", "sst2", "cannot be loaded for classification"),
    ("empty", "sst2", "cannot be loaded"),
]


@pytest.mark.parametrize(("name", "task", "found"), MODELS)
@pytest.mark.fault
def test_models_that_cannot_be_used(name, task, found, models, tmp_path):
    data = write(tmp_path / "data", GOOD[task])
    assert_refused(found, tmp_path / "run", task, model=models[name], data_dir=str(data))


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


@pytest.mark.parametrize(("where", "found"), TRAINED)
def test_what_is_no_trained_model(where, found, models):
    with pytest.raises(ValueError, match=found):
        load_trained(where.format(empty=models["empty"]))


def test_a_trained_model_of_another_kind_of_task(tmp_path):
    train_model("topic", steps=1, eval_rows=10, out=str(tmp_path), trackers="")
    with pytest.raises(ValueError, match=r"was trained for topic \(classification\), not for tagging"):
        load_trained(tmp_path / "adapter", task="tagging")
    with pytest.raises(ValueError, match="unknown; there are"):
        load_trained(tmp_path / "adapter", task="nonsense")


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


@pytest.mark.parametrize(("words", "found"), COMMANDS, ids=[" ".join(w) for w, _ in COMMANDS])
def test_commands_answer_in_one_line(words, found):
    done = run_module("training", *words)
    assert done.returncode != 0 and found in done.stderr + done.stdout and "Traceback" not in done.stderr


def test_the_table_is_long_enough():
    assert sum(map(len, (DATA, FILES, SETTINGS, MODELS, TRAINED, COMMANDS))) >= 40


# ---------------------------------------------------------------- what a hostile review found


def jsonl(folder, **splits):
    folder.mkdir()
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


PAIRS = [{"prompt": f"say {i}", "completion": f"answer {i}"} for i in range(6)]


@pytest.mark.parametrize("prompt", ["word " * 600, [{"role": "user", "content": [{"type": "text", "text": "yo"}]}]])
@pytest.mark.fault
def test_a_prompt_that_cannot_be_continued_is_told_before_training(prompt, models, tmp_path):
    completion = "x" if isinstance(prompt, str) else [{"role": "assistant", "content": "x"}]
    rows = [{"prompt": prompt, "completion": completion}]
    data = jsonl(
        tmp_path / "data", train=PAIRS if isinstance(prompt, str) else rows, validation=rows + PAIRS[: isinstance(prompt, str)]
    )
    assert_refused(
        "no room for an answer|with texts in them",
        tmp_path / "run",
        "prompt",
        model=models["decoder"],
        data_dir=data,
        max_length=4000,
    )


def test_columns_named_like_the_small_worlds_mean_nothing_elsewhere(models, tmp_path):
    rows = [{"sentence": t, "label": i % 2, "bayes": 0.5} for i, t in enumerate(TEXTS)]
    data = jsonl(tmp_path / "data", train=rows, validation=rows, test=[{"sentence": "x", "label": 7, "bayes": 1.0}])
    result = train_model("sst2", model=models["encoder"], data_dir=data, steps=1, out=str(tmp_path / "run"), trackers="")
    assert result.ceiling is None


@pytest.mark.parametrize("changed", ["train", "validation", "base"])
@pytest.mark.fault
def test_a_run_does_not_go_on_with_other_labels_or_another_base(changed, models, tmp_path, monkeypatch):
    from safetensors.torch import load_file, save_file

    from training.run_folder import RunError, RunFolder

    model = tmp_path / "model"
    shutil.copytree(models["encoder"], model)
    rows = [{"sentence": t, "label": i % 2} for i, t in enumerate(TEXTS)]
    data = jsonl(tmp_path / "data", train=rows, validation=rows)
    settings = {"model": str(model), "data_dir": data, "steps": 4, "save_every": 1, "trackers": "", "out": str(tmp_path / "run")}
    keep = RunFolder.keep

    def failing(folder, row):
        keep(folder, row)
        if row["step"] == 3:
            raise KeyError("down")

    monkeypatch.setattr(RunFolder, "keep", failing)
    with pytest.raises(KeyError):
        train_model("sst2", **settings)
    monkeypatch.undo()
    if changed == "base":
        weights = load_file(model / "model.safetensors")
        save_file({k: v * 1.5 for k, v in weights.items()}, model / "model.safetensors", metadata={"format": "pt"})
    else:
        flipped = [{**r, "label": 1 - r["label"]} for r in rows]
        (Path(data) / f"{changed}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in flipped))
    name = {"train": "train_checksum", "validation": "evaluation_checksum", "base": "frozen_checksum"}[changed]
    with pytest.raises(RunError, match=name):
        train_model("sst2", **settings)


@pytest.mark.fault
def test_a_base_with_holes_is_not_called_pretrained(models, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(models["encoder"], tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    weights = load_file(path)
    save_file({k: v for k, v in weights.items() if not k.endswith("output.dense.bias")}, path, metadata={"format": "pt"})
    data = write(tmp_path / "data", SST2)
    assert_refused("They would stay random", tmp_path / "run", "sst2", model=str(tmp_path / "model"), data_dir=str(data))
    save_file({f"other.{k}": v for k, v in weights.items()}, path, metadata={"format": "pt"})
    assert_refused("They would stay random", tmp_path / "run", "sst2", model=str(tmp_path / "model"), data_dir=str(data))


@pytest.mark.fault
def test_all_weights_without_their_head_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    train_model("topic", method="full", steps=1, eval_rows=10, out=str(tmp_path), trackers="")
    path = tmp_path / "adapter" / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "classifier" not in k}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not as it was written"):
        load_trained(tmp_path / "adapter")
    card = tmp_path / "adapter" / "training.json"  # without sums, as a folder of an older version
    card.write_text(json.dumps({k: v for k, v in json.loads(card.read_text()).items() if k != "crc32"}))
    with pytest.raises(ValueError, match=r"\['classifier'\] are missing"):
        load_trained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="leave --model out"):
        load_trained(tmp_path / "adapter", model="encoder")


@pytest.mark.fault
def test_restart_removes_nothing_that_no_run_wrote(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "report.md").write_text("mine")
    with pytest.raises(ValueError, match="that no run wrote"):
        train_model("topic", steps=1, eval_rows=10, out=str(tmp_path), trackers="", restart=True)
    assert (tmp_path / "report.md").read_text() == "mine"


@pytest.mark.fault
def test_a_result_without_its_settings_is_no_finished_run(tmp_path):
    train_model("topic", steps=1, eval_rows=10, out=str(tmp_path), trackers="")
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match="a run that was damaged"):
        train_model("topic", steps=1, eval_rows=10, out=str(tmp_path), trackers="")
    assert train_model("topic", steps=2, eval_rows=10, out=str(tmp_path), trackers="", restart=True).steps == 2


def test_an_unknown_word_in_a_prompt_is_not_read_quietly(tmp_path):
    from training.base_models import load_base
    from training.generation import generate_samples
    from training.tasks import TASKS

    base = load_base(TASKS["data2text"])
    with pytest.raises(ValueError, match="2 words are not in the small world"):
        generate_samples(base.model, base.tokenizer, [("hello anna stranger", [])], TASKS["data2text"])


def test_accelerates_environment_does_not_divide_again(tmp_path, monkeypatch):
    short = {"steps": 1, "eval_rows": 10, "trackers": ""}
    plain = train_model("topic", out=str(tmp_path / "a"), **short)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert train_model("topic", out=str(tmp_path / "b"), **short).rows[1]["grad_norm"] == plain.rows[1]["grad_norm"]


def test_the_padding_of_tokenizer_and_model_are_one(tmp_path, models):
    import torch

    from training.base_models import load_base
    from training.batching import pad
    from training.tasks import TASKS

    shutil.copytree(models["decoder"], tmp_path / "model")
    settings = tmp_path / "model" / "tokenizer_config.json"
    settings.write_text(json.dumps({k: v for k, v in json.loads(settings.read_text()).items() if k != "pad_token"}))
    base = load_base(TASKS["sst2"], str(tmp_path / "model"))
    short, long = ({"input_ids": list(range(10, 10 + n)), "attention_mask": [1] * n} for n in (3, 9))
    with torch.no_grad():
        alone, together = (base.model(**pad(rows, base.tokenizer.pad_token_id)).logits[0] for rows in ([short], [short, long]))
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


@pytest.mark.fault
def test_files_of_somebody_else_are_left_alone(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "mine.bin").write_text("mine")
    (tmp_path / "rows.jsonl").write_text("mine\n")
    with pytest.raises(ValueError, match="choose another --out"):
        train_model("topic", steps=1, eval_rows=10, out=str(tmp_path), trackers="")
    assert (tmp_path / "adapter" / "mine.bin").exists() and (tmp_path / "rows.jsonl").read_text() == "mine\n"


@pytest.mark.fault
def test_a_tokenizer_of_another_model_is_refused(models, tmp_path):
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=50, **sizes)).save_pretrained(tmp_path / "model")
    tiny_folder.tokenizer().save_pretrained(tmp_path / "model")
    data = write(tmp_path / "data", SST2)
    assert_refused("they do not belong together", tmp_path / "run", "sst2", model=str(tmp_path / "model"), data_dir=str(data))
