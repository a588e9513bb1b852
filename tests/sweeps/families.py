"""What becomes of a run on every family of models: trained, saved, loaded and answering alike, or refused by name. Never silence.

`python tests/sweeps/families.py` runs the three trainers on tiny random models, six steps for each task that fits, and writes
FAMILIES.md beside it; names after it run these families alone and print them. A cell says "works", "refused: ..." (an error of
ours), "fails: ..." (an error of transformers or torch) or "silent: ...". Checked in each run: it trains; the model that is loaded
again answers with the same bits; a row's answer is the same alone and in a batch of eight, to 1e-5 of the largest answer.
"""

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
sys.path[:0] = [
    str(Path(__file__).parents[2]),
    str(Path(__file__).parents[1] / "helpers"),
]

# ruff: noqa: E402
import torch
from family_models import FAMILIES, Family, save_family

from distill import DistillSettings, run_distillation
from distill.student.student_files import load_student
from loralib.base_model.never_called import NeverCalledError
from multitask.model.files import load_multitask
from multitask.runs.run import TRAINED as MULTITASK
from multitask.runs.run import load_rows, run_multitask
from multitask.runs.settings import MultitaskSettings
from training.data.batching import pads_left
from training.data.encoding import encode
from training.data.ignored import IGNORE
from training.data.tasks import find_task
from training.evaluation import padding
from training.evaluation.evaluation import HeldOut, model_inputs
from training.loop.checks import NoGradientError
from training.models.trained import load_trained
from training.runs.dry_run import answers, compare
from training.runs.run import train_model
from training.runs.run_folder import TRAINED

TABLE = Path(__file__).with_name("FAMILIES.md")
ROOT = Path(__file__).parents[2]
WORKS, TOLERANCE = "works", 1e-5
REFUSALS = (ValueError, NeverCalledError, NoGradientError, RuntimeError, TypeError)
SENTENCES = (
    "good film",
    "a bad film that was on with the name of who it was",
    "the good one",
    "how bad it is",
    "is it good for us",
)
TASKS = {
    "encoder": ("sst2", "stsb", "ud_pos", "squad"),
    "decoder": ("prompt", "text", "sst2"),
    "pair": ("sst2", "stsb"),
}
SHORT = {"threads": 1, "trackers": "", "max_length": 48, "batch_size": 4, "steps": 6, "eval_every": 6}


def write_data(folder: Path) -> dict[str, str]:
    """Ten rows for each task; {task: folder}."""
    result = {}
    for task in ("sst2", "stsb", "ud_pos", "squad", "prompt", "text"):
        place = folder / task
        place.mkdir(parents=True)
        lines = "".join(json.dumps(row_of(task, i)) + "\n" for i in range(10))
        for split in ("train", "validation"):
            (place / f"{split}.jsonl").write_text(lines)
        result[task] = str(place)
    return result


def row_of(task: str, i: int) -> dict:
    text, other = SENTENCES[i % len(SENTENCES)], SENTENCES[(i + 2) % len(SENTENCES)]
    last = text.split()[-1]
    return {
        "sst2": {"sentence": text, "label": i % 2},
        "stsb": {"sentence1": text, "sentence2": other, "label": i / 3},
        "ud_pos": {"tokens": text.split(), "upos": [j % 5 for j in range(len(text.split()))]},
        "squad": {"question": other, "context": text, "answers": {"text": [last], "answer_start": [len(text) - len(last)]}},
        "prompt": {"prompt": text, "completion": f" {other}"},
        "text": {"text": f"{text} {other}"},
    }[task]


