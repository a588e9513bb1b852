"""`python -m training evaluate --adapter FOLDER`: the scores of a trained model, or of one from the Hub, on a split."""

from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.progress import track

from training.runs.setting_checks import at_least


@dataclass(frozen=True)
class EvaluateSettings:
    """Evaluate what a run trained: `runs/NAME/adapter`, or `user/repo` on the Hub."""

    adapter: str
    """folder with the trained weights, or user/repo on the Hub"""
    task: str | None = None
    """None: the task that the folder was trained for"""
    model: str | None = None
    """None: the base that the folder names"""
    data_dir: str | None = None
    """None: the small world or the Hub"""
    split: str | None = None
    """None: the split that a run reports on (validation, else test)"""
    rows: int | None = None
    """so many examples only (of files a random sample, always the same one); None is all"""
    max_length: int | None = None
    """None: what the run used"""
    score_texts: int | None = 0
    """generation: so many distinct prompts are continued and scored; None is all"""
    decoding: Literal["greedy", "lora_paper"] = "greedy"
    """lora_paper: 10 beams, length penalty 0.8, no 4-gram twice"""
    max_new_tokens: int = 128
    """at most so many tokens are generated"""

    def __post_init__(self):
        at_least({"rows": 1, "max_length": 2, "score_texts": 0, "max_new_tokens": 1}, self)


def evaluate_trained(settings: EvaluateSettings) -> None:
    from training.data.data import evaluation_split, load_task, some_rows
    from training.data.data_checks import check_rows
    from training.data.encoding import encode
    from training.evaluation.evaluation import HeldOut, evaluate, score
    from training.evaluation.generation import generate_samples, references_by_prompt
    from training.evaluation.text_metrics import refuse_texts, text_scores
    from training.loop.processes import make_accelerator
    from training.models.base_models import window
    from training.reports.read_counts import confusion, confusion_table, counts_of, counts_table
    from training.reports.records import markdown_table

    trained = load_any(settings.adapter, settings.task, settings.model)
    spec, model, tokenizer = trained.spec, trained.base.model, trained.base.tokenizer
    refuse_texts(spec, settings.score_texts)
    data = load_task(spec, settings.data_dir)
    split = settings.split or evaluation_split(data, spec, settings.data_dir)
    if split not in data:
        raise ValueError(f"there is no split {split!r}; there are {sorted(data)}")
    check_rows(data[split], spec, split)
    rows = some_rows(data[split], settings.rows, spec, settings.data_dir)
    encoded = encode(rows[:], spec, tokenizer, min(settings.max_length or trained.max_length, window(model, tokenizer)))
    accelerator = make_accelerator()
    predictions: list = []

    def keep_guesses(held_out: HeldOut, guesses: list) -> dict[str, float]:
        predictions.extend(guesses)
        return score(held_out, guesses)

    held_out = HeldOut(spec, rows, encoded)
    scores = evaluate(model.to(accelerator.device), held_out, tokenizer, accelerator, scores=keep_guesses)
    if settings.score_texts != 0:
        prompts = references_by_prompt(rows, spec)[: settings.score_texts]
        parts = [prompts[i : i + 32] for i in range(0, len(prompts), 32)]
        options = {"decoding": settings.decoding, "max_new_tokens": settings.max_new_tokens}
        samples = [s for p in track(parts, "generating") for s in generate_samples(model, tokenizer, p, spec, **options)]
        scores |= text_scores(samples)
    if not accelerator.is_main_process:
        return
    console = Console(soft_wrap=True)
    console.print(f"{trained.report}; {spec.name}, {len(rows)} rows of {split}, {encoded.truncated} cut", highlight=False)
    console.print(markdown_table(("score", "value"), [(k, f"{v:.6g}") for k, v in scores.items()]), markup=False)
    console.print("\n" + counts_table({split: counts_of(spec, len(rows), encoded)}), markup=False)
    mistaken = confusion(spec, predictions, encoded.features)
    if mistaken is not None:
        console.print("\n" + confusion_table(spec.labels, mistaken), markup=False)


def load_any(where: str, task: str | None, model: str | None) -> Any:
    """A trained model, or a compressed student. ValueError where options do not go with the folder."""
    from pathlib import Path

    from distill.student.student_files import CARD, load_student
    from training.models.trained import load_trained

    if not (Path(where) / CARD).exists():
        return load_trained(where, task, model)
    trained = load_student(Path(where))
    if model is not None or (task is not None and task != trained.spec.name):
        raise ValueError(f"{where} is a compressed student for {trained.spec.name}, all of its own: leave --model and --task out")
    return trained
