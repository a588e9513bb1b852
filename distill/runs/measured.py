"""What a finished run knows about its student: scores, similarity to the teacher, sizes; and that the disk holds the same one."""

from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator

from distill.runs import fidelity
from distill.runs.pair import Pair
from distill.runs.settings import DistillSettings
from distill.student.student_files import load_student
from distill.teacher import truth
from distill.teacher.rows import BY_ROW, Rows, same_tokens
from distill.teacher.teacher import Teacher
from kernels.measure import peak_bytes
from training.data.tasks import is_world
from training.data.world_tasks import ceiling
from training.evaluation.evaluation import HeldOut
from training.evaluation.generation import generate_samples, references_by_prompt
from training.evaluation.text_metrics import text_scores
from training.runs.result import metric_key

SAME_ROWS = 256


@torch.no_grad()
def assert_same_again(where: Path, pair: Pair, rows: Rows, accelerator: Accelerator) -> None:
    """The student that comes back from the disk answers as the one in memory, bit for bit."""
    features, kind = rows.held_out.encoded.features[:SAME_ROWS], pair.spec.kind
    again = load_student(where).base
    now = fidelity.answers_of(pair.student.model, features, pair.student.tokenizer, kind, accelerator.device)
    then = fidelity.answers_of(again.model.to(accelerator.device), features, again.tokenizer, kind, accelerator.device)
    if not all(torch.equal(a, b) for a, b in zip(now, then, strict=True)):
        raise RuntimeError(f"{where}: the student that was saved does not answer as the one that was trained")


def result_of(
    settings: DistillSettings,
    pair: Pair,
    rows: Rows,
    rows_written: list[dict],
    final: dict,
    numbers: dict,
    accelerator: Accelerator,
) -> dict:
    """The content of result.json. rows_written: of the run; final: scores of both models; numbers: what the run counted."""
    key, steps = metric_key(pair.spec), [row for row in rows_written if "seconds" in row]
    known = is_world(pair.spec.name) and settings.data_dir is None
    return {
        "task": pair.spec.name,
        "losses": list(settings.losses),
        "data": rows.held_out.counts,
        "metric_name": pair.spec.metric,
        "start_metric": rows_written[0][key],
        "metric": final[key],
        "loss": final["eval_loss"],
        "ceiling": ceiling(pair.spec.name, rows.held_out.rows) if known else None,
        "teacher_metric": final["teacher"][key],
        "teacher_loss": final["teacher"]["eval_loss"],
        **measure_fidelity(pair, rows, known, accelerator),
        **measure_texts(settings, pair, rows),
        "teacher_parameters": sum(p.numel() for p in pair.trained.base.model.parameters()),
        **numbers,
        "steps": settings.steps,
        "seed": settings.seed,
        "labelled_rows": rows.labelled,
        "transfer_rows": rows.unlabelled,
        "train_seconds": sum(row["seconds"] for row in steps),
        "teacher_seconds": sum(row["teacher_seconds"] for row in steps),
        "peak_bytes": peak_bytes(accelerator.device),
    }


def measure_texts(settings: DistillSettings, pair: Pair, rows: Rows) -> dict[str, float]:
    """{bleu, chrf, rouge_l, nist} of the student's continuations of test prompts, and of the teacher's with `teacher_` before."""
    if not settings.score_texts:
        return {}
    prompts, scores = references_by_prompt(rows.held_out.rows, pair.spec)[: settings.score_texts], {}
    for name, base in (("", pair.student), ("teacher_", pair.trained.base)):
        samples = generate_samples(base.model, base.tokenizer, prompts, pair.spec, max_new_tokens=settings.max_new_tokens)
        scores |= {name + score: value for score, value in text_scores(samples).items()}
    return scores


def measure_fidelity(pair: Pair, rows: Rows, known: bool, accelerator: Accelerator) -> dict[str, float]:
    """What `fidelity.py` measures about the student on the held-out examples, as far as the task has it.

    Nothing where both write texts of different tokens: their answers are not about the same things.
    """
    kind, device = pair.spec.kind, accelerator.device
    if kind not in BY_ROW and not same_tokens(pair.student.tokenizer, pair.trained.base.tokenizer):
        return {}
    student_logits = fidelity.answers_of(pair.student.model, rows.held_out.encoded.features, pair.student.tokenizer, kind, device)
    quiet = Teacher(pair.teacher.models, kind)  # measured without dropout, whatever it taught with
    teacher_logits = fidelity.teachers_answers(quiet, rows.teachers, pair.trained.base.tokenizer, device)
    if (
        student_logits[0].shape[-1] != teacher_logits[0].shape[-1]
    ):  # one tokenizer, and tables that were padded to different sizes
        words = min(len(pair.student.tokenizer), student_logits[0].shape[-1], teacher_logits[0].shape[-1])
        student_logits, teacher_logits = (
            [logits[..., :words] for logits in answers] for answers in (student_logits, teacher_logits)
        )
    measures = fidelity.fidelity(kind, student_logits, teacher_logits)
    if kind == "classification":
        labels = torch.tensor([f["labels"] for f in rows.held_out.encoded.features])
        measures["ece"] = fidelity.calibration_error(torch.cat(student_logits), labels)
        measures["teacher_ece"] = fidelity.calibration_error(torch.cat(teacher_logits), labels)
        exact = truth.posteriors(pair.spec.name, rows.held_out.rows) if known else None
        if exact is not None:
            measures["kl_to_truth"] = fidelity.distance_to_truth(torch.cat(student_logits), exact)
            measures["teacher_kl_to_truth"] = fidelity.distance_to_truth(torch.cat(teacher_logits), exact)
    return measures


def as_teacher(rows: Rows) -> HeldOut:
    """The held-out examples as the teacher reads them."""
    held_out = rows.held_out
    return replace(held_out, encoded=replace(held_out.encoded, features=rows.teachers))
