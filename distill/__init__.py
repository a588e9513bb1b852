"""PAIRS: distillation losses, students and their teachers, compression, and the distillation trainer."""

from typing import TYPE_CHECKING

from loralib.lazy import lazy_names

if TYPE_CHECKING:
    from distill.losses.features import cosine, hidden_mse, patient
    from distill.losses.losses import (
        LOSSES,
        binary_soft_targets,
        generalized_jsd,
        hard_targets,
        logit_mse,
        masked_mean,
        reverse_kl,
        skewed_kl,
        skewed_reverse_kl,
        soft_targets,
        total_variation,
    )
    from distill.losses.relations import attention_kl, attention_scores_mse, attention_transfer, value_relation
    from distill.runs.fidelity import calibration_error
    from distill.runs.many_tasks import DistilledTrainer
    from distill.runs.run import run_distillation
    from distill.runs.settings import DistillSettings
    from distill.runs.trainer import Distiller, DistillSteps
    from distill.student.copy_spec import CopySpec
    from distill.student.student import copy_student
    from distill.student.student_files import load_student
    from distill.teacher.teacher import Teacher
    from distill.teacher.teacher_cache import TeacherCache, build_cache, open_cache
else:
    __getattr__ = lazy_names(__name__, __file__)

__all__ = [
    "LOSSES",
    "CopySpec",
    "DistillSettings",
    "DistillSteps",
    "DistilledTrainer",
    "Distiller",
    "Teacher",
    "TeacherCache",
    "attention_kl",
    "attention_scores_mse",
    "attention_transfer",
    "binary_soft_targets",
    "build_cache",
    "calibration_error",
    "copy_student",
    "cosine",
    "generalized_jsd",
    "hard_targets",
    "hidden_mse",
    "load_student",
    "logit_mse",
    "masked_mean",
    "open_cache",
    "patient",
    "reverse_kl",
    "run_distillation",
    "skewed_kl",
    "skewed_reverse_kl",
    "soft_targets",
    "total_variation",
    "value_relation",
]