def try_family(name: str) -> dict[str, str]:
    """{trainer and task: what became of it}."""
    torch.set_num_threads(1)
    family, result = FAMILIES[name], {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data, base = write_data(folder / "data"), save_family(family, folder / "base")
        for task in TASKS[family.kind]:
            for method in ("lora", "full"):
                out = folder / f"{task}-{method}"
                result[f"{task}, {method}"] = outcome(lambda t=task, m=method, o=out: check_training(t, m, base, data[t], o))
        if family.kind != "decoder":
            result["multitask"] = outcome(lambda: check_multitask(family, base, data, folder / "multitask"))
        taught = TASKS[family.kind][0]
        if result[f"{taught}, full"] == WORKS:
            teacher = folder / f"{taught}-full" / TRAINED
            result["distill"] = outcome(lambda: check_distillation(taught, str(teacher), data[taught], folder / "student"))
    return result


def outcome(check: Callable[[], None]) -> str:
    try:
        check()
    except AssertionError as error:
        return f"silent: {short(error)}"
    except REFUSALS as error:
        return f"refused: {short(error)}" if raised_by_us(error) else f"fails: {type(error).__name__}: {short(error)}"
    except Exception as error:
        return f"fails: {type(error).__name__}: {short(error)}"
    return WORKS


def raised_by_us(error: BaseException) -> bool:
    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    place = Path(trace.tb_frame.f_code.co_filename)
    return place.is_relative_to(ROOT) and ".venv" not in place.parts and place.parent.name != "tests"


def short(error: BaseException) -> str:
    text = re.sub(r"'/[^']*'", "FOLDER", " ".join(str(error).split()))
    return text[:150].replace("|", "/")


def check_training(task: str, method: str, base: str, data: str, out: Path) -> None:
    options = {"samples": 1, "max_new_tokens": 3, "learning_rate": 1e-3} | SHORT
    result = train_model(task, model=base, data_dir=data, method=method, out=str(out), **options)
    assert result.steps == 6 and all(row["loss"] == row["loss"] for row in result.rows[1:])
    again = load_trained(out / TRAINED)
    features = features_of(task, data, result.tokenizer)
    same_bits(result.model, result.tokenizer, again.base.model, again.base.tokenizer, features)
    same_alone(again.base.model, again.base.tokenizer, features)


def check_multitask(family: Family, base: str, data: dict[str, str], out: Path) -> None:
    tasks = ("sst2", "stsb", "ud_pos") if family.kind == "encoder" else ("sst2", "stsb")
    folders = ",".join(f"{task}={data[task]}" for task in tasks)
    settings = MultitaskSettings(tasks=",".join(tasks), model=base, data_dirs=folders, out=str(out), **SHORT)
    run_multitask(settings)
    (first, tokenizer, _), (second, _, _) = (load_multitask(out / MULTITASK) for _ in range(2))
    held_out = {name: part.held_out for name, part in load_rows(settings, tokenizer, 48).items()}
    result = [model.evaluate_all_tasks(held_out, tokenizer) for model in (first, second)]
    last = json.loads((out / "result.json").read_text())["tasks"]
    for task in tasks:
        remaining, again = (scores[task]["eval_loss"] for scores in result)
        alone = loss_of_rows_alone(second, task, held_out[task], tokenizer)
        assert remaining == again, f"{task}: loaded twice, {remaining} and {again}"
        assert abs(remaining - last[task]["loss"]) <= TOLERANCE * (1 + abs(remaining)), (
            f"{task}: {last[task]['loss']} trained, {remaining} loaded"
        )
        assert abs(remaining - alone) <= TOLERANCE * (1 + abs(remaining)), f"{task}: {remaining} in a batch, {alone} alone"


def loss_of_rows_alone(model, task: str, held_out: HeldOut, tokenizer) -> float:
    """The loss over all answers, each row evaluated by itself."""
    total = count = 0.0
    for i, feature in enumerate(held_out.encoded.features):
        places = held_out.encoded.places[i : i + 1]
        one = HeldOut(held_out.spec, held_out.rows.select([i]), replace(held_out.encoded, features=[feature], places=places))
        answers_here = sum(label != IGNORE for label in feature["labels"]) if isinstance(feature["labels"], list) else 1
        total += answers_here * model.evaluate_task(task, one, tokenizer)["eval_loss"]
        count += answers_here
    return total / count


def check_distillation(task: str, teacher: str, data: str, out: Path) -> None:
    settings = DistillSettings(teacher=teacher, student="copy:1", losses=("kd:T=2,a=0.5",), data_dir=data, out=str(out), **SHORT)
    run_distillation(settings)  # which compares what it saved with what it trained
    student = load_student(out / TRAINED).base
    same_alone(student.model, student.tokenizer, features_of(task, data, student.tokenizer))


def features_of(task: str, data: str, tokenizer) -> list[dict]:
    lines = (Path(data) / "validation.jsonl").read_text().splitlines()[:8]
    rows = [json.loads(line) for line in lines]
    return encode({key: [row[key] for row in rows] for key in rows[0]}, find_task(task), tokenizer, 48).features


def same_bits(trained, tokenizer, loaded, its_tokenizer, features: list[dict]) -> None:
    try:
        compare(answers(trained, tokenizer, features), answers(loaded, its_tokenizer, features))
    except RuntimeError as error:
        raise AssertionError(str(error)) from error


def same_alone(model, tokenizer, features: list[dict]) -> None:
    """The answer to each of some rows alone, and beside the other seven."""
    side, by_row = ("left" if pads_left(tokenizer, features[0]) else "right"), not isinstance(features[0].get("labels", []), list)
    reply = lambda batch: padding._answers(model(**model_inputs(batch)))  # noqa: E731
    before, padding.TOLERANCE = padding.TOLERANCE, TOLERANCE
    try:
        for i in (0, 1, 2):
            rows = [features[i], *(f for j, f in enumerate(features) if j != i)]
            assert padding._independent(reply, rows[0], rows, tokenizer.pad_token_id, side, model, by_row), (
                f"row {i} alone differs"
            )
    finally:
        padding.TOLERANCE = before


# ---------------------------------------------------------------- the table


def read_table() -> dict[str, dict[str, str]]:
    """{family: {run: what became of it}} of the committed table."""
    result: dict[str, dict[str, str]] = {}
    for line in TABLE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0] in FAMILIES:
            result.setdefault(cells[0], {})[cells[2]] = cells[3]
    return result


def page(results: dict[str, dict[str, str]]) -> str:
    import transformers

    cells = [value for result in results.values() for value in result.values()]
    count = {word: sum(value.startswith(word) for value in cells) for word in (WORKS, "refused", "fails", "silent")}
    lines = [
        f"| {name} | {FAMILIES[name].about} | {run} | {value} |"
        for name, result in results.items()
        for run, value in result.items()
    ]
    return (
        f"# {len(results)} families of models in the three trainers, transformers {transformers.__version__}\n\n"
        "Made by `python tests/sweeps/families.py`, which explains the checks.\n\n"
        f"{len(cells)} runs: {count[WORKS]} work, {count['refused']} refused by us, {count['fails']} fail in transformers or "
        f"torch, {count['silent']} silent failures.\n\n"
        "| family | what it has | run | outcome |\n|:--|:--|:--|:--|\n" + "\n".join(lines) + "\n"
    )


def main() -> None:
    names = sys.argv[1:] or list(FAMILIES)
    with ProcessPoolExecutor(2) as pool:
        results = dict(zip(names, pool.map(try_family, names), strict=True))
    text = page(results)
    if not sys.argv[1:]:
        TABLE.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
