"""Is the student like its teacher, and does it know what it does not know? Measured on held-out examples, answer by answer.

agreement        share of the answers on which both models' first choice is the same
kl_to_teacher    mean KL(teacher ‖ student), at T = 1
ece              expected calibration error: mean |accuracy - confidence| over 15 bins of confidence (Guo et al. 2017, section 2)
kl_to_truth      mean KL(p* ‖ student), where the small world knows p*(y | x)

A student may agree badly and still be good, and the other way round (Stanton et al. 2021), so both are reported.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from distill.losses.losses import kl, log_probabilities, masked_mean
from distill.losses.states import answer_logits
from distill.teacher.teacher import Teacher
from training.data.batching import batches
from training.data.ignored import IGNORE
from training.evaluation.evaluation import answering, model_inputs

BINS = 15


def answers_of(model: Any, features: list[dict], tokenizer: Any, kind: str, device: torch.device) -> list[Tensor]:
    """The logits of all answers, batch by batch, (N, C) each. The model's mode stays."""
    logits = []
    with answering(model):
        for batch in batches(features, tokenizer, 64):
            batch = {name: value.to(device) for name, value in batch.items()}
            logits.append(answer_logits(kind, model(**model_inputs(batch)), batch).float().cpu())
    return logits


def teachers_answers(teacher: Teacher, features: list[dict], tokenizer: Any, device: torch.device) -> list[Tensor]:
    """The same of a teacher."""
    moved = ({name: value.to(device) for name, value in batch.items()} for batch in batches(features, tokenizer, 64))
    return [teacher.answers(batch).float().cpu() for batch in moved]


def fidelity(kind: str, student: list[Tensor], teacher: list[Tensor]) -> dict[str, float]:
    """{agreement, kl_to_teacher} of answers with classes; {rmse_to_teacher} of numbers, {agreement} of yes-or-no questions."""
    pairs = list(zip(student, teacher, strict=True))
    if kind == "regression":
        return {"rmse_to_teacher": float(torch.cat([(z - v).square().flatten() for z, v in pairs]).mean().sqrt())}
    if kind == "multilabel":
        return {"agreement": float(torch.cat([((z > 0) == (v > 0)).double().flatten() for z, v in pairs]).mean())}
    same = torch.cat([(z.argmax(-1) == v.argmax(-1)).double() for z, v in pairs])
    apart = torch.cat([kl(log_probabilities(v.double()), log_probabilities(z.double())) for z, v in pairs])
    return {"agreement": float(same.mean()), "kl_to_teacher": float(apart.mean())}


def calibration_error(logits: Float[Tensor, "N C"], labels: Int[Tensor, "N"], bins: int = BINS) -> float:
    """The expected calibration error of the first choices; labels of -100 are left out."""
    keep = labels != IGNORE
    confidence, choice = logits[keep].double().softmax(-1).max(-1)
    right = (choice == labels[keep]).double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    sums = torch.zeros(2, bins, dtype=torch.float64).index_add_(1, place, torch.stack([right, confidence]))
    return float((sums[0] - sums[1]).abs().sum() / keep.sum())


def distance_to_truth(logits: Float[Tensor, "N C"], truth: Float[Tensor, "N C"]) -> float:
    """Mean KL(p* ‖ q) in nats; `truth` holds probabilities."""
    log_p = truth.double().clamp(min=1e-300).log()
    return float(masked_mean(kl(log_p, log_probabilities(logits.double())), torch.ones(len(truth), dtype=torch.bool)))
